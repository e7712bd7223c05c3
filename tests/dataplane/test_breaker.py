"""The breaker of one lane: when it opens, what closes it again, and how a fleet agrees on it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dataplane.blame import Blame
from dataplane.breaker import (
    COUNTED,
    Breaker,
    Cause,
    IllegalTransition,
    Move,
    Observation,
    State,
    Trip,
    Verdict,
)
from dataplane.documents import Node
from dataplane.errors.admission import BreakerOpen
from dataplane.overrides import FORCED_CLOSED, FORCED_OPEN
from dataplane.policies import BreakerPolicy

from .conftest import breaker_policy

LANE = "openai/eu-west/main/gpt-4o"
FINE = Observation(Blame.NOBODY, False, 100.0)
FAILED = Observation(Blame.LANE, False, 100.0)
TIMED_OUT = Observation(Blame.LANE, True, 100.0)
SLOW = Observation(Blame.NOBODY, False, 2001.0)
LATE = Observation(Blame.NOBODY, False, 1500.0, ttft_ms=1001.0)
PROMPT = Observation(Blame.NOBODY, False, 1500.0, ttft_ms=200.0, tokens_per_second=50.0)
DRAGGING = Observation(Blame.NOBODY, False, 1500.0, ttft_ms=200.0, tokens_per_second=4.9)


def make_policy(**changes) -> BreakerPolicy:
    return BreakerPolicy.parse("hosted-chat", Node(breaker_policy(**changes), "$"))


def make_breaker(*, now=0.0, **changes) -> Breaker:
    return Breaker(LANE, make_policy(**changes), now=now)


def feed(breaker, *observations, now=0.0):
    """Make one attempt after the other; return what the last of them led to."""
    outcome = None
    for seen in observations:
        permit, _ = breaker.acquire(now=now)
        outcome = breaker.record(permit, seen, now=now)
    return outcome


def tripped(*, now=0.0, **changes) -> Breaker:
    """A breaker that has just opened."""
    breaker = make_breaker(now=now, **changes)
    trip = feed(breaker, *[FAILED] * int(breaker.policy.minimum_attempts.value), now=now)
    breaker.open(trip, now=now)
    return breaker


def probe(breaker, seen, *, now):
    permit, _ = breaker.acquire(now=now)
    assert permit.is_probe
    return breaker.record(permit, seen, now=now)


@pytest.mark.parametrize(
    ("observations", "threshold"),
    [
        ([FINE] * 5 + [FAILED] * 5, "failure_rate"),
        ([FINE] * 7 + [TIMED_OUT] * 3, "timeout_rate"),
        ([FINE] * 17 + [SLOW] * 3, "latency_p95_ms"),
        ([PROMPT] * 17 + [LATE] * 3, "ttft_p95_ms"),
        ([PROMPT] * 5 + [DRAGGING] * 5, "dragging_rate"),
    ],
)
def test_each_threshold_trips_at_its_limit_and_not_one_attempt_before(observations, threshold):
    """The attempt that reaches the limit asks for the breaker to open; until then nothing does."""
    breaker = make_breaker()

    assert feed(breaker, *observations[:-1]) is None

    trip = feed(breaker, observations[-1])

    assert isinstance(trip, Trip)
    assert trip.threshold == threshold
    assert trip.is_latency == (threshold not in ("failure_rate", "timeout_rate"))
    assert trip.to_json()["attempts"] == len(observations)


def test_too_few_attempts_open_nothing_however_bad():
    """Nine failures of nine are below the minimum of ten."""
    assert feed(make_breaker(), *[TIMED_OUT] * 9) is None


def test_one_slow_attempt_in_twenty_is_no_brownout():
    """A p95 is above its limit when more than one in twenty is, and two slow ones are not yet a brownout either."""
    assert feed(make_breaker(), *[FINE] * 19, SLOW) is None
    assert feed(make_breaker(), *[FINE] * 18, SLOW, SLOW) is None


@pytest.mark.parametrize("blame", [Blame.QUOTA, Blame.CALLER, Blame.GATEWAY])
def test_what_is_not_the_lanes_fault_counts_neither_for_nor_against_it(blame):
    """The window stays empty, so that callers' mistakes cannot hide a lane's failures either."""
    breaker = make_breaker()

    feed(breaker, *[Observation(blame, False, 5000.0)] * 50)

    assert breaker.counts(now=0.0) == (0,) * len(COUNTED)


def test_window_forgets_what_has_left_it():
    """Failures older than the window do not add up with newer ones."""
    breaker = make_breaker(window_seconds=10)
    feed(breaker, *[FAILED] * 9, now=0.0)

    assert feed(breaker, FAILED, now=10.0) is None
    assert breaker.counts(now=10.0)[0] == 1


def test_open_breaker_admits_one_probe_after_its_time():
    """Once open_seconds have passed, one caller gets a permit and the next is refused."""
    breaker = tripped(open_seconds=10)

    with pytest.raises(BreakerOpen, match=r"'openai/eu-west/main/gpt-4o' is open for 10\.0 s more"):
        breaker.acquire(now=0.0)
    permit, move = breaker.acquire(now=10.0)

    assert permit.is_probe
    assert (move.before, move.after) == (State.OPEN, State.HALF_OPEN)
    with pytest.raises(BreakerOpen, match="is being probed"):
        breaker.acquire(now=10.0)


def test_probes_in_a_row_close_it_and_the_window_begins_anew():
    """Three healthy probes close; the failures that opened it are forgotten."""
    breaker = tripped(healthy_probes=3)

    assert probe(breaker, FINE, now=10.0) is None
    assert probe(breaker, FINE, now=10.0) is None
    move = probe(breaker, FINE, now=10.0)

    assert (move.after, move.cause) == (State.CLOSED, Cause.PROBES_PASSED)
    assert breaker.counts(now=10.0)[0] == 0


@pytest.mark.parametrize("seen", [FAILED, TIMED_OUT, SLOW, LATE, DRAGGING])
def test_one_bad_probe_opens_it_again(seen):
    """A lane that answers too slowly is not back either."""
    breaker = tripped(healthy_probes=2)
    probe(breaker, FINE, now=10.0)

    move = probe(breaker, seen, now=10.0)

    assert (move.after, move.cause) == (State.OPEN, Cause.PROBE_FAILED)


def test_open_time_multiplies_per_flap_up_to_its_cap():
    """10 s, then 20, 40, and never more than 60."""
    breaker, now, times = tripped(), 0.0, [10.0]
    for _ in range(4):
        now += times[-1]
        times.append(probe(breaker, FAILED, now=now).open_seconds)

    assert times == [10.0, 20.0, 40.0, 60.0, 60.0]


def test_calm_time_takes_flaps_back():
    """A lane that stayed closed for two calm periods opens for two flaps less."""
    breaker, now = tripped(healthy_probes=1), 0.0
    for seconds in (10.0, 20.0):
        now += seconds
        probe(breaker, FAILED, now=now)
    now += 40.0
    probe(breaker, FINE, now=now)

    trip = feed(breaker, *[FAILED] * 10, now=now + 125.0)

    assert breaker.open(trip, now=now + 125.0).open_seconds == 20.0


def test_result_of_an_older_generation_changes_nothing():
    """An attempt that began before the breaker opened cannot close it, nor fail its probe."""
    breaker = make_breaker(minimum_attempts=1, healthy_probes=1)
    early, _ = breaker.acquire(now=0.0)
    breaker.open(feed(breaker, FAILED), now=0.0)
    breaker.acquire(now=10.0)

    assert breaker.record(early, FAILED, now=10.0) is None
    assert (breaker.state, breaker.probes_out) == (State.HALF_OPEN, 1)


def test_probe_that_says_nothing_gives_its_permit_back():
    """A cancelled probe, or one that met a rate limit, leaves room for the next; twice given back is once."""
    breaker = tripped()
    permit, _ = breaker.acquire(now=10.0)
    breaker.give_back(permit)
    breaker.give_back(permit)
    probe(breaker, Observation(Blame.QUOTA, False, 5.0), now=10.0)

    assert breaker.probes_out == 0
    assert breaker.acquire(now=10.0)[0].is_probe


def test_held_open_admits_nobody_and_held_closed_everybody():
    """While an operator holds it, nothing that is measured moves it; let go, it is where it was."""
    breaker = tripped()
    breaker.force(FORCED_CLOSED)

    assert feed(breaker, *[FAILED] * 30) is None
    breaker.force(FORCED_OPEN)
    with pytest.raises(BreakerOpen, match="held open by an operator"):
        breaker.acquire(now=99.0)
    breaker.force(None)

    assert breaker.state is State.OPEN
    with pytest.raises(ValueError, match="no way to hold"):
        breaker.force("ajar")


def test_illegal_move_raises_and_changes_nothing():
    """A breaker that is open cannot trip."""
    breaker = tripped()
    generation = breaker.generation

    with pytest.raises(IllegalTransition):
        breaker.open(Trip("failure_rate", 1.0, 0.5, (0,) * len(COUNTED)), now=0.0)

    assert (breaker.state, breaker.generation) == (State.OPEN, generation)


# --- the fleet --------------------------------------------------------------------------------------------------------
def test_fleets_counts_trip_a_worker_that_saw_little_itself():
    """Four failures here and six elsewhere are ten."""
    breaker = make_breaker()
    feed(breaker, *[FAILED] * 4)
    told = breaker.take_news(now=0.0)
    fleet = [mine + more for mine, more in zip(told.counts, [6, 6, 0, 0, 0, 0, 0, 0], strict=True)]

    assert breaker.hear(breaker.verdict(now=0.0), counts=fleet, healthy=0, now=0.0) is None

    assert breaker.judge(now=0.0).threshold == "failure_rate"


def test_news_that_may_not_have_arrived_is_told_again_as_it_was():
    """What happened since comes with the next news; the verdict is today's."""
    breaker = make_breaker()
    feed(breaker, FAILED, FINE)
    breaker.hear(breaker.verdict(now=0.0), counts=[0] * 8, healthy=0, now=0.0)
    before = breaker.counts(now=0.0)
    news = breaker.take_news(now=0.0)
    feed(breaker, FINE)

    again = breaker.again(news, now=1.0)

    assert (again.counts, again.verdict) == (news.counts, breaker.verdict(now=1.0))
    assert breaker.counts(now=0.0) == (before[0] + 1, *before[1:])
    assert breaker.take_news(now=1.0).counts == (1, *[0] * 7)


