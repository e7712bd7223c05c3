"""Whatever is seen in whatever order, some things are never said."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dataplane.health.judge import Judge
from dataplane.health.observations import Answer, Ask, EngineReading, GpuReading, GpuReport, GpuState, Reach, Said
from dataplane.health.policy import HealthPolicy

POLICY = replace(HealthPolicy(), kill_floor_seconds=40, kill_unmeasured_seconds=60, load_budget_seconds=300)
HOUR = 3600.0


class Watched(RuleBasedStateMachine):
    """An engine, its GPU and its mirror do as they like; the judge is told, asks when it wants to, and decides."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tokens = 0.0
        self.moved_at = 0.0
        self.judge = Judge(POLICY, now=0.0)
        self.kills: list[float] = []
        self.asks: list[tuple[float, float]] = []

    @rule(
        seconds=st.integers(1, 30),
        reach=st.sampled_from([Reach.OK] * 6 + [Reach.SLOW, Reach.REFUSED, Reach.BROKEN]),
        healthy=st.sampled_from([True, True, True, None, False]),
        moves=st.booleans(),
        running=st.sampled_from([None, 0, 0, 3]),
        restarts=st.sampled_from([False] * 9 + [True]),
    )
    def look(self, seconds, reach, healthy, moves, running, restarts):
        self.now += seconds
        if restarts:
            self.tokens = 0.0
        elif moves:
            self.tokens += 5
        if reach is Reach.OK:
            signs = {"tokens": self.tokens}
            known = self.judge.heartbeat.known
            if known is not None and known.tokens != self.tokens:
                self.moved_at = self.now
            reading = EngineReading(
                self.now, reach, healthy, True, running=running, waiting=running, tokens=self.tokens, signs=signs
            )
        else:
            reading = EngineReading(self.now, reach, healthy)
        self.judge.observe(reading)
        self.decide()

    @rule(restarts=st.booleans())
    def start(self, restarts):
        """A process, another one perhaps, loads in good order and serves."""
        self.look(2, Reach.OK, True, moves=True, running=0, restarts=restarts)
        for _ in range(2):
            self.now += POLICY.ask_pause_seconds
            self.ask(Said.ANSWERED, 1, 1)
        self.look(2, Reach.OK, True, moves=True, running=0, restarts=False)

    @rule()
    def wedge(self):
        """It shows itself idle and answers nobody."""
        for _ in range(5):
            self.look(2, Reach.OK, True, moves=False, running=0, restarts=False)
            self.ask(Said.LATE, 8, 1)

    @rule(said=st.sampled_from(list(Said)), seconds=st.integers(0, 8), times=st.integers(1, 4))
    def ask(self, said, seconds, times):
        """Whatever it wants is asked, up to four times, 10 s apart."""
        for _ in range(times):
            ask = self.judge.wants(now=self.now)
            if ask is None:
                return
            began = self.now
            if ask is Ask.CANARY:
                assert began - self.moved_at >= POLICY.ambiguous_seconds
                assert all(began >= ended for _, ended in self.asks)
                self.asks.append((began, began + seconds))
            self.judge.asking(ask)
            assert self.judge.wants(now=self.now) is None
            self.now += seconds
            self.judge.answered(Answer(ask, said, began, self.now))
            self.decide()
            self.now += POLICY.canary_interval_seconds

    @rule(
        seconds=st.integers(1, 10),
        state=st.sampled_from([GpuState.OK] * 4 + [GpuState.HUNG, GpuState.NONE]),
        xid=st.sampled_from([None] * 8 + [13, 31, 95]),
        hot=st.booleans(),
    )
    def look_at_gpu(self, seconds, state, xid, hot):
        self.now += seconds
        device = GpuReading("GPU-1", throttle=frozenset({"hw_thermal"} if hot else ()))
        xids = () if xid is None or state is not GpuState.OK else (("GPU-1", xid),)
        self.judge.observe_gpu(GpuReport(self.now, state, (device,) if state is GpuState.OK else (), xids))
        self.decide()

    @rule(is_there=st.booleans())
    def look_at_mirror(self, is_there):
        self.now += 1
        self.judge.observe_mirror(is_there=is_there, detail="away", now=self.now)
        self.decide()

    def decide(self) -> None:
        before = self.judge.kills.total
        self.judge.decide(now=self.now)
        if self.judge.kills.total > before:
            self.kills.append(self.now)

    @invariant()
    def nothing_that_spares_is_ended(self):
        """Not live only with a proof, and nothing that a restart would not mend."""
        if self.judge.verdicts.live.ok:
            return
        standing = {one.kind.code for one in self.judge.findings.standing()}
        assert standing & {"wedged", "load_stuck"}
        assert [one.kind.code for one in self.judge.findings.sparing()] == []

    @invariant()
    def ready_is_started_and_untroubled(self):
        """Ready only when started, with nothing that drains."""
        if self.judge.verdicts.ready.ok:
            assert self.judge.verdicts.startup.ok
            assert self.judge.findings.draining() == ()

    @invariant()
    def refusals_have_a_reason(self):
        """Whoever is refused reads why."""
        for verdict in (self.judge.verdicts.startup, self.judge.verdicts.ready, self.judge.verdicts.live):
            assert verdict.why
            assert verdict.since <= self.now

    @invariant()
    def kills_are_few(self):
        """Never more in an hour than the limit."""
        for at in self.kills:
            assert len([one for one in self.kills if at <= one < at + HOUR]) <= POLICY.kills_per_hour


TestWatched = Watched.TestCase
