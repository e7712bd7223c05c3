"""One request as it went: a bar for each attempt, on one line of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from controlplane.ledger.models import UNFAILED, UsageRow

# The width of the picture in its own units; a bar is never thinner than what can be seen.
WIDTH: Final = 1000.0
_THINNEST: Final = 4.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt. `left` and `width` lie in [0, WIDTH]; `first_token` is a place in there, None without a token;
    `after_ms` is how long after the beginning of the request's first attempt it began.
    """

    row: UsageRow
    left: float
    width: float
    first_token: float | None
    after_ms: float
    tone: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A request's attempts in the order they were made, and what they come to."""

    bars: tuple[Bar, ...]
    began_at: datetime
    span_ms: float
    cost_micros: int
    failed_cost_micros: int

    @property
    def first(self) -> UsageRow:
        return self.bars[0].row

    @property
    def last(self) -> UsageRow:
        return self.bars[-1].row

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """The traces that its attempts are part of: one, and one more for each shadow; none that was not kept."""
        return tuple(dict.fromkeys(bar.row.trace_id for bar in self.bars if bar.row.trace_id))

    @property
    def lanes(self) -> int:
        """How many lanes were tried."""
        return len({bar.row.lane for bar in self.bars})


def waterfall(rows: Sequence[UsageRow]) -> Waterfall:
    """Lay out the attempts of one request.

    Args:
        rows: At least one, in order. All come from one worker, so that its clock is the only one.
    """
    began_at = min(_began(row) for row in rows)
    span_ms = max((row.at - began_at) / timedelta(milliseconds=1) for row in rows)
    scale = WIDTH / span_ms if span_ms else 0.0
    bars = []
    for row in rows:
        after_ms = (_began(row) - began_at) / timedelta(milliseconds=1)
        width = min(max(row.latency_ms * scale, _THINNEST), WIDTH)
        left = min(after_ms * scale, WIDTH - width)
        token = None if row.ttft_ms is None else min((after_ms + row.ttft_ms) * scale, WIDTH)
        tone = "good" if row.outcome == "ok" else "off" if row.outcome in UNFAILED else "bad"
        bars.append(
            Bar(row, round(left, 1), round(width, 1), None if token is None else round(token, 1), after_ms, tone)
        )
    failed = sum(row.cost_micros for row in rows if row.outcome not in UNFAILED)
    return Waterfall(tuple(bars), began_at, span_ms, sum(row.cost_micros for row in rows), failed)


def _began(row: UsageRow) -> datetime:
    return row.at - timedelta(milliseconds=row.latency_ms)