def test_news_of_an_older_generation_is_not_told_again():
    """The fleet would count it for the newer one."""
    breaker = make_breaker()
    feed(breaker, FAILED)
    news = breaker.take_news(now=0.0)
    breaker.hear(Verdict(1, True, 10.0, 1), counts=[0] * 8, healthy=0, now=0.0)

    again = breaker.again(news, now=0.0)

    assert (again.counts, again.healthy, again.verdict.generation) == ((0,) * 8, 0, 1)


def test_stale_fleet_leaves_the_worker_to_its_own_window():
    """A sum that nobody refreshed for seconds says less than what the worker sees."""
    breaker = make_breaker()
    breaker.hear(breaker.verdict(now=0.0), counts=[100, 100, 0, 0, 0, 0, 0, 0], healthy=0, now=0.0)
    feed(breaker, FINE, now=3.5)

    assert breaker.counts(now=3.5)[:2] == (1, 0)


def test_later_of_two_deadlines_wins():
    """Another worker's verdict can only make it longer."""
    breaker = tripped(open_seconds=10)
    mine = breaker.verdict(now=0.0)

    breaker.hear(Verdict(mine.generation, True, 25.0, 1), counts=[0] * 8, healthy=0, now=0.0)
    breaker.hear(Verdict(mine.generation, True, 5.0, 1), counts=[0] * 8, healthy=0, now=0.0)

    assert breaker.open_for(now=0.0) == 25.0


