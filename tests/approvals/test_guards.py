"""The database's own refusals: what stands when somebody goes around every operation."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction

from controlplane.approvals.models import ApprovalPolicy, BreakGlass, ChangeRequest, SignOff
from controlplane.approvals.operations import Authorisation, reject_change, review_break_glass
from controlplane.approvals.policy import Gate, Standing
from controlplane.approvals.policy_kind import KIND
from controlplane.rollouts.models import Canary
from tests.factories import NOW, break_glass, crew, make_canary, run_canary, sign

pytestmark = pytest.mark.django_db

APPEND_ONLY = [
    "accounts_operator",  # DELETE only, and the name
    "approvals_approvalpolicy",
    "approvals_policyactivation",
    "approvals_rejecteddigest",
    "approvals_signoff",
    "audit_auditevent",
    "prompts_livechange",
    "prompts_promptversion",
    "releases_release",
    "routing_routingactivation",
    "routing_routingtable",
]
TOUCH = {
    "accounts_operator": "username = username || 'x'",
    "approvals_approvalpolicy": "rationale = 'x'",
    "approvals_policyactivation": "reason = 'x'",
    "approvals_rejecteddigest": "reason = 'x'",
    "approvals_signoff": "comment = 'x'",
    "audit_auditevent": "actor = 'x'",
    "prompts_livechange": "reason = 'x'",
    "prompts_promptversion": "rationale = 'x'",
    "releases_release": "reason = 'x'",
    "routing_routingactivation": "reason = 'x'",
    "routing_routingtable": "rationale = 'x'",
}


def refused(sql, *params, table="", assignment=""):
    """Whether the database refuses the statement, `{table}` and `{assignment}` filled in."""
    sql = sql.replace("{table}", table).replace("{assignment}", assignment)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql, params)
            assert cursor.rowcount, f"nothing to refuse: {sql}"
    except DatabaseError:
        return True
    return False


@pytest.fixture(scope="module", autouse=True)
def deployment(lasting):
    """A canary at 5 % with two sign-offs, a rejection elsewhere: a row in every table."""
    with lasting():
        canary = run_canary(2)
        reject_change(
            change=make_canary(canary.prompt, text="Ahoy").change, actor=crew.approver_one, reason="rude", now=NOW
        )


@pytest.fixture
def canary():
    return Canary.objects.with_parts().running().get()


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_records_are_never_changed_or_deleted(canary, table):
    """Whatever client it is that asks."""
    assert refused("UPDATE {table} SET {assignment}", table=table, assignment=TOUCH[table])
    assert refused("DELETE FROM {table}", table=table)


@pytest.mark.parametrize("table", ["approvals_changerequest", "approvals_breakglass", "rollouts_canary"])
def test_what_changes_state_is_never_deleted(canary, table):
    """Its history would go with it."""
    if table == "approvals_breakglass":
        break_glass(canary.change)

    assert refused("DELETE FROM {table}", table=table)


def insert_sign_off(change, operator, *, name=None, decision="approve"):
    return refused(
        "INSERT INTO approvals_signoff (change_id, operator_id, operator_name, role, decision, digest, comment,"
        " signed_at, expires_at) VALUES (%s, %s, %s, 'approver', %s, %s, '', now(), now() + interval '1 day')",
        change.pk,
        operator.pk,
        name or operator.username,
        decision,
        change.digest,
    )


def test_a_contributors_approval_is_refused_by_the_database(canary):
    """Neither through SQL nor through the ORM does an author approve their own work."""
    assert insert_sign_off(canary.change, crew.owner)
    with pytest.raises(DatabaseError), transaction.atomic():
        SignOff.objects.create(
            change=canary.change,
            operator=crew.owner,
            operator_name="owner",
            role="approver",
            decision="approve",
            digest=canary.change.digest,
            signed_at=NOW,
            expires_at=NOW,
        )


def test_nobody_signs_under_another_name(canary):
    """An author's row under an approver's name would pass for two people."""
    assert insert_sign_off(canary.change, crew.owner, name="approver-three")
    assert insert_sign_off(canary.change, crew.approver_three, name="owner", decision="request_changes")


def test_an_unknown_decision_is_refused_by_the_database(canary):
    """What the policy cannot read must not be there."""
    assert insert_sign_off(canary.change, crew.approver_three, decision="approved")


@pytest.mark.parametrize(
    "assignment",
    [
        "author = 'mallory'",
        "contributors = '[]'",
        "kind = 'prompt.live'",
        "target = 'prompt:other'",
    ],
)
def test_a_change_keeps_its_authors_and_its_aim(canary, assignment):
    """Who wrote it decides who may sign it; contributors only ever join."""
    assert refused("UPDATE approvals_changerequest SET {assignment}", assignment=assignment)


def test_a_closed_change_is_a_record(canary):
    """It is neither reopened nor given other content."""
    change = make_canary(canary.prompt, text="Aye").change
    reject_change(change=change, actor=crew.approver_one, reason="rude", now=NOW)

    assert refused("UPDATE approvals_changerequest SET state = 'open' WHERE id = %s", change.pk)
    assert refused("UPDATE approvals_changerequest SET content = '{}' WHERE id = %s", change.pk)


@pytest.mark.parametrize(
    "assignment",
    [
        "lapses_at = lapses_at + interval '1 day'",
        "digest = 'x'",
        "actor = 'approver-one'",
        "review_due_at = now() + interval '1 year'",
        "reviewed_by = actor, reviewed_at = now()",
        "reason = ''",
    ],
)
def test_the_terms_of_a_bypass_are_fixed(canary, assignment):
    """Above all the time at which it lapses, and that nobody reviews their own."""
    break_glass(canary.change)

    assert refused("UPDATE approvals_breakglass SET {assignment}", assignment=assignment)


def test_a_review_is_not_taken_back(canary):
    """A debt that was paid stays paid, by whom it was."""
    debt = break_glass(canary.change)
    review_break_glass(debt=debt, reviewer=crew.approver_one, note="right", now=NOW)

    assert refused("UPDATE approvals_breakglass SET reviewed_at = NULL WHERE id = %s", debt.pk)
    assert refused("UPDATE approvals_breakglass SET reviewed_by = 'owner' WHERE id = %s", debt.pk)
    with pytest.raises(DatabaseError), transaction.atomic():
        BreakGlass.objects.filter(pk=debt.pk).update(lapses_at=NOW + timedelta(days=9))


def test_a_policy_row_written_by_hand_is_not_activated_when_unsound(canary):
    """The rules are read again at the moment they are put in force."""
    policy = ApprovalPolicy.objects.create(
        number=99, rules=[{"name": "x"}], digest="d", author="mallory", rationale="r", created_at=NOW
    )
    change = ChangeRequest(content={"number": 99, "digest": "d"}, reason="r")
    authorisation = Authorisation("d", Standing(Gate("apply", ()), (), {}, ()), None)

    with pytest.raises(Exception, match=r"rules\[0\]|call the operation"):
        KIND.apply(change, authorisation=authorisation, actor=crew.admin, now=NOW)
    assert policy.activations.count() == 0


def test_signatures_from_the_operation_pass_the_same_guards(canary):
    """The guards refuse forgeries, not people."""
    assert sign(make_canary(canary.prompt, text="Aye").change, crew.approver_one)
