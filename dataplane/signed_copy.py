"""Words that people wrote and signed before they were needed: answers to known questions, a template, an outage notice,
what stands in the place of an answer that must not be given (escalation), what users read while a rung of a degradation
ladder is engaged, or beside what a corpus says that is older than promised (freshness).

A release carries only versions whose sign-offs stand, so what is here may be shown. Placeholders are written as in
prompts, `{{eta_minutes}}`, and only those of `PLACEHOLDERS` exist.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from dataplane.documents import MalformedRelease, Node, child_path, kind_of
from dataplane.placeholders import join, names_of, split
from dataplane.rung_words import RungWords, parse_rung_words

ANSWERS: Final = "answers"
ESCALATION: Final = "escalation"
RUNG: Final = "rung"
FRESHNESS: Final = "freshness"
KINDS: Final = frozenset({ANSWERS, "template", "outage", ESCALATION, RUNG, FRESHNESS})
# What may stand in a template or an outage notice. An answer to a known question is complete as it was written.
PLACEHOLDERS: Final = frozenset({"eta_seconds", "eta_minutes", "request_id", "route"})
# Asking again does not help there, so there is no time to name.
ESCALATION_PLACEHOLDERS: Final = frozenset({"request_id", "route"})
# `lag` is in words such as "12 min", `as_of` the time since when changes may be missing, such as "14:05 UTC".
FRESHNESS_PLACEHOLDERS: Final = frozenset({"as_of", "corpus", "lag"})
_PLACEHOLDERS_OF: Final[Mapping[str, frozenset[str]]] = {
    ESCALATION: ESCALATION_PLACEHOLDERS,
    FRESHNESS: FRESHNESS_PLACEHOLDERS,
}
MAX_TEXT_CHARACTERS: Final = 20_000
MAX_ANSWERS: Final = 1_000
# What may end a question in the scripts of the world, and says nothing about which question it is.
CLOSING_MARKS: Final = " ?!.…¿¡;,:‽؟؛،。、।॥"


@dataclass(frozen=True, slots=True)
class Words:
    """One text, and the same as a JSON object for callers who asked for an answer of some schema; None without one."""

    text: str
    json: Mapping[str, Any] | None

    def filled(self, values: Mapping[str, str]) -> Words:
        """The words with every placeholder replaced; a text without placeholders comes back as it is."""
        json = None if self.json is None else {name: _fill(value, values) for name, value in self.json.items()}
        return Words(_fill(self.text, values), json)


@dataclass(frozen=True, slots=True)
class Answer:
    """One signed answer and the ways in which its question is written."""

    questions: tuple[str, ...]
    words: Words


@dataclass(frozen=True, slots=True)
class SignedCopy:
    """One version of a piece of copy. What it says is in `answers` for the kind of that name, in `rung` for that of a
    rung, in `words` for the others; all by locale, in the spelling of BCP 47, such as `en` or `pt-BR`.
    """

    slug: str
    kind: str
    version: int
    digest: str
    default_locale: str
    words: Mapping[str, Words]
    answers: Mapping[str, tuple[Answer, ...]]
    rung: Mapping[str, RungWords]
    _by_question: Mapping[str, Mapping[str, Answer]] = field(repr=False, compare=False)

    @property
    def reference(self) -> str:
        """`slug@version`."""
        return f"{self.slug}@{self.version}"

    @property
    def locales(self) -> tuple[str, ...]:
        """The locales that it was written in, the default one first."""
        known = {ANSWERS: self.answers, RUNG: self.rung}.get(self.kind, self.words)
        return (self.default_locale, *(locale for locale in known if locale != self.default_locale))

    def exact_answer(self, question: str, *, locale: str) -> Answer | None:
        """The answer to a question that is written like this, whatever its case, spaces and closing marks."""
        return self._by_question[locale].get(normalise(question))


class CopyBook(dict[str, SignedCopy]):
    """The section `copy` of a release: slug -> SignedCopy."""

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.copy") -> CopyBook:
        """Read the section, or raise MalformedRelease.

        Shape: {slug: {"version": int, "digest": sha256, "document": see `parse_copy`}}.
        """
        book = cls()
        for slug, node in Node(section, path).slugged_entries():
            members = node.members("version", "digest", "document")
            book[slug] = parse_copy(
                slug,
                members["document"],
                version=members["version"].integer(minimum=1),
                digest=members["digest"].sha256(),
            )
        return book


def parse_copy(slug: str, node: Node, *, version: int, digest: str) -> SignedCopy:
    """Read the document of a version.

    Shape: {"kind": "template" | "outage" | "escalation" | "freshness", "default_locale": str, "locales": {locale:
            {"text": str, "json": object or null}}}; for the kind "answers", a locale has [{"questions": [str], "text":
            str, "json": object or null}], for the kind "rung" what `rung_words.parse_rung_words` reads.
    Raises:
        MalformedRelease: naming the JSON path; also for a placeholder that does not exist, and for a question that two
            answers claim.
    """
    members = node.members("kind", "default_locale", "locales")
    kind = members["kind"].one_of(KINDS)
    locales = dict(members["locales"].entries())
    default_locale = members["default_locale"].text()
    if default_locale not in locales:
        members["default_locale"].refuse(f"{default_locale!r} is not among the locales given")
    words: dict[str, Words] = {}
    answers: dict[str, tuple[Answer, ...]] = {}
    rung: dict[str, RungWords] = {}
    by_question: dict[str, dict[str, Answer]] = {}
    for locale, entry in locales.items():
        if not _is_locale(locale):
            entry.refuse(f"{locale[:40]!r} is not a locale such as 'en' or 'pt-BR'")
        if kind == ANSWERS:
            answers[locale], by_question[locale] = _parse_answers(entry)
        elif kind == RUNG:
            rung[locale] = parse_rung_words(entry)
        else:
            inner = entry.members("text", "json")
            words[locale] = _parse_words(inner, allowed=_PLACEHOLDERS_OF.get(kind, PLACEHOLDERS))
    return SignedCopy(slug, kind, version, digest, default_locale, words, answers, rung, by_question)


def choose_locale(accepted: str | None, copy: SignedCopy) -> str:
    """The locale of `copy` that suits an `Accept-Language` header best, else its default."""
    return best_locale(accepted, copy.locales)


def best_locale(accepted: str | None, locales: Sequence[str]) -> str:
    """The one of `locales` that suits an `Accept-Language` header best, else the first.

    A language matches its regional variants both ways; `*` and what cannot be read are passed over.
    Source: RFC 9110, section 12.5.4, with the "lookup" of RFC 4647.
    """
    wanted = []
    for position, part in enumerate((accepted or "").split(",")[:20]):
        tag, _, quality = part.strip().partition(";")
        weight = 1.0
        if quality.strip().lower().startswith("q="):
            try:
                weight = float(quality.strip()[2:])
            except ValueError:
                continue
        if tag and weight > 0:
            wanted.append((-weight, position, tag.strip().lower()))
    for _, _, tag in sorted(wanted):
        language = tag.partition("-")[0]
        near = None
        for locale in locales:
            if locale.lower() == tag:
                return locale
            if near is None and locale.lower().partition("-")[0] == language:
                near = locale
        if near is not None:
            return near
    return locales[0]


def normalise(question: str) -> str:
    """How questions are compared: case and compatibility forms folded, spaces joined, marks at both ends dropped.

    Doing it twice changes nothing.
    """
    # Composed again after folding: 'Ϊ' with an acute has no composed form in upper case, and has one in lower case.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", question).casefold())
    return " ".join(folded.split()).rstrip(CLOSING_MARKS).lstrip("¿¡ ")


def _parse_answers(node: Node) -> tuple[tuple[Answer, ...], dict[str, Answer]]:
    answers: list[Answer] = []
    by_question: dict[str, Answer] = {}
    items = node.items(minimum=1)
    if len(items) > MAX_ANSWERS:
        node.refuse(f"{len(items)} answers; at most {MAX_ANSWERS} fit into a release")
    for item in items:
        members = item.members("questions", "text", "json")
        # Nobody fills an answer in, so all that it may have of the template language, `{{"{{"}}`, is read here.
        words = _parse_words(members, allowed=frozenset()).filled({})
        answer = Answer(members["questions"].texts(minimum=1), words)
        answers.append(answer)
        for question in members["questions"].items():
            key = normalise(question.text())
            if not key:
                question.refuse("nothing is left of it once marks and spaces are dropped")
            if key in by_question:
                question.refuse(f"{question.value!r} is the same question as one before it")
            by_question[key] = answer
    return tuple(answers), by_question


def _parse_words(members: Mapping[str, Node], *, allowed: frozenset[str]) -> Words:
    text = members["text"].text()
    if len(text) > MAX_TEXT_CHARACTERS:
        members["text"].refuse(f"{len(text)} characters; at most {MAX_TEXT_CHARACTERS}")
    _check_placeholders(members["text"], allowed)
    json = members["json"].value
    if json is not None:
        if not isinstance(json, Mapping):
            members["json"].refuse(f"expected an object or null, got {kind_of(json)}")
        # As it is written when it is needed, so that what cannot be (hundreds of levels, integers beyond 64 bits) is
        # found now.
        try:
            size = len(orjson.dumps(json))
        except TypeError as exc:
            raise MalformedRelease(members["json"].path, f"cannot be written as JSON: {exc}") from exc
        if size > MAX_TEXT_CHARACTERS:
            members["json"].refuse(f"{size} bytes; at most {MAX_TEXT_CHARACTERS}")
        for path, value in _texts_in(json, members["json"].path):
            _check_placeholders(Node(value, path), allowed)
    return Words(text, json)


def _check_placeholders(node: Node, allowed: frozenset[str]) -> None:
    try:
        names = set(names_of(split(node.text(empty=True))))
    except ValueError as exc:
        raise MalformedRelease(node.path, str(exc)) from exc
    unknown = sorted(names - allowed)
    if unknown:
        there_are = f"there are {', '.join(sorted(allowed))}" if allowed else "an answer has none"
        node.refuse(f"placeholder {unknown[0]!r} does not exist; {there_are}")


def _texts_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, member in value.items():
            yield from _texts_in(member, child_path(path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts_in(item, f"{path}[{index}]")


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return join(split(value), values)
    if isinstance(value, Mapping):
        return {key: _fill(member, values) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, values) for item in value]
    return value


def _is_locale(text: str) -> bool:
    parts = text.split("-")
    return (
        parts[0].isascii()
        and parts[0].isalpha()
        and 2 <= len(parts[0]) <= 3
        and all(part.isascii() and part.isalnum() and 1 <= len(part) <= 8 for part in parts[1:])
    )
