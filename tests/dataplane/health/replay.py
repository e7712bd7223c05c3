"""Traces of engines, and what kubelet makes of what is said about them, on a clock that is only a number.

A trace is JSON lines. The first says what is true:
{"scenario": str, "about": str, "until": seconds, "truth": [[from, "loading" | "alive" | "strained" | "dead"], …],
"restart_helps"?: bool or from when, "exits"?: bool, "policy"?: {…}}.
*Strained* is an engine that lives and should be sent nothing new: neither answer about its readiness is wrong. `exits`:
the process ends by itself, and its container restarts without any probe.

Each other line is what is seen from `at` on, and whatever it leaves out stays as it was:
{"at": seconds, "engine"?: fields of an EngineReading, "per_second"?: {field or sign: slope}, "health"?: [status or
null, seconds], "ask"?: [how it ends, seconds], "gpu"?: fields of one device or {"state": …}, "gpu_per_second"?: {field:
slope}, "xids"?: [int], "mirror"?: bool, "container_restarts"?: bool}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from dataplane.health.judge import Judge
from dataplane.health.observations import (
    Answer,
    Ask,
    EngineReading,
    GpuReading,
    GpuReport,
    GpuState,
    Reach,
    Said,
)
from dataplane.health.policy import HealthPolicy

TRACES = Path(__file__).parent / "traces"
STATES = frozenset({"loading", "alive", "strained", "dead"})
LOOK_SECONDS, GPU_SECONDS, MIRROR_SECONDS = 2, 5, 15
KUBELET_TIMEOUT_SECONDS = 1.0
STARTUP_CAP_SECONDS = 2700
SIGNS = "signs"


@dataclass(frozen=True, slots=True)
class Trace:
    """One scenario, read from its file."""

    name: str
    about: str
    until: int
    truth: tuple[tuple[int, str], ...]
    restart_helps_from: int | None
    exits: bool
    policy: HealthPolicy
    lines: tuple[dict[str, Any], ...]

    def state(self, at: float) -> str:
        """What is true at a time."""
        return next(state for since, state in reversed(self.truth) if at >= since)

    @property
    def restart_helps(self) -> bool:
        """Whether it does, sooner or later."""
        return self.restart_helps_from is not None

    @property
    def mends_at_once(self) -> bool:
        """Whether a restart helps from the moment of its death on."""
        helps, dead = self.restart_helps_from, self.dead_from
        return helps is not None and dead is not None and helps <= dead

    @property
    def dead_from(self) -> int | None:
        """Since when it is dead, the first time."""
        return next((since for since, state in self.truth if state == "dead"), None)


def read_trace(path: Path) -> Trace:
    """Read one file, strict about what it says is true."""
    head, *lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    helps = head.get("restart_helps", False)
    truth = tuple((int(since), str(state)) for since, state in head["truth"])
    assert {state for _, state in truth} <= STATES, path
    assert truth[0][0] == 0, path
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines), path
    return Trace(
        name=head["scenario"],
        about=head["about"],
        until=head["until"],
        truth=truth,
        restart_helps_from=None if helps is False else int(helps),
        exits=head.get("exits", False),
        policy=replace(HealthPolicy(), **head.get("policy", {})),
        lines=tuple(lines),
    )


def all_traces() -> list[Trace]:
    """Every trace, by name of its file."""
    return [read_trace(path) for path in sorted(TRACES.glob("*.jsonl"))]


class World:
    """What can be seen at a time: the trace, unrolled."""

    def __init__(self, trace: Trace) -> None:
        self._lines = list(trace.lines)
        self._engine: dict[str, Any] = {"reach": "ok"}
        self._slopes: dict[str, float] = {}
        self._since = 0.0
        self._gpu: dict[str, Any] = {"state": "ok"}
        self._gpu_slopes: dict[str, float] = {}
        self._gpu_since = 0.0
        self._xids: list[int] = []
        self.restarted = False
        self.health: tuple[int | None, float] = (None, 0.0)
        self.ask: tuple[str, float] = ("answered", 0.2)
        self.mirror = True

    def advance(self, now: float) -> None:
        """Let everything up to `now` happen; `restarted` if the container did, by itself, since the last time."""
        self.restarted = False
        while self._lines and self._lines[0]["at"] <= now:
            line = self._lines.pop(0)
            if "engine" in line or "per_second" in line:
                self._settle(line["at"])
                told = dict(line.get("engine", {}))
                signs = told.pop(SIGNS, {})
                self._engine |= told
                self._engine[SIGNS] = self._engine.get(SIGNS, {}) | signs
                self._slopes = line.get("per_second", self._slopes)
            if "gpu" in line:
                self._gpu |= line["gpu"]
                self._gpu_since = line["at"]
                self._gpu_slopes = line.get("gpu_per_second", {})
            self._xids += line.get("xids", [])
            self.health = tuple(line.get("health", self.health))
            self.ask = tuple(line.get("ask", self.ask))
            self.mirror = line.get("mirror", self.mirror)
            self.restarted = self.restarted or line.get("container_restarts", False)

    def reading(self, now: float) -> EngineReading:
        """A look at the engine; one that does not answer shows no numbers."""
        self._settle(now)
        told = self._engine | {SIGNS: dict(self._engine.get(SIGNS, {}))}
        reach = Reach[told.pop("reach").upper()]
        if reach is not Reach.OK:
            return EngineReading(now, reach, told.get("healthy"))
        return EngineReading(now, reach, **told)

    def report(self, now: float) -> GpuReport:
        """A look at the GPU, with the XIDs since the last one."""
        told = dict(self._gpu)
        state = GpuState[told.pop("state").upper()]
        xids, self._xids = tuple(("GPU-0", xid) for xid in self._xids), []
        if state is not GpuState.OK:
            return GpuReport(now, state, detail="in the trace")
        for name, slope in self._gpu_slopes.items():
            told[name] = told[name] + slope * (now - self._gpu_since)
        told["throttle"] = frozenset(told.get("throttle", ()))
        return GpuReport(now, state, (GpuReading("GPU-0", **told),), xids)

    def _settle(self, now: float) -> None:
        passed, self._since = now - self._since, now
        for name, slope in self._slopes.items():
            if name in EngineReading.__dataclass_fields__:
                self._engine[name] = self._engine.get(name, 0) + slope * passed
            else:
                signs = self._engine.setdefault(SIGNS, {})
                signs[name] = signs.get(name, 0) + slope * passed


class Ours:
    """The sidecar's judge, looked after as the sidecar does."""

    name = "this probe"

    def __init__(self, trace: Trace, *, noise: Random | None = None, lost: float = 0.1) -> None:
        """With `noise`, a share of the looks is lost, they come at odd seconds, and asks take up to twice as long."""
        self.judge = Judge(trace.policy, now=0.0)
        self.policy = trace.policy
        self._noise = noise
        self._lost = lost
        self._phase = 0 if noise is None else noise.randrange(LOOK_SECONDS)
        self._asking: tuple[Ask, float, float] | None = None

    def tick(self, world: World, now: float) -> None:
        """One second passes."""
        if self._asking is not None:
            ask, began, ends = self._asking
            if now >= ends:
                said, seconds = world.ask
                late = ask is Ask.CANARY and seconds > self.policy.canary_deadline_seconds
                ended = Said.LATE if late or said == "late" else Said[said.upper()]
                tokens = 512 if ask is Ask.WARM_UP and ended is Said.ANSWERED else None
                self.judge.answered(Answer(ask, ended, began, now, prompt_tokens=tokens))
                self._asking = None
        looks = now % LOOK_SECONDS == self._phase
        if looks:
            is_lost = self._noise is not None and self._noise.random() < self._lost
            self.judge.observe(EngineReading(now, Reach.SLOW) if is_lost else world.reading(now))
        if now % GPU_SECONDS == 0:
            self.judge.observe_gpu(world.report(now))
        if now % MIRROR_SECONDS == 0:
            self.judge.observe_mirror(is_there=world.mirror, detail="away in the trace", now=now)
        self.judge.decide(now=now)
        ask = self.judge.wants(now=now) if looks else None
        if ask is not None:
            self.judge.asking(ask)
            said, seconds = world.ask
            if self._noise is not None:
                seconds *= 1 + self._noise.random()
            deadline = self.policy.canary_deadline_seconds if ask is Ask.CANARY else 300.0
            self._asking = (ask, now, now + min(deadline, seconds if said != "late" else deadline))

    def started(self) -> bool:
        """As /startupz."""
        return self.judge.verdicts.startup.ok

    def ready(self) -> bool:
        """As /readyz."""
        return self.judge.verdicts.ready.ok

    def live(self) -> bool:
        """As /livez."""
        return self.judge.verdicts.live.ok


