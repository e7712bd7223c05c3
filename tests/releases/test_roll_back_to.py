import pytest

from controlplane.accounts.operations import change_tenant, issue_key, revoke_key
from controlplane.approvals.errors import DigestRejected
from controlplane.approvals.operations import apply_change, reject_change
from controlplane.audit.models import AuditEvent
from controlplane.prompts.operations import propose_live
from controlplane.releases.errors import NothingToRollBack
from controlplane.releases.operations import current_release, roll_back_to
from controlplane.rollouts.models import CanaryState
from controlplane.rollouts.operations import promote_canary, roll_back_canary, turn_knob
from tests.factories import (
    EVERYBODY,
    FIVE_PERCENT,
    HALF,
    INTERNAL,
    NOW,
    ONE_PERCENT,
    SETUP,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_prompt,
    make_tenant,
    run_canary,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def back_to(release):
    return roll_back_to(release=release, actor=crew.oncall, reason="it burns", now=NOW)


def sections():
    return current_release().content["sections"]


def test_live_versions_return_as_a_new_release():
    """Revisions only grow: the old state comes back under a new number that says what it restores."""
    prompt = make_deployment()
    old = current_release()
    make_live_version(prompt, "Ahoy")
    before = current_release().revision

    restored = back_to(old)

    assert sections()["prompts"]["support-answer"]["live"] == 1
    assert (restored.revision, restored.restores) == (before + 1, old.revision)
    assert restored.reason == f"roll back to r{old.revision}: it burns"
    assert AuditEvent.objects.get(action="release.rolled_back").target == f"release:{old.revision}"


def test_knobs_turn_down_to_where_they_were():
    """Half of the public goes back to one percent."""
    canary = run_canary(ONE_PERCENT)
    old = current_release()
    turn_knob(canary=canary, position=HALF, actor=crew.owner, now=NOW)

    back_to(old)

    assert len(sections()["canaries"][canary.slug]["reach"]) == ONE_PERCENT + 1


def test_knobs_never_turn_up():
    """A release with a wider canary gives nobody the candidate back."""
    canary = run_canary(HALF)
    wide = current_release()
    turn_knob(canary=canary, position=INTERNAL, actor=crew.owner, now=NOW)

    with pytest.raises(NothingToRollBack, match="nothing that can be returned differs"):
        back_to(wide)

    assert len(sections()["canaries"][canary.slug]["reach"]) == INTERNAL + 1


def test_a_canary_that_started_later_ends():
    """It was not there then; its words are not judged by that."""
    prompt = make_deployment()
    old = current_release()
    canary = run_canary(FIVE_PERCENT, prompt=prompt)

    back_to(old)

    canary.refresh_from_db()
    assert canary.state == CanaryState.ROLLED_BACK
    assert sections()["canaries"] == {}


def test_a_canary_that_ended_stays_ended():
    """A rolled-back candidate never comes back this way."""
    canary = run_canary(FIVE_PERCENT)
    old = current_release()
    roll_back_canary(canary=canary, reason="bad", actor=crew.oncall, now=NOW)

    with pytest.raises(NothingToRollBack):
        back_to(old)

    assert sections()["canaries"] == {}


def test_a_promoted_version_leaves_and_its_canary_stays_ended():
    """Back before the promotion: the control is live again, the candidate served to nobody."""
    canary = run_canary(EVERYBODY)
    old = current_release()
    promote_canary(canary=canary, actor=crew.owner, now=NOW)

    back_to(old)

    canary.refresh_from_db()
    assert canary.state == CanaryState.PROMOTED
    assert (sections()["prompts"]["support-answer"]["live"], sections()["canaries"]) == (1, {})


def test_revoked_keys_are_never_resurrected():
    """Nor is a tenant's pin widened: access stays as it is now."""
    prompt = make_deployment()
    tenant = make_tenant(residency=["eu", "us"])
    key = issue_key(tenant=tenant, name="leaked", actor=SETUP, now=NOW).row
    old = current_release()
    revoke_key(key=key, actor=SETUP, now=NOW)
    change_tenant(tenant=tenant, residency=["eu"], actor=SETUP, now=NOW)
    make_live_version(prompt, "Ahoy")

    back_to(old)

    assert sections()["access"]["keys"] == {}
    assert sections()["access"]["tenants"]["acme"]["residency"] == ["eu"]


def test_what_was_rejected_since_is_not_restored():
    """All of it is refused, and nothing is changed, so that nobody believes to be back where they are not."""
    prompt = make_deployment()
    old, first = current_release(), prompt.live_version
    make_live_version(prompt, "Ahoy")
    change = propose_live(version=first, reason="again", actor=crew.owner, now=NOW)
    reject_change(change=change, actor=crew.approver_one, reason="never again", now=NOW)
    before = current_release()

    with pytest.raises(DigestRejected, match="never again"):
        back_to(old)

    assert current_release() == before


def test_a_rejected_version_that_does_not_move_stands_in_nobodys_way():
    """The roll-back is about another prompt; this one stays as it is."""
    prompt, other = make_deployment(), make_prompt("other")
    make_live_version(other, "One")
    parallel = make_canary(prompt, text="Ahoy")
    change = propose_live(version=parallel.candidate, reason="now", actor=crew.owner, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.owner, now=NOW)
    reject_change(change=parallel.change, actor=crew.approver_one, reason="rude", now=NOW)
    old = current_release()
    make_live_version(other, "Two")

    back_to(old)

    assert sections()["prompts"]["other"]["live"] == 1
    assert sections()["prompts"]["support-answer"]["live"] == parallel.candidate.number


def test_the_current_release_is_nothing_to_return_to():
    """The button does not pretend to have done something."""
    make_deployment()

    with pytest.raises(NothingToRollBack, match="is the current release"):
        back_to(current_release())


def test_prompts_that_came_later_stay():
    """They did not exist then, so nothing is known that they could return to."""
    prompt = make_deployment()
    old = current_release()
    make_live_version(prompt, "Ahoy")
    make_live_version(make_prompt("later"), "New")

    back_to(old)

    assert {slug: entry["live"] for slug, entry in sections()["prompts"].items()} == {"support-answer": 1, "later": 1}


def test_rolling_the_roll_back_back_needs_no_sign_off_either():
    """Both were approved; whoever erred returns by the same click."""
    prompt = make_deployment()
    old = current_release()
    make_live_version(prompt, "Ahoy")
    new = current_release()
    back_to(old)

    back_to(new)

    assert sections()["prompts"]["support-answer"]["live"] == 2
