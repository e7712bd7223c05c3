"""Whom the policy asks about a redrive, and what becomes of one that is withdrawn or rejected."""

from __future__ import annotations

import pytest

from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import DigestRejected, NotApproved
from controlplane.approvals.policy import match, parse_rules
from controlplane.deadletters import redrive
from controlplane.deadletters.errors import NeedsSignOff, PlanMoved
from controlplane.deadletters.plans import RedrivePlan
from tests.deadletters.redrives import (
    QUESTION,
    fail_job,
    plan_for,
)
from tests.factories import (
    NOW,
    built_in_rules,
    change_policy,
    crew,
    rules_of_built_in,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ground")]


# --- approval --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "more", "edit", "asked"),
    [
        (2, {}, None, {}),
        (21, {}, None, {"approver": 1}),
        (1, {"has_tools": True}, None, {"approver": 1}),
        (1, {}, {"merge": {"temperature": 0}}, {"approver": 1}),
    ],
)
def test_policy_asks_by_size_tools_and_edit(key, store, number, more, edit, asked):
    """Nobody for a small plan; one approver for more, for tools, for an edit."""
    made = plan_for([fail_job(key, **more) for _ in range(number)], store, edit=edit)
    made.dry_run()

    change = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)

    assert change.rule["gates"]["apply"] == asked
    if asked:
        with pytest.raises(NotApproved):
            approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
        sign(change, crew.approver_one)
    approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    assert made.fresh().state == "canary"


@pytest.mark.parametrize(
    ("edit", "brings"),
    [
        ({"merge": {"temperature": 0}}, False),
        ({"merge": {"prompt": {"variables": {"question": "Where is it?"}}}}, False),
        ({"merge": {"prompt": {"id": "support-answer"}}}, True),
        ({"merge": {"tools": None}}, True),
        ({"body": QUESTION | {"prompt": None}}, True),
    ],
)
def test_edit_brings_tools_where_it_names_them_or_another_prompt(key, store, edit, brings):
    """Other variables of the same prompt do not, and a plan does not say so."""
    assert plan_for([fail_job(key)], store, edit=edit).fresh().has_tools is brings


def test_policy_asks_two_people_above_five_hundred():
    """By the size class, which the content that is signed holds."""
    facts = {"has_tools": False, "is_edited": False, "size": RedrivePlan(size=501).size_class}
    rule = match(parse_rules(built_in_rules()), kind=redrive.KIND_NAME, facts=facts)

    assert [(one.role, one.count) for one in rule.gate("apply").requirements] == [("approver", 2)]
    assert RedrivePlan(size=500).size_class == "medium"


def test_no_policy_lets_tools_or_an_edit_through_on_one_persons_word(key, store):
    """Whatever the rules in force ask for."""
    lenient = {"name": "All", "kind": redrive.KIND_NAME, "gates": {"apply": {}}}
    change_policy([lenient, *rules_of_built_in()])
    made = plan_for([fail_job(key, has_tools=True)], store)
    made.dry_run()
    change = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)

    with pytest.raises(NeedsSignOff, match="brings tools"):
        approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    assert made.fresh().state == "proposed"
    sign(change, crew.approver_one)
    approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    assert made.fresh().state == "canary"


def test_withdrawn_plan_can_be_tried_again_and_a_rejected_one_never(key, store):
    """The rejection is of these letters with this edit, in whatever plan."""
    letters = [fail_job(key, has_tools=True)]
    made = plan_for(letters, store)
    made.dry_run()
    change = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)
    with pytest.raises(PlanMoved, match="CR-"):
        redrive.withdraw_plan(plan=made.plan, actor=crew.oncall, reason="r", now=NOW)
    approvals.withdraw_change(change=change, actor=crew.oncall, reason="not yet", now=NOW)
    assert made.fresh().state == "checked"
    made.dry_run()
    again = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)

    approvals.reject_change(change=again, actor=crew.approver_one, reason="twice is too often", now=NOW)

    assert (made.fresh().state, made.plan.note) == ("withdrawn", "twice is too often")
    other = plan_for(letters, store)
    other.dry_run()
    with pytest.raises(DigestRejected):
        redrive.propose_plan(plan=other.fresh(), actor=crew.oncall, now=NOW)
