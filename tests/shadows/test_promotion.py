"""A lane that was tried in shadow enters its route with its complete checklist, and in no other way."""

import pytest

from controlplane.approvals.errors import NotPrepared
from controlplane.approvals.models import Decision
from controlplane.approvals.operations import sign_off
from controlplane.audit.models import AuditEvent
from controlplane.shadows.checklists import withdraw_checklist
from controlplane.shadows.promotion import promoted_by, unmet
from tests.eval_runs import run_pieces
from tests.factories import NOW, crew, make_routing, routing_document
from tests.shadow_rows import CANDIDATE_LANE, MAIN_LANE, NOISE_LANE, POLICY, promoting_document, shadow_document
from tests.shadows.promotions import open_one, sign_all
from tests.validator_tables import propose

pytestmark = pytest.mark.django_db


def approve(change):
    change.refresh_from_db()
    return sign_off(
        change=change,
        operator=crew.approver_one,
        role="approver",
        decision=Decision.APPROVE,
        digest=change.digest,
        now=NOW,
    )


def complete(**fields):
    return sign_all(open_one(**fields), crew.approver_one, crew.approver_two)


def test_change_waits_for_the_checklist(shown):
    """Until two people have signed every item nobody approves the change; then it is on record which they signed."""
    change = propose(promoting_document())
    run_pieces()
    with pytest.raises(NotPrepared, match="no promotion checklist is open for it"):
        approve(change)

    checklist = open_one()
    assert "not signed by two people on every item yet" in unmet(change)[0]
    sign_all(checklist, crew.approver_one, crew.approver_two)
    approve(change)

    said = AuditEvent.objects.get(action="change.approve").data["promotion_checklists"]
    assert [(one["checklist"], one["lane"], one["promotes"]) for one in said] == [
        (checklist.pk, CANDIDATE_LANE, MAIN_LANE)
    ]
    assert {one["by"] for one in said[0]["signed"]["cost"]} == {"approver-one", "approver-two"}


def test_lane_that_was_never_tried_needs_none(shadowed):
    """A policy alone, under which nothing was asked, asks for nothing."""
    assert promoted_by(propose(promoting_document())) == []


def test_another_lane_needs_none(shown):
    """Nor does another account for a model that serves the route already."""
    document = shadow_document()
    document["lanes"]["azure/eu-west/trial-two/gpt-4o"] = document["lanes"][NOISE_LANE] | {
        "account": "azure-eu",
        "model": "other",
        "upstream_model": "other",
        "breaker": "hosted-chat",
    }
    document["routes"]["chat"]["lanes"].append("azure/eu-west/trial-two/gpt-4o")

    assert promoted_by(propose(document)) == []


def test_lane_defined_otherwise_is_not_what_was_tried(shown):
    """Dearer, or another deployment behind the same name: its figures would be others."""
    complete()
    document = promoting_document()
    document["lanes"][MAIN_LANE]["input_micros_per_million_tokens"] *= 10

    assert "the change defines it otherwise" in unmet(propose(document))[0]


def test_candidate_itself_may_enter_once_its_policy_is_gone(shown):
    """A shadow's account serves nobody, so the policy goes in the same change."""
    complete()
    document = shadow_document()
    del document["shadows"]
    document["routes"]["chat"] |= {"shadow": None}
    document["routes"]["chat"]["lanes"].append(CANDIDATE_LANE)
    document["lanes"][CANDIDATE_LANE]["breaker"] = "hosted-chat"

    found = promoted_by(propose(document))

    assert [(one.lane, one.lacking) for one in found] == [(CANDIDATE_LANE, "")]


def test_taking_the_candidate_out_first_makes_it_no_untried_lane(shown):
    """In two changes as in one."""
    checklist = complete()
    make_routing(routing_document(deadline_ms=8000))
    document = promoting_document()
    for name in (CANDIDATE_LANE, NOISE_LANE):
        del document["lanes"][name]
    del document["shadows"], document["accounts"]["azure-trial"]
    document["routes"]["chat"]["shadow"] = None

    said = unmet(propose(document))

    assert f"checklist {checklist.pk} is void: shadow policy {POLICY!r} is no more" in said[0]


def test_given_up_checklist_allows_nothing(shown):
    """What was signed on it was for that promotion."""
    withdraw_checklist(checklist=complete(), reason="another time", actor=crew.oncall, now=NOW)

    assert "no promotion checklist is open" in unmet(propose(promoting_document()))[0]


def test_other_changes_cost_few_queries(shown, django_assert_num_queries):
    """Every review of routing asks."""
    change = propose(shadow_document(percent=12))

    with django_assert_num_queries(1):
        assert unmet(change) == []
