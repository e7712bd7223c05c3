"""What the pages of streams show: five figures as one bar, how far each came, what wrote it, what is given back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.urls import reverse

from controlplane.console.templatetags.ballast import micros, short_id
from controlplane.ledger.figures import WORDS, Figures
from controlplane.ledger.stream_rows import StreamCredit, StreamDelivery, StreamRow
from dataplane.frames import Ending, text_of

# The widths of the pictures in their own units; a span is never thinner than what can be seen.
BAR_WIDTH: Final = 100.0
WIDTH: Final = 1000.0
_THINNEST: Final = 4.0
_MARK: Final = 3.0
DELIVERIES_SHOWN: Final = 50
TONES: Final = {
    Ending.COMPLETED: "good",
    Ending.CANCELLED: "off",
    Ending.INTERRUPTED: "watch",
    Ending.FAILED: "bad",
}
_ENDED: Final = {
    Ending.COMPLETED: "Completed with",
    Ending.CANCELLED: "Cancelled after",
    Ending.INTERRUPTED: "Interrupted after",
    Ending.FAILED: "Failed after",
}
_HOW: Final = {"prefill": "given the words so far", "regenerated": "asked anew"}
_READERS: Final = {
    "caller": "Read through frame {delivered} by the caller",
    "resumed": "Read through frame {delivered} by a caller who came back",
    "ack": "Acknowledged through frame {acked}",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure: its word, its tokens, and its width in [0, BAR_WIDTH]."""

    name: str
    tokens: int
    width: float


def bars(figures: Figures) -> tuple[Bar, ...]:
    """The five figures, each as long as its share of the largest."""
    scale = BAR_WIDTH / (max(tokens for _, tokens in figures.named()) or 1)
    return tuple(Bar(WORDS[name], tokens, round(tokens * scale, 1)) for name, tokens in figures.named())


@dataclass(frozen=True, slots=True)
class Line:
    """One stream in a list: its row, the figures as known now, and how it ended as a tone."""

    row: StreamRow
    figures: Figures
    tone: str

    @property
    def bars(self) -> tuple[Bar, ...]:
        return bars(self.figures)


def line_of(row: StreamRow) -> Line:
    """Lay out one stream of a list; `row` comes with its standing."""
    return Line(row, row.standing.figures, TONES[Ending(row.outcome)])


@dataclass(frozen=True, slots=True)
class Span:
    """What one attempt gave of a stream. `left` and `width` lie in [0, WIDTH], by sequence numbers.

    Shape of `segment`: see `StreamRow`.
    """

    segment: dict[str, Any]
    left: float
    width: float

    @property
    def tone(self) -> str:
        return "watch" if self.segment["partial"] else "good"

    @property
    def how(self) -> str:
        """How it came to write, in words; empty for a first attempt."""
        return _HOW.get(self.segment["how"], "")


@dataclass(frozen=True, slots=True)
class Story:
    """One stream as its page tells it. `delivered` and `acked` are places in [0, WIDTH]; None: nothing was.

    `continued_by` are the streams that go on from it, `deliveries` the newest of them, newest first.
    """

    line: Line
    spans: tuple[Span, ...]
    delivered: float | None
    acked: float | None
    continued_by: tuple[StreamRow, ...]
    deliveries: tuple[StreamDelivery, ...]
    credits: tuple[StreamCredit, ...]

    @property
    def row(self) -> StreamRow:
        return self.line.row

    @property
    def tone(self) -> str:
        return self.line.tone if self.line.figures.in_order else "bad"

    @property
    def sentence(self) -> str:
        """What became of it, in words."""
        row, standing = self.row, self.row.standing
        said = f"{_ENDED[Ending(row.outcome)]} {row.frames:,} frame{'' if row.frames == 1 else 's'}"
        said += f" ({row.code})" if row.code else ""
        read, acked = _part(standing.delivered, row.frames), _part(standing.acked, row.frames)
        said += f"; the caller has read {'and acknowledged ' if read == acked and standing.acked else ''}{read}"
        said += f" and acknowledged {acked}" if read != acked and standing.acked else ""
        said += ", having come back to it" if standing.resumed else ""
        for other in self.continued_by:
            said += f"; continued by stream {short_id(other.stream_id)}"
        breaches = self.line.figures.breaches
        return f"{said}. The figures do not add up: {'; '.join(breaches)}" if breaches else said

    @property
    def credit(self) -> str:
        """What is given back, in words."""
        row = self.row
        micro = row.standing.credit_micros
        if micro is None:
            return f"Not decided: the rule {row.refund!r} is not known here, or failed"
        if micro:
            return f"{micros(micro)} of {micros(row.cost_micros)} by the rule {row.refund!r}"
        return f"Nothing by the rule {row.refund!r}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened after its end, and the end, newest first, as `components/_timeline.html` takes it."""
        ended = {
            "at": self.row.at,
            "text": f"Ended: {self.row.outcome}",
            "tone": self.line.tone,
            "icon": "stop-fill",
        }
        found = [_delivery_event(one) for one in self.deliveries] + [_credit_event(one) for one in self.credits]
        return [*sorted(found, key=lambda event: event["at"], reverse=True), ended]


