"""The rows of `make chaos`: what is done to which component, and what is promised of it.

docs/failure-modes.md states the same rows in the same words; tests/benchmarks/test_chaos_rows.py keeps them in step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from benchmarks.chaos.asking import Kind

GATEWAY_PROCESS: Final = "gateway process"
_NONE: Final[frozenset[Kind]] = frozenset()
# A validator that had no time to look fails closed, once in some ten thousand answers of a busy machine, whatever else
# happens: docs/failure-modes.md has a row for it. Callers are told so in every row.
WITHHELD: Final = "signed words (withheld)"


class How(StrEnum):
    """What is done to a component."""

    KILL = "kill"  # SIGKILL; whoever supervises it starts it again
    AWAY = "away"  # SIGKILL to it and all its children, and nobody starts it again until the end
    STOP = "stop"  # SIGSTOP to it and all its children; SIGCONT at the end
    FILL = "fill"  # the disk under spool and release has no room
    FILL_AWAY = "fill_away"  # the same, and Redis is away, so that reports must go to the spool
    CLOCK = "clock"  # its clock is set forward or back at once; back at the end


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done, to which process of the Procfile (or GATEWAY_PROCESS), and for how many seconds.

    `offset_seconds`: by how much a clock is set forward.
    """

    target: str
    how: How
    seconds: float = 0.0
    offset_seconds: int = 0

    @property
    def words(self) -> str:
        """For people."""
        hold = f"{self.seconds:.0f} s"
        match self.how:
            case How.KILL:
                return "SIGKILL; its supervisor starts it again"
            case How.AWAY:
                return f"SIGKILL, and not started again for {hold}"
            case How.STOP:
                return f"SIGSTOP, SIGCONT after {hold}"
            case How.FILL:
                return f"no room for {hold}"
            case How.FILL_AWAY:
                return f"no room for {hold}, and Redis away meanwhile"
            case How.CLOCK:
                return f"set {self.offset_seconds:+d} s, and back after {hold}"


@dataclass(frozen=True, slots=True)
class Promise:
    """What may happen to callers from the fault on, until `within_seconds` after its end; nothing else may, and
    afterwards nothing at all.

    `told`: by kind, the error codes that they may be told. `in_flight`: the kinds whose requests may get no answer if
    they were under way when it happened. `unanswered`: the kinds whose requests may get none while it lasts. `again`:
    a request under a key that was under way may be executed again, once its evidence says `taken_over`. Every attempt
    has its usage row, whatever is killed.
    """

    within_seconds: float
    told: Mapping[Kind, frozenset[str]] = field(default_factory=dict)
    in_flight: frozenset[Kind] = _NONE
    unanswered: frozenset[Kind] = _NONE
    again: bool = False

    @property
    def words(self) -> str:
        """For people."""
        by_code: dict[str, set[Kind]] = defaultdict(set)
        for kind, codes in self.told.items():
            for code in codes:
                by_code[code].add(kind)
        together: dict[frozenset[Kind], list[str]] = defaultdict(list)
        for code, kinds in sorted(by_code.items()):
            together[frozenset(kinds)].append(f"`{code}`")
        parts = [f"{_named(kinds)} may be told {', '.join(codes)}" for kinds, codes in together.items()]
        if self.in_flight:
            parts.append(f"{_named(self.in_flight)} under way at that moment may get no answer")
        if self.unanswered:
            parts.append(f"{_named(self.unanswered)} may get no answer meanwhile")
        if self.again:
            parts.append("what was under way under a key may be executed again, as its evidence says")
        return "; ".join(parts) or "nothing"


NAMES: Final[Mapping[Kind, str]] = {
    Kind.PLAIN: "plain requests",
    Kind.STREAM: "streams",
    Kind.KEYED: "requests under a key",
    Kind.JOB: "jobs",
    Kind.ACT: "acts",
}


def _named(kinds: frozenset[Kind]) -> str:
    """The kinds, in their order, as people list them."""
    names = [NAMES[kind] for kind in Kind if kind in kinds]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    fault: Fault
    promise: Promise

    @property
    def needs_clocks(self) -> bool:
        """Whether it takes a world whose clocks can be set."""
        return self.fault.how is How.CLOCK


