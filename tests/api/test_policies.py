import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.approvals.models import ApprovalPolicy, ChangeRequest
from tests.factories import built_in_rules, crew, make_operator, make_policy, sign

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def deployment():
    make_policy()


def stricter():
    rules = built_in_rules()
    rules[2] = {**rules[2], "gates": {"public": {"approver": 2}, "live": {"approver": 3}}}
    return rules


def test_policy_changes_by_its_own_rules(as_operator):
    """Proposed by one admin, signed by another and two approvers, applied; then it is in force."""
    admin = as_operator(crew.admin)

    submitted = admin.post("policies", {"rules": stricter(), "rationale": "an incident"})
    proposed = admin.post(f"policies/{submitted.body['number']}/propose", {"reason": "an incident"})
    change = ChangeRequest.objects.get(pk=proposed.body["id"])
    sign(change, crew.approver_one, crew.approver_two, now=timezone.now())
    sign(change, make_operator("second-admin", Role.ADMIN), role=Role.ADMIN, now=timezone.now())
    applied = admin.post(f"changes/{change.pk}/apply")

    assert (submitted.status, submitted.body["is_in_force"]) == (201, False)
    assert applied.status == 200
    assert [row["is_in_force"] for row in admin.get("policies").body["results"]] == [True, False]


def test_malformed_policy_names_the_place(as_operator):
    """A rule for a role that does not exist is refused, and nothing is stored."""
    rules = stricter()
    rules[0] = {**rules[0], "gates": {"public": {"wizard": 1}}}

    answer = as_operator(crew.admin).post("policies", {"rules": rules, "rationale": "why"})

    assert (answer.status, answer.body["error"]["code"]) == (400, "malformed_policy")
    assert "rules[0].gates.public" in answer.body["error"]["message"]
    assert ApprovalPolicy.objects.count() == 1


def test_list_takes_a_fixed_number_of_queries(as_operator, queries):
    """However many policies there are."""
    admin = as_operator(crew.admin)
    admin.get("policies")
    before = queries(lambda: admin.get("policies"))
    admin.post("policies", {"rules": stricter(), "rationale": "why"})

    assert queries(lambda: admin.get("policies")) == before
