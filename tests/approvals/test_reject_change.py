import pytest

from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import ChangeClosed, DigestRejected, NotApproved
from controlplane.approvals.models import RejectedDigest
from controlplane.approvals.operations import reject_change, withdraw_change
from controlplane.audit import operations as audit
from controlplane.prompts.operations import propose_live, return_to
from controlplane.releases.operations import current_release
from controlplane.rollouts.models import CanaryState
from controlplane.rollouts.operations import plan_canary, roll_back_canary, start_canary, turn_knob
from tests.factories import (
    DEFAULT_STAGES,
    FIVE_PERCENT,
    NOW,
    ONE_PERCENT,
    QUARTER,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_version,
    run_canary,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def reject(change, reason="rude"):
    reject_change(change=change, actor=crew.approver_one, reason=reason, now=NOW)
    change.refresh_from_db()


def test_rejected_content_does_not_come_back_under_a_new_number():
    """The memory is of the words, not of the version that carried them."""
    canary = make_canary(text="Ahoy")
    reject(canary.change)

    with pytest.raises(DigestRejected, match="rejected on 2026-03-04 by 'approver-one': rude"):
        make_version(canary.prompt, "Ahoy", change_class="minor")
    with pytest.raises(DigestRejected):
        plan_canary(
            candidate=canary.candidate,
            unit="user",
            stages=list(DEFAULT_STAGES),
            reason="again",
            actor=crew.owner,
            now=NOW,
        )
    with pytest.raises(DigestRejected):
        propose_live(version=canary.candidate, reason="again", actor=crew.owner, now=NOW)


def test_rejecting_a_change_ends_the_canary_that_it_carried():
    """No open gate could ever carry it further, so nobody is served it any longer."""
    canary = run_canary(FIVE_PERCENT)
    reject(canary.change)

    canary.refresh_from_db()

    assert canary.state == CanaryState.ROLLED_BACK
    assert canary.slug not in current_release().content["sections"]["canaries"]


def test_rejecting_a_change_closes_every_other_of_the_same_content():
    """Rejected on its way to everybody at once, the words leave the canary, too."""
    canary = run_canary(FIVE_PERCENT)
    other = propose_live(version=canary.candidate, reason="hurry", actor=crew.owner, now=NOW)
    reject(other)

    canary.refresh_from_db()
    canary.change.refresh_from_db()

    assert (canary.state, canary.change.state) == (CanaryState.ROLLED_BACK, "rejected")
    assert RejectedDigest.objects.count() == 1


def test_rejecting_a_change_gives_up_the_canary_that_never_started():
    """It cannot be started any more, and the page does not offer it."""
    canary = make_canary()
    reject(canary.change)

    canary.refresh_from_db()

    assert canary.state == CanaryState.WITHDRAWN


def test_withdrawing_a_change_ends_its_canary_without_a_verdict():
    """The words may be tried again; this time they are not served on a change that is closed."""
    canary = run_canary(FIVE_PERCENT)
    withdraw_change(change=canary.change, actor=crew.owner, reason="holiday", now=NOW)

    canary.refresh_from_db()

    assert canary.state == CanaryState.ROLLED_BACK
    assert not approvals.is_rejected(canary.candidate.digest)


def test_sign_offs_on_a_closed_change_open_nothing():
    """A gate asks whether the change is open, at the moment of passing."""
    canary = make_canary()
    sign(canary.change, crew.approver_one, crew.approver_two)
    withdraw_change(change=canary.change, actor=crew.owner, reason="holiday", now=NOW)

    @audit.operation
    def pass_gate():
        approvals.require(canary.change, gates=["public"], now=NOW)

    with pytest.raises(ChangeClosed):
        pass_gate()


def test_a_gate_is_passed_inside_an_operation_only():
    """Outside its lock, what the gate saw may be over before the step is taken."""
    canary = make_canary()

    with pytest.raises(RuntimeError, match="call the operation"):
        approvals.require(canary.change, gates=["public"], now=NOW)


@pytest.mark.parametrize("close", [reject_change, withdraw_change])
def test_live_moves_and_rolls_back_whatever_became_of_a_canarys_change(close):
    """A change closed by hand never stands in the way of a roll-back or of another version."""
    canary = run_canary(FIVE_PERCENT)
    before = canary.control
    close(change=canary.change, actor=crew.approver_one, reason="by hand", now=NOW)

    make_live_version(canary.prompt, "Something else")
    return_to(version=before, actor=crew.oncall, reason="back", now=NOW)

    assert current_release().content["sections"]["prompts"]["support-answer"]["live"] == before.number


def test_a_rejected_version_that_is_live_stays_live_and_stands_in_nobodys_way():
    """Nobody is newly shown it; going back elsewhere still works, and coming back to it does not."""
    prompt = make_deployment()
    first = prompt.live_version
    canary = make_canary(prompt, text="Ahoy")
    change = propose_live(version=canary.candidate, reason="now", actor=crew.owner, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    approvals.apply_change(change=change, actor=crew.owner, now=NOW)
    reject(canary.change)

    return_to(version=canary.candidate, actor=crew.oncall, reason="is live", now=NOW)
    return_to(version=first, actor=crew.oncall, reason="back", now=NOW)
    with pytest.raises(DigestRejected):
        return_to(version=canary.candidate, actor=crew.oncall, reason="again", now=NOW)


def test_rolling_back_rejects_the_words_for_good():
    """What hurt users is not tried again by mistake, not even with its sign-offs."""
    canary = run_canary(QUARTER)
    roll_back_canary(canary=canary, reason="refusals doubled", actor=crew.oncall, now=NOW)

    with pytest.raises(DigestRejected, match="canary rolled back: refusals doubled"):
        make_version(canary.prompt, "Good day")


def test_a_knob_without_sign_offs_names_how_many_are_missing():
    """The message is what the operator reads, and `missing` what the page draws."""
    canary = make_canary(change_class="legal")
    canary = start_canary(canary=canary, actor=crew.owner, now=NOW)
    sign(canary.change, crew.approver_one)

    with pytest.raises(NotApproved, match=r"cannot pass 'public' yet\. Missing: 1 more from") as refusal:
        turn_knob(canary=canary, position=ONE_PERCENT, actor=crew.owner, now=NOW)

    assert refusal.value.missing == {"approver": 1, "legal": 1}
