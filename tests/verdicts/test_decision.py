"""What is said of a canary, and why nothing is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from controlplane.rollouts.guardrails import RAILS, Guardrails, Stream, default_guardrails
from controlplane.verdicts.decision import alarms_of, decide, levels_of
from controlplane.verdicts.values import (
    Alarm,
    AlarmKind,
    Exposure,
    LiveEvidence,
    Reading,
    ReplayEvidence,
    Ruling,
    Verdict,
    amount,
    compared,
)
from dataplane.evidence import CELL, GROUPS

EVEN = Exposure(canary_units=500, control_units=500)


def policy_of(*rails, held_out="help@1", **changes):
    """Guardrails for these rails alone, with their usual margins."""
    document = default_guardrails(held_out, {"grounding": "grounded@1", "safety": "safe@1"} if held_out else {})
    document["margins"] = {rail: RAILS[rail].margin for rail in rails}
    return replace(Guardrails.parse(document), **changes)


def arm(requests, *, groups=GROUPS, cost=100.0, errors=0.0, grounded=0.9):
    """So many requests in as many groups, which differ a little from one to another, and always alike."""
    rng = np.random.default_rng(5)
    cells = {}
    for group in range(groups):
        n = requests // groups + (group < requests % groups)
        sums = dict.fromkeys(CELL, 0.0) | {
            "answerable": n,
            "errors": round(n * errors * 2) if group % 2 else 0,
            "reached": n,
            "cost_micros": n * cost * rng.uniform(0.9, 1.1),
            "grounding_checked": n,
            "grounded": min(n, round(n * grounded * rng.uniform(0.98, 1.02))),
        }
        cells[group] = tuple(float(sums[name]) for name in CELL)
    return cells


def replays(count, *, rail="grounding", candidate=(1.0,), control=(1.0,)):
    """So many pairs, whose scores go round."""
    evidence = ReplayEvidence({})
    for index in range(count):
        pair = {"candidate": candidate[index % len(candidate)], "control": control[index % len(control)]}
        evidence = evidence.with_scores({rail: pair})
    return evidence


def judge(policy, *, canary=None, control=None, replay=None, exposure=EVEN):
    """Decide; live evidence if an arm is given."""
    live = None if canary is None else LiveEvidence(canary, control if control is not None else arm(40_000))
    return decide(policy, live=live, replay=replay, exposure=exposure)


# --- rulings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("canary", "replay", "ruling"),
    [
        (arm(40_000), None, Ruling.CLEAR),
        (arm(40_000, grounded=0.8), None, Ruling.REGRESSED),
        (arm(100), None, Ruling.UNPROVEN),
        (None, None, Ruling.UNPROVEN),
        (None, replays(3_000), Ruling.CLEAR),
        (None, replays(60, candidate=(0.0,)), Ruling.REGRESSED),
        (None, replays(49, candidate=(0.0,)), Ruling.UNPROVEN),
        (None, replays(60), Ruling.UNPROVEN),
        (arm(100), replays(3_000), Ruling.CLEAR),
        (arm(40_000), replays(60), Ruling.CLEAR),
        (arm(40_000), replays(60, candidate=(0.0,)), Ruling.REGRESSED),
        (arm(40_000, grounded=0.8), replays(3_000), Ruling.REGRESSED),
    ],
)
def test_one_stream_is_enough_to_be_clear_and_one_to_regress(canary, replay, ruling):
    """A rail is clear if either stream says so and none says the contrary; a regression on any stream is one."""
    assert judge(policy_of("grounding"), canary=canary, replay=replay).ruling is ruling


def test_every_rail_has_to_be_clear():
    """One that is open keeps the verdict open, and the sentence says which and why."""
    verdict = judge(policy_of("cost", "grounding", "refusals"), canary=arm(40_000))

    assert verdict.ruling is Ruling.UNPROVEN
    why = "refusal rate is open (refusal rate: no answers on canary yet)"
    assert verdict.sentence == f"Not enough evidence: 2 of 3 guardrails are clear; {why}."


def test_readings_come_in_the_order_of_the_policy():
    """One for each rail and stream that judge."""
    policy = policy_of("cost", "grounding", "error_rate")

    verdict = judge(policy, canary=arm(1_000))

    assert [(each.rail, each.stream) for each in verdict.readings] == [(rail.key, s) for rail, s in policy.judged]
    assert verdict.reading_of("cost", Stream.REPLAY).canary_n == 0
    assert verdict.reading_of("safety", Stream.REPLAY) is None


def test_budgets_are_split_over_what_can_err():
    """False rollbacks over all rails and streams; false clears over the streams of each rail."""
    policy = policy_of("cost", "grounding", "error_rate", rollback_budget=0.01, clear_budget=0.05)

    assert levels_of(policy, RAILS["cost"]) == pytest.approx((0.002, 0.025))
    assert levels_of(policy, RAILS["error_rate"]) == pytest.approx((0.002, 0.05))


def test_the_failing_reading_is_the_surest():
    """Of several that regressed, the one whose bound exceeds its margin by most of its interval; others are counted."""
    verdict = judge(policy_of("cost", "grounding"), canary=arm(40_000, cost=110, grounded=0.6))

    assert verdict.failing.rail == "grounding"
    assert verdict.failing.excess > verdict.reading_of("cost", Stream.LIVE).excess > 0
    assert verdict.sentence.endswith("1 other guardrail regressed too.")


def test_nothing_fails_where_nothing_regressed():
    """A clear verdict has no failing reading."""
    assert judge(policy_of("grounding"), canary=arm(40_000)).failing is None


# --- why not ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rail", "canary", "control", "why"),
    [
        ("cost", {}, {}, "no requests on canary yet"),
        ("cost", arm(500), {}, "no requests on control yet"),
        ("cost", arm(120), arm(500), "120 of 200 requests on canary"),
        ("grounding", arm(500), arm(30), "30 of 200 answers checked against sources on control"),
        ("schema", arm(500), arm(500), "no answers with a schema on canary yet"),
        (
            "cost",
            arm(500, groups=3),
            arm(500),
            "3 of 20 groups of units on canary: too few units to tell how much they differ",
        ),
        ("cost", arm(500), arm(500, cost=0), "one side costs nothing, so there is no relative difference"),
        (
            "cost",
            arm(500) | {0: (0.0, 0.0, 90_000.0, 9e6) + (0.0,) * (len(CELL) - 4)},
            arm(500) | {9: (0.0, 0.0, 90_000.0, 9e6) + (0.0,) * (len(CELL) - 4)},
            "a few units make most of the traffic, so how much units differ cannot be told",
        ),
    ],
)
def test_too_little_live_traffic_says_what_is_missing(rail, canary, control, why):
    """In words and numbers, with no bounds beside it."""
    reading = judge(policy_of(rail), canary=canary, control=control).reading_of(rail, Stream.LIVE)

    assert (reading.ruling, reading.why) == (Ruling.UNPROVEN, why)
    assert (reading.lower, reading.upper) == (None, None)
    assert reading.sentence == f"{RAILS[rail].label}: not enough evidence; {why}"


@pytest.mark.parametrize(("count", "why"), [(0, "no pair has been replayed yet"), (31, "31 of 50 pairs")])
def test_too_few_pairs_say_how_many(count, why):
    """Below the minimum nothing is concluded, however bad it looks."""
    verdict = judge(policy_of("grounding"), replay=replays(count, candidate=(0.0,)))

    assert verdict.reading_of("grounding", Stream.REPLAY).why == why


def test_a_wide_interval_is_told_with_how_much_would_do():
    """Where it begins and ends, the margin, and about how many more it takes."""
    reading = judge(policy_of("cost"), canary=arm(40_000, cost=104)).reading_of("cost", Stream.LIVE)
    wide = judge(policy_of("error_rate"), canary=arm(300), control=arm(300)).reading_of("error_rate", Stream.LIVE)

    assert reading.ruling is Ruling.UNPROVEN
    assert reading.why.startswith("between 0.")
    assert reading.why.endswith("above control; margin 5 %")
    assert wide.enough_n > 300
    assert wide.why.endswith(f"; about {wide.enough_n:,} requests a side would tell, if it is no worse")


@pytest.mark.parametrize("margins", [{"refusals": 0.01}, {"safety": 0.005}])
def test_a_rail_without_evidence_is_never_clear(margins):
    """Not even one of which no stream tells at all."""
    policy = replace(policy_of("grounding", held_out=None), margins=margins)

    assert judge(policy, canary=arm(40_000)).ruling is Ruling.UNPROVEN


def test_rail_of_which_nothing_is_counted_keeps_nobody_waiting():
    """Once both arms have answered enough: then no schema is asked for, or no validator looks. Before that, it may."""
    policy = replace(policy_of("grounding", "schema"), requests=1_000)
    column = CELL.index("answered")

    def answered(arm_cells, each):
        return {group: (*sums[:column], each, *sums[column + 1 :]) for group, sums in arm_cells.items()}

    few = judge(policy, canary=answered(arm(40_000), 10.0), control=answered(arm(40_000), 10.0))
    enough = judge(policy, canary=answered(arm(40_000), 625.0), control=answered(arm(40_000), 625.0))

    assert (few.ruling, enough.ruling) == (Ruling.UNPROVEN, Ruling.CLEAR)
    assert enough.sentence == "Not regressed: the one guardrail is within the margin, with all looks counted."


# --- who saw both ----------------------------------------------------------------------------------------------------
def test_contaminated_groups_are_left_out_of_both_arms():
    """What they counted changes nothing, whatever it was."""
    groups = frozenset({3, 4})
    bad = {group: tuple(number * 50 for number in cells) for group, cells in arm(40_000, grounded=0.1).items()}
    canary = {group: (bad if group in groups else arm(40_000))[group] for group in range(GROUPS)}

    verdict = judge(policy_of("grounding"), canary=canary, exposure=replace(EVEN, both=2, contaminated_groups=groups))

    reading = verdict.reading_of("grounding", Stream.LIVE)
    assert (reading.ruling, reading.harm) == (Ruling.CLEAR, pytest.approx(0.0, abs=1e-9))
    assert reading.canary_n == reading.control_n < 40_000


def test_with_most_groups_contaminated_all_of_them_count():
    """Half of them may be left out; one more, and there would be too little left, while hardly a unit is mixed."""
    half = replace(EVEN, contaminated_groups=frozenset(range(GROUPS // 2)))
    most = replace(EVEN, contaminated_groups=frozenset(range(GROUPS // 2 + 1)))
    canary = arm(40_000, grounded=0.5)

    readings = [judge(policy_of("grounding"), canary=canary, exposure=seen).readings[0] for seen in (half, most)]

    assert [reading.canary_n for reading in readings] == [20_000, 40_000]
    assert [reading.ruling for reading in readings] == [Ruling.REGRESSED, Ruling.REGRESSED]


@pytest.mark.parametrize(
    ("exposure", "kind", "words"),
    [
        (Exposure(300, 500), AlarmKind.SAMPLE_RATIO, "300 units on canary against 500 on control"),
        (Exposure(500, 500, both=20), AlarmKind.EXPOSURE, "20 of 1,000 units saw both versions; at most 1% may"),
    ],
)
def test_an_alarm_keeps_live_traffic_from_concluding_anything(exposure, kind, words):
    """Neither a regression nor its absence; replays still do, and the sentence tells of the alarm."""
    canary = arm(40_000, grounded=0.5)

    alone = judge(policy_of("grounding"), canary=canary, exposure=exposure)
    replayed = judge(policy_of("grounding"), canary=canary, exposure=exposure, replay=replays(60, candidate=(0.0,)))

    assert (alone.ruling, [alarm.kind for alarm in alone.alarms]) == (Ruling.UNPROVEN, [kind])
    assert words in alone.readings[0].why
    assert words in alone.sentence
    assert (replayed.ruling, replayed.failing.stream) == (Ruling.REGRESSED, Stream.REPLAY)


def test_unequal_arms_have_no_ratio_to_be_alarmed_about():
    """Beyond a half, the canary is larger than its control on purpose."""
    assert alarms_of(Exposure(300, 500, matched=False)) == ()
    assert alarms_of(Exposure()) == ()


# --- words -----------------------------------------------------------------------------------------------------------
def reading_with(rail, ruling, harm, lower, upper, why=""):
    """A reading that says this."""
    return Reading(
        rail=rail,
        stream=Stream.LIVE,
        harm=harm,
        lower=lower,
        upper=upper,
        canary=None,
        control=None,
        canary_n=900,
        control_n=900,
        needed_n=200,
        enough_n=None,
        margin=RAILS[rail].margin,
        ruling=ruling,
        why=why,
    )


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [
        (
            reading_with("cost", Ruling.REGRESSED, 0.142, 0.061, 0.21),
            "cost per request is 14.2 % above control, at least 6.1 % with all looks counted; margin 5 %",
        ),
        (
            reading_with("grounding", Ruling.REGRESSED, 0.05, 0.021, 0.08),
            "grounding is 5 points below control, at least 2.1 points with all looks counted; margin 1 point",
        ),
        (
            reading_with("cost", Ruling.CLEAR, -0.02, -0.06, 0.013),
            "cost per request is 2 % below control, at most 1.3 % above with all looks counted; margin 5 %",
        ),
        (
            reading_with("grounding", Ruling.CLEAR, -0.05, -0.08, -0.02),
            "grounding is 5 points above control, not below it with all looks counted; margin 1 point",
        ),
        (
            reading_with("refusals", Ruling.CLEAR, 0.0001, -0.004, 0.004),
            "refusal rate is level with control, at most 0.4 points above with all looks counted; margin 1 point",
        ),
        (
            reading_with("latency", Ruling.UNPROVEN, None, None, None, "31 of 50 pairs"),
            "latency: not enough evidence; 31 of 50 pairs",
        ),
    ],
)
def test_a_reading_says_it_in_a_sentence(reading, sentence):
    """With the direction that the rail has, its unit, the bound that counts, and the margin."""
    assert reading.sentence == sentence


def test_verdicts_say_it_in_a_sentence():
    """For each of the three rulings."""
    policy = policy_of("grounding")
    bad = judge(policy, canary=arm(40_000, grounded=0.8))

    assert bad.sentence == f"Regressed: {bad.failing.sentence}."
    assert judge(policy, canary=arm(40_000)).sentence == (
        "Not regressed: the one guardrail is within the margin, with all looks counted."
    )
    assert judge(policy_of("cost", "grounding"), canary=arm(40_000)).sentence == (
        "Not regressed: all 2 guardrails are within the margin, with all looks counted."
    )
    assert judge(Guardrails.parse(default_guardrails())).sentence == (
        "Not enough evidence: 0 of 7 guardrails are clear; 7 are open (error rate: no requests on canary yet)."
    )


@pytest.mark.parametrize(
    ("rail", "harm", "said"),
    [
        ("cost", 0.0004, "level with control"),
        ("cost", 1.5, "150 % above control"),
        ("schema", -0.25, "25 points above control"),
    ],
)
def test_a_comparison_says_how_much_and_which_way(rail, harm, said):
    """What cannot be seen in the last digit is level."""
    assert compared(RAILS[rail], harm) == said


def test_one_point_is_one():
    """And everything else are points."""
    assert [amount(RAILS["schema"], harm) for harm in (0.01, -0.01, 0.015)] == ["1 point", "1 point", "1.5 points"]


# --- storage ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "verdict",
    [
        judge(policy_of("cost", "grounding"), canary=arm(40_000, grounded=0.8), replay=replays(60)),
        judge(policy_of("cost"), exposure=Exposure(300, 500)),
    ],
    ids=["regressed", "alarmed"],
)
def test_a_verdict_survives_storage(verdict):
    """What comes back from JSON is equal, readings and alarms too."""
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_replays_survive_storage():
    """So that the next pair can be added to what was remembered."""
    evidence = replays(7, candidate=(1.0, 0.0))

    assert ReplayEvidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence
    assert Alarm.from_json(Alarm(AlarmKind.EXPOSURE, "x", {"both": 5}).to_json()).facts == {"both": 5}
