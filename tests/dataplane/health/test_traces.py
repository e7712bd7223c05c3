"""Ways in which a model server may fare, and what is said of each: nobody is killed who lives, every wedge is seen."""

from __future__ import annotations

from random import Random

import pytest

from tests.dataplane.health.replay import (
    OURS,
    PLAIN,
    MetricsAge,
    Ours,
    Outcome,
    PlainHealth,
    Trace,
    all_traces,
    replay,
)

TRACES = all_traces()
NOT_READY_SECONDS = 30
# An engine that reads 100,000 tokens in one piece shows nothing that a wedge does not: that much is given up.
SILENT_WHILE_ALIVE = {"long_prefill_silent": 60}
REGAINED_SECONDS = 20


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {trace.name: replay(trace, Ours, OURS) for trace in TRACES}


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_kills_only_what_is_dead_and_a_restart_mends(trace: Trace, outcomes):
    """Liveness ends an engine where the label says that this helps, never elsewhere, and misses none."""
    outcome = outcomes[trace.name]

    found = (outcome.is_false_kill, outcome.is_useless_kill, outcome.is_missed)

    assert found == (False, False, False), outcome.subject.judge.verdicts


@pytest.mark.parametrize("trace", [one for one in TRACES if one.dead_from is not None], ids=lambda trace: trace.name)
def test_what_is_dead_is_sent_nothing_within_half_a_minute(trace: Trace, outcomes):
    """From the wedge until kubelet has it out of the endpoints, 30 s pass at most."""
    outcome = outcomes[trace.name]

    assert outcome.not_ready_after is not None
    assert outcome.not_ready_after <= NOT_READY_SECONDS


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_what_lives_is_sent_requests(trace: Trace, outcomes):
    """An engine that lives is out of service only for as long as it has to prove itself again."""
    outcome = outcomes[trace.name]
    allowed = SILENT_WHILE_ALIVE.get(trace.name, REGAINED_SECONDS * (1 + outcome.drains))

    assert outcome.matrix.get(("alive", False), 0) <= allowed


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_readiness_is_lost_a_few_times_an_hour_at_most(trace: Trace, outcomes):
    """However an engine comes and goes, its endpoints do not."""
    hours = -(-trace.until // 3600)

    assert outcomes[trace.name].drains <= trace.policy.flips_per_hour * hours


@pytest.mark.parametrize("seed", range(3))
def test_looks_that_are_lost_change_no_verdict(seed):
    """With a tenth of the looks lost and canaries twice as slow nobody is killed who lives, and no wedge is missed."""
    outcomes = [replay(trace, lambda one: Ours(one, noise=Random(f"{seed} {one.name}")), OURS) for trace in TRACES]

    wrong = [one.trace.name for one in outcomes if one.is_false_kill or one.is_useless_kill or one.is_missed]
    late = {one.trace.name: one.not_ready_after for one in outcomes if (one.not_ready_after or 0) > NOT_READY_SECONDS}

    assert wrong == []
    assert late == {}


def test_flapping_is_held_with_its_reason():
    """An engine that stalls every two minutes is taken out for good after four times, and it says why."""
    trace = next(one for one in TRACES if one.name == "flapping")
    cut = Trace(trace.name, trace.about, 1560, trace.truth, None, False, trace.policy, trace.lines)

    outcome = replay(cut, Ours, OURS)

    assert outcome.drains == trace.policy.flips_per_hour
    assert not outcome.subject.ready()
    assert "flapping: lost 4 times in an hour" in outcome.subject.judge.verdicts.ready.why


def test_engine_that_gets_on_is_asked_nothing():
    """While work moves, no canary is sent; in idle times at most one for each interval."""
    busy = next(one for one in TRACES if one.name == "row_remap_pending")  # busy from its 100th second on
    cut = Trace(busy.name, busy.about, 390, busy.truth, None, False, busy.policy, busy.lines)
    idle = next(one for one in TRACES if one.name == "idle")

    while_busy = replay(cut, Ours, OURS).subject.judge.counts.asked
    while_idle = replay(idle, Ours, OURS).subject.judge.counts.asked

    assert while_busy["canary", "answered"] == 3  # of the forty idle seconds before the first request
    assert while_idle["canary", "answered"] <= (idle.until - 60) / idle.policy.canary_interval_seconds
    assert while_idle["warm-up", "answered"] == while_busy["warm-up", "answered"] == 1


def test_mirror_that_is_away_holds_a_kill_until_it_is_back(outcomes):
    """What could not load again is not ended; once it could, it is."""
    outcome = outcomes["mirror_away_and_wedged"]

    assert outcome.killed_at is not None
    assert 1500 <= outcome.killed_at <= 1560


def test_labels_can_be_failed():
    """The traces tell subjects apart: each of the simpler ones gets some of them wrong."""
    plain = [replay(trace, PlainHealth, PLAIN) for trace in TRACES]
    age = [replay(trace, MetricsAge, PLAIN) for trace in TRACES]

    assert sum(one.is_missed for one in plain) >= 5
    assert sum(one.is_false_kill for one in age) >= 5
    assert {one.trace.name for one in plain if one.is_useless_kill} == {"xid_79"}
    assert "mirror_away_and_wedged" in {one.trace.name for one in age if one.is_useless_kill}
