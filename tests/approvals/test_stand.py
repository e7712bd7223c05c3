from dataclasses import replace
from datetime import timedelta

import pytest

from controlplane.accounts.roles import Role
from controlplane.approvals.policy import Gate, Requirement, Signature, Validity, judge, stand
from tests.factories import NOW

TWO_AND_LEGAL = Gate("public", (Requirement(Role.APPROVER, 2), Requirement(Role.LEGAL, 1)))
GOOD = Signature("ann", Role.APPROVER, "approve", "d1", NOW + timedelta(hours=1), holds_role=True)


def signed(operator, role=Role.APPROVER, **changes):
    return replace(GOOD, operator=operator, role=role, **changes)


def standing(*signatures, contributors=("owner",), gate=TWO_AND_LEGAL):
    return stand(gate, signatures=signatures, digest="d1", contributors=frozenset(contributors), now=NOW)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Validity.COUNTS),
        ({"decision": "withdraw"}, Validity.TAKEN_BACK),
        ({"decision": "withdraw", "digest": "d0"}, Validity.TAKEN_BACK),
        ({"digest": "d0"}, Validity.VOID),
        ({"digest": "d0", "decision": "request_changes"}, Validity.VOID),
        ({"decision": "request_changes"}, Validity.CHANGES_REQUESTED),
        ({"decision": "request_changes", "holds_role": False}, Validity.CHANGES_REQUESTED),
        ({"decision": "approved"}, Validity.VOID),
        ({"operator": "owner"}, Validity.CONTRIBUTOR),
        ({"holds_role": False}, Validity.ROLE_LOST),
        ({"expires_at": NOW}, Validity.EXPIRED),
        ({"expires_at": NOW + timedelta(microseconds=1)}, Validity.COUNTS),
    ],
)
def test_a_signature_counts_or_says_why_not(changes, expected):
    """Each way in which a sign-off is worth nothing has a name that the page shows."""
    verdict = judge(replace(GOOD, **changes), digest="d1", contributors=frozenset({"owner"}), now=NOW)

    assert verdict is expected


@pytest.mark.parametrize(
    ("signatures", "missing"),
    [
        ([], {Role.APPROVER: 2, Role.LEGAL: 1}),
        ([signed("ann")], {Role.APPROVER: 1, Role.LEGAL: 1}),
        ([signed("ann"), signed("ben")], {Role.LEGAL: 1}),
        ([signed("ann"), signed("ben"), signed("lee", Role.LEGAL)], {}),
        ([signed("ann"), signed("ben"), signed("cy"), signed("lee", Role.LEGAL)], {}),
        ([signed("ann"), signed("ann"), signed("lee", Role.LEGAL)], {Role.APPROVER: 1}),
        ([signed("ann"), signed("owner"), signed("lee", Role.LEGAL)], {Role.APPROVER: 1}),
        ([signed("ann", Role.EXEC), signed("ben"), signed("lee", Role.LEGAL)], {Role.APPROVER: 1}),
    ],
)
def test_a_gate_counts_distinct_people_by_role(signatures, missing):
    """Two approvers are two people, neither of whom wrote it, and nobody stands in for another role."""
    found = standing(*signatures)

    assert found.missing == missing
    assert found.is_open == (not missing)


def test_an_objection_shuts_a_gate_that_has_all_its_signatures():
    """Whoever asks for changes is answered before anything moves."""
    found = standing(signed("ann"), signed("ben"), signed("lee", Role.LEGAL), signed("cy", decision="request_changes"))

    assert not found.is_open
    assert found.sentence == "Missing: changes requested by cy"


def test_a_gate_without_requirements_is_open():
    """Internal-only exposure asks nobody unless the policy says so, and an objection to it waits for the next gate."""
    found = standing(signed("cy", decision="request_changes"), gate=Gate("internal", ()))

    assert found.is_open
    assert found.sentence == "No sign-off is required"