def story_of(row: StreamRow) -> Story:
    """Read all of it, in three queries; `row` comes with its standing."""
    scale = WIDTH / max(row.frames, 1)
    spans = []
    for segment in row.segments:
        width = min(max((segment["last_seq"] - segment["first_seq"] + 1) * scale, _THINNEST), WIDTH)
        left = min(max((segment["first_seq"] - 1) * scale, 0.0), WIDTH - width)
        spans.append(Span(segment, round(left, 1), round(width, 1)))
    standing = row.standing
    return Story(
        line=line_of(row),
        spans=tuple(spans),
        delivered=_place(standing.delivered, scale),
        acked=_place(standing.acked, scale),
        # A stream is continued for its own tenant only; an id that another one names must not show it.
        continued_by=tuple(StreamRow.objects.filter(continues=row.stream_id, tenant=row.tenant).order_by("at")[:5]),
        deliveries=tuple(row.deliveries.all()[:DELIVERIES_SHOWN]),
        credits=tuple(row.credits.all()),
    )


def _place(seq: int, scale: float) -> float | None:
    return round(min(seq * scale, WIDTH - _MARK), 1) if seq else None


def _part(seq: int, frames: int) -> str:
    if seq >= frames:
        return "all of them"
    return f"{seq:,} of them" if seq else "none of them"


def _delivery_event(one: StreamDelivery) -> dict[str, Any]:
    text = _READERS[one.reader].format(delivered=f"{one.delivered:,}", acked=f"{one.acked:,}")
    tokens = f"{one.delivered_tokens:,} tokens delivered, {one.acked_tokens:,} acknowledged by then"
    icon = "check-lg" if one.reader == "ack" else "eye"
    return {"at": one.at, "text": text, "reason": tokens, "tone": "info", "icon": icon}


def _credit_event(one: StreamCredit) -> dict[str, Any]:
    given = one.change_micros > 0
    text = f"Credited {micros(one.change_micros)}" if given else f"Took {micros(-one.change_micros)} of the credit back"
    figures = f"{one.delivered_tokens:,} tokens delivered, {one.acked_tokens:,} acknowledged by then; rule {one.rule}"
    return {"at": one.at, "text": text, "reason": figures, "tone": "good" if given else "watch", "icon": "receipt"}


def facts(row: StreamRow) -> Sequence[tuple[str, str, str]]:
    """What else is known of a stream: label, words, and an address or none."""
    managed = f"{row.prompt} v{row.version}" if row.prompt else "none"
    return (
        ("Tenant", f"{row.tenant} ({row.tier})", ""),
        ("Request", row.request_id, reverse("usage-request", args=[row.request_id]) if row.request_id else ""),
        ("Route", row.route, ""),
        ("Prompt", managed if row.cohort == "none" else f"{managed}, {row.cohort}", ""),
        ("Stream policy", f"{row.policy} (on a cut: {row.on_cut}; refund: {row.refund})", ""),
        ("Size", f"{row.frames:,} frames, {row.size_bytes:,} bytes", ""),
    )


def words_of(frames: Iterable[str]) -> str:
    """What a reader of these frames reads: their text, without what is around it."""
    return "".join(map(_words_in, frames))


def _words_in(frame: str) -> str:
    try:
        return text_of(frame.encode())
    except (ValueError, AttributeError, TypeError):
        return ""  # no chunk of an answer; the frame itself stands on the page
