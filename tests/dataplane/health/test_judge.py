"""One engine, looked at and asked: what is said of it, and what is asked next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.health.judge import Judge
from dataplane.health.observations import Ask, GpuReading, GpuReport, GpuState, Reach, Said
from tests.dataplane.health.health_world import POLICY, answer, fail_canary, reading, serving, unseen

BUSY = {"running": 3}


def silent(judge, *, since: float, until: float, **more):
    """Look every 2 s at an engine that shows nothing new, and decide."""
    at = since
    while at <= until:
        judge.observe(reading(at, **more))
        judge.decide(now=at)
        at += 2
    return judge.verdicts


def test_engine_is_started_by_weights_tokenizer_and_one_pass():
    """Each is asked for once, in this order, and nothing is ready before all are there."""
    judge = Judge(POLICY, now=0)
    wanted = []
    for at in (0.0, 10.0, 20.0):
        judge.observe(reading(at, loaded=at >= 10))
        ask = judge.wants(now=at)
        wanted.append(ask)
        assert not judge.decide(now=at).ready.ok
        if ask is not None:
            judge.asking(ask)
            judge.answered(answer(ask, at + 1))

    verdicts = judge.decide(now=31)

    assert wanted == [None, Ask.TOKENIZE, Ask.WARM_UP]
    assert judge.wants(now=30) is None
    assert (verdicts.startup.ok, verdicts.ready.ok) == (True, True)
    assert judge.loads[0].seconds == 21


def test_silence_with_requests_running_is_not_ready_and_not_dead():
    """Twenty seconds in which nothing moves end readiness; liveness waits for its proofs."""
    judge = serving()

    verdicts = silent(judge, since=102, until=124, **BUSY)

    assert not verdicts.ready.ok
    assert "nothing moved for 24 s with 3 of requests running" in verdicts.ready.why
    assert verdicts.live.ok


def test_canary_is_asked_in_doubt_and_never_while_work_moves():
    """Eight silent seconds under load are a doubt; progress is none; one ask at a time and one per interval."""
    judge = serving()
    judge.observe(reading(104, tokens=5, **BUSY))
    moving = judge.wants(now=104)
    judge.observe(reading(110, tokens=5, **BUSY))
    early = judge.wants(now=110)

    doubtful = judge.wants(now=112)
    judge.asking(Ask.CANARY)
    meanwhile = judge.wants(now=114)
    judge.answered(answer(Ask.CANARY, 120, Said.LATE, seconds=8))

    assert (moving, early, doubtful, meanwhile) == (None, None, Ask.CANARY, None)
    assert judge.wants(now=129) is None
    assert judge.wants(now=130) is Ask.CANARY


def test_answered_canary_keeps_a_silent_engine_in_service():
    """Who answers one token lives, whatever its counters say."""
    judge = serving()
    silent(judge, since=102, until=118, **BUSY)
    judge.asking(Ask.CANARY)
    judge.answered(answer(Ask.CANARY, 118))

    verdicts = silent(judge, since=120, until=136, **BUSY)

    assert verdicts.ready.ok


def test_idle_engine_is_dead_after_three_canaries_in_a_row():
    """One failure takes it out of service, three are the proof."""
    judge = serving()
    said = []
    for at in (118.0, 136.0, 154.0):
        fail_canary(judge, at)
        judge.observe(reading(at))
        verdicts = judge.decide(now=at)
        said.append((verdicts.ready.ok, verdicts.live.ok))

    assert said == [(False, True), (False, True), (False, False)]
    assert judge.verdicts.live.why == "wedged: idle, and 3 canaries in a row failed"


def test_busy_engine_is_given_what_its_longest_prompt_takes():
    """At 400 prompt tokens per second and a margin of two, 32,768 tokens take 164 s: before that nothing is proven."""
    judge = serving()
    judge.heartbeat.answered(answer(Ask.WARM_UP, 100, seconds=1.28, prompt_tokens=512))
    silent(judge, since=102, until=112, **BUSY)
    fail_canary(judge, 112)

    before = silent(judge, since=114, until=262, **BUSY).live
    after = silent(judge, since=264, until=266, **BUSY).live

    assert before.ok
    assert not after.ok
    assert "longer than the longest prompt may take (164 s), and 1 canaries in a row failed" in after.why


def test_silence_alone_proves_nothing():
    """With canaries that are answered, or that could not be sent, an engine is never ended for its silence."""
    judge = serving()

    verdicts = silent(judge, since=102, until=2000, **BUSY)

    assert verdicts.live.ok
    assert not verdicts.ready.ok


def test_without_canaries_twice_the_bound_is_proof():
    """Where canaries are turned off, patience is doubled."""
    policy = replace(POLICY, canary_enabled=False)
    judge = serving(policy)

    early = silent(judge, since=102, until=1300, **BUSY).live.ok
    late = silent(judge, since=1302, until=1302, **BUSY).live.ok

    assert (early, late) == (True, False)
    assert judge.wants(now=1302) is None


@pytest.mark.parametrize("code", ["xid_79", "hung", "remap", "mirror"])
def test_faults_that_a_restart_does_not_mend_spare_a_wedged_engine(code):
    """It is not ready, it is not ended, and the line says why."""
    judge = serving()
    device = GpuReading("GPU-1", remap_pending=code == "remap")
    reports = {
        "xid_79": GpuReport(150, GpuState.OK, (device,), (("GPU-1", 79),)),
        "hung": GpuReport(150, GpuState.HUNG, detail="nvml has not returned for 10.0 s"),
        "remap": GpuReport(150, GpuState.OK, (device,)),
    }
    if code in reports:
        judge.observe_gpu(reports[code])
    else:
        for at in (130.0, 140.0, 150.0):
            judge.observe_mirror(is_there=False, detail="ConnectError", now=at)
    for at in (118.0, 136.0, 154.0):
        fail_canary(judge, at)

    verdicts = judge.decide(now=155)

    assert not verdicts.ready.ok
    assert verdicts.live.ok
    assert "; spared: " in verdicts.live.why
    assert judge.kills.total == 0


def test_fault_that_shows_late_spares_what_was_not_ended_yet():
    """Kubelet asks three times before it acts; what is learnt meanwhile counts."""
    judge = serving()
    for at in (118.0, 136.0, 154.0):
        fail_canary(judge, at)
    condemned = judge.decide(now=155).live.ok

    judge.observe_gpu(GpuReport(160, GpuState.HUNG))

    assert not condemned
    assert judge.decide(now=160).live.ok


def test_mirror_that_is_away_leaves_an_engine_that_serves_in_service():
    """It is a finding and nothing else."""
    judge = serving()
    for at in (110.0, 125.0, 140.0):
        judge.observe_mirror(is_there=False, detail="ConnectError", now=at)

    verdicts = silent(judge, since=142, until=142, tokens=9)

    assert verdicts.ready.ok
    assert "mirror_away" in judge.findings


def test_two_restarts_an_hour_are_the_most():
    """An engine that wedges after each restart is left standing the third time, with the reason."""
    judge = serving()
    now, ended = 100.0, []
    for _ in range(3):
        judge.observe(reading(now, tokens=7))
        for _ in range(3):
            now += 18
            fail_canary(judge, now)
        ended.append(judge.decide(now=now).live.ok)
        why = judge.verdicts.live.why
        for ask in (None, Ask.TOKENIZE, Ask.WARM_UP):  # its container restarts: it counts from nothing
            now += 10
            judge.observe(reading(now, tokens=0 if ask is None else 1))
            if ask is not None:
                judge.asking(ask)
                judge.answered(answer(ask, now))

    assert ended == [False, False, True]
    assert "kill_limit: 2 restarts in the last hour" in why
    assert judge.restarts == 3


def test_refused_connections_are_another_start():
    """Twice nobody listens: the engine is gone, its load begins anew, and liveness says nothing against that."""
    judge = serving()
    judge.observe(unseen(102, Reach.REFUSED))
    once = judge.decide(now=102)
    judge.observe(unseen(104, Reach.REFUSED))

    twice = judge.decide(now=104)

    assert (once.startup.ok, once.ready.ok) == (True, True)
    assert (twice.startup.ok, twice.ready.ok, twice.live.ok) == (False, False, True)
    assert "engine_gone" in judge.findings
    assert judge.wants(now=104) is None


def test_successor_of_a_killed_engine_is_one_start():
    """Its totals begin at nothing, which is no further restart in the middle of its load."""
    judge = serving()
    judge.observe(reading(101, tokens=900))
    for at in (102, 104, 106):
        judge.observe(unseen(at, Reach.REFUSED))
    judge.observe(reading(108, loaded=False))
    judge.observe(reading(110))

    judge.decide(now=110)

    assert judge.restarts == 1
    assert "engine_gone" not in judge.findings
    assert judge.wants(now=110) is Ask.TOKENIZE


def test_engine_that_cannot_be_read_is_carried_by_its_canaries():
    """Metrics that take too long are a blind spot, not a fault."""
    judge = serving()
    for at in range(102, 200, 2):
        judge.observe(unseen(at, Reach.SLOW))
        ask = judge.wants(now=at)
        if ask is not None:
            judge.asking(ask)
            judge.answered(answer(ask, at + 0.2))
        assert judge.decide(now=at + 0.5).ready.ok

    assert "engine_blind" in judge.findings


def test_canary_that_the_engine_refuses_is_our_fault():
    """A model's name that is wrong is told, and counts neither for nor against."""
    judge = serving()

    fail_canary(judge, 118, Said.MISFIT)

    assert judge.decide(now=118).ready.ok
    assert "canary_misfit" in judge.findings