def test_fleet_opens_and_closes_a_worker_that_measured_nothing():
    """A verdict of a newer generation is taken over, with the time that is left."""
    breaker = make_breaker()

    opened = breaker.hear(Verdict(1, True, 7.0, 1, opened_for="timeout_rate"), counts=[0] * 8, healthy=0, now=0.0)
    assert (opened.cause, breaker.open_for(now=0.0), breaker.opened_for) == (Cause.FLEET_OPENED, 7.0, "timeout_rate")

    closed = breaker.hear(Verdict(2, False, 0.0, 1, 3.0), counts=[0] * 8, healthy=0, now=1.0)
    assert (closed.cause, breaker.state) == (Cause.FLEET_CLOSED, State.CLOSED)


def test_healthy_probes_of_other_workers_count():
    """Two elsewhere and one here are three in a row."""
    breaker = tripped(healthy_probes=3)
    breaker.acquire(now=10.0)

    move = breaker.hear(breaker.verdict(now=10.0), counts=[0] * 8, healthy=3, now=10.0)

    assert move.cause is Cause.PROBES_PASSED


def test_older_verdict_is_not_listened_to():
    """A worker that has closed since is not opened by somebody who has not heard of it."""
    breaker = tripped(healthy_probes=1)
    old = breaker.verdict(now=0.0)
    probe(breaker, FINE, now=10.0)

    assert breaker.hear(old, counts=[50, 50, 0, 0, 0, 0, 0, 0], healthy=0, now=10.0) is None
    assert breaker.state is State.CLOSED


verdicts = st.builds(
    Verdict,
    generation=st.integers(0, 3),
    is_open=st.booleans(),
    open_seconds=st.sampled_from([0.0, 1.0, 5.0]),
    flaps=st.integers(0, 3),
    closed_seconds=st.sampled_from([0.0, 2.0]),
    opened_for=st.sampled_from(["", "failure_rate", "latency_p95_ms", "dragging_rate"]),
)


@given(verdicts, verdicts, verdicts)
def test_joining_verdicts_knows_no_order_and_no_repetition(one, two, three):
    """Commutative, associative, idempotent: workers may hear of each other in any order, any number of times."""
    assert one.join(two) == two.join(one)
    assert one.join(two).join(three) == one.join(two.join(three))
    assert one.join(one) == one
    assert one.join(two).join(two) == one.join(two)