class PlainHealth:
    """What the engine's own health path says, for all three questions."""

    name = "plain /health"

    def __init__(self, _trace: Trace) -> None:
        self._ok = False

    def tick(self, world: World, _now: float) -> None:
        """One second passes."""
        status, seconds = world.health
        self._ok = status is not None and status < 300 and seconds <= KUBELET_TIMEOUT_SECONDS

    def started(self) -> bool:
        """As its path."""
        return self._ok

    ready = live = started


class MetricsAge:
    """An engine lives while its numbers change: a minute without is its end, whatever runs."""

    name = "metrics age"
    seconds = 60.0
    while_running = False

    def __init__(self, _trace: Trace) -> None:
        self._before: object = None
        self._moved_at = 0.0
        self._now = 0.0
        self._loaded = False

    def tick(self, world: World, now: float) -> None:
        """One second passes."""
        self._now = now
        if now % LOOK_SECONDS:
            return
        reading = world.reading(now)
        seen = (reading.tokens, tuple(sorted(reading.signs.items()))) if reading.reach is Reach.OK else self._before
        if reading.loaded and not self._loaded:
            self._loaded, self._moved_at = True, now
        rests = self.while_running and reading.reach is Reach.OK and not reading.is_busy
        if seen != self._before or rests:
            self._before, self._moved_at = seen, now

    def started(self) -> bool:
        """Once the model is listed."""
        return self._loaded

    def ready(self) -> bool:
        """While its numbers are young."""
        return self._loaded and self._now - self._moved_at <= self.seconds

    live = ready