ACT: Final = frozenset({Kind.ACT})
# Without a key, a request that was under way at a process that dies gets a broken connection.
ONCE: Final = frozenset({Kind.PLAIN, Kind.STREAM})
WITHIN: Final = 15.0
# A gateway process takes a second to start, and ten where many others want the processors.
RESTARTED: Final = 30.0
UNTOUCHED: Final = Promise(WITHIN)
CUT_OFF: Final = {Kind.STREAM: frozenset({"upstream_interrupted"})}
NO_CONSOLE: Final = Promise(WITHIN, unanswered=ACT)
# It recovers from its crash first, and whoever lost it asks again in their turn.
NO_DATABASE: Final = Promise(30.0, told={Kind.ACT: frozenset({"unavailable"})}, unanswered=ACT)
# Longer than leases, time-outs and the patience with a process that does not turn; shorter than a caller's.
HOLD: Final = 15.0
CLOCK_SECONDS: Final = 300
# Signed words where the route has some, else an error. A breaker of the demo stays open for up to 30 s after that.
NO_LANE: Final = frozenset(
    {
        "circuit_open",
        "signed words (cached)",
        "signed words (outage)",
        "signed words (template)",
        "upstream_timeout",
        "upstream_unreachable",
    }
)
NO_PROVIDER: Final = Promise(
    45.0,
    told={
        Kind.PLAIN: NO_LANE,
        Kind.STREAM: NO_LANE | CUT_OFF[Kind.STREAM],
        Kind.KEYED: NO_LANE,
    },
)


ROWS: Final = (
    Row(
        "gateway process, killed",
        Fault(GATEWAY_PROCESS, How.KILL),
        Promise(RESTARTED, told=CUT_OFF, in_flight=ONCE, again=True),
    ),
    Row(
        "gateway process, stopped",
        Fault(GATEWAY_PROCESS, How.STOP, 25),
        Promise(RESTARTED, told=CUT_OFF, in_flight=ONCE, again=True),
    ),
    Row("agent, killed", Fault("agent", How.KILL), UNTOUCHED),
    Row("agent, stopped", Fault("agent", How.STOP, HOLD), UNTOUCHED),
    Row("runner of jobs, killed", Fault("jobs", How.KILL), UNTOUCHED),
    Row("runner of jobs, stopped", Fault("jobs", How.STOP, 35), UNTOUCHED),
    Row("worker, killed", Fault("worker", How.KILL), UNTOUCHED),
    Row("worker, stopped", Fault("worker", How.STOP, HOLD), UNTOUCHED),
    Row("beat, killed", Fault("beat", How.KILL), UNTOUCHED),
    Row("beat, stopped", Fault("beat", How.STOP, HOLD), UNTOUCHED),
    Row("ingest, killed", Fault("ingest", How.KILL), UNTOUCHED),
    Row("ingest, stopped", Fault("ingest", How.STOP, HOLD), UNTOUCHED),
    Row("console, killed", Fault("console", How.KILL), NO_CONSOLE),
    Row("console, stopped", Fault("console", How.STOP, HOLD), NO_CONSOLE),
    Row("Redis, away", Fault("redis", How.AWAY, HOLD), UNTOUCHED),
    Row("Redis, stopped", Fault("redis", How.STOP, HOLD), UNTOUCHED),
    Row("broker, away", Fault("broker", How.AWAY, HOLD), UNTOUCHED),
    Row("broker, stopped", Fault("broker", How.STOP, HOLD), UNTOUCHED),
    Row("PostgreSQL, away", Fault("postgres", How.AWAY, HOLD), NO_DATABASE),
    Row("PostgreSQL, stopped", Fault("postgres", How.STOP, HOLD), NO_DATABASE),
    Row("provider, away", Fault("simulator", How.AWAY, HOLD), NO_PROVIDER),
    Row("provider, stopped", Fault("simulator", How.STOP, HOLD), NO_PROVIDER),
    Row("disk, full", Fault("disk", How.FILL, HOLD), UNTOUCHED),
    Row("disk, full, while Redis is away", Fault("disk", How.FILL_AWAY, HOLD), UNTOUCHED),
    *(
        Row(f"clock of {name}, {word}", Fault(target, How.CLOCK, HOLD, offset_seconds=sign * CLOCK_SECONDS), UNTOUCHED)
        for name, target in (("gateway", "gateway"), ("agent", "agent"), ("worker", "worker"))
        for word, sign in (("ahead", 1), ("behind", -1))
    ),
)