@pytest.mark.parametrize(("running", "is_ready"), [(8, True), (0, False)], ids=["busy", "idle"])
def test_canary_turned_away_for_load_counts_where_there_is_none(running, is_ready):
    """429 and 503 are a full queue; an engine that has nothing to do and says so is broken."""
    judge = serving()
    judge.observe(reading(110, running=running))

    fail_canary(judge, 118, Said.REFUSED_LOAD)

    assert judge.decide(now=118).ready.ok is is_ready


def test_load_past_its_budget_is_told_and_goes_on_while_it_grows():
    """Bytes that come to the GPU are no stuck load, however long it takes."""
    judge = Judge(replace(POLICY, load_budget_seconds=600), now=0)
    for at in range(0, 900, 30):
        judge.observe(unseen(at, Reach.REFUSED))
        device = GpuReading("GPU-1", memory_used_bytes=at * 10**8)
        judge.observe_gpu(GpuReport(at, GpuState.OK, (device,)))

    verdicts = judge.decide(now=880)

    assert "load_late" in judge.findings
    assert (verdicts.startup.ok, verdicts.live.ok) == (False, True)


def test_load_that_stopped_growing_is_stuck_and_past_its_budget_ended():
    """Five minutes without a byte are a finding; with the budget spent a restart may help."""
    judge = Judge(replace(POLICY, load_budget_seconds=600), now=0)
    judge.observe(unseen(0, Reach.REFUSED))
    judge.observe_log(10, now=0)
    judge.observe_log(20, now=100)

    early, stuck, late = judge.decide(now=399).startup, judge.decide(now=401), judge.decide(now=601)

    assert early.why == "loading: for 399 s, at weights; wait"
    assert "load_stuck" in stuck.startup.why
    assert stuck.live.ok
    assert not late.live.ok


