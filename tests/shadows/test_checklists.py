"""Promotion checklists: opened by one, signed by two others on figures of the moment, void when the subject changes."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from controlplane.audit.models import AuditEvent
from controlplane.shadows.checklists import settle, sign_item, withdraw_checklist
from controlplane.shadows.errors import (
    ChecklistExists,
    ChecklistIsOver,
    InvalidThresholds,
    MayNotSign,
    NoReason,
    NothingToPromote,
    NotMet,
    SubjectChanged,
)
from controlplane.shadows.models import (
    ENDED,
    STANDING,
    TRANSITIONS,
    ChecklistEvent,
    ChecklistSignature,
    ChecklistState,
    IllegalMove,
    Item,
    PromotionChecklist,
)
from tests.eval_runs import FakeGateway, answer
from tests.factories import NOW, crew, make_routing, make_tenant
from tests.shadow_rows import CANDIDATE_LANE, NOISE_LANE, promoting_document, shadow_document, shadow_row
from tests.shadows.promotions import bill, open_one, pass_evals, ratios, shadow_for_days, sign_all, take

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=5)


def sign(checklist, item=Item.COMPARISONS, operator=None, now=NOW):
    return sign_item(checklist=checklist, item=item, operator=operator or crew.approver_one, now=now)


def fresh(checklist):
    return PromotionChecklist.objects.get(pk=checklist.pk)


def test_two_people_complete_a_checklist(shown):
    """Every item with two names is the whole of it; the record has each with its figures."""
    checklist = open_one()

    first = sign_all(checklist, crew.approver_one)
    assert first.state == ChecklistState.OPEN
    second = sign_all(checklist, crew.approver_two, now=LATER)

    assert (second.state, second.completed_at) == (ChecklistState.COMPLETE, LATER)
    signed = AuditEvent.objects.filter(action="checklist.signed")
    assert signed.count() == 2 * len(Item)
    assert signed.get(data__item="comparisons", actor="approver-one").data["figures"] == {"answered": 1500, "days": 3}
    assert AuditEvent.objects.filter(action="checklist.completed").exists()


def test_signature_freezes_what_was_measured_then(shown):
    """Each has the figures of its own moment, which nobody typed and nobody can change."""
    checklist = open_one()
    sign(checklist)
    take(shadow_row(asked=200, digest=shown.digest, moments=ratios(200)), worker="host-b/shadow")
    sign(checklist, operator=crew.approver_two)

    first, second = checklist.signatures.all()

    assert (first.figures["answered"], second.figures["answered"]) == (1500, 1700)
    assert first.link == "/shadow/trial/#traffic"
    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        ChecklistSignature.objects.filter(pk=first.pk).update(figures={"answered": 9})


def test_who_opened_it_signs_nothing(shown):
    """Not even somebody who may sign: neither by the operation nor by hand."""
    checklist = open_one(actor=crew.admin)

    with pytest.raises(MayNotSign, match="opened checklist"):
        sign(checklist, operator=crew.admin)
    with pytest.raises(IntegrityError, match="cannot sign"), transaction.atomic():
        ChecklistSignature.objects.create(
            checklist=checklist,
            item=Item.COST,
            signer="admin",
            at=NOW,
            standing="met",
            sentence="",
            figures={},
            link="",
            subject_digest=checklist.subject_digest,
            digest="d",
        )


def test_nobody_signs_twice_and_no_third_signs(shown):
    """Two people, so two names."""
    checklist = open_one()
    sign(checklist)

    with pytest.raises(MayNotSign, match="approver-one has signed"):
        sign(checklist)
    sign(checklist, operator=crew.approver_two)
    with pytest.raises(MayNotSign, match="approver-one and approver-two have signed"):
        sign(checklist, operator=crew.approver_three)


def test_completion_by_hand_is_refused_by_the_database(shown):
    """Whatever wrote it, an item without two names completes nothing."""
    checklist = open_one()
    sign_all(checklist, crew.approver_one)

    with pytest.raises(IntegrityError, match="not signed by two people"), transaction.atomic():
        PromotionChecklist.objects.update(state=ChecklistState.COMPLETE, completed_at=NOW)


def test_nothing_is_signed_that_is_not_shown(shadowed):
    """The refusal has the figures."""
    shadow_for_days(shadowed.digest, days=1, each=40, cost=2.0)
    checklist = open_one()

    with pytest.raises(NotMet, match="40 of 1,000 comparisons on 1 of 3 days"):
        sign(checklist)
    with pytest.raises(NotMet, match=r"costs 2.00 × \[2.00 … 2.00\] what control's does, 1.2 × is allowed"):
        sign(checklist, Item.COST)
    with pytest.raises(NotMet, match="no golden set covers the lane"):
        sign(checklist, Item.GOLDEN)


def test_an_eval_that_did_not_pass_keeps_the_lane_out(shadowed):
    """Of the sets that are for the lane, every one."""
    shadow_for_days(shadowed.digest)
    pass_evals(gateway=FakeGateway(says=lambda body: answer("Write to ada@example.com")))

    with pytest.raises(NotMet, match="grounded 0 of 2"):
        sign(open_one(), Item.SAFETY)


def test_a_request_against_a_pin_keeps_the_lane_out(shown):
    """By what was billed, however it came to be."""
    make_tenant("american", residency=["us"])
    bill(tenant="american", requests=1)

    with pytest.raises(NotMet, match="1 of 401 requests were asked against their tenant's pin"):
        sign(open_one(), Item.RESIDENCY)


@pytest.mark.parametrize("change", ["policy", "lane", "gone"])
def test_changed_subject_voids_it(shown, change):
    """What was measured is of something else, so its signatures hold for nothing."""
    checklist = open_one()
    sign(checklist)
    document = shadow_document(percent=11) if change == "policy" else shadow_document()
    if change == "lane":
        document["lanes"][CANDIDATE_LANE]["upstream_model"] = "another"
    if change == "gone":
        document["routes"]["chat"]["shadow"] = None
    make_routing(document, now=LATER)

    with pytest.raises(SubjectChanged, match="open another checklist"):
        sign(checklist, operator=crew.approver_two)
    assert settle(now=LATER) == 1
    assert settle(now=LATER) == 0

    void = fresh(checklist)
    assert (void.state, void.ended_by) == (ChecklistState.VOID, "ballast")
    with pytest.raises(ChecklistIsOver):
        sign(void)


def test_another_provenance_voids_nothing(shown):
    """A better reason for the same number is no other policy."""
    checklist = open_one()
    document = shadow_document()
    document["shadows"]["trial"]["percent"]["provenance"]["note"] = "measured since"
    make_routing(document, now=LATER)

    sign(checklist)

    assert settle(now=LATER) == 0


def test_it_has_been_made_use_of_when_the_lane_serves(shown):
    """Its twin on the account that serves is the same lane; what is promoted is promoted once."""
    checklist = open_one()
    sign_all(checklist, crew.approver_one, crew.approver_two)
    make_routing(promoting_document(), now=LATER)

    assert settle(now=LATER) == 1

    assert fresh(checklist).state == ChecklistState.PROMOTED


def test_only_a_candidate_that_was_asked_can_be_promoted(shadowed):
    """Not control asked once more, not on another route, and not before anything was asked."""
    with pytest.raises(NothingToPromote, match="never asked anything"):
        open_one()
    shadow_for_days(shadowed.digest, days=1, each=1)
    with pytest.raises(NothingToPromote, match="no candidate"):
        open_one(lane=NOISE_LANE)
    with pytest.raises(NothingToPromote, match="no candidate"):
        open_one(route="embed")
    with pytest.raises(NoReason):
        open_one(reason=" ")
    with pytest.raises(InvalidThresholds, match="days"):
        open_one(thresholds={"days": 0})

    open_one()


def test_one_checklist_stands_at_a_time(shown):
    """One that is void makes room by itself, one that is given up as well."""
    first = open_one()
    with pytest.raises(ChecklistExists) as refused:
        open_one()
    assert refused.value.number == first.pk

    withdraw_checklist(checklist=first, reason="too early", actor=crew.oncall, now=NOW)
    with pytest.raises(ChecklistIsOver):
        withdraw_checklist(checklist=first, reason="again", actor=crew.oncall, now=NOW)
    second = open_one()

    assert fresh(first).why_ended == "too early"
    assert second.state == ChecklistState.OPEN


def test_thresholds_are_frozen_with_it(shown):
    """Signers sign for them, so nothing changes them afterwards."""
    checklist = open_one(thresholds={"comparisons": 2000})

    with pytest.raises(NotMet, match="1,500 of 2,000"):
        sign(checklist)
    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        PromotionChecklist.objects.update(thresholds={})


def test_what_has_ended_never_moves():
    """The table of transitions leads from where it stands to an end, and nowhere from there."""
    assert {before for before, _ in TRANSITIONS} == set(STANDING)
    for state in ENDED:
        for event in ChecklistEvent:
            with pytest.raises(IllegalMove):
                PromotionChecklist(state=state).move(event, now=NOW)
