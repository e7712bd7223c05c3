"""Managed prompts: immutable versions, and the checks that every face shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import jsonschema_rs

from dataplane.documents import MalformedRelease, Node, child_path, kind_of
from dataplane.errors.requests import InvalidRequest, InvalidVariables
from dataplane.placeholders import PLACEHOLDER, Segments, join, names_of, split
from dataplane.request_parser import check_parameters

ROLES: Final = frozenset({"system", "developer", "user", "assistant"})
PARAMETERS: Final = frozenset(
    {"temperature", "max_tokens", "top_p", "stop", "seed", "response_format", "tools", "tool_choice"}
)
_Validator: TypeAlias = Any  # jsonschema_rs names one class per draft and no common base


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing found in a version: where (a JSON path) and what. Errors forbid it; warnings are only shown."""

    path: str
    message: str
    is_error: bool = True


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """One immutable version.

    `digest` is the content digest, 64 hex digits; `messages` are {"role", "content"} templates.
    """

    prompt: str
    number: int
    digest: str
    messages: tuple[Mapping[str, str], ...]
    variables_schema: Mapping[str, Any]
    parameters: Mapping[str, Any]
    _templates: tuple[tuple[str, Segments], ...] = field(repr=False, compare=False)
    _validator: _Validator = field(repr=False, compare=False)

    @property
    def reference(self) -> str:
        """`slug@number`, as the header `ballast-prompt` says it."""
        return f"{self.prompt}@{self.number}"

    @classmethod
    def build(
        cls,
        *,
        prompt: str,
        number: int,
        digest: str,
        messages: Iterable[Mapping[str, str]],
        variables_schema: Mapping[str, Any],
        parameters: Mapping[str, Any],
        path: str = "$",
    ) -> PromptVersion:
        """A version ready to render.

        Raises:
            MalformedRelease: `validate_version` finds an error; the first one is named.
        """
        frozen = tuple(dict(message) if isinstance(message, Mapping) else message for message in messages)
        for problem in validate_version(frozen, variables_schema, parameters):
            if problem.is_error:
                raise MalformedRelease(path + problem.path.removeprefix("$"), problem.message)
        return cls(
            prompt=prompt,
            number=number,
            digest=digest,
            messages=frozen,
            variables_schema=variables_schema,
            parameters=parameters,
            _templates=tuple((message["role"], split(message["content"])) for message in frozen),
            _validator=compile_schema(variables_schema),
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the release: the route it runs on, the version that is live, and every version that may be served.

    `pinnable` are those that callers may ask for by number. A canary's candidate is among `versions` without being
    pinnable: only the cohort serves it, or anybody could read words that nobody has signed yet.
    """

    slug: str
    route: str
    live: int
    versions: dict[int, PromptVersion]
    pinnable: frozenset[int]


class PromptSet(dict[str, Prompt]):
    """The section `prompts` of a release: slug -> Prompt. Read only by convention, like everything a release holds."""

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.prompts") -> PromptSet:
        """Read the section, or say where it is wrong.

        Shape: {slug: {"live": int, "route": slug, "pinnable": [int], "versions": {"12": {"digest", "messages",
                "variables_schema", "parameters"}}}}.
        Raises:
            MalformedRelease: naming the JSON path.
        """
        return cls({slug: _parse_prompt(slug, node) for slug, node in Node(section, path).slugged_entries()})


def _parse_prompt(slug: str, node: Node) -> Prompt:
    members = node.members("live", "route", "pinnable", "versions")
    versions: dict[int, PromptVersion] = {}
    for key, item in members["versions"].entries():
        if not (key.isascii() and key.isdigit()) or key.startswith("0"):
            item.refuse(f"{key!r} is not a version number (1, 2, ...)")
        version = item.members("digest", "messages", "variables_schema", "parameters")
        for name in ("variables_schema", "parameters"):
            if not isinstance(version[name].value, Mapping):
                version[name].refuse(f"expected an object, got {kind_of(version[name].value)}")
        versions[int(key)] = PromptVersion.build(
            prompt=slug,
            number=int(key),
            digest=version["digest"].sha256(),
            messages=[message.value for message in version["messages"].items()],
            variables_schema=version["variables_schema"].value,
            parameters=version["parameters"].value,
            path=item.path,
        )
    live = members["live"].integer(minimum=1)
    if live not in versions:
        members["live"].refuse(f"live version {live} is not among the versions given")
    pinnable = set()
    for item in members["pinnable"].items():
        number = item.integer(minimum=1)
        if number not in versions:
            item.refuse(f"pinnable version {number} is not among the versions given")
        pinnable.add(number)
    return Prompt(slug, members["route"].text(), live, versions, frozenset(pinnable))


def placeholders(messages: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names that the messages ask for.

    Text that is no valid template contributes nothing here; `validate_version` reports it.
    """
    return {match[1] for message in messages for match in PLACEHOLDER.finditer(_content(message)) if match[1]}


def _content(message: Any) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, str) else ""


def compile_schema(schema: Mapping[str, Any]) -> _Validator:
    """A validator for a JSON Schema (draft 2020-12 unless `$schema` says otherwise).

    References that leave the document are refused, never fetched, and patterns run in linear time.

    Raises:
        ValueError: not a valid schema; the message says where.
    """
    try:
        return jsonschema_rs.validator_for(
            dict(schema), validate_formats=True, offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, TypeError) as exc:
        raise ValueError(f"not a valid JSON Schema: {getattr(exc, 'message', exc)}") from exc