class SharedRecord:
    """What a perfect store holds: the joined verdict, with its sums, told and heard at once."""

    def __init__(self):
        self.verdict = Verdict(0, False, 0.0, 0)
        self.counts = [0] * len(COUNTED)
        self.healthy = 0
        self.heard = {}

    def exchange(self, news, *, teller, turn):
        is_new, self.heard[teller] = turn > self.heard.get(teller, 0), turn
        before = self.verdict
        joined = before.join(news.verdict)
        if (joined.generation, joined.is_open) != (before.generation, before.is_open):
            self.counts, self.healthy = [0] * len(COUNTED), 0
        self.verdict = joined
        if is_new and (news.verdict.generation, news.verdict.is_open) == (joined.generation, joined.is_open):
            self.counts = [a + b for a, b in zip(self.counts, news.counts, strict=True)]
            self.healthy += news.healthy
        return self.verdict, list(self.counts), self.healthy


class FleetOfBreakers(RuleBasedStateMachine):
    """Three workers on one lane: attempts overlap, end late, are cancelled; verdicts are told late or not at all."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.workers = [make_breaker(minimum_attempts=4, healthy_probes=2, probes=2) for _ in range(3)]
        self.shared = SharedRecord()
        self.permits = []
        self.ended = 0
        self.turns = [0, 0, 0]
        self.telling = [None, None, None]
        self.generations = [0, 0, 0]

    @rule(worker=st.integers(0, 2))
    def begin(self, worker):
        try:
            permit, move = self.workers[worker].acquire(now=self.now)
        except BreakerOpen:
            assert self.workers[worker].state is not State.CLOSED
            return
        assert move is None or move.cause is Cause.COOLED_DOWN
        assert permit.is_probe == (self.workers[worker].state is State.HALF_OPEN)
        self.permits.append((worker, permit))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), seen=st.sampled_from([FINE, FAILED, TIMED_OUT, SLOW, Observation(Blame.QUOTA, False, 1.0)]))
    def end(self, data, seen):
        worker, permit = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        breaker = self.workers[worker]
        self.ended += 1
        outcome = breaker.record(permit, seen, now=self.now)
        if isinstance(outcome, Trip):
            breaker.open(outcome, now=self.now)
        elif isinstance(outcome, Move):
            assert permit.is_probe

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def cancel(self, data):
        worker, permit = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        self.workers[worker].give_back(permit)

    @rule(worker=st.integers(0, 2), lost=st.sampled_from([None, "question", "answer"]))
    def exchange(self, worker, lost):
        breaker = self.workers[worker]
        if self.telling[worker] is None:
            self.turns[worker] += 1
            self.telling[worker] = breaker.take_news(now=self.now)
        if lost == "question":
            return
        news = breaker.again(self.telling[worker], now=self.now)
        verdict, counts, healthy = self.shared.exchange(news, teller=worker, turn=self.turns[worker])
        if lost == "answer":
            return
        self.telling[worker] = None
        breaker.hear(verdict, counts=counts, healthy=healthy, now=self.now)

    @rule(seconds=st.sampled_from([0.3, 2.0, 11.0, 70.0]))
    def wait(self, seconds):
        self.now += seconds
        shared = self.shared.verdict
        left = max(0.0, shared.open_seconds - seconds)
        closed = 0.0 if shared.is_open else shared.closed_seconds + seconds
        self.shared.verdict = Verdict(shared.generation, shared.is_open, left, shared.flaps, closed, shared.opened_for)

    @invariant()
    def probes_are_bounded(self):
        for worker, breaker in enumerate(self.workers):
            out = [p for w, p in self.permits if w == worker and p.is_probe and p.generation == breaker.generation]
            assert breaker.probes_out == len(out) <= 2

    @invariant()
    def generations_only_grow(self):
        now = [breaker.generation for breaker in self.workers]
        assert all(after >= before for before, after in zip(self.generations, now, strict=True))
        self.generations = now

    @invariant()
    def nothing_is_counted_twice(self):
        assert self.shared.counts[0] <= self.ended

    @invariant()
    def counts_are_never_negative(self):
        for breaker in self.workers:
            assert min(breaker.counts(now=self.now)) >= 0

    def teardown(self):
        """Nobody is stuck: once all is calm and well, every worker lets requests through again."""
        self.now += 120.0
        for worker, permit in self.permits:
            self.workers[worker].give_back(permit)
        for _ in range(4):
            for breaker in self.workers:
                feed(breaker, FINE, now=self.now)
        assert all(breaker.state is State.CLOSED for breaker in self.workers)


TestFleetOfBreakers = FleetOfBreakers.TestCase
TestFleetOfBreakers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
