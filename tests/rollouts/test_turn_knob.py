from datetime import timedelta

import pytest

from controlplane.approvals.errors import NotApproved
from controlplane.releases.operations import current_release
from controlplane.rollouts.errors import InvalidPlan, KnobMoved
from controlplane.rollouts.operations import turn_knob
from tests.factories import EVERYBODY, FIVE_PERCENT, HALF, INTERNAL, NOW, ONE_PERCENT, QUARTER, crew, run_canary

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def test_knob_does_not_leave_internal_without_sign_offs():
    """A tone change stays with internal tenants until two approvers signed, and no release is cut meanwhile."""
    canary = run_canary(INTERNAL)
    before = current_release()

    with pytest.raises(NotApproved, match="2 more from approver"):
        turn_knob(canary=canary, position=ONE_PERCENT, actor=crew.owner, now=NOW)

    canary.refresh_from_db()
    assert canary.position == INTERNAL
    assert current_release() == before


def test_knob_reaches_every_stage_on_the_way():
    """The release carries every stage up to the one the knob is at, so that nobody who was in falls out."""
    canary = run_canary(FIVE_PERCENT)

    reach = current_release().content["sections"]["canaries"][canary.slug]["reach"]

    assert [stage["weight"] for stage in reach] == [5000, 100, 500]


def test_knob_goes_back_without_asking_anybody():
    """One click, though every sign-off has expired since."""
    canary = run_canary(HALF)

    canary = turn_knob(canary=canary, position=INTERNAL, actor=crew.oncall, now=NOW + timedelta(days=30))

    assert len(current_release().content["sections"]["canaries"][canary.slug]["reach"]) == 1


def test_knob_does_not_go_forward_on_expired_sign_offs():
    """What was granted stays; more is not granted on words that are a month old."""
    canary = run_canary(QUARTER)

    with pytest.raises(NotApproved):
        turn_knob(canary=canary, position=HALF, actor=crew.owner, now=NOW + timedelta(days=30))


def test_knob_turned_to_where_it_is_does_nothing():
    """No event, no release."""
    canary = run_canary(FIVE_PERCENT)
    before = current_release()

    turn_knob(canary=canary, position=FIVE_PERCENT, actor=crew.owner, now=NOW)

    assert current_release() == before


@pytest.mark.parametrize("position", [-1, EVERYBODY + 1])
def test_knob_has_the_stages_of_the_plan(position):
    """And no others; -1 is not the last one."""
    with pytest.raises(InvalidPlan, match="has stages 0 to 5"):
        turn_knob(canary=run_canary(INTERNAL), position=position, actor=crew.owner, now=NOW)


def test_knob_is_not_turned_up_from_a_page_that_is_out_of_date():
    """The on-call turned it down meanwhile; an older page may only follow, not contradict."""
    canary = run_canary(HALF)
    turn_knob(canary=canary, position=INTERNAL, actor=crew.oncall, now=NOW)

    with pytest.raises(KnobMoved, match="is at Internal only by now"):
        turn_knob(canary=canary, position=EVERYBODY, seen=HALF, actor=crew.owner, now=NOW)
    assert turn_knob(canary=canary, position=ONE_PERCENT, seen=INTERNAL, actor=crew.owner, now=NOW).position == 1
    assert turn_knob(canary=canary, position=INTERNAL, seen=HALF, actor=crew.owner, now=NOW).position == INTERNAL
