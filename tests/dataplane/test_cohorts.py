"""Canary membership: sticky, matched, monotone, and the same for everybody who reads the published vectors."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.cohorts import BUCKETS, GROUPS, Arm, CanaryPlan, Stage, assign, bucket
from dataplane.release import MalformedRelease

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VECTORS = json.loads((Path(__file__).parents[2] / "fixtures" / "cohort_vectors.json").read_text())
TENANTS = ("acme", "globex", "initech")
REGIONS = ("eu-west", "us-east")

stages = st.builds(
    Stage,
    name=st.uuids().map(str),
    audience=st.sampled_from(("internal", "all")),
    tenants=st.frozensets(st.sampled_from(TENANTS)),
    regions=st.frozensets(st.sampled_from(REGIONS)),
    weight=st.integers(0, 10_000),
)
callers = st.fixed_dictionaries(
    {"tenant": st.sampled_from(TENANTS), "internal": st.booleans(), "region": st.sampled_from(REGIONS)}
)
units = st.text(min_size=1, max_size=20)


def plan_with(*reach: Stage, unit: str = "user", not_after: datetime | None = None) -> CanaryPlan:
    return CanaryPlan("c", "p", 1, 2, unit, "salt", not_after, reach)


def everybody(weight: int) -> Stage:
    return Stage("all", "all", frozenset(), frozenset(), weight)


def arm_of(plan: CanaryPlan, unit: str) -> Arm:
    return assign(plan, unit_values={"user": unit}, tenant="acme", internal=False, region="eu-west", now=NOW).arm


@pytest.mark.parametrize("vector", VECTORS["buckets"], ids=lambda vector: f"{vector['salt']}:{vector['unit']}")
def test_bucket_equals_the_published_vector(vector):
    """Anyone who hashes as published gets our buckets."""
    assert bucket(vector["salt"], vector["unit"]) == vector["bucket"]


@pytest.mark.parametrize("vector", VECTORS["assignments"], ids=lambda vector: f"{vector['why']}, {vector['bucket']}")
def test_assignment_equals_the_published_vector(vector):
    """Anyone who reads a plan as published gets our arms and versions."""
    assignment = assign(
        CanaryPlan.parse("c", vector["plan"]),
        unit_values=vector["unit_values"],
        tenant=vector["tenant"],
        internal=vector["internal"],
        region=vector["region"],
        now=datetime.fromisoformat(vector["now"]),
    )

    actual = (assignment.arm, assignment.version, assignment.bucket, assignment.cohort)
    assert actual == (vector["arm"], vector["version"], vector["bucket"], vector["cohort"])


def test_bucket_is_the_first_eight_bytes_of_the_salted_hash():
    """The rule itself, written out a second time."""
    digest = hashlib.sha256(b"salt:user-1").hexdigest()

    assert bucket("salt", "user-1") == int(digest[:16], 16) % 10_000


@given(reach=st.lists(stages, min_size=1, max_size=6), caller=callers, unit=units)
def test_reaching_a_further_stage_moves_nobody_out_of_the_canary(reach, caller, unit):
    """Along any list of stages, whatever their audiences and weights, a member stays a member."""
    was_canary = False
    for reached in range(1, len(reach) + 1):
        assignment = assign(plan_with(*reach[:reached]), unit_values={"user": unit}, now=NOW, **caller)

        assert assignment.arm is Arm.CANARY or not was_canary
        was_canary = assignment.arm is Arm.CANARY


@given(reach=st.lists(stages, min_size=1, max_size=5), caller=callers, unit=units)
def test_canary_is_the_union_of_the_stages_that_admit_the_caller(reach, caller, unit):
    """The largest admitted weight is the same as asking each stage on its own, as the rule is written."""
    by_rule = any(stage.admits(**caller) and bucket("salt", unit) < stage.weight for stage in reach)

    assignment = assign(plan_with(*reach), unit_values={"user": unit}, now=NOW, **caller)

    assert (assignment.arm is Arm.CANARY) == by_rule


@given(weight=st.integers(0, 5_000))
def test_arms_are_equal_in_size_and_disjoint_up_to_half(weight):
    """Canary [0, w) and control [5000, 5000 + w) hold the same number of buckets and share none."""
    canary = set(range(weight))
    control = set(range(5_000, 5_000 + min(weight, 5_000)))

    assert len(canary) == len(control) == weight
    assert not canary & control


@given(unit=units, weight=st.integers(1, BUCKETS))
def test_name_and_group_of_a_unit_are_other_bytes_of_its_hash(unit, weight):
    """The rule written out a second time; a unit in no arm has neither."""
    digest = hashlib.sha256(f"salt:{unit}".encode()).digest()

    caller = {"tenant": "acme", "internal": False, "region": "eu-west"}
    assignment = assign(plan_with(everybody(weight)), unit_values={"user": unit}, now=NOW, **caller)

    expected = digest.hex()[16:32], int(digest.hex()[32:36], 16) % GROUPS, weight
    assert (assignment.unit, assignment.group, assignment.weight) == (
        (None, None, 0) if assignment.arm is Arm.NONE else expected
    )


@given(weight=st.integers(0, 10_000), unit=units)
def test_every_unit_is_in_the_arm_that_its_bucket_says(weight, unit):
    """Nothing but the bucket and the weight decides between the arms, and the canary wins where they would overlap."""
    position = bucket("salt", unit)
    matched = 5_000 <= position < 5_000 + min(weight, 5_000)
    expected = Arm.CANARY if position < weight else Arm.CONTROL if matched else Arm.NONE

    assert arm_of(plan_with(everybody(weight)), unit) is expected


@pytest.mark.parametrize("value", [{}, {"user": None}, {"user": ""}, {"tenant": "acme"}])
def test_request_without_a_unit_is_control_and_counted_apart(value):
    """Even at 100 % nobody without a key enters the canary, nor the matched arm that it is compared with."""
    assignment = assign(
        plan_with(everybody(10_000)), unit_values=value, tenant="acme", internal=True, region="eu-west", now=NOW
    )

    assert (assignment.arm, assignment.version, assignment.unkeyed, assignment.cohort) == (
        Arm.CONTROL,
        1,
        True,
        "unkeyed",
    )


def test_lapsed_canary_serves_the_live_version_to_everybody():
    """After not_after a plan is inert, at the moment itself it is not."""
    plan = plan_with(everybody(10_000), not_after=NOW)

    at_the_end = assign(plan, unit_values={"user": "u"}, tenant="t", internal=True, region="r", now=NOW)
    after = assign(
        plan, unit_values={"user": "u"}, tenant="t", internal=True, region="r", now=NOW.replace(microsecond=1)
    )

    assert at_the_end.arm is Arm.CANARY
    assert (after.arm, after.version, after.cohort) == (Arm.NONE, None, "none")


def test_caller_outside_every_audience_is_not_part_of_the_comparison():
    """A tenant that no stage names gets the live version, keyed or not."""
    stage = Stage("acme only", "all", frozenset({"acme"}), frozenset(), 10_000)

    for value in ({"user": "u"}, {}):
        assignment = assign(
            plan_with(stage), unit_values=value, tenant="globex", internal=True, region="eu-west", now=NOW
        )
        assert (assignment.arm, assignment.unkeyed) == (Arm.NONE, False)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"unit": "session"}, "$.unit"),
        ({"candidate": 1}, "$.candidate"),
        ({"salt": ""}, "$.salt"),
        ({"reach": []}, "$.reach"),
        ({"not_after": "2026-01-01T00:00:00"}, "$.not_after"),
        ({"extra": 1}, "$.extra"),
        (
            {"reach": [{"stage": "a", "audience": "all", "tenants": [], "regions": [], "weight": 10_001}]},
            "$.reach[0].weight",
        ),
        (
            {"reach": [{"stage": "a", "audience": "all", "tenants": ["x", "x"], "regions": [], "weight": 1}]},
            "$.reach[0].tenants[1]",
        ),
    ],
)
def test_plan_that_is_not_as_promised_is_refused_by_path(make_document, change: dict[str, Any], path: str):
    """The operator reads where the mistake is."""
    plan = make_document()["sections"]["canaries"]["support-answer-2"] | change

    with pytest.raises(MalformedRelease) as refusal:
        CanaryPlan.parse("support-answer-2", plan)

    assert refusal.value.path == path
