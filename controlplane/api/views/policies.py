"""Approval policies over HTTP."""

from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Reason, Strict, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.approvals import operations
from controlplane.approvals.access import access_policy, require_proposer, visible_policies
from controlplane.approvals.models import ApprovalPolicy, PolicyActivation
from controlplane.approvals.policy_kind import propose_policy

TAG = "policies"


class PolicyRow(serializers.ModelSerializer[ApprovalPolicy]):
    rules = serializers.ListField(
        child=serializers.DictField(),
        help_text="First match wins: [{'name', 'kind', 'when': {fact: [value]}, 'gates': {gate: {role: count}}}, …]",
    )
    is_in_force = serializers.SerializerMethodField()

    class Meta:
        model = ApprovalPolicy
        fields: ClassVar = ["number", "rules", "digest", "author", "rationale", "created_at", "is_in_force"]

    def get_is_in_force(self, policy: ApprovalPolicy) -> bool:
        return bool(policy.pk == self.context["active"])


class NewPolicy(Strict):
    rules = serializers.JSONField()
    rationale = serializers.CharField(max_length=5000)


class Policies(OperatorView):
    @describe("policies_list", "Approval policies, newest first", tag=TAG, pages_of=PolicyRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_policies(self.operator), PolicyRow, active=_active())

    @describe(
        "policies_submit",
        "Submit an immutable approval policy; it is in force once its change request is applied",
        tag=TAG,
        takes=NewPolicy,
        gives=PolicyRow,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_proposer(self.operator)
        policy = operations.submit_policy(**read(NewPolicy, request), actor=self.operator, now=now)
        return Response(PolicyRow(policy, context={"active": _active()}).data, status=201)


class OnePolicy(OperatorView):
    @describe("policies_retrieve", "One approval policy", tag=TAG, gives=PolicyRow, refuses=(404,))
    def get(self, request: Request, number: int) -> Response:
        return Response(PolicyRow(access_policy(self.operator, number), context={"active": _active()}).data)


class ProposePolicy(OperatorView):
    @describe(
        "policies_propose",
        "Open the change request that would put a policy in force",
        tag=TAG,
        takes=Reason,
        gives=ChangeRow,
        status=201,
    )
    def post(self, request: Request, number: int) -> Response:
        now = timezone.now()
        policy = access_policy(self.operator, number, "propose_policy")
        change = propose_policy(policy=policy, **read(Reason, request), actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)


def _active() -> Any:
    activation = PolicyActivation.objects.first()
    return activation.policy_id if activation else None
