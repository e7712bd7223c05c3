import pytest

from controlplane.approvals.errors import NotApproved
from controlplane.releases.operations import current_release
from controlplane.rollouts.operations import turn_knob
from tests.factories import FIVE_PERCENT, INTERNAL, NOW, ONE_PERCENT, crew, run_canary

pytestmark = pytest.mark.django_db


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