def test_app_xid_and_one_canary_are_two_proofs():
    """After a page fault of an application nobody waits for the longest prompt."""
    judge = serving()
    judge.observe_gpu(GpuReport(102, GpuState.OK, (GpuReading("GPU-1"),), (("GPU-1", 31),)))
    fail_canary(judge, 115, Said.FAILED)

    verdicts = silent(judge, since=116, until=124, **BUSY)

    assert not verdicts.live.ok
    assert "after an XID of the application" in verdicts.live.why


def test_app_xid_of_somebody_else_changes_nothing():
    """An engine that gets on was not meant."""
    judge = serving()
    judge.observe_gpu(GpuReport(102, GpuState.OK, (GpuReading("GPU-1"),), (("GPU-1", 13), ("GPU-1", 43))))

    judge.observe(reading(104, tokens=9, **BUSY))
    verdicts = judge.decide(now=104)

    assert (verdicts.ready.ok, verdicts.live.ok) == (True, True)
    assert "xid_application" in judge.findings


def test_proof_stands_until_a_sign_of_life():
    """One look that is lost does not acquit, nor is the restart counted twice; a token does, and ends it."""
    judge = serving()
    for at in (118.0, 136.0, 154.0):
        fail_canary(judge, at)
    judge.observe(reading(155, healthy=False))
    proven = judge.decide(now=155).live.ok
    judge.observe(unseen(157, Reach.SLOW))
    still = judge.decide(now=157).live.ok
    judge.observe(reading(159, tokens=1))

    assert (proven, still, judge.decide(now=159).live.ok) == (False, False, True)
    assert judge.kills.total == 1


def test_verdict_keeps_since_when_it_is_so():
    """`since` is when the answer changed, not when it was last given."""
    judge = serving()
    silent(judge, since=102, until=130, **BUSY)

    assert judge.verdicts.ready.since == 122
    assert judge.verdicts.live.since == 40  # when it began to be watched