class MetricsAgeRunning(MetricsAge):
    """The same, where it counts only while requests run or wait."""

    name = "metrics age, running"
    while_running = True


Subject = Ours | PlainHealth | MetricsAge


@dataclass(frozen=True, slots=True)
class Probe:
    """How kubelet asks."""

    period: int
    failures: int


OURS = (Probe(10, STARTUP_CAP_SECONDS // 10), Probe(5, 1), Probe(10, 3))
PLAIN = (Probe(10, STARTUP_CAP_SECONDS // 10), Probe(10, 3), Probe(10, 3))


@dataclass(slots=True)
class Outcome:
    """What became of one trace under one subject. Seconds; samples are one a second, up to a kill or the end.

    `matrix` counts (alive or dead, ready or not), of the seconds that are neither loading nor strained.
    """

    trace: Trace
    killed_at: int | None = None
    not_ready_after: int | None = None
    drains: int = 0
    matrix: dict[tuple[str, bool], int] | None = None
    subject: Any = None

    @property
    def is_false_kill(self) -> bool:
        """It was ended while it lived, or loaded and got on."""
        return self.killed_at is not None and self.trace.state(self.killed_at) != "dead"

    @property
    def is_useless_kill(self) -> bool:
        """It was dead, and a restart did not help then."""
        if self.killed_at is None or self.is_false_kill:
            return False
        return self.trace.restart_helps_from is None or self.killed_at < self.trace.restart_helps_from

    @property
    def is_missed(self) -> bool:
        """It was dead, a restart would have helped, and nobody did."""
        dead = self.trace.dead_from is not None and self.trace.state(self.trace.until) == "dead"
        return dead and self.trace.restart_helps and not self.trace.exits and self.killed_at is None


def replay(trace: Trace, make: Callable[[Trace], Subject], probes: Iterable[Probe]) -> Outcome:
    """Let a trace happen, second by second, with kubelet asking a subject; the first kill is the end."""
    startup, readiness, liveness = probes
    world, subject = World(trace), make(trace)
    outcome = Outcome(trace, matrix={}, subject=subject)
    started, ready = False, False
    failed = {"startup": 0, "ready": 0, "live": 0}
    for now in range(trace.until + 1):
        world.advance(now)
        subject.tick(world, now)
        if world.restarted:
            started, ready, failed = False, False, dict.fromkeys(failed, 0)
        if not started and now % startup.period == 0:
            started = subject.started()
            failed["startup"] = 0 if started else failed["startup"] + 1
            if failed["startup"] >= startup.failures:
                outcome.killed_at = now
        if started and now % readiness.period == 0:
            ok = subject.ready()
            failed["ready"] = 0 if ok else failed["ready"] + 1
            if ready and failed["ready"] >= readiness.failures:
                ready = False
                outcome.drains += 1
            elif ok:
                ready = True
        if started and now % liveness.period == 0:
            failed["live"] = 0 if subject.live() else failed["live"] + 1
            if failed["live"] >= liveness.failures:
                outcome.killed_at = now
        state = trace.state(now)
        if state in {"alive", "dead"} and outcome.matrix is not None:
            outcome.matrix[state, ready] = outcome.matrix.get((state, ready), 0) + 1
        dead_from = trace.dead_from
        if dead_from is not None and now >= dead_from and not ready and outcome.not_ready_after is None:
            outcome.not_ready_after = now - dead_from
        if outcome.killed_at is not None:
            return outcome
    return outcome
