"""One row of an eval set: what is asked, what the answer may rest on, what is held to be a good one. Pure values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dataplane.documents import MAX_SAFE_INTEGER, MalformedRelease, Node
from dataplane.prompts import compile_schema
from dataplane.release import canonical, digest_of
from dataplane.validators.folding import words
from dataplane.validators.values import Source

MAX_ID_CHARACTERS: Final = 100
MAX_SOURCES: Final = 50
MAX_DEPTH: Final = 40
# A labelled number counts as good from here on.
GOOD_FROM: Final = 0.5
_JSON_FORMATS: Final = ("json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class Expected:
    """What is held to be a good answer; None, and no texts, where the row says nothing of it.

    Attributes:
        text: A good answer, word for word; what an answer's likeness is measured to.
        contains: Texts that have to occur.
        json: What the answer, which is JSON, has to have at least. `has_json` tells null from nothing.
        tool, arguments: The function that has to be called, and what its arguments have to have at least.
        refuses: Whether the answer has to be a refusal, or must not be one.
    """

    text: str | None = None
    contains: tuple[str, ...] = ()
    json: Any = None
    has_json: bool = False
    tool: str | None = None
    arguments: Mapping[str, Any] | None = None
    refuses: bool | None = None

    @classmethod
    def parse(cls, node: Node) -> Expected:
        """Read it, or raise MalformedRelease.

        Shape: {"text"?: str, "contains"?: [str], "json"?: any JSON, "tool"?: {"name": str, "arguments"?: {...}},
               "refuses"?: bool}; at least one of them.
        """
        members = node.members(optional=("text", "contains", "json", "tool", "refuses"))
        if not members:
            node.refuse("expects nothing; say what, or leave it out")
        tool, arguments = None, None
        if "tool" in members:
            called = members["tool"].members("name", optional=("arguments",))
            tool = called["name"].text()
            if "arguments" in called:
                arguments = {name: member.value for name, member in called["arguments"].entries()}
        return cls(
            text=_worded(members["text"]) if "text" in members else None,
            contains=_parse_contains(members["contains"]) if "contains" in members else (),
            json=members["json"].value if "json" in members else None,
            has_json="json" in members,
            tool=tool,
            arguments=arguments,
            refuses=members["refuses"].flag() if "refuses" in members else None,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        id: Names it within its set, from version to version.
        variables: For a managed prompt; None where `messages` are sent as they are.
        labels: What people say of `answer`, by the slug of the judge: whether it is good.
        answer: The answer that the labels are about.
    """

    id: str
    variables: Mapping[str, Any] | None
    messages: tuple[Mapping[str, Any], ...] | None
    sources: tuple[Source, ...]
    response_format: Mapping[str, Any] | None
    tools: tuple[Mapping[str, Any], ...]
    expected: Expected
    labels: Mapping[str, bool]
    answer: str | None

    @classmethod
    def parse(cls, node: Node) -> Row:
        """Read one row, or raise MalformedRelease.

        Shape: {"id": str, "variables"?: {...} or "messages"?: [{"role", "content", ...}], "sources"?: [{"id", "text"}],
               "response_format"?: {"type", ...}, "tools"?: [{...}], "expected"?: see `Expected.parse`,
               "labels"?: {judge: bool or 0..1}, "answer"?: str}. Exactly one of `variables` and `messages`; `labels`
               with `answer` only.
        """
        members = node.members(
            "id",
            optional=(
                *("variables", "messages", "sources", "response_format", "tools", "expected", "labels", "answer"),
            ),
        )
        _refuse_unkept(node)
        name = members["id"].text()
        if len(name) > MAX_ID_CHARACTERS or not name.isprintable():
            members["id"].refuse(f"is no name of at most {MAX_ID_CHARACTERS} printable characters")
        if ("variables" in members) == ("messages" in members):
            node.refuse("give either 'variables', for a managed prompt, or 'messages'")
        if "labels" in members and "answer" not in members:
            members["labels"].refuse("are about an answer; give 'answer' too")
        return cls(
            id=name,
            variables=dict(_values(members["variables"])) if "variables" in members else None,
            messages=_parse_messages(members["messages"]) if "messages" in members else None,
            sources=_parse_sources(members["sources"]) if "sources" in members else (),
            response_format=_parse_format(members["response_format"]) if "response_format" in members else None,
            tools=tuple(dict(_values(tool)) for tool in members["tools"].items()) if "tools" in members else (),
            expected=Expected.parse(members["expected"]) if "expected" in members else Expected(),
            labels=dict(_parse_labels(members["labels"])) if "labels" in members else {},
            answer=members["answer"].text(empty=True) if "answer" in members else None,
        )

    @property
    def question(self) -> str:
        """What the caller asked, as rules and judges are told it: the last message of a user, or the variables."""
        if self.messages is not None:
            asked = [message["content"] for message in self.messages if message["role"] == "user"]
            return "\n".join(texts_in(asked[-1])) if asked else ""
        variables = self.variables or {}
        if isinstance(variables.get("question"), str):
            return str(variables["question"])
        return "\n".join(texts_in(variables))

    @property
    def is_json(self) -> bool:
        """Whether the row itself asks for JSON; a managed prompt may ask for it too."""
        return self.response_format is not None and self.response_format["type"] in _JSON_FORMATS

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema that the row asks for; None: none."""
        if self.response_format is None or self.response_format["type"] != "json_schema":
            return None
        schema: Mapping[str, Any] = self.response_format["json_schema"]["schema"]
        return schema

    def own_texts(self) -> Iterator[tuple[str, str]]:
        """What must not stand in a prompt, each with its place in the row: questions, expectations, sources."""
        asked = self.variables if self.messages is None else [message["content"] for message in self.messages]
        for place, value in (
            ("question", asked),
            ("expected", [self.expected.text, *self.expected.contains, self.expected.json]),
            ("answer", self.answer),
        ):
            for text in texts_in(value):
                yield place, text
        for source in self.sources:
            yield f"source {source.id}", source.text


def row_hash(document: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a row's canonical JSON.

    Raises:
        ValueError: it holds a number that canonical JSON cannot carry.
    """
    return digest_of(canonical(document))


