"""What of a streamed answer may go out now, and what is held until it is right. Pure.

It stands between the provider's events and the caller's. What is to be JSON passes through its reader, piece by piece;
what comes out of that, or of no reader, passes through the window of the validators. An event that is left as it is
goes out in the provider's own bytes, and until something of the answer may go out, nothing does: until then another
answer can take its place unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dataplane.errors.answers import ValidationFailed
from dataplane.json_answers import TEXT, Mended, Part, Readers, note_of
from dataplane.messages import (
    ChatResponse,
    Delta,
    Finish,
    RefusalDelta,
    Start,
    StreamChunk,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    UsageDelta,
)
from dataplane.records import record
from dataplane.repair.policy import INCREMENTAL
from dataplane.repair.reader import Repaired, Unrepaired
from dataplane.repair.stream import JsonStream
from dataplane.validators.policy import ValidatorPolicy
from dataplane.validators.values import Finding, Output, Source
from dataplane.validators.window import Blocked, Passed, StreamWindow

CUT: Final = "length"


@record
class Checks:
    """What the answers to a request are held against.

    Attributes:
        readers: How what is to be JSON is read; None: nothing is.
        streams: As `RepairPolicy.streams`.
        validators: None: nothing else is asked of them.
        sources, question: What they are to rest on, and what was asked.
    """

    readers: Readers | None
    streams: str
    validators: ValidatorPolicy | None
    sources: tuple[Source, ...]
    question: str

    def window(self, *, where: str, tool: str | None, is_json: bool) -> StreamWindow | None:
        """What one text of an answer passes through."""
        if self.validators is None:
            return None
        return StreamWindow(
            self.validators, where=where, tool=tool, is_json=is_json, sources=self.sources, question=self.question
        )


class Channel:
    """One text of the answer as it comes: its words, or the arguments of a tool call.

    `json` is None for what is not to be JSON, `window` where nothing else is asked of it.
    """

    __slots__ = ("_final", "_pieces", "id", "json", "place", "tool", "window")

    def __init__(
        self, place: str | int, *, id: str, tool: str, json: JsonStream | None, window: StreamWindow | None
    ) -> None:
        self.place = place
        self.id = id
        self.tool = tool
        self.json = json
        self.window = window
        self._pieces: list[str] = []
        self._final: str | None = None

    @property
    def part(self) -> Part:
        """It, as the provider gave it, as far as it has come."""
        return Part(self.place, self.tool, "".join(self._pieces) if self.json is None else self.json.text)

    @property
    def final(self) -> str:
        """It, as it is read at its end."""
        return self.part.text if self._final is None else self._final

    def accepts(self, text: str) -> bool:
        """Whether `text` goes on with what has left its reader."""
        return self.json is None or self.json.accepts(text)

    def feed(self, piece: str) -> str:
        """Take a piece, and give what may go out.

        Raises:
            ValidationFailed: nothing more may.
        """
        if self.json is None:
            self._pieces.append(piece)
        else:
            piece = self.json.feed(piece)
        return piece if self.window is None else _let_through(self.window.feed(piece))

    def end(self, final: str | None = None) -> str:
        """Take the end, where `final` is the whole text as it was read, and give the rest that may go out; as `feed`.
        Not called twice.
        """
        self._final = final
        rest = "" if self.json is None or final is None else final[len(self.json.sent) :]
        if self.window is None:
            return rest
        return _let_through(self.window.feed(rest)) + _let_through(self.window.finish())


def _let_through(outcome: Passed | Blocked) -> str:
    if isinstance(outcome, Blocked):
        raise ValidationFailed(rules=(outcome.finding.told(),))
    return outcome.text


@dataclass(frozen=True, slots=True)
class Broken:
    """A part that came to its end and could not be read. `is_cut`: its length limit cut it off."""

    channel: Channel
    reading: Unrepaired
    is_cut: bool


@dataclass(slots=True)
class _End:
    """The end of the answer, held back: the rest of its texts, why it ended, and what came behind."""

    finish: Finish
    rest: list[Delta]
    chunks: list[StreamChunk] = field(default_factory=list)


class AnswerGate:
    """See the module. One for each attempt at a stream.

    `mended` are the parts that were read, in order; `broken` those that were not. `is_held` says that the answer is not
    at its end before somebody has mended those, or has asked the judges; `is_refused` that the model declined.
    """

    __slots__ = (
        "_checks",
        "_early",
        "_end",
        "_incremental",
        "_start",
        "_text",
        "_tools",
        "broken",
        "is_held",
        "is_refused",
        "mended",
    )

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._incremental = checks.streams == INCREMENTAL
        self._text = self._make_text()
        self._tools: dict[int, Channel] = {}
        self.is_refused = False
        self._start: Start | None = None
        self._early: list[StreamChunk] | None = []
        self._end: _End | None = None
        self.mended: list[Mended] = []
        self.broken: list[Broken] = []
        self.is_held = False

    @property
    def finish_reason(self) -> str:
        """How the answer ends that is held back."""
        return "stop" if self._end is None else self._end.finish.reason

    @property
    def calls_tools(self) -> bool:
        """Whether it calls a tool."""
        return bool(self._tools)

    @property
    def findings(self) -> list[Finding]:
        """What the validators found so far, text by text."""
        windows = [channel.window for channel in self._channels() if channel.window is not None]
        return [finding for window in windows for finding in window.report.findings]

    def output(self) -> Output:
        """The answer as it is at its end, for judges."""
        return Output(
            "" if self._text is None else self._text.final,
            tuple((channel.tool, channel.final) for channel in self._tools.values()),
            self._checks.sources,
            self._checks.question,
            is_json=self._checks.readers is not None and self._checks.readers.wants_json,
        )

    def response(self) -> ChatResponse:
        """The answer as the provider gave it, as far as it is to be JSON; remarks beside it have gone out."""
        start = self._start or Start("", "", 0)
        return ChatResponse(
            id=start.id,
            model=start.model,
            created=start.created,
            text=None if self._text is None or self._tools else self._text.part.text,
            finish_reason=self.finish_reason,
            usage=None,
            tool_calls=tuple(ToolCall(channel.id, channel.tool, channel.part.text) for channel in self._tools.values()),
        )

    def feed(self, chunk: StreamChunk) -> Sequence[StreamChunk]:
        """Return what may go out now that a chunk has come; the very same, if that is all of it.

        Raises:
            ValidationFailed: nothing more of the answer may go out.
        """
        if self._end is not None:
            self._end.chunks.append(chunk)
            return ()
        deltas: list[Delta] = []
        for delta in chunk.deltas:
            match delta:
                case TextDelta():
                    deltas += self._feed_text(delta)
                case ToolCallDelta():
                    deltas += self._feed_tool(delta)
                case Start():
                    self._start = delta
                    deltas.append(delta)
                case RefusalDelta():
                    self.is_refused = True
                    deltas.append(delta)
                case Finish():
                    deltas += self._finish(delta)
                case _:
                    deltas.append(delta)
        note = note_of(self.mended) if self.mended and not self.is_held else None
        if note is not None or len(deltas) != len(chunk.deltas) or not all(map(_same, deltas, chunk.deltas)):
            chunk = StreamChunk(tuple(deltas), ballast=note)
        early = self._early
        if early is None:
            return (chunk,)
        early.append(chunk)
        if all(isinstance(delta, Start | UsageDelta) for delta in deltas):
            return ()
        self._early = None
        return early

    def settle(self, mended: Sequence[Mended]) -> None:
        """Take the broken parts, mended, in their order.

        Raises:
            ValidationFailed: with them, the answer may not go out.
        """
        if self._end is None:
            return
        for broken, one in zip(self.broken, mended, strict=True):
            self._end.rest += _deltas(broken.channel, broken.channel.end(one.text))
        self.mended += mended
        self.broken = []

    def conclude(self, *, finish_reason: str) -> Iterator[StreamChunk]:
        """Give what is left of the answer, and let it end for this reason."""
        end, self.is_held = self._end, False
        if end is None:
            return
        yield from self._early or ()
        self._early = None
        yield StreamChunk((*end.rest, Finish(finish_reason)), ballast=note_of(self.mended))
        yield from end.chunks

    def _make_text(self) -> Channel:
        checks, readers = self._checks, self._checks.readers
        json = None
        if readers is not None and readers.wants_json:
            # Text before a tool call is a remark, and whether one comes shows only later.
            json = JsonStream(readers.text_reader(), incremental=self._incremental and not readers.has_tools)
        window = checks.window(where=TEXT, tool=None, is_json=json is not None)
        return Channel(TEXT, id="", tool="", json=json, window=window)

    def _feed_text(self, delta: TextDelta) -> Iterator[Delta]:
        if text := self._text.feed(delta.text):
            yield TextDelta(text)

    def _feed_tool(self, delta: ToolCallDelta) -> Iterator[Delta]:
        if self._text.json is not None:
            # It calls a tool, so what it said before is a remark.
            remark, self._text.json = self._text.json.text, None
            if text := self._text.feed(remark):
                yield TextDelta(text)
        channel = self._tools.get(delta.index)
        if channel is None:
            channel = self._tools[delta.index] = self._make_tool(delta)
        arguments = channel.feed(delta.arguments)
        if arguments or delta.id is not None:
            yield ToolCallDelta(delta.index, delta.id, delta.name, arguments)

    def _make_tool(self, delta: ToolCallDelta) -> Channel:
        tool, readers = delta.name or "", self._checks.readers
        json = None
        if readers is not None and not readers.is_free(tool):
            json = JsonStream(readers.tool_reader(tool), incremental=self._incremental)
        window = self._checks.window(where=f"tool_calls[{delta.index}]", tool=tool, is_json=True)
        return Channel(delta.index, id=delta.id or "", tool=tool, json=json, window=window)

    def _finish(self, delta: Finish) -> Iterator[Delta]:
        rest: list[Delta] = []
        channels = list(self._channels())
        # A refusal is no answer to read.
        is_answer = not self.is_refused and delta.reason != "content_filter"
        for number, channel in enumerate(channels):
            if channel.json is None or not is_answer:
                rest += _deltas(channel, channel.end(None if channel.json is None else channel.json.text))
                continue
            # What was cut off is the last part; those before it had ended.
            is_cut = delta.reason == CUT and number == len(channels) - 1
            reading = channel.json.finish(is_cut=is_cut)
            if isinstance(reading, Repaired):
                self.mended.append(Mended(channel.part, reading.text, reading.rung, reading.mode, reading.edits))
                rest += _deltas(channel, channel.end(reading.text))
            else:
                self.broken.append(Broken(channel, reading, is_cut))
        judges = () if self._checks.validators is None or not is_answer else self._checks.validators.judges
        if self.broken or judges:
            self.is_held = True
            self._end = _End(delta, rest)
            return
        yield from rest
        yield delta

    def _channels(self) -> Iterator[Channel]:
        """The texts in the order in which they end. Beside tool calls, no words lack nothing."""
        if not self._tools or self._text.part.text:
            yield self._text
        yield from self._tools.values()


def _same(one: Delta, other: Delta) -> bool:
    return one is other or one == other


def _deltas(channel: Channel, text: str) -> Iterator[Delta]:
    """More of a text, if there is any."""
    if text:
        yield TextDelta(text) if isinstance(channel.place, str) else ToolCallDelta(channel.place, None, None, text)
