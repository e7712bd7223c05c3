"""Finds what must not be in a text, and tells of a text that is not complete how far it is decided. Pure.

A detector is an expression of bounded length and, where an expression cannot tell, a check of what it matched. The same
reader serves a finished text and a stream: what it finds does not depend on the pieces in which the text comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from dataplane.validators.folding import Fold, Offsets, fold, has_escapes
from dataplane.validators.patterns import Pattern, beginnings, selector, span, union

# Looks at characters start to end of a text, which an expression matched, and at one more on either side. Gives the
# part that is meant; or, if there is none, the place from which to look on.
Check: TypeAlias = Callable[[str, int, int], tuple[int, int] | int]
# Where, from a place of a text on, the first match may have begun that the end of the text leaves open; else the end.
Held: TypeAlias = Callable[[str, int], int]
NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of thing.

    Attributes:
        what: Its name, for people.
        opening: What it looks like, or how it begins.
        check: See `Check`; None: every match is meant.
        closing: What ends a thing that goes on after its opening, however long; None: the opening is all of it.
        keeps_closing: Whether what ends it is a part of it.
        most: Characters after which it ends in any case.
        held: Tells what the opening's own prefix would, where that would be too large; see `Held`.
    """

    what: str
    opening: Pattern
    check: Check | None = None
    closing: Pattern | None = None
    keeps_closing: bool = False
    most: int = NEVER
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Sieve:
    """Detectors that look at the same fold of a text, and expressions that spare most texts most of them.

    Attributes:
        gate: Matches where any of the detectors' openings does.
        hold: See `beginnings`; of the openings that have no way of their own to tell.
        longest: Characters, folded, after which every opening is decided.
    """

    fold: Fold
    detectors: tuple[Detector, ...]
    longest: int | None
    gate: Any = field(repr=False, compare=False)
    hold: Any = field(repr=False, compare=False)
    _held: tuple[Held, ...] = field(repr=False, compare=False)
    _selector: Any = field(repr=False, compare=False)

    @classmethod
    def of(cls, how: Fold, detectors: tuple[Detector, ...]) -> Sieve:
        """Compile one.

        Raises:
            ValueError: RE2 does not take all of them together.
        """
        openings = tuple(dict.fromkeys(one.opening for one in detectors))
        lengths = [part.longest for one in detectors for part in (one.opening, one.closing) if part is not None]
        longest = None if None in lengths else max((length for length in lengths if length is not None), default=0)
        # Where a match has no bound there is nothing to hold: only whole texts are looked at.
        by_prefix = tuple(dict.fromkeys(one.opening for one in detectors if one.held is None))
        hold = None if longest is None or not by_prefix else beginnings(by_prefix)
        held = tuple(one.held for one in detectors if one.held is not None)
        each = tuple(one.opening for one in detectors)
        return cls(how, detectors, longest, union(openings), hold, held, selector(each) if len(each) > 1 else None)

    def held(self, subject: Subject, at: int) -> int:
        """From where on, after `at`, it is not decided what `subject` holds; not more than `longest` from its end."""
        place = subject.end
        at = max(at, place - (self.longest or 0))
        if self.hold is not None:
            found = subject.search(self.hold, at)
            place = found[0] if found is not None else place
        for held in self._held:
            place = min(place, held(subject.text, at - subject.base) + subject.base)
        return place

    def matching(self, subject: Subject) -> Iterable[int]:
        """The detectors, by their place, whose openings match somewhere in what `subject` holds; none is left out."""
        found = None if self._selector is None else self._selector.Match(subject.data)
        return sorted(found) if found else range(len(self.detectors))

    def find(self, text: str, *, is_json: bool, tick: Callable[[], None] = lambda: None) -> Iterator[Hit]:
        """Everything in a whole text, detector by detector; places are those in `text`.

        `tick` is called before each match that is looked at, and may raise.
        """
        folded, offsets = fold(text, self.fold, escapes=has_escapes(self.fold, is_json=is_json))
        subject = Subject(folded)
        if span(self.gate, subject.data) is None:
            return
        for place in self.matching(subject):
            for hit in Reader(self.detectors[place]).read(subject, NEVER, is_whole=True, tick=tick):
                yield hit.at_home(offsets)


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found. `is_open`: it goes on; `end` is how far it is known."""

    what: str
    start: int
    end: int
    is_open: bool = False

    def at_home(self, offsets: Offsets) -> Hit:
        """The same, in the text that was folded."""
        return Hit(self.what, offsets.start(self.start), offsets.end(self.end), self.is_open)


class Subject:
    """A folded text, or the part of one from character `base` on, in characters for people and in bytes for RE2.

    Places that are given and taken are characters of the whole text.
    """

    __slots__ = ("_is_plain", "_known", "base", "data", "end", "text")

    def __init__(self, text: str, base: int = 0) -> None:
        self.text = text
        self.base = base
        self.end = base + len(text)
        self.data = text.encode()
        self._is_plain = len(self.data) == len(text)
        self._known = (0, 0)  # a character and its byte, from which to count on

    def search(self, regex: Any, at: int) -> tuple[int, int] | None:
        """Where the first match from `at` on begins and ends."""
        base = self.base
        begin = max(0, at - base)
        found = span(regex, self.data, begin if self._is_plain else self._byte(begin))
        if found is None:
            return None
        start, end = found if self._is_plain else map(self._character, found)
        return start + base, end + base

    def _byte(self, character: int) -> int:
        if self._is_plain:
            return character
        known, byte = self._known
        if character < known:
            known = byte = 0
        byte += len(self.text[known:character].encode())
        self._known = (character, byte)
        return byte

    def _character(self, byte: int) -> int:
        known, from_byte = self._known
        if byte < from_byte:
            known = from_byte = 0
        known += len(self.data[from_byte:byte].decode())
        self._known = (known, byte)
        return known


class Reader:
    """What one detector has seen of a text. `at` is where it looks on; `since` is where what is open began, or -1."""

    __slots__ = ("at", "detector", "since")

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.at = 0
        self.since = -1

    def read(
        self, subject: Subject, until: int, *, is_whole: bool, tick: Callable[[], None] = lambda: None
    ) -> Iterator[Hit]:
        """Give what begins before `until`, which is where the text stops being decided, and after what was read before.

        What is open is given again each time, with the end that it has by then.
        """
        detector = self.detector
        while True:
            if self.since >= 0:
                hit = self._close(subject, is_whole=is_whole)
                self.at = hit.end
                if not hit.is_open:
                    self.since = -1
                yield hit
                if hit.is_open:
                    return
            tick()
            found = subject.search(detector.opening.regex, self.at) if self.at < subject.end else None
            if found is None or found[0] >= until:
                return
            start, end = found
            if start == end:
                self.at = end + 1
                continue
            if detector.check is not None:
                base = subject.base
                meant = detector.check(subject.text, start - base, end - base)
                if isinstance(meant, int):
                    self.at = max(start + 1, meant + base)
                    continue
                start, end = meant[0] + base, meant[1] + base
            self.at = max(end, start + 1)
            if detector.closing is None:
                yield Hit(detector.what, start, end)
            else:
                self.since = start

    def _close(self, subject: Subject, *, is_whole: bool) -> Hit:
        detector = self.detector
        closing = detector.closing
        if closing is None:
            raise AssertionError("what has no closing was left open")
        limit = self.since + detector.most
        decided = subject.end
        if not is_whole and closing.longest != 1:
            open_from = subject.search(beginnings((closing,)), self.at)
            decided = subject.end if open_from is None else open_from[0]
        found = subject.search(closing.regex, self.at)
        if found is not None and (is_whole or found[0] < decided):
            end, is_open = found[1] if detector.keeps_closing else found[0], False
        else:
            end, is_open = decided, not is_whole
        if end >= limit:
            end, is_open = limit, False
        return Hit(detector.what, self.since, end, is_open)
