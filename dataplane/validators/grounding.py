"""Whether an answer rests on its sources: what it cites exists, and what it says can be found there. Pure.

Support is looked for by form, not by sense: a number, a date or a name that no source has is not supported, however
true it is. What that cannot tell is for a judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Final

from dataplane.documents import Node
from dataplane.validators.folding import words as words_of
from dataplane.validators.gate import Openings
from dataplane.validators.kinds import Meter, Problem
from dataplane.validators.patterns import pattern
from dataplane.validators.prose import Number, dates, numbers, sentences, written_numbers
from dataplane.validators.values import Channel, Output

NUMBERED: Final = "numbers"
NAMED: Final = "ids"
MAX_GRAM: Final = 5
# Places at which something is looked for as it is written, before the source is read for what it means.
_MAX_TRIES: Final = 4
# Stands between parts of a text that are folded together; `words` leaves it as it is.
_MARK: Final = "\x01"
_IS_WITHIN: Final = re.compile(r"(?:[\w.,]|(?<!\w)[-−+])\Z")  # a hyphen behind a letter or digit is no sign
_GOES_ON: Final = re.compile(r"\w|[.,]\d")
# Brackets that lead on to an address are a link, and those after an exclamation mark an image.
_BRACKETS: Final = re.compile(r"\[(?<!!\[)([^\[\]\n]{1,120})\](?!\()")
_NUMBERS: Final = re.compile(r"\d{1,4}(?:\s*[,;–-]\s*\d{1,4})*+\Z")
_RANGE: Final = re.compile(r"(\d{1,4})\s*[–-]\s*(\d{1,4})")
# A name of a document has something in it that a word in brackets, such as [sic], has not.
_ID: Final = re.compile(r"(?=[^\s]*[\d_:/.#-])[\w:/.#@-]+\Z")
# As with numbers, it begins with what the engine can skip to, and that with ranges, which it compares fastest.
_NAME: Final = re.compile(
    r"[A-Z\x80-\U0010ffff](?<=[^\W\d_a-z])(?<![\w'’-].)[\w'’-]*+"
    r"(?:(?: | (?:of|de|du|von|van|der|den|la|le|del|di) )[^\W\d_a-z][\w'’-]*+)*"
)
_NOWHERE: Final = (2**62, 2**62)
_BEFORE_SENTENCE: Final = " \t\n*_#>•-\"'“‘("


@dataclass(frozen=True, slots=True)
class CitationParams:
    """An answer cites its sources, and only such as there are.

    Attributes:
        form: "numbers": [1] is the first source; "ids": [doc-id] is the source of that name.
        minimum: Citations that an answer has at least.
        each_number: Whether each sentence with a number has to have one.
    """

    form: str
    minimum: int
    each_number: bool

    @classmethod
    def parse(cls, node: Node) -> CitationParams:
        """Read them, or raise MalformedRelease.

        Shape: {"form": numbers | ids, "minimum": int, "each_number"?: bool}.
        """
        members = node.members("form", "minimum", optional=("each_number",))
        return cls(
            members["form"].one_of((NUMBERED, NAMED)),
            members["minimum"].integer(maximum=100),
            "each_number" in members and members["each_number"].flag(),
        )

    @property
    def openings(self) -> Openings | None:
        """See `Openings`; None: it always looks."""
        return None if self.minimum or self.each_number else Openings(None, (pattern(r"\["),))

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        text = channel.text
        known = frozenset(source.id for source in output.sources)
        cited: list[int] = []  # where
        for found in _BRACKETS.finditer(text):
            meter.tick()
            names = self._names(found[1])
            if not names:
                continue
            cited.append(found.start())
            if any(not self._exists(name, len(output.sources), known) for name in names):
                yield Problem("citation of a source that is not there", found.start(), found.end())
        if len(cited) < self.minimum:
            yield Problem(f"{len(cited)} citations where at least {self.minimum} are asked for")
        if self.each_number:
            yield from self._sentences_without(text, cited, meter)

    def _names(self, inside: str) -> list[str]:
        """The sources that a pair of brackets names; none if it is no citation."""
        inside = inside.strip()
        if self.form == NUMBERED:
            if len(inside) <= 4 and inside.isdecimal():
                return [inside]
            if _NUMBERS.match(inside) is None:
                return []
            return [number for part in re.split(r"\s*[,;]\s*", inside) for number in _expand(part)]
        names = re.split(r"\s*[,;]\s*", inside)
        return names if all(map(_ID.match, names)) else []

    def _exists(self, name: str, count: int, known: frozenset[str]) -> bool:
        return 1 <= int(name) <= count if self.form == NUMBERED else name in known

    def _sentences_without(self, text: str, cited: list[int], meter: Meter) -> Iterator[Problem]:
        brackets = [found.span() for found in _BRACKETS.finditer(text)]
        found = [number.start for number in _outside(numbers(text), brackets)]
        place = 0
        at = 0
        for start, end in sentences(text):
            meter.tick()
            while at < len(found) and found[at] < start:
                at += 1
            has_number = at < len(found) and found[at] < end
            while place < len(cited) and cited[place] < start:
                place += 1
            if has_number and not (place < len(cited) and cited[place] < end):
                yield Problem("sentence with a number and no citation", start, end)


def cited(text: str) -> frozenset[str]:
    """The sources that a text cites, by their numbers or names, whether there are such or not."""
    forms = [CitationParams(form, 0, False) for form in (NUMBERED, NAMED)]
    insides = [found[1] for found in _BRACKETS.finditer(text)]
    return frozenset(
        name for inside in insides for name in next(filter(None, (one._names(inside) for one in forms)), ())
    )


def _expand(part: str) -> list[str]:
    """`2-4` is 2, 3 and 4; both ends at least."""
    found = _RANGE.match(part)
    if found is None:
        return [part]
    first, last = int(found[1]), int(found[2])
    return [found[1], found[2]] if last - first > 50 else [str(number) for number in range(first, last + 1)]


def _outside(found: Iterable[Number], spans: Iterable[tuple[int, int]]) -> list[Number]:
    """The numbers that are in none of the spans; both are in order."""
    outside: list[Number] = []
    each = iter(spans)
    first, last = next(each, _NOWHERE)
    for one in found:
        start = one.start
        while last <= start:
            first, last = next(each, _NOWHERE)
        if start < first:
            outside.append(one)
    return outside


@dataclass(frozen=True, slots=True)
class SupportParams:
    """What an answer says occurs in its sources.

    Attributes:
        numbers, dates, names: The share of each (0..1) that has to; None: is not looked at.
        gram, gram_share: Runs of so many words, and the share of them that has to; 0 and None: are not looked at.
        with_question: Whether what the caller asked is a source too.
    """

    numbers: float | None
    dates: float | None
    names: float | None
    gram: int
    gram_share: float | None
    with_question: bool

    @classmethod
    def parse(cls, node: Node) -> SupportParams:
        """Read them, or raise MalformedRelease.

        Shape: {"numbers"?, "dates"?, "names"?: share, "ngrams"?: {"words": int, "share": share}, "question": bool}.
        """
        members = node.members("question", optional=("numbers", "dates", "names", "ngrams"))
        if len(members) == 1:
            node.refuse("looks at nothing; give 'numbers', 'dates', 'names' or 'ngrams'")
        shares = {
            name: members[name].number(above=0, maximum=1) if name in members else None
            for name in ("numbers", "dates", "names")
        }
        gram, share = 0, None
        if "ngrams" in members:
            inner = members["ngrams"].members("words", "share")
            gram = inner["words"].integer(minimum=1, maximum=MAX_GRAM)
            share = inner["share"].number(above=0, maximum=1)
        return cls(**shares, gram=gram, gram_share=share, with_question=members["question"].flag())

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        text = channel.text
        texts = [source.text for source in output.sources]
        if self.with_question:
            texts.append(output.question)
        ground = [_ground(one) for one in texts]
        meter.look()
        if self.dates is not None:
            days = dates(text)
            meter.look()
            missing = [
                (day.start, day.end)
                for day in days
                if not any(one.has_written(text[day.start : day.end]) for one in ground)
                and all(one.days.isdisjoint(day.readings) for one in ground)
            ]
            yield from _below(self.dates, missing, len(days), "date")
        if self.numbers is not None:
            brackets = [found.span() for found in _BRACKETS.finditer(text) if _NUMBERS.match(found[1].strip())]
            found = _outside(numbers(text), brackets)
            unwritten = {number.written.lstrip("+") for number in found}
            for one in ground:
                # A source is read only if it may have one that those before it have not.
                if any(map(one.text.__contains__, unwritten)):
                    unwritten -= one.written
                    meter.look()
            rewritten = [number for number in found if number.written.lstrip("+") in unwritten] if unwritten else []
            missing = [
                (number.start, number.end)
                for number in (rewritten if _is_below(self.numbers, len(rewritten), len(found)) else ())
                if not (number.written[0] in "-−" and any(one.has_written(number.written) for one in ground))
                and all(one.numbers.isdisjoint(number.readings) for one in ground)
            ]
            meter.look()
            yield from _below(self.numbers, missing, len(found), "number")
        if self.names is not None:
            names = _names(text)
            meter.look()
            missing = []
            left = len(names)
            for start, end, choices in names:
                meter.tick()
                if not any(one.has_words(choices) for one in ground):
                    missing.append((start, end))
                    continue
                left -= 1
                if not _is_below(self.names, left, len(names)):  # whatever the rest is
                    missing.clear()
                    break
            yield from _below(self.names, missing, len(names), "name")
        if self.gram_share is not None:
            yield from self._by_grams(text, ground, meter)

    def _by_grams(self, text: str, ground: list[_Ground], meter: Meter) -> Iterator[Problem]:
        """The sentences that have fewer runs of words in common with the sources than the answer should have."""
        share = self.gram_share or 0.0
        places = sentences(text)
        said = _words_of_each(text, places)
        meter.look()
        counts = [max(0, words.count(b" ") - self.gram) for words in said]
        count = sum(counts)
        if not count:
            return
        # A sentence that a source has as a whole need not be taken apart; nor any, once the share is reached.
        hits = 0
        apart = sorted((at for at in range(len(said)) if counts[at]), key=counts.__getitem__, reverse=True)
        for one in ground:
            left = []
            for at in apart:
                meter.tick()
                if said[at] not in one.words:
                    left.append(at)
                    continue
                hits += counts[at]
                if hits / count >= share:
                    return
            apart = left
        grams = {at: list(_grams(said[at], self.gram)) for at in apart}
        every = set[tuple[bytes, ...]]().union(*grams.values())
        known = set[tuple[bytes, ...]]()
        for one in ground:
            meter.look()
            known |= every.intersection(_grams(one.words, self.gram))
            if (hits + len(known)) / count >= share:  # each occurs once at least
                return
        found = {at: sum(map(known.__contains__, grams[at])) for at in apart}
        if (hits + sum(found.values())) / count < share:
            for at in apart:
                if found[at] / counts[at] < share:
                    yield Problem(f"sentence that the sources do not have {share:.0%} of", *places[at])


class _Ground:
    """What one source has. Most of what an answer repeats, it repeats as it is written; for the rest, the source is
    read when it is asked.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def has_written(self, part: str) -> bool:
        """Whether the source has it as it is, and not within something longer."""
        text = self.text
        at = text.find(part)
        for _ in range(_MAX_TRIES):
            if at < 0:
                return False
            if not _IS_WITHIN.search(text, max(0, at - 2), at) and not _GOES_ON.match(text, at + len(part)):
                return True
            at = text.find(part, at + 1)
        return False

    @cached_property
    def written(self) -> frozenset[str]:
        """The numbers without a sign as they are written."""
        return frozenset(written_numbers(self.text))

    def has_words(self, choices: tuple[bytes, ...]) -> bool:
        """Whether one of these runs of words, each as `words`, stands in it."""
        words = self.words
        for choice in choices:  # noqa: SIM110 - a generator takes longer than to look for one or two
            if choice in words:
                return True
        return False

    @cached_property
    def words(self) -> bytes:
        """The words, folded, in order, with a space before and behind each."""
        return _spaced(words_of(self.text))

    @cached_property
    def numbers(self) -> frozenset[Decimal]:
        """The numbers, in every reading."""
        return frozenset(value for number in numbers(self.text) for value in number.readings)

    @cached_property
    def days(self) -> frozenset[tuple[int, int, int | None]]:
        """The dates, in every reading, and the months that they are in."""
        whole = [reading for day in dates(self.text) for reading in day.readings]
        return frozenset(whole) | {(year, month, None) for year, month, _ in whole}


