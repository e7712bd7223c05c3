"""Rules about words: expressions that must or must not match, and lists of terms. Pure."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Final

from dataplane.documents import Node
from dataplane.validators.abuse import DICTIONARIES, abusive_words
from dataplane.validators.detector import Detector, Sieve
from dataplane.validators.folding import Fold, fold
from dataplane.validators.kinds import Meter, Problem, found_by
from dataplane.validators.patterns import MAX_PATTERN_CHARACTERS, Pattern, compile_re2, pattern, span
from dataplane.validators.redaction import parse_replacement
from dataplane.validators.values import Channel, Output

MUST_MATCH: Final = "must_match"
MUST_NOT_MATCH: Final = "must_not_match"
MAX_TERMS: Final = 5_000
MAX_TERM_CHARACTERS: Final = 200
_BETWEEN_WORDS: Final = r"[\s-]{1,3}"
_MORE_BETWEEN_WORDS: Final = 2
_SEPARATORS: Final = re.compile(r"[\s-]+")
_WORD: Final = r"\pL\pN\pM_"
# Scripts of South East Asia, China, Japan and Korea, in which a word may touch the next.
_WITHOUT_SPACES: Final = (
    ("\u0e00", "\u0fff"),
    ("\u1000", "\u11ff"),
    ("\u1780", "\u17ff"),
    ("\u2e80", "\ud7ff"),
    ("\uf900", "\ufaff"),
    ("\U00020000", "\U0003ffff"),
)


@dataclass(frozen=True, slots=True)
class PatternParams:
    """An expression that an answer has to match somewhere, or must not match anywhere. `what` names what it means.

    `sieve` is None for one that has to match: of a part of a text, nothing can be said about that.
    """

    what: str
    expect: str
    pattern: Pattern
    replacement: str
    sieve: Sieve | None

    @classmethod
    def parse(cls, node: Node) -> PatternParams:
        """Read them, or raise MalformedRelease.

        Shape: {"pattern": RE2, "expect": must_match | must_not_match, "what": str, "replacement"?: str}.
        """
        members = node.members("pattern", "expect", "what", optional=("replacement",))
        read = parse_expression(members["pattern"])
        expect = members["expect"].one_of((MUST_MATCH, MUST_NOT_MATCH))
        if not read.shortest:
            members["pattern"].refuse("matches the empty text, and so every answer; say what has to be there")
        what = members["what"].text()
        sieve = None
        if expect == MUST_NOT_MATCH:
            try:
                sieve = Sieve.of(Fold.SHAPES, (Detector(what, read),))
            except ValueError as exc:
                members["pattern"].refuse(f"too large to be looked for in a stream: {exc}; make it shorter")
        return cls(what, expect, read, parse_replacement(members), sieve)

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        if self.sieve is not None:
            yield from found_by(self.sieve, channel, meter)
            return
        folded, _ = fold(channel.text, Fold.SHAPES, escapes=channel.is_json)
        if span(self.pattern.regex, folded.encode()) is None:
            yield Problem(f"{self.what} is missing")


@dataclass(frozen=True, slots=True)
class TermParams:
    """Terms that may not be in an answer, but for where they are part of an allowed one; or terms that have to be.

    Terms are whole words; case and accents do not matter, and neither does whether a space or a hyphen is between them.
    `sieve` finds what is denied; None where terms are required.
    """

    deny: tuple[str, ...]
    allow: tuple[str, ...]
    require: tuple[str, ...]
    replacement: str
    sieve: Sieve | None = field(repr=False, compare=False)  # made of the others
    _required: tuple[Sieve, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, node: Node) -> TermParams:
        """Read them, or raise MalformedRelease.

        Shape: {"deny": [str], "allow"?: [str], "replacement"?: str} or {"require": [str]}.
        """
        members = node.members(optional=("deny", "allow", "require", "replacement"))
        lists = {name: _parse_terms(members[name]) for name in ("deny", "allow", "require") if name in members}
        deny, allow, require = (lists.get(name, ()) for name in ("deny", "allow", "require"))
        if bool(deny) == bool(require):
            node.refuse("give either 'deny' or 'require'; both are two rules")
        if allow and not deny:
            members["allow"].refuse("there is nothing to be excepted from; give 'deny', or leave it out")
        return cls(
            deny=deny,
            allow=allow,
            require=require,
            replacement=parse_replacement(members),
            sieve=_sieve(deny, allow, what="denied term") if deny else None,
            _required=tuple(_sieve((term,), (), what="required term") for term in require),
        )

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        if self.sieve is not None:
            yield from found_by(self.sieve, channel, meter)
            return
        for term, sieve in zip(self.require, self._required, strict=True):
            meter.look()
            if next(found_by(sieve, channel, meter), None) is None:
                yield Problem(f"required term {term!r} is missing")


@dataclass(frozen=True, slots=True)
class ToxicityParams:
    """Abusive words of the dictionaries of some languages may not be in an answer, but within allowed phrases.

    It knows words, not tone: what hurts without one of them passes, and a harmless use of one is found. What is right
    for a text is said with `allow`, as for `TermParams`.
    """

    languages: tuple[str, ...]
    allow: tuple[str, ...]
    replacement: str
    sieve: Sieve = field(repr=False, compare=False)  # made of the others

    @classmethod
    def parse(cls, node: Node) -> ToxicityParams:
        """Read them, or raise MalformedRelease.

        Shape: {"languages": [ISO 639-1 code, one of DICTIONARIES], "allow"?: [str], "replacement"?: str}.
        """
        members = node.members("languages", optional=("allow", "replacement"))
        languages = tuple(item.one_of(tuple(DICTIONARIES)) for item in members["languages"].items())
        if not languages:
            members["languages"].refuse("empty, so that no word is looked for; name one at least")
        allow = _parse_terms(members["allow"]) if "allow" in members else ()
        return cls(languages, allow, parse_replacement(members), _abuse_sieve(languages, allow))

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        return found_by(self.sieve, channel, meter)


def parse_expression(node: Node) -> Pattern:
    """An expression that RE2 takes and that folded text can match, or raise MalformedRelease."""
    text = node.text()
    folded = fold(text, Fold.SHAPES)[0]
    if folded != text:
        odd = next(one for one in text if fold(one, Fold.SHAPES)[0] != one)
        node.refuse(
            f"{odd!r} never matches: answers are read with {fold(odd, Fold.SHAPES)[0]!r} in its place; write that"
        )
    if len(text) > MAX_PATTERN_CHARACTERS:
        node.refuse(f"{len(text)} characters, more than {MAX_PATTERN_CHARACTERS}; split it into several rules")
    try:
        return pattern(text)
    except ValueError as exc:
        node.refuse(
            f"RE2 does not take it: {exc}; it has no look-around, no back-references, and repeats at most 1000 times"
        )


def _parse_terms(node: Node) -> tuple[str, ...]:
    terms = node.texts(minimum=1)
    if len(terms) > MAX_TERMS:
        node.refuse(f"{len(terms)} terms, more than {MAX_TERMS}; split them into several rules")
    for item, term in zip(node.items(), terms, strict=True):
        if len(term) > MAX_TERM_CHARACTERS:
            item.refuse(f"{len(term)} characters, more than {MAX_TERM_CHARACTERS}; a term is a word or a few")
        if not any(map(str.isalnum, _folded(term))):
            item.refuse(f"{term!r} has neither letter nor digit; a 'pattern' rule can look for it")
    return terms


# A dictionary takes longer to compile than the rest of a release to parse, and the next release mostly brings it again.
@lru_cache(maxsize=16)
def _abuse_sieve(languages: tuple[str, ...], allow: tuple[str, ...]) -> Sieve:
    return _sieve((word for language in languages for word in abusive_words(language)), allow, what="abusive word")


def _sieve(deny: Iterable[str], allow: Iterable[str], *, what: str) -> Sieve:
    allowed = frozenset(" ".join(_words(term)) for term in allow)
    terms = allowed | {" ".join(_words(term)) for term in deny}

    def check(text: str, start: int, end: int) -> tuple[int, int] | int:
        if not _is_of_word(text[end - 1]) and " ".join(_words(text[start : end - 1])) in terms:
            end -= 1  # the match has the boundary in it
        cut_before = start and _is_of_word(text[start - 1]) and _needs_boundary(text[start])
        cut_behind = end < len(text) and _is_of_word(text[end]) and _needs_boundary(text[end - 1])
        if cut_before or cut_behind:
            return start + 1
        return end if " ".join(_words(text[start:end])) in allowed else (start, end)

    ordered = sorted(terms)
    starts = _starts(terms)
    longest = max(len(term) + _MORE_BETWEEN_WORDS * term.count(" ") for term in terms) + 1

    def held(text: str, at: int) -> int:
        for found in starts.finditer(text, max(at, len(text) - longest)):
            start = found.start()
            if start and _is_of_word(text[start - 1]) and _needs_boundary(text[start]):
                continue
            begun = _SEPARATORS.sub(" ", text[start:])
            place = bisect_left(ordered, begun)
            if place < len(ordered) and ordered[place].startswith(begun):
                return start
        return len(text)

    shape = _alternatives(terms)
    opening = Pattern(shape, shape, "", min(map(len, terms)), longest, compile_re2(shape))
    return Sieve.of(Fold.LETTERS, (Detector(what, opening, check, held=held),))


def _starts(terms: Iterable[str]) -> re.Pattern[str]:
    """Where a term may begin: at the first character of one, not behind a letter of ASCII where that would be in the
    middle of a word. Of other letters in front of it, whoever looks makes sure.
    """
    first = {term[0] for term in terms}
    bound = "".join(re.escape(one) for one in sorted(first) if _needs_boundary(one))
    free = "".join(re.escape(one) for one in sorted(first) if not _needs_boundary(one))
    return re.compile("|".join([f"(?<![0-9A-Za-z_])[{bound}]"] * bool(bound) + [f"[{free}]"] * bool(free)))


def _alternatives(terms: Iterable[str]) -> str:
    """One expression for all terms, the longest first, so that an allowed phrase is seen before a denied word in it.

    RE2 knows the boundaries of ASCII words only. Others are told by the character that follows, which is then part of
    the match; the letters of all scripts are a long list, so it stands there once for each length of a term at most.
    """
    shapes = []
    ordered = sorted(terms, key=lambda term: (-len(term), _boundary(term), term))
    for (_, boundary), group in groupby(ordered, key=lambda term: (len(term) * bool(_boundary(term)), _boundary(term))):
        shapes.append(f"(?:{'|'.join(map(_expression, group))}){boundary}")
    return "|".join(shapes)


def _boundary(term: str) -> str:
    if not _needs_boundary(term[-1]):
        return ""
    return r"\b" if term[-1].isascii() else rf"(?:[^{_WORD}]|\z)"


def _expression(term: str) -> str:
    return _BETWEEN_WORDS.join("".join(map(_quoted, word)) for word in term.split(" "))


def _quoted(character: str) -> str:
    return f"\\{character}" if character.isascii() and not character.isalnum() else character


def _words(text: str) -> list[str]:
    return _folded(text).replace("-", " ").split()


def _folded(text: str) -> str:
    return fold(text, Fold.LETTERS)[0]


def _is_of_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LNM"


def _needs_boundary(character: str) -> bool:
    """Whether a word that begins or ends in it is set apart from the next by something that is no letter."""
    return _is_of_word(character) and not any(low <= character <= high for low, high in _WITHOUT_SPACES)