def content_hash(document: Mapping[str, Any]) -> str:
    """As `row_hash`, of everything but the name: two rows of one content under two names are one row."""
    return row_hash({key: value for key, value in document.items() if key != "id"})


def texts_in(value: Any) -> Iterator[str]:
    """Every text within a JSON value, keys left out, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from texts_in(member)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def _worded(node: Node) -> str:
    text = node.text()
    if not words(text):
        node.refuse("has neither letters nor digits, so nothing can be compared with it")
    return text


def _parse_contains(node: Node) -> tuple[str, ...]:
    texts = node.texts(minimum=1)
    for item in node.items():
        _worded(item)
    return texts


def _values(node: Node) -> Iterator[tuple[str, Any]]:
    return ((name, member.value) for name, member in node.entries())


def _parse_messages(node: Node) -> tuple[Mapping[str, Any], ...]:
    messages = []
    for item in node.items(minimum=1):
        message = dict(item.entries())
        for key in ("role", "content"):
            if key not in message:
                item.refuse(f"missing key {key!r}")
        message["role"].text()
        if not isinstance(message["content"].value, str | list | None):
            message["content"].refuse("is neither text, nor parts, nor null")
        messages.append({name: member.value for name, member in message.items()})
    return tuple(messages)


def _parse_sources(node: Node) -> tuple[Source, ...]:
    items = node.items()
    if len(items) > MAX_SOURCES:
        node.refuse(f"{len(items)} sources, more than {MAX_SOURCES}")
    sources: dict[str, Source] = {}
    for item in items:
        members = item.members("id", "text")
        name = members["id"].text()
        if name in sources:
            members["id"].refuse(f"{name!r} is given twice; sources are cited by it")
        sources[name] = Source(name, members["text"].text())
    return tuple(sources.values())


def _parse_format(node: Node) -> Mapping[str, Any]:
    members = dict(node.entries())
    if "type" not in members:
        node.refuse("missing key 'type'")
    if members["type"].one_of(("text", *_JSON_FORMATS)) == "json_schema":
        if "json_schema" not in members:
            node.refuse("missing key 'json_schema'")
        described = dict(members["json_schema"].entries())
        if "schema" not in described:
            members["json_schema"].refuse("missing key 'schema'")
        try:
            compile_schema(dict(_values(described["schema"])))
        except ValueError as exc:
            described["schema"].refuse(str(exc))
    return {name: member.value for name, member in members.items()}


def _parse_labels(node: Node) -> Iterator[tuple[str, bool]]:
    for judge, member in node.slugged_entries():
        if isinstance(member.value, bool):
            yield judge, member.value
        else:
            yield judge, (member.value != 0 and member.number(above=0, maximum=1) >= GOOD_FROM)


def _refuse_unkept(node: Node) -> None:
    """Refuse what the database would not give back as it was: NUL, halves of characters, numbers beyond a double."""
    for path, value, depth in _walk(node.value, node.path, 0):
        fact = ""
        if depth > MAX_DEPTH:
            fact = f"lies over {MAX_DEPTH} deep"
        elif isinstance(value, str) and ("\x00" in value or any("\ud800" <= one <= "\udfff" for one in value)):
            fact = "holds a NUL or half of a character"
        elif isinstance(value, int | float) and abs(value) > MAX_SAFE_INTEGER:
            fact = "is a number that cannot be kept exactly; write it as text or within 2^53"
        if fact:
            raise MalformedRelease(path, fact)


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    yield path, value, depth
    if depth > MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield f"{path} (a key)", key, depth
            yield from _walk(member, f"{path}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]", depth + 1)
