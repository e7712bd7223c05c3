"""Looks at a stream while it comes, and lets out what cannot be a part of anything forbidden any more.

Rules that only ask for things not to be there are run on the stream, as far as it is certain: a match that the next
characters could still complete is held back, and so is nothing else. The other rules see the whole text at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from dataplane.validators.check import check_channels, conclude
from dataplane.validators.detector import NEVER, Hit, Reader, Subject
from dataplane.validators.folding import Folder, has_escapes
from dataplane.validators.policy import HOLD, Rule, ValidatorPolicy, Watch
from dataplane.validators.redaction import Cut, Strings, words_for
from dataplane.validators.values import TEXT, Channel, Finding, Output, Report, Source, Span, Verdict


@dataclass(frozen=True, slots=True)
class Passed:
    """What may leave now."""

    text: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing more may leave, and `finding` says why."""

    finding: Finding


Outcome: TypeAlias = Passed | Blocked


class StreamWindow:
    """One text of one answer: its words, or the arguments of one of its tool calls.

    Args:
        where: As `Channel.where`; `tool` is the name of the function, for arguments.
        is_json: Whether the text is to be JSON, as arguments are in any case.
        cpu_clock: As in `check`, for the rules that see the whole text.
    """

    def __init__(
        self,
        policy: ValidatorPolicy,
        *,
        where: str = TEXT,
        tool: str | None = None,
        is_json: bool = False,
        sources: tuple[Source, ...] = (),
        question: str = "",
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        is_tool = tool is not None
        self._channel = Channel(where, "", is_json or is_tool, tool)
        self._output = Output("", sources=sources, question=question, is_json=is_json)
        self._cpu_clock = cpu_clock
        self._holds_all = policy.streams == HOLD
        self._tracks = [_Track(watch, is_json=is_json or is_tool) for watch in policy.watches(is_tool=is_tool)]
        rules = [rule for rule in policy.deciding if rule.looks_at(self._channel)]
        self._watching = tuple(rule for rule in rules if rule.sieve is not None and not self._holds_all)
        self._at_end = tuple(rule for rule in rules if rule.sieve is None or self._holds_all)
        # Of the whole text, for the rules that see it at the end.
        self._pieces: list[str] = []
        # What has come and has not left: `_text` begins at character `_base` of the whole.
        self._text = ""
        self._base = 0
        self._strings = Strings() if is_json or is_tool else None
        self._found: dict[str, dict[tuple[int, str], Span]] = {}  # by rule, then by where it begins and what it is
        self._failed: dict[str, str] = {}
        self._unreplaceable: tuple[Rule, ...] = ()
        self._may_block = False
        # What is to be taken out, by where it begins; what is open grows.
        self._cuts: dict[tuple[int, str, str], Cut] = {}
        self._swallowed_to = 0
        self._blocked: Blocked | None = None
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        """What the rules have found so far; after `finish`, of all rules but those of a judge."""
        return self._report or Report.of(map(self._finding, self._watching))

    @property
    def held(self) -> int:
        """Characters that have come and may not leave yet."""
        return sum(map(len, self._pieces)) if self._holds_all else len(self._text)

    def feed(self, text: str) -> Outcome:
        """Take the next piece, of any length, and say what may leave: some of what came before too, or nothing."""
        if self._blocked is not None:
            return self._blocked
        if self._holds_all or self._at_end:
            self._pieces.append(text)
        if self._holds_all:
            return Passed("")
        if not self._tracks:
            return Passed(text)
        return self._advance(text, is_end=False)

    def finish(self) -> Outcome:
        """The text is complete: give the rest of it, or say that it is blocked. Not called twice."""
        if self._blocked is not None:
            return self._blocked
        outcome = Passed("") if self._holds_all or not self._tracks else self._advance("", is_end=True)
        if isinstance(outcome, Blocked):
            return outcome
        whole = "".join(self._pieces)
        channel = replace(self._channel, text=whole)
        output = replace(self._output, text=whole)
        if channel.tool is not None:
            output = replace(output, text="", tool_calls=((channel.tool, whole),))
        at_end = check_channels(self._at_end, output, (channel,), cpu_clock=self._cpu_clock)
        self._report = Report.of((*map(self._finding, self._watching), *at_end.findings))
        blocked_by = self._report.blocked_by
        if blocked_by is not None:
            self._blocked = Blocked(blocked_by)
            return self._blocked
        if self._holds_all:
            return Passed(_text_of(at_end.repairs, channel) if at_end.repairs is not None else whole)
        return outcome

    def _advance(self, text: str, *, is_end: bool) -> Outcome:
        self._text += text
        boundary = self._base + len(self._text)
        for track in self._tracks:
            for rule, hit in track.advance(text, is_end=is_end):
                self._take(rule, hit)
            boundary = min(boundary, track.decided)
        finding = self._first_that_blocks()
        if finding is None:
            released = self._release(boundary)
            if released is not None:
                return released
            finding = self._finding(self._unreplaceable[0])
        self._blocked = Blocked(finding)
        self._text = ""
        return self._blocked

    def _first_that_blocks(self) -> Finding | None:
        if not self._may_block:
            return None
        self._may_block = False
        return Report.of(map(self._finding, self._watching)).blocked_by

    def _take(self, rule: Rule, hit: Hit | Exception) -> None:
        if isinstance(hit, Exception):
            self._failed[rule.id] = f"the rule failed: {type(hit).__name__}"
            self._may_block |= rule.is_closed
            return
        # What was open comes again, longer; and two detectors of a rule may see one thing.
        spans = self._found.setdefault(rule.id, {})
        before = spans.get((hit.start, hit.what))
        end = hit.end if before is None else max(hit.end, before.end)
        spans[hit.start, hit.what] = Span(hit.start, end, hit.what, self._channel.where)
        if rule.on_failure is Verdict.BLOCK:
            self._may_block = True
        elif rule.on_failure is Verdict.REPAIR:
            self._cuts[hit.start, rule.id, hit.what] = Cut(hit.start, end, rule.replacement, rule.sort_key)

    def _finding(self, rule: Rule) -> Finding:
        spans = list(self._found.get(rule.id, {}).values())
        finding = conclude(rule, [], spans, abstains=self._failed.get(rule.id, ""))
        if rule in self._unreplaceable:
            why = f"{finding.why}; cannot be taken out: it reaches over the edge of a string"
            return replace(finding, verdict=Verdict.BLOCK, why=why)
        return finding

    def _release(self, boundary: int) -> Passed | None:
        """Everything before `boundary`, with what is cut replaced; None if that cannot be done in JSON."""
        if not self._cuts and self._strings is None:
            text, self._text = self._text[: boundary - self._base], self._text[boundary - self._base :]
            self._base = boundary
            return Passed(text)
        out: list[str] = []
        for key, cut in sorted(self._cuts.items(), key=lambda item: (item[1].start, item[1].order, item[1].end)):
            if cut.start >= boundary:
                break
            if cut.start >= max(self._swallowed_to, self._base):
                kept, _ = self._pass_over(cut.start)
                out.append(kept)
                strings = self._strings
                out.append(cut.replacement if strings is None else words_for(cut.replacement, in_string=strings.inside))
            _, was_edge = self._pass_over(min(cut.end, boundary))
            if was_edge:
                self._unreplaceable = tuple(rule for rule in self._watching if rule.sort_key == cut.order)
                return None
            self._swallowed_to = max(self._swallowed_to, cut.end)
            if cut.end <= boundary:  # what is open comes again, and has been replaced
                del self._cuts[key]
        kept, _ = self._pass_over(boundary)
        out.append(kept)
        return Passed("".join(out))

    def _pass_over(self, to: int) -> tuple[str, bool]:
        """Take what is left before character `to`, and say whether an edge of a JSON string was passed."""
        length = max(0, to - self._base)
        passed, self._text = self._text[:length], self._text[length:]
        self._base += length
        return passed, self._strings is not None and self._strings.pass_over(passed)


class _Track:
    """A stream as one fold of it is looked at. `decided` is the character of the stream up to which nothing is open."""

    __slots__ = ("_base", "_began", "_folder", "_open", "_owners", "_readers", "_scanned", "_sieve", "_text", "decided")

    def __init__(self, watch: Watch, *, is_json: bool) -> None:
        self.decided = 0
        self._sieve = watch.sieve
        self._owners = watch.owners
        self._readers = [Reader(detector) for detector in watch.sieve.detectors]
        self._folder = Folder(watch.sieve.fold, escapes=has_escapes(watch.sieve.fold, is_json=is_json))
        # The end of the folded text, from character `_base` on; whatever begins before `_scanned` has been seen.
        self._text = ""
        self._base = 0
        self._scanned = 0
        self._open: list[int] = []  # readers in the middle of something
        self._began: dict[tuple[int, int], int] = {}  # where in the stream what is open began

    def advance(self, text: str, *, is_end: bool) -> Iterator[tuple[Rule, Hit | Exception]]:
        """Take the next piece and give what is found, at places of the stream, and how a rule failed, if one does."""
        self._text += self._folder.feed(text)
        if is_end:
            self._text += self._folder.finish()
        subject = Subject(self._text, self._base)
        until = subject.end if is_end else self._sieve.held(subject, self._scanned)
        found = subject.search(self._sieve.gate, self._scanned) if until > self._scanned else None
        if found is not None and found[0] < until:
            places = {*self._sieve.matching(subject), *self._open}
            yield from self._read(sorted(places), subject, until, is_end=is_end)
        elif self._open:
            yield from self._read(self._open, subject, until, is_end=is_end)
        self._settle(until)

    def _read(
        self, places: Iterable[int], subject: Subject, until: int, *, is_end: bool
    ) -> Iterator[tuple[Rule, Hit | Exception]]:
        offsets = self._folder.offsets
        for place in places:
            reader, rule = self._readers[place], self._owners[place]
            if reader.since < 0:
                reader.at = max(reader.at, self._scanned)
            try:
                for hit in reader.read(subject, until, is_whole=is_end):
                    began = self._began.pop((place, hit.start), None)
                    start = offsets.start(hit.start) if began is None else began
                    if hit.is_open:
                        self._began[place, hit.start] = start
                    yield rule, replace(hit, start=start, end=offsets.end(hit.end))
            except Exception as exc:  # noqa: BLE001 - as in `check`: what a rule does must not end the stream
                reader.at, reader.since = NEVER, -1
                yield rule, exc
        self._open = [place for place, reader in enumerate(self._readers) if reader.since >= 0]

    def _settle(self, until: int) -> None:
        offsets = self._folder.offsets
        self._scanned = until
        self.decided = offsets.start(until)
        settled = until
        for place in self._open:
            reader = self._readers[place]
            settled = min(settled, reader.at)
            self.decided = min(self.decided, offsets.end(reader.at))
        keep = max(self._base, settled - 1)  # one more, for what asks what stands before it
        self._text = self._text[keep - self._base :]
        self._base = keep
        offsets.forget(keep)


def _text_of(output: Output, channel: Channel) -> str:
    return output.text if channel.tool is None else output.tool_calls[0][1]
