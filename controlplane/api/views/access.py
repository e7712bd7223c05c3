"""People, roles, tenants and credentials over HTTP."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.contrib.auth.password_validation import validate_password
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts import operations
from controlplane.accounts.access import (
    access_grant,
    access_key,
    access_operator,
    access_own_token,
    access_tenant,
    access_token,
    require,
    visible_operators,
    visible_tenants,
    visible_tokens,
)
from controlplane.accounts.models import ApiKey, Operator, OperatorToken, RoleGrant, Tenant, Tier
from controlplane.accounts.operations import OVERLAP
from controlplane.accounts.roles import ROLES, Role
from controlplane.api.base import Nothing, OperatorView, Strict, describe, read
from controlplane.prompts.access import access_prompt
from dataplane.access import IDEMPOTENCY_HOURS

PEOPLE = "operators"
TENANTS = "tenants"
TOKENS = "tokens"


# --- people and roles ------------------------------------------------------------------------------------------------
class GrantRow(serializers.ModelSerializer[RoleGrant]):
    on = serializers.CharField(source="target_name", help_text="'everything', or an object such as 'prompt:x'")

    class Meta:
        model = RoleGrant
        fields: ClassVar = ["id", "role", "on", "granted_by", "granted_at"]


class OperatorRow(serializers.ModelSerializer[Operator]):
    name = serializers.CharField(source="display_name")
    grants = GrantRow(many=True)

    class Meta:
        model = Operator
        fields: ClassVar = ["username", "name", "email", "is_active", "last_login", "grants"]


class Me(OperatorRow):
    permissions = serializers.SerializerMethodField(help_text="What you hold on everything: 'app.codename'")

    class Meta(OperatorRow.Meta):
        fields: ClassVar = [*OperatorRow.Meta.fields, "permissions"]

    def get_permissions(self, operator: Operator) -> list[str]:
        return sorted(operator.get_all_permissions())


class RoleRow(serializers.Serializer[Any]):
    role = serializers.CharField()
    title = serializers.CharField()
    summary = serializers.CharField()
    everywhere = serializers.ListField(child=serializers.CharField(), help_text="Held only when granted on everything")
    on_object = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField()), help_text="Model -> what it gives on one object"
    )


class NewOperator(Strict):
    username = serializers.RegexField(r"^[\w.@+-]{1,150}$", help_text="How the record knows them, for ever")
    email = serializers.EmailField()
    password = serializers.CharField(
        required=False, allow_null=True, default=None, write_only=True, help_text="Left out: single sign-on only"
    )

    def validate_password(self, value: str | None) -> str | None:
        if value is not None:
            validate_password(value)
        return value


class NewGrant(Strict):
    role = serializers.ChoiceField([(role.value, role.label) for role in Role])
    prompt = serializers.SlugField(required=False, help_text="Only on this prompt")
    tenant = serializers.SlugField(required=False, help_text="Only on this tenant; neither: on everything")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "prompt" in attrs and "tenant" in attrs:
            raise serializers.ValidationError("name a prompt or a tenant, not both")
        return attrs


class MeView(OperatorView):
    @describe("me_retrieve", "Who you are here, and what you may do", tag=PEOPLE, gives=Me, refuses=())
    def get(self, request: Request) -> Response:
        return Response(Me(_with_grants(self.operator.pk)).data)


class Roles(OperatorView):
    @describe("roles_list", "The roles and what each gives", tag=PEOPLE, gives=RoleRow(many=True), refuses=())
    def get(self, request: Request) -> Response:
        return Response(
            [
                {
                    "role": role.value,
                    "title": role.label,
                    "summary": definition.summary,
                    "everywhere": sorted(definition.everywhere),
                    "on_object": {label: sorted(names) for label, names in definition.on_object.items()},
                }
                for role, definition in ROLES.items()
            ]
        )


class Operators(OperatorView):
    @describe("operators_list", "Who works here", tag=PEOPLE, pages_of=OperatorRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_operators(self.operator).prefetch_related("grants__target"), OperatorRow)

    @describe(
        "operators_create",
        "Create an operator without any role",
        tag=PEOPLE,
        takes=NewOperator,
        gives=OperatorRow,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, "accounts.manage_access")
        operator = operations.create_operator(**read(NewOperator, request), actor=self.operator, now=now)
        return Response(OperatorRow(operator).data, status=201)


class OneOperator(OperatorView):
    @describe("operators_retrieve", "One operator", tag=PEOPLE, gives=OperatorRow, refuses=(404,))
    def get(self, request: Request, username: str) -> Response:
        return Response(OperatorRow(_with_grants(access_operator(self.operator, username).pk)).data)


class _SetActive(OperatorView):
    active: ClassVar[bool]

    def set_active(self, request: Request, username: str, *, now: datetime) -> Response:
        operator = access_operator(self.operator, username, "manage_access")
        read(Nothing, request)
        operations.set_operator_active(operator=operator, active=self.active, actor=self.operator, now=now)
        return Response(OperatorRow(_with_grants(operator.pk)).data)


class ActivateOperator(_SetActive):
    active = True

    @describe("operators_activate", "Let an operator in again", tag=PEOPLE, takes=Nothing, gives=OperatorRow)
    def post(self, request: Request, username: str) -> Response:
        return self.set_active(request, username, now=timezone.now())


class DeactivateOperator(_SetActive):
    active = False

    @describe("operators_deactivate", "Lock an operator out at once", tag=PEOPLE, takes=Nothing, gives=OperatorRow)
    def post(self, request: Request, username: str) -> Response:
        return self.set_active(request, username, now=timezone.now())


class Grants(OperatorView):
    @describe(
        "operators_grant",
        "Grant a role on everything, on one prompt or on one tenant; granting it twice is granting it once",
        tag=PEOPLE,
        takes=NewGrant,
        gives=GrantRow,
        status=201,
    )
    def post(self, request: Request, username: str) -> Response:
        now = timezone.now()
        operator = access_operator(self.operator, username, "manage_access")
        body = read(NewGrant, request)
        target: Any = None
        if "prompt" in body:
            target = access_prompt(self.operator, body["prompt"])
        elif "tenant" in body:
            target = access_tenant(self.operator, body["tenant"])
        grant = operations.grant_role(
            operator=operator, role=Role(body["role"]), target=target, actor=self.operator, now=now
        )
        return Response(GrantRow(grant).data, status=201)


class RevokeGrant(OperatorView):
    @describe("role_grants_revoke", "Take a role back", tag=PEOPLE, takes=Nothing, status=204)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        grant = access_grant(self.operator, pk)
        read(Nothing, request)
        operations.revoke_role(grant=grant, actor=self.operator, now=now)
        return Response(status=204)


def _with_grants(pk: int) -> Operator:
    return Operator.objects.prefetch_related("grants__target").get(pk=pk)


# --- tenants and their keys ------------------------------------------------------------------------------------------
class TenantRow(serializers.ModelSerializer[Tenant]):
    residency = serializers.ListField(child=serializers.CharField(), help_text="Zones its bytes may reach; []: any")

    class Meta:
        model = Tenant
        fields: ClassVar = [
            "slug",
            "name",
            "tier",
            "residency",
            "region",
            "is_internal",
            "log_content",
            "idempotency_hours",
        ]


class TenantChange(Strict):
    name = serializers.CharField(max_length=100, required=False)
    tier = serializers.ChoiceField(Tier.choices, required=False)
    residency = serializers.ListField(child=serializers.SlugField(), required=False)
    region = serializers.CharField(max_length=40, required=False, allow_blank=True)
    is_internal = serializers.BooleanField(required=False)
    log_content = serializers.BooleanField(required=False)
    idempotency_hours = serializers.IntegerField(
        required=False, min_value=IDEMPOTENCY_HOURS[0], max_value=IDEMPOTENCY_HOURS[1]
    )


class NewTenant(TenantChange):
    slug = serializers.SlugField(max_length=50)
    name = serializers.CharField(max_length=100)


class KeyRow(serializers.ModelSerializer[ApiKey]):
    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)

    class Meta:
        model = ApiKey
        fields: ClassVar = [
            "id",
            "tenant",
            "name",
            "prefix",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "replaces",
        ]


class IssuedKey(KeyRow):
    secret = serializers.CharField(help_text="Shown this once and stored nowhere")

    class Meta(KeyRow.Meta):
        fields: ClassVar = [*KeyRow.Meta.fields, "secret"]


class Rotation(Strict):
    overlap_seconds = serializers.IntegerField(
        required=False,
        default=7 * 86_400,
        min_value=int(OVERLAP[0].total_seconds()),
        max_value=int(OVERLAP[1].total_seconds()),
        help_text="For how long the old one stays good beside the new one; 7 days unless told",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {"overlap": timedelta(seconds=attrs["overlap_seconds"])}


class NewKey(Strict):
    name = serializers.CharField(max_length=100, help_text="What it is for")


class Tenants(OperatorView):
    @describe("tenants_list", "Tenants that you may see", tag=TENANTS, pages_of=TenantRow, refuses=())
    def get(self, request: Request) -> Response:
        return self.page(visible_tenants(self.operator), TenantRow)

    @describe(
        "tenants_create",
        "Create a tenant; it can call the gateway once a key is issued",
        tag=TENANTS,
        takes=NewTenant,
        gives=TenantRow,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, "accounts.add_tenant")
        tenant = operations.create_tenant(**read(NewTenant, request), actor=self.operator, now=now)
        return Response(TenantRow(tenant).data, status=201)


class OneTenant(OperatorView):
    @describe("tenants_retrieve", "One tenant", tag=TENANTS, gives=TenantRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return Response(TenantRow(access_tenant(self.operator, slug)).data)

    @describe("tenants_change", "Change what is given", tag=TENANTS, takes=TenantChange, gives=TenantRow)
    def patch(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        tenant = access_tenant(self.operator, slug, "change_tenant")
        tenant = operations.change_tenant(tenant=tenant, **read(TenantChange, request), actor=self.operator, now=now)
        return Response(TenantRow(tenant).data)


class Keys(OperatorView):
    @describe("tenant_keys_list", "A tenant's API keys", tag=TENANTS, pages_of=KeyRow, refuses=(403, 404))
    def get(self, request: Request, slug: str) -> Response:
        tenant = access_tenant(self.operator, slug, "manage_keys")
        return self.page(tenant.api_keys.select_related("tenant"), KeyRow)

    @describe(
        "tenant_keys_issue",
        "Issue an API key; its secret is in this answer and nowhere else",
        tag=TENANTS,
        takes=NewKey,
        gives=IssuedKey,
        status=201,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        tenant = access_tenant(self.operator, slug, "manage_keys")
        issued = operations.issue_key(tenant=tenant, **read(NewKey, request), actor=self.operator, now=now)
        return _once(KeyRow(access_key(self.operator, issued.row.pk)).data, issued.secret)


class RotateKey(OperatorView):
    @describe(
        "keys_rotate",
        "Issue the API key that takes the place of another; its secret is in this answer and nowhere else",
        tag=TENANTS,
        takes=Rotation,
        gives=IssuedKey,
        status=201,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        key = access_key(self.operator, pk)
        issued = operations.rotate_key(key=key, **read(Rotation, request), actor=self.operator, now=now)
        return _once(KeyRow(access_key(self.operator, issued.row.pk)).data, issued.secret)


class RevokeKey(OperatorView):
    @describe("keys_revoke", "Revoke an API key", tag=TENANTS, takes=Nothing, gives=KeyRow)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        key = access_key(self.operator, pk)
        read(Nothing, request)
        operations.revoke_key(key=key, actor=self.operator, now=now)
        return Response(KeyRow(access_key(self.operator, pk)).data)


# --- operator tokens -------------------------------------------------------------------------------------------------
class TokenRow(serializers.ModelSerializer[OperatorToken]):
    operator = serializers.SlugRelatedField[Any](slug_field="username", read_only=True)

    class Meta:
        model = OperatorToken
        fields: ClassVar = [
            "id",
            "operator",
            "name",
            "prefix",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "replaces",
        ]


class IssuedToken(TokenRow):
    secret = serializers.CharField(help_text="Shown this once and stored nowhere")

    class Meta(TokenRow.Meta):
        fields: ClassVar = [*TokenRow.Meta.fields, "secret"]


class NewToken(Strict):
    name = serializers.CharField(max_length=100, help_text="What it is for")
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None, help_text="None: never")


class Tokens(OperatorView):
    @describe(
        "tokens_list",
        "Your tokens; everybody's if you manage access",
        tag=TOKENS,
        pages_of=TokenRow,
        refuses=(),
        parameters=[OpenApiParameter("operator", description="Username")],
    )
    def get(self, request: Request) -> Response:
        rows = visible_tokens(self.operator)
        if username := request.query_params.get("operator"):
            rows = rows.filter(operator__username=username)
        return self.page(rows, TokenRow)

    @describe(
        "tokens_issue",
        "Issue a token for yourself; its secret is in this answer and nowhere else",
        tag=TOKENS,
        takes=NewToken,
        gives=IssuedToken,
        status=201,
        refuses=(),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        body = read(NewToken, request)
        issued = operations.issue_token(operator=self.operator, **body, actor=self.operator, now=now)
        return _once(TokenRow(access_token(self.operator, issued.row.pk)).data, issued.secret)


class RotateToken(OperatorView):
    @describe(
        "tokens_rotate",
        "Issue the token that takes the place of one of yours; its secret is in this answer and nowhere else",
        tag=TOKENS,
        takes=Rotation,
        gives=IssuedToken,
        status=201,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        token = access_own_token(self.operator, pk)
        issued = operations.rotate_token(token=token, **read(Rotation, request), actor=self.operator, now=now)
        return _once(TokenRow(access_token(self.operator, issued.row.pk)).data, issued.secret)


class RevokeToken(OperatorView):
    @describe("tokens_revoke", "Revoke a token", tag=TOKENS, takes=Nothing, gives=TokenRow)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        token = access_token(self.operator, pk)
        read(Nothing, request)
        operations.revoke_token(token=token, actor=self.operator, now=now)
        return Response(TokenRow(access_token(self.operator, pk)).data)


def _once(row: Any, secret: str) -> Response:
    """A fresh credential; no cache between here and the caller may keep it."""
    return Response({**row, "secret": secret}, status=201, headers={"Cache-Control": "no-store"})