@lru_cache(maxsize=64)
def _ground(text: str) -> _Ground:
    return _Ground(text)


def _below(share: float, missing: list[tuple[int, int]], count: int, what: str) -> Iterator[Problem]:
    """What is missing, if it is too much of all."""
    if _is_below(share, len(missing), count):
        for start, end in missing:
            yield Problem(f"{what} that no source has", start, end)


def _is_below(share: float, missing: int, count: int) -> bool:
    return count > 0 and 1 - missing / count < share


def _words_of_each(text: str, places: Iterable[tuple[int, int]]) -> list[bytes]:
    """The words of each of these parts of a text, as `_Ground.words`; all are folded at once, which is less work."""
    parts = [text[start:end].replace(_MARK, " ") for start, end in places]
    return _spaced(words_of(f" {_MARK} ".join(parts))).split(_MARK.encode()) if parts else []


def _spaced(words: list[bytes]) -> bytes:
    return b" ".join((b"", *words, b""))


def _grams(words: bytes, length: int) -> Iterator[tuple[bytes, ...]]:
    each = words.split()
    return zip(*(each[place:] for place in range(length)), strict=False)


def _names(text: str) -> list[tuple[int, int, tuple[bytes, ...]]]:
    """Capitalised words that stand together, and the ways in which a source may have them.

    The word that begins a sentence is capitalised anyway: alone it is no name, and with others it may not belong.
    """
    begins = set()
    for start, end in sentences(text):
        part = text[start:end]
        begins.add(end - len(part.lstrip(_BEFORE_SENTENCE)))
    places = [found.span() for found in _NAME.finditer(text)]
    names: list[tuple[int, int, tuple[bytes, ...]]] = []
    for (start, end), words in zip(places, _words_of_each(text, places), strict=True):
        if start not in begins:
            if end - start > 1:
                names.append((start, end, (words,) if len(words) > 1 else ()))  # what folds to nothing, nobody has
        elif words.count(b" ") > 2:
            names.append((start, end, (words, words[words.index(b" ", 1) :])))
    return names
