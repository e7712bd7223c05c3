"""The canary page's guardrails: what statistics say of each, from which evidence, and how that grew."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from controlplane.console.charts import Figure, Moment, Series, Threshold, line_chart
from controlplane.rollouts.guardrails import RAILS, Guardrails, Rail, Scale, Stream, Unproven
from controlplane.rollouts.models import Canary
from controlplane.verdicts.models import CanaryWatch, VerdictPoint
from controlplane.verdicts.values import Alarm, Reading, Ruling, amount, compared
from controlplane.verdicts.watching import STALE_AFTER, due_at

# Of a chart; older ones are thinned out, so that a page costs the same however long a canary runs.
MAX_POINTS: Final = 150
_TONES: Final = {Ruling.REGRESSED: "bad", Ruling.CLEAR: "good", Ruling.UNPROVEN: "watch"}
_WORDS: Final = {
    Ruling.REGRESSED: "regressed",
    Ruling.CLEAR: "not regressed",
    Ruling.UNPROVEN: "not enough evidence",
}
_STREAMS: Final = {Stream.LIVE: "Live traffic", Stream.REPLAY: "Replays"}
_UNITS: Final = {Scale.POINTS: "points", Scale.RELATIVE: "% of control"}


@dataclass(frozen=True, slots=True)
class Line:
    """What one stream of evidence says, formatted."""

    label: str
    difference: str
    interval: str
    counts: str
    needed: str
    word: str
    tone: str
    why: str


@dataclass(frozen=True, slots=True)
class RailTile:
    """One guardrail at a glance."""

    key: str
    title: str
    margin: str
    word: str
    tone: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """The verdict as the page's head says it."""

    word: str
    tone: str
    sentence: str
    looked_at: datetime | None
    is_stale: bool
    alarms: tuple[Alarm, ...]
    follows: str


def standing(canary: Canary, watch: CanaryWatch | None, *, now: datetime) -> Standing:
    """What is known of a canary now; of one that ended, what was known then."""
    if watch is None:
        sentence = (
            "Nobody has looked at it yet."
            if canary.guardrails is not None
            else "Planned before there were guardrails: people judge it alone."
        )
        return Standing(_WORDS[Ruling.UNPROVEN], "off", sentence, None, False, (), "")
    verdict = watch.read
    return Standing(
        word=_WORDS[verdict.ruling],
        tone=_TONES[verdict.ruling],
        sentence=verdict.sentence,
        looked_at=watch.looked_at,
        is_stale=canary.is_running and now - watch.looked_at > STALE_AFTER,
        alarms=verdict.alarms,
        follows=_follows(canary, verdict.ruling),
    )


def tiles(canary: Canary, watch: CanaryWatch | None) -> tuple[RailTile, ...]:
    """Every guardrail that judges, in the plan's order."""
    policy = canary.judged_by
    if policy is None:
        return ()
    found: dict[str, list[Reading]] = defaultdict(list)
    for reading in watch.read.readings if watch is not None else ():
        found[reading.rail].append(reading)
    return tuple(_tile(RAILS[key], policy.margins[key], found.get(key, ())) for key in RAILS if key in policy.margins)


def rail_chart(canary: Canary, policy: Guardrails, key: str, *, moments: Sequence[Moment] = ()) -> Figure:
    """How the difference of one guardrail grew over the canary's life, on each stream, with its interval and margin.

    Two queries.
    """
    rail = RAILS[key]
    points = VerdictPoint.objects.of(canary).filter(rail=key)
    times = list(points.values_list("at", flat=True).distinct())
    apart = -(-len(times) // MAX_POINTS) or 1
    shown = {*times[::apart], *times[-1:]}
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for at, stream, *values in points.values_list("at", "stream", "harm", "lower", "upper"):
        if at in shown:
            rows[stream].append((at, *(None if value is None else value * 100 for value in values)))
    series = []
    for stream in rail.streams:
        if (rail, stream) not in policy.judged:
            continue
        columns = list(zip(*rows[stream.value], strict=True)) or [(), (), (), ()]
        series.append(
            Series(
                _STREAMS[stream].lower(),
                "canary" if stream is Stream.LIVE else "other",
                columns[0],
                columns[1],
                columns[2],
                columns[3],
            )
        )
    margin = policy.margins[key]
    line = Threshold(margin * 100, f"margin {amount(rail, margin)}")
    return line_chart(
        f"{_title(rail)}: worse than control by", _UNITS[rail.scale], series, thresholds=[line], moments=moments
    )


def unit_of(key: str) -> str:
    """What the chart of a guardrail is in."""
    return _UNITS[RAILS[key].scale]


def _tile(rail: Rail, margin: float, readings: Sequence[Reading]) -> RailTile:
    rulings = {reading.ruling for reading in readings}
    # One stream that is clear suffices, and one that regressed does too.
    ruling = next((one for one in (Ruling.REGRESSED, Ruling.CLEAR) if one in rulings), Ruling.UNPROVEN)
    return RailTile(
        key=rail.key,
        title=_title(rail),
        margin=f"at most {amount(rail, margin)} {rail.worse} control",
        word=_WORDS[ruling],
        tone=_TONES[ruling],
        lines=tuple(_line(rail, reading) for reading in readings),
    )


def _line(rail: Rail, reading: Reading) -> Line:
    noun = "pairs" if reading.stream is Stream.REPLAY else "on canary"
    counts = f"{reading.canary_n:,} {noun}"
    if reading.stream is Stream.LIVE:
        counts += f", {reading.control_n:,} on control"
    too_few = min(reading.canary_n, reading.control_n) < reading.needed_n
    return Line(
        label=_STREAMS[reading.stream],
        difference="–" if reading.harm is None else compared(rail, reading.harm),
        interval=_interval(rail, reading),
        counts=counts,
        needed=f"cannot conclude below {reading.needed_n:,}" if too_few else "",
        word=_WORDS[reading.ruling],
        tone=_TONES[reading.ruling],
        why=_why(reading),
    )


def _why(reading: Reading) -> str:
    """What is missing, where the interval beside it does not say so already."""
    if reading.lower is None or reading.ruling is not Ruling.UNPROVEN:
        return reading.why
    enough = reading.enough_n
    if enough is None or enough <= min(reading.canary_n, reading.control_n):
        return ""
    return f"about {enough:,} a side would tell, if it is no worse"


def _interval(rail: Rail, reading: Reading) -> str:
    if reading.lower is None or reading.upper is None:
        return ""
    lower, upper = compared(rail, reading.lower), compared(rail, reading.upper)
    return f"between {lower} and {upper}" if lower != upper else ""


def _title(rail: Rail) -> str:
    return rail.label[0].upper() + rail.label[1:]


def _follows(canary: Canary, ruling: Ruling) -> str:
    """What comes of the verdict at this stage, in words."""
    if not canary.is_running or canary.guardrails is None:
        return ""
    if ruling is Ruling.REGRESSED:
        return "It is being rolled back."
    asked = canary.stage_evidence
    if ruling is Ruling.CLEAR:
        return "It may go on as far as evidence goes; sign-offs are another matter."
    if asked.unproven is Unproven.WAIT:
        return "The next stage waits until there is enough."
    if asked.unproven is Unproven.ALLOW:
        return "People may go on without it."
    return f"Unless there is enough by {due_at(canary):%H:%M} UTC, it is rolled back."
