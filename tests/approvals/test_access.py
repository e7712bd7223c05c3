"""What waits for an operator is counted as the lists have it."""

import pytest

from controlplane.accounts.roles import Role, permissions_on
from controlplane.approvals.access import count_unpaid, count_waiting, inbox, visible_debts
from tests.factories import break_glass, make_canary, make_live_version, make_operator, make_prompt, make_tenant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

FITTING = [
    (role, scope)
    for role in Role
    for scope, model in (("everything", None), ("a prompt", "prompts.prompt"), ("a tenant", "accounts.tenant"))
    if model is None or permissions_on(role, model)
]


@pytest.mark.parametrize(("role", "scope"), FITTING)
def test_what_waits_is_counted_as_the_lists_have_it(role, scope):
    """The figures in the rail agree with the inbox and the list of debts, for every role on anything."""
    change = make_canary().change
    break_glass(change)
    another = make_prompt("another")
    make_live_version(another)
    make_canary(another)
    on = {"everything": None, "a prompt": change.target_object(), "a tenant": make_tenant("acme")}[scope]
    operator = make_operator("reader", role, on=on)

    waiting, unpaid = inbox(operator), visible_debts(operator).unpaid()

    assert (count_waiting(operator), count_unpaid(operator)) == (waiting.count(), unpaid.count())
    if scope == "a prompt" and role == Role.APPROVER:
        assert (waiting.count(), unpaid.count()) == (1, 1)
    if scope == "everything" and role == Role.APPROVER:
        assert waiting.count() >= 2