def validate_version(messages: Any, variables_schema: Any, parameters: Any) -> list[Problem]:
    """Check what a person typed as a prompt version, everything at once; errors come before warnings.

    A release is refused on the same errors.

    Paths start at `$`: `$.messages[0].content`, `$.variables_schema.properties.name`, `$.parameters.temperature`.
    """
    problems: list[Problem] = []
    names = _check_messages(messages, problems)
    _check_schema(variables_schema, names, problems)
    _check_version_parameters(parameters, problems)
    return sorted(problems, key=lambda problem: not problem.is_error)


def _check_messages(messages: Any, problems: list[Problem]) -> dict[str, str]:
    """Returns each placeholder with the path of the message that first asks for it."""
    names: dict[str, str] = {}
    if not isinstance(messages, list | tuple) or not messages:
        problems.append(Problem("$.messages", "at least one message is needed"))
        return names
    for index, message in enumerate(messages):
        path = f"$.messages[{index}]"
        if not isinstance(message, Mapping):
            problems.append(Problem(path, f"expected an object, got {kind_of(message)}"))
            continue
        for key in message:
            if key not in ("role", "content"):
                problems.append(Problem(child_path(path, str(key)), "unknown key; a message has role and content"))
        if message.get("role") not in ROLES:
            problems.append(
                Problem(f"{path}.role", f"{message.get('role')!r} is not one of {', '.join(sorted(ROLES))}")
            )
        content = message.get("content")
        if not isinstance(content, str):
            problems.append(Problem(f"{path}.content", f"expected a string, got {kind_of(content)}"))
        elif not content.strip():
            problems.append(Problem(f"{path}.content", "must not be empty"))
        else:
            try:
                segments = split(content)
            except ValueError as exc:
                problems.append(Problem(f"{path}.content", str(exc)))
            else:
                for name in names_of(segments):
                    names.setdefault(name, f"{path}.content")
    return names


def _check_schema(schema: Any, names: Mapping[str, str], problems: list[Problem]) -> None:
    if not isinstance(schema, Mapping):
        problems.append(Problem("$.variables_schema", f"expected an object, got {kind_of(schema)}"))
        return
    try:
        compile_schema(schema)
    except ValueError as exc:
        problems.append(Problem("$.variables_schema", str(exc)))
        return
    if schema.get("type", "object") != "object":
        problems.append(Problem("$.variables_schema.type", "variables are an object, so the type must be 'object'"))
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    for name, path in names.items():
        if name not in properties:
            problems.append(Problem(path, f"placeholder {name!r} has no property in the variables schema"))
        elif name not in required:
            message = f"{name!r} is not required, but every placeholder needs a value: calls without it will be refused"
            problems.append(Problem(child_path("$.variables_schema.properties", name), message, is_error=False))
    for name in properties:
        if name not in names:
            problems.append(
                Problem(child_path("$.variables_schema.properties", name), f"no message uses {name!r}", is_error=False)
            )


def _check_version_parameters(parameters: Any, problems: list[Problem]) -> None:
    if not isinstance(parameters, Mapping):
        problems.append(Problem("$.parameters", f"expected an object, got {kind_of(parameters)}"))
        return
    for name, value in parameters.items():
        path = child_path("$.parameters", str(name))
        if name not in PARAMETERS:
            expected = ", ".join(sorted(PARAMETERS))
            problems.append(Problem(path, f"a version cannot fix {name!r}; it can fix {expected}"))
            continue
        try:
            _check_parameter(name, Node(value, path))
        except MalformedRelease as exc:
            problems.append(Problem(exc.path, exc.fact))
        except InvalidRequest as exc:
            problems.append(Problem(path, exc.message))


def _check_parameter(name: str, node: Node) -> None:
    match name:
        case "temperature":
            _check_between(node, 0, 2)
        case "top_p":
            _check_between(node, 0, 1)
        case "max_tokens":
            node.integer(minimum=1, maximum=10_000_000)
        case "seed":
            node.integer(minimum=-(2**53) + 1)
        case _:
            if node.value is None:
                node.refuse("must not be null; leave the parameter out instead")
            check_parameters({name: node.value})


def _check_between(node: Node, low: float, high: float) -> None:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        node.refuse(f"expected a number, got {kind_of(node.value)}")
    if not low <= node.value <= high:
        node.refuse(f"{node.value} is outside {low}..{high}")


def merge_parameters(version: PromptVersion, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the caller's parameters with the version's over them: what was approved wins, what it leaves open is the
    caller's.

    `max_tokens` and `max_completion_tokens` are two names of one limit, so a version that fixes it silences both.
    """
    merged = {**parameters, **version.parameters}
    if "max_tokens" in version.parameters:
        merged.pop("max_completion_tokens", None)
    return merged


def render(version: PromptVersion, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of `version` with the variables filled in: [{"role", "content"}, ...], new dicts at each call.

    A string goes in as it is; anything else as compact JSON (3, true, null, {"a":1}). Variables that no message uses
    are the schema's business: `additionalProperties: false` refuses them. They are not an error by themselves, because
    the two arms of a canary may need different ones and the caller cannot know which arm serves it.

    Raises:
        InvalidVariables: the variables do not satisfy the schema, or a placeholder has no value; `param` and `names`
            say which.
    """
    error = next(version._validator.iter_errors(variables), None)
    if error is not None:
        where = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in error.instance_path)
        names = (str(error.instance_path[0]),) if error.instance_path else ()
        raise InvalidVariables(
            f"variables of prompt {version.reference!r}: {error.message}", names=names, param=f"prompt.variables{where}"
        )
    try:
        return [{"role": role, "content": join(segments, variables)} for role, segments in version._templates]
    except KeyError:
        missing = tuple(sorted(placeholders(version.messages) - variables.keys()))
        listing = ", ".join(map(repr, missing))
        raise InvalidVariables(
            f"prompt {version.reference!r} needs {listing}: give it in 'prompt.variables'",
            names=missing,
            param=f"prompt.variables.{missing[0]}",
        ) from None
