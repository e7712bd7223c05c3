from datetime import timedelta

import pytest

from controlplane.accounts.models import Operator, RoleGrant
from controlplane.accounts.operations import grant_role, revoke_role, set_operator_active
from controlplane.accounts.roles import Role
from controlplane.approvals.errors import ChangeClosed, DigestRejected, Drifted, NotAllowedToSign
from controlplane.approvals.models import Decision, SignOff
from controlplane.approvals.operations import (
    amend_change,
    examine_one,
    rebase_change,
    reject_change,
    sign_off,
    standing,
    withdraw_change,
)
from controlplane.prompts.operations import propose_live
from controlplane.rollouts.operations import change_plan
from tests.factories import (
    NOW,
    change_policy,
    crew,
    make_canary,
    make_live_version,
    make_operator,
    make_prompt,
    make_version,
    rules_of_built_in,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


@pytest.fixture
def canary():
    return make_canary()


@pytest.fixture
def change(canary):
    return canary.change


def is_open(change, *, now=NOW):
    change.refresh_from_db()
    return standing(change, gate="public", now=now).is_open


def validities(change, *, now=NOW):
    change.refresh_from_db()
    return {signature.operator: validity.value for signature, validity in standing_of(change, now).signatures}


def standing_of(change, now):
    return examine_one(change, now=now).standing("public")


def test_two_approvers_open_the_gate(change):
    """Not the author, not each other: two people who hold the role."""
    sign(change, crew.approver_one)
    after_one = is_open(change)
    sign(change, crew.approver_two)

    assert (after_one, is_open(change)) == (False, True)


def test_signing_twice_is_signing_once(change):
    """The newest word of a person is their word; two words of one hand are not two people."""
    sign(change, crew.approver_one)
    sign(change, crew.approver_one)

    assert not is_open(change)


def test_one_person_does_not_meet_two_requirements():
    """Whoever holds two roles signs as one of them; signing as the other takes the first signature's place."""
    change = make_canary(change_class="legal").change
    both = make_operator("both", Role.APPROVER, Role.LEGAL)
    sign(change, crew.approver_one, both)
    sign(change, both, role=Role.LEGAL)

    found = standing(change, gate="public", now=NOW)

    assert found.missing == {Role.APPROVER: 1}


def test_the_author_cannot_sign(change):
    """Holding the role does not help whoever wrote it."""
    grant_role(operator=crew.owner, role=Role.APPROVER, target=None, actor="setup", now=NOW)

    with pytest.raises(NotAllowedToSign, match="wrote part of"):
        sign(change, crew.owner)


def test_whoever_edits_the_plan_cannot_sign_it(canary):
    """An approver who improves the plan becomes one of its authors."""
    change_plan(canary=canary, unit="tenant", stages=canary.stages, actor=crew.approver_one, now=NOW)

    with pytest.raises(NotAllowedToSign, match="wrote part of"):
        sign(canary.change, crew.approver_one)


def test_the_author_of_the_words_cannot_sign_a_canary_that_somebody_else_planned():
    """The version's author contributed, whoever pressed the button."""
    change = make_canary().change

    assert change.contributor_names == {"owner"}
    assert make_live_version_by_another(change).contributor_names == {"approver-one", "owner"}


def make_live_version_by_another(change):
    prompt = change.canary.prompt
    version = make_version(prompt, "Ahoy", actor=crew.approver_one)
    return propose_live(version=version, reason="now", actor=crew.owner, now=NOW)


@pytest.mark.parametrize("role", [Role.LEGAL, Role.EXEC, Role.ADMIN])
def test_nobody_signs_as_what_they_are_not(change, role):
    """The role is asked at the time of signing, on this prompt."""
    with pytest.raises(NotAllowedToSign, match=f"does not hold the role '{role.value}'"):
        sign(change, crew.approver_one, role=role)


def test_a_role_on_another_prompt_signs_nothing_here(change):
    """Approver of one prompt is nobody to another."""
    other = make_operator("other", Role.APPROVER, on=make_prompt("other-prompt"))

    with pytest.raises(NotAllowedToSign, match="does not hold the role"):
        sign(change, other)


def test_a_role_lost_while_the_page_was_open_signs_nothing(change):
    """The operation looks at the grants as they are, not at the copy that came with the request."""
    operator = Operator.objects.get(pk=crew.approver_one.pk)
    assert operator.role_grants
    revoke_role(grant=RoleGrant.objects.get(operator=operator), actor="setup", now=NOW)

    with pytest.raises(NotAllowedToSign, match="does not hold the role"):
        sign(change, operator)


def test_somebody_locked_out_signs_nothing(change):
    """Not even with a session that is still open somewhere."""
    operator = crew.approver_one
    set_operator_active(operator=Operator.objects.get(pk=operator.pk), active=False, actor="setup", now=NOW)

    with pytest.raises(NotAllowedToSign):
        sign(change, operator)


def test_a_digest_that_is_not_shown_is_not_signed(change):
    """Whoever read an older page signs nothing."""
    with pytest.raises(Drifted, match="read it again"):
        sign_off(
            change=change,
            operator=crew.approver_one,
            role=Role.APPROVER,
            decision=Decision.APPROVE,
            digest="0" * 64,
            now=NOW,
        )

    assert not SignOff.objects.filter(change=change).exists()


@pytest.mark.parametrize(("field", "value"), [("decision", "approved"), ("role", "boss")])
def test_an_unknown_word_is_no_sign_off(change, field, value):
    """Neither a decision nor a role that nobody defined is stored."""
    word = {"decision": "approve", "role": "approver", field: value}

    with pytest.raises(ValueError, match=value):
        sign_off(change=change, operator=crew.approver_one, digest=change.digest, now=NOW, **word)


def test_taking_a_sign_off_back_shuts_the_gate(change):
    """Until the moment it is used, a word can be taken back, even after the change moved on."""
    sign(change, crew.approver_one, crew.approver_two)
    change_policy(rules_of_built_in(tone_valid_hours=10))
    sign_off(
        change=change,
        operator=crew.approver_two,
        role=Role.APPROVER,
        decision=Decision.WITHDRAW,
        digest=change.digest,
        now=NOW,
    )

    assert validities(change)["approver-two"] == "taken back"


def test_an_objection_shuts_the_gate_until_it_is_taken_back(change):
    """One person who asks for changes outweighs those who approved."""
    sign(change, crew.approver_one, crew.approver_two)
    sign(change, crew.approver_three, decision=Decision.REQUEST_CHANGES)
    shut = is_open(change)
    sign(change, crew.approver_three)

    assert (shut, is_open(change)) == (False, True)


# --- drift: each part of the digest ----------------------------------------------------------------------------------
def test_editing_the_content_voids_every_sign_off(canary):
    """They were given for another plan."""
    sign(canary.change, crew.approver_one, crew.approver_two)
    change_plan(canary=canary, unit="tenant", stages=canary.stages, actor=crew.owner, now=NOW)

    assert set(validities(canary.change).values()) == {"void"}


def test_another_live_version_voids_every_sign_off(canary):
    """They were given for a comparison with what was live then."""
    sign(canary.change, crew.approver_one, crew.approver_two)
    make_live_version(canary.prompt, "Something else")

    assert set(validities(canary.change).values()) == {"void"}


def test_another_policy_rule_voids_every_sign_off(change):
    """They were given under the rule of the day, its validity included."""
    sign(change, crew.approver_one, crew.approver_two)
    change_policy(rules_of_built_in(tone_valid_hours=10))

    assert set(validities(change).values()) == {"void"}


def test_a_policy_that_changes_other_rules_voids_nothing(change):
    """The digest carries the one rule that speaks of the change."""
    sign(change, crew.approver_one, crew.approver_two)
    change_policy([*rules_of_built_in(), {"name": "x", "kind": "prompt.live", "gates": {"apply": {"exec": 1}}}])

    assert is_open(change)


def test_a_drifted_change_is_signed_again_after_it_was_rebased(change):
    """Rebasing writes no content, so whoever does it may still sign."""
    sign(change, crew.approver_one, crew.approver_two)
    change_policy(rules_of_built_in(tone_valid_hours=10))
    with pytest.raises(Drifted):
        sign(change, crew.approver_one)
    rebase_change(change=change, actor=crew.approver_one, now=NOW)

    sign(change, crew.approver_one, crew.approver_two)

    assert is_open(change)


def test_a_sign_off_expires(change):
    """A week later nobody remembers what they read."""
    sign(change, crew.approver_one, crew.approver_two)

    assert is_open(change, now=NOW + timedelta(hours=168, microseconds=-1))
    assert validities(change, now=NOW + timedelta(hours=168)) == {
        "approver-one": "expired",
        "approver-two": "expired",
    }


def test_a_sign_off_is_worth_nothing_once_the_role_is_gone(change):
    """And counts again when it comes back: the word was given by somebody who may give it."""
    sign(change, crew.approver_one, crew.approver_two)
    grant = RoleGrant.objects.get(operator__username="approver-two")
    revoke_role(grant=grant, actor="setup", now=NOW)

    assert validities(change)["approver-two"] == "role lost"


def test_a_sign_off_of_somebody_locked_out_is_worth_nothing(change):
    """Who is not let in does not let anything through."""
    sign(change, crew.approver_one, crew.approver_two)
    set_operator_active(operator=crew.approver_two, active=False, actor="setup", now=NOW)

    assert validities(change)["approver-two"] == "role lost"


def test_a_closed_change_is_not_signed(change):
    """Too late."""
    withdraw_change(change=change, actor=crew.owner, reason="no", now=NOW)

    with pytest.raises(ChangeClosed, match="withdrawn since 2026-03-04"):
        sign(change, crew.approver_one)


def test_rejected_content_is_not_amended_into_an_open_change(canary):
    """A rejection is remembered wherever the content turns up."""
    other = make_canary(canary.prompt, text="Ahoy")
    reject_change(change=other.change, actor=crew.approver_one, reason="rude", now=NOW)

    with pytest.raises(DigestRejected, match="rude"):
        amend_change(
            change=canary.change,
            content=canary.change.content,
            content_digest=other.candidate.digest,
            actor=crew.owner,
            now=NOW,
        )
