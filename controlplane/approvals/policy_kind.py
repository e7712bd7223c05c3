"""The kind of change that changes how changes are approved."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from controlplane.accounts.models import Operator
from controlplane.approvals import operations
from controlplane.approvals.kinds import POLICY_KIND, Kind, Surveyed
from controlplane.approvals.models import ApprovalPolicy, ChangeRequest

NAME = POLICY_KIND
TARGET = "approval-policy"


def propose_policy(*, policy: ApprovalPolicy, reason: str, actor: Operator, now: datetime) -> ChangeRequest:
    """Open the change request that would put `policy` in force."""
    return operations.open_change(
        kind=NAME,
        target=TARGET,
        title=f"Approval policy {policy.number}",
        content={"number": policy.number, "digest": policy.digest},
        content_digest=policy.digest,
        reason=reason,
        actor=actor,
        contributors=[policy.author],
        now=now,
    )


def _survey(targets: Iterable[str]) -> dict[str, Surveyed]:
    policy = operations.active_policy()
    surveyed = Surveyed({"number": policy.number, "digest": policy.digest}, policy)
    return dict.fromkeys(targets, surveyed)


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _apply(change: ChangeRequest, *, authorisation: operations.Authorisation, actor: Any, now: datetime) -> None:
    policy = ApprovalPolicy.objects.get(number=change.content["number"], digest=change.content["digest"])
    operations.activate_policy(policy, actor=actor, reason=f"CR-{change.pk}: {change.reason}", now=now)


KIND = Kind(
    name=NAME,
    label="Approval policy",
    survey=_survey,
    facts=_facts,
    view_permission="approvals.view_approvalpolicy",
    sign_off_permission="approvals.sign_off_policy",
    break_glass_permission="",
    review_permission="",
    apply=_apply,
    follows="it decides who signs what from now on",
)
