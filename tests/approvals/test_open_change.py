import pytest
from django.db import IntegrityError, transaction

from controlplane.approvals.errors import AlreadyOpen
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.operations import withdraw_change
from controlplane.audit.models import AuditEvent
from controlplane.prompts.operations import propose_live
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from controlplane.rollouts.operations import plan_canary, withdraw_canary
from tests.factories import NOW, crew, make_canary, make_deployment, make_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def plan_again(canary):
    """Another canary of the same version."""
    return plan_canary(
        candidate=canary.candidate,
        unit="tenant",
        stages=[dict(stage) for stage in DEFAULT_STAGES],
        reason="me too",
        actor=crew.owner,
        now=NOW,
    )


def test_people_are_asked_once_for_the_same():
    """A second canary of a version that waits already is refused with the number of the first; nothing is written."""
    canary = make_canary()
    events = AuditEvent.objects.count()

    with pytest.raises(AlreadyOpen, match=f"CR-{canary.change_id}, opened by 'owner'") as refused:
        plan_again(canary)

    assert refused.value.number == canary.change_id
    assert (Canary.objects.count(), AuditEvent.objects.count()) == (1, events)


def test_what_was_given_up_may_be_asked_for_again():
    """A withdrawn change is no verdict."""
    canary = make_canary()
    withdraw_canary(canary=canary, reason="not now", actor=crew.owner, now=NOW)

    again = plan_again(canary)

    assert again.change.is_open
    assert again.change.content_digest == canary.change.content_digest


def test_going_live_may_be_proposed_beside_a_canary():
    """They ask for different things: some users first, or everybody at once."""
    canary = make_canary()

    change = propose_live(version=canary.candidate, reason="it cannot wait", actor=crew.owner, now=NOW)

    assert {change.kind, canary.change.kind} == {"prompt.live", "prompt.rollout"}


def test_database_keeps_two_open_requests_for_the_same_out():
    """Whatever path a row comes by."""
    version = make_version(make_deployment(), "Good evening")
    change = propose_live(version=version, reason="r", actor=crew.owner, now=NOW)
    change.pk = None

    with pytest.raises(IntegrityError, match="asked_for_once"), transaction.atomic():
        change.save()

    withdraw_change(change=ChangeRequest.objects.open().get(), actor=crew.owner, reason="r", now=NOW)
    change.save()
    assert ChangeRequest.objects.open().get().pk == change.pk
