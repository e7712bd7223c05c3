"""Held-out queries asked of both versions: which, how often, how they score, and what is kept of it."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, transaction

from controlplane.rollouts import operations as rollouts
from controlplane.verdicts import replay, watching
from controlplane.verdicts.models import CanaryWatch, ReplayPair
from controlplane.work.models import Task
from tests.eval_runs import FakeGateway, answer, make_calibrated_judge, refusal
from tests.eval_sets import make_set_version, row
from tests.factories import NOW, QUARTER, crew
from tests.verdicts.evidence import guardrails, run_judged

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]
REPLAYED = ("cost", "refusals", "grounding")


def run_replayed(*rails, rows=5, **changes):
    """A running canary with a held-out set of so many rows, and a judge who fails e-mail addresses."""
    make_set_version("held-out", *(row(f"r{place}") for place in range(rows)), purpose="held_out")
    make_calibrated_judge()
    policy = {"held_out": "held-out@1", "judges": {"grounding": "grounded@1"}, "replays_per_minute": 60}
    return run_judged(rails=guardrails(*(rails or REPLAYED), **(policy | changes)))


def saying(candidate, control=None):
    """A gateway at which each version says something of its own."""

    def say(body):
        return candidate if body["prompt"]["version"] == 2 else control or answer()

    return FakeGateway(says=say)


def replayed(canary, gateway, *, count=1, first=1):
    replay.run_pairs(canary.pk, range(first, first + count), open_asker=gateway.open)
    return list(ReplayPair.objects.filter(canary=canary).order_by("number"))


# --- handing out -----------------------------------------------------------------------------------------------------
def test_pairs_are_handed_out_as_often_as_the_plan_says():
    """At 60 a minute ten each 10 s, in pieces of their own that nobody hands out twice."""
    canary = run_replayed()

    handed = [replay.hand_out_all(now=NOW + timedelta(seconds=seconds)) for seconds in (0, 0, 5, 10)]

    assert handed == [10, 0, 5, 5]
    assert [(task.kind, task.key) for task in Task.objects.filter(kind=replay.REPLAY).order_by("id")] == [
        ("verdicts.replay", f"{canary.slug}:1"),
        ("verdicts.replay", f"{canary.slug}:11"),
        ("verdicts.replay", f"{canary.slug}:16"),
    ]
    assert CanaryWatch.objects.get().handed_out == 20


def test_no_more_is_handed_out_than_comes_back():
    """A gateway that hangs is not asked ever more; what never comes is given up after minutes."""
    run_replayed()
    moments = [NOW + timedelta(seconds=10 * turn) for turn in range(8)]

    handed = [replay.hand_out_all(now=at) for at in moments]

    assert handed == [10, 10, 10, 10, 0, 0, 0, 0]
    assert replay.hand_out_all(now=moments[3] + replay.GIVEN_UP_AFTER) == 10


def test_pairs_that_are_handed_out_first_are_no_look():
    """Nobody has looked yet, and who may go on without evidence still may."""
    canary = run_replayed()

    assert replay.hand_out_all(now=NOW) == 10

    assert watching.read_watch(canary) is None
    assert rollouts.turn_knob(canary=canary, position=QUARTER, actor=crew.owner, now=NOW).position == QUARTER


@pytest.mark.parametrize("changes", [{"replays_per_minute": 0}, {"held_out": None, "judges": {}}])
def test_plan_without_replays_has_none(changes):
    """Neither without a set nor at a rate of nothing."""
    run_replayed("cost", **changes)

    assert replay.hand_out_all(now=NOW) == 0


# --- asking and scoring ----------------------------------------------------------------------------------------------
def test_both_versions_are_asked_the_same_in_the_name_of_an_eval():
    """One question, two versions, each by its number, which customers may not name; and what both said is kept."""
    canary = run_replayed()
    gateway = saying(answer("Write to ada@example.com"))

    [pair] = replayed(canary, gateway)

    asked = sorted(gateway.bodies, key=lambda body: body["prompt"]["version"])
    assert [body["prompt"]["version"] for body in asked] == [1, 2]
    assert asked[0]["prompt"]["variables"] == asked[1]["prompt"]["variables"]
    assert all(token.startswith("be-") for token in gateway.tokens)
    assert pair.scores == {
        "cost": {"candidate": 100.0, "control": 100.0},
        "grounding": {"candidate": 0.0, "control": 1.0},
        "refusals": {"candidate": 0.0, "control": 0.0},
    }
    assert (pair.candidate["text"], pair.control["text"]) == ("Write to ada@example.com", "Within 30 days")
    assert pair.harms() == {"cost": 0.0, "grounding": 1.0, "refusals": 0.0}


def test_which_row_is_asked_follows_from_the_number_alone():
    """Whoever does a piece again asks the same; over many all rows come up, about equally often."""
    canary = run_replayed(rows=4)
    gateway = FakeGateway()

    pairs = replayed(canary, gateway, count=80)
    counts = {name: sum(pair.row_id == name for pair in pairs) for name in ("r0", "r1", "r2", "r3")}

    assert min(counts.values()) >= 8
    assert len(replayed(canary, gateway, count=80)) == 80
    assert len(gateway.bodies) == 160


def test_answer_that_the_gateway_withholds_counts_as_the_worst():
    """A version that breaks its answers must not be the better off because nobody saw them."""
    canary = run_replayed("schema", "grounding", "cost")
    gateway = saying(refusal("repair_failed", 502, **{"x-should-retry": "false"}))

    [pair] = replayed(canary, gateway)

    assert pair.scores["grounding"] == {"candidate": 0.0, "control": 1.0}
    assert pair.candidate["code"] == "repair_failed"


def test_pair_that_could_not_be_asked_scores_nothing():
    """The world's fault is nobody's evidence; it is kept, with why, so that the number is not waited for."""
    canary = run_replayed()
    gateway = saying(refusal("circuit_open", 503, "lane is open"))

    [pair] = replayed(canary, gateway)

    assert (pair.scores, pair.problem) == ({}, "candidate: circuit_open: lane is open")
    watching.look_at(canary, now=NOW)
    assert CanaryWatch.objects.get().replayed_through == 1


def test_canary_that_is_over_is_not_replayed():
    """What was handed out before its end asks nobody any more."""
    canary = run_replayed()
    rollouts.roll_back_canary(canary=canary, reason="enough", actor=crew.oncall, now=NOW)
    gateway = FakeGateway()

    assert replayed(canary, gateway) == []
    assert gateway.bodies == []


def test_replays_alone_roll_a_canary_back():
    """With no user in it: a candidate that does worse on the held-out set is found out before anybody meets it."""
    canary = run_replayed("grounding")
    replayed(canary, saying(answer("Write to ada@example.com")), count=120)

    watching.look_at_all(now=NOW)

    canary.refresh_from_db()
    assert canary.state == "rolled_back"
    assert (canary.end_evidence["failing"]["rail"], canary.end_evidence["failing"]["stream"]) == ("grounding", "replay")


# --- keeping ---------------------------------------------------------------------------------------------------------
def test_pairs_are_not_altered_and_go_with_time():
    """They are evidence as long as anybody may ask; 90 days after the canary's end they are deleted."""
    canary = run_replayed()
    replayed(canary, FakeGateway())
    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        ReplayPair.objects.update(scores={})
    rollouts.roll_back_canary(canary=canary, reason="enough", actor=crew.oncall, now=NOW)

    assert replay.forget_old(now=NOW + replay.KEEP_PAIRS) == 0
    assert replay.forget_old(now=NOW + replay.KEEP_PAIRS + timedelta(seconds=1)) == 1
