"""People, the tenants they serve, and the credentials of both."""

import hashlib
from datetime import datetime
from typing import Any, ClassVar

import pgtrigger
from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.functional import cached_property

from controlplane.accounts.roles import Role
from controlplane.compiled import compiled
from dataplane.access import IDEMPOTENCY_HOURS


def hash_secret(secret: str) -> str:
    """SHA-256 in hex. Enough for keys of 256 random bits; never used for a password that a person chose."""
    return hashlib.sha256(secret.encode()).hexdigest()


class OperatorManager(UserManager["Operator"]):
    """Makes operators; never one above the rules."""

    def create_superuser(self, *args: Any, **kwargs: Any) -> "Operator":
        """Refuse.

        Raises:
            ValidationError: always; `manage.py createsuperuser` shows its text.
        """
        raise ValidationError("nobody is above the roles here; make the first admin with: manage.py create_admin")


class Operator(AbstractUser):
    """Somebody who works at the console. `username` is how the record knows them, for ever: it is never reassigned."""

    objects: ClassVar[OperatorManager] = OperatorManager()

    class Meta:
        ordering: ClassVar = ["username"]
        permissions: ClassVar = [("manage_access", "Can grant and revoke roles, tokens and operators")]
        constraints: ClassVar = [
            # Django lets a superuser pass every permission check unasked and unrecorded.
            models.CheckConstraint(condition=Q(is_superuser=False), name="nobody_is_above_the_roles"),
        ]
        triggers: ClassVar = [
            # The name is how authors and approvers are told apart: another one would let somebody approve themselves.
            pgtrigger.Protect(
                name="name_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__username__df=pgtrigger.F("new__username")),
            ),
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
        ]

    def __str__(self) -> str:
        return self.username

    @property
    def audit_name(self) -> str:
        return self.username

    @property
    def display_name(self) -> str:
        return self.get_full_name() or self.username

    @cached_property
    def role_grants(self) -> list["RoleGrant"]:
        """This operator's grants, read once per instance."""
        if "grants" in getattr(self, "_prefetched_objects_cache", ()):  # of many operators at once
            return list(self.grants.all())
        grants = _grants_of(operator=self.pk)
        for grant in grants:
            grant.operator = self
        return grants

    @cached_property
    def object_permissions(self) -> frozenset[tuple[int, str, str]]:
        """guardian's rows of this operator (content type, key, codename), read once per instance."""
        rows = self.userobjectpermission_set.values_list("content_type_id", "object_pk", "permission__codename")
        return frozenset(rows)

    def holds(self, role: Role | str, target: models.Model) -> bool:
        """Whether the role was granted to this operator on `target` or on everything."""
        content_type = ContentType.objects.get_for_model(target)
        return any(
            grant.role == role
            and (
                grant.content_type_id is None
                or (grant.content_type_id == content_type.pk and grant.object_id == target.pk)
            )
            for grant in self.role_grants
        )


class RoleGrant(models.Model):
    """One role, to one person, on one object or (no object) on everything. The guardian rows follow from these."""

    operator = models.ForeignKey(Operator, on_delete=models.CASCADE, related_name="grants")
    role = models.CharField(max_length=20, choices=[(role.value, role.label) for role in Role])
    content_type = models.ForeignKey(ContentType, null=True, blank=True, on_delete=models.CASCADE)
    object_id = models.BigIntegerField(null=True, blank=True)
    target = GenericForeignKey("content_type", "object_id")
    granted_by = models.CharField(max_length=150)
    granted_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["operator__username", "role"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["operator", "role", "content_type", "object_id"], name="one_grant", nulls_distinct=False
            ),
            models.CheckConstraint(
                condition=Q(content_type__isnull=True, object_id__isnull=True)
                | Q(content_type__isnull=False, object_id__isnull=False),
                name="grant_names_a_whole_object",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.operator} is {self.role} on {self.target_name}"

    @property
    def target_name(self) -> str:
        """The object's audit name, or 'everything'."""
        return getattr(self.target, "audit_name", "everything")


@compiled(operator=models.BigIntegerField())
def _grants_of(*, operator: int) -> models.QuerySet[RoleGrant]:
    return RoleGrant.objects.filter(operator_id=operator)


class Tier(models.TextChoices):
    VIP = "vip", "VIP"
    STANDARD = "standard", "Standard"
    FREE = "free", "Free"


class Tenant(models.Model):
    """A customer whose applications call the gateway."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    tier = models.CharField(max_length=10, choices=Tier.choices, default=Tier.STANDARD)
    residency = models.JSONField(
        default=list, blank=True, help_text="Residency zones its bytes may reach, such as ['eu']; empty: anywhere"
    )
    region = models.CharField(
        max_length=40, blank=True, help_text="Home region; empty: the region of the gateway it calls"
    )
    is_internal = models.BooleanField(
        default=False, help_text="Internal tenants are the audience of internal-only stages"
    )
    log_content = models.BooleanField(default=False, help_text="Whether prompts and answers may be logged (rule 11)")
    idempotency_hours = models.PositiveSmallIntegerField(
        default=IDEMPOTENCY_HOURS[0],
        validators=[MinValueValidator(IDEMPOTENCY_HOURS[0]), MaxValueValidator(IDEMPOTENCY_HOURS[1])],
        help_text="For how many hours its idempotency keys, and the answers given under them, are remembered",
    )

    class Meta:
        ordering: ClassVar = ["slug"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(idempotency_hours__range=IDEMPOTENCY_HOURS), name="idempotency_hours_in_range"
            ),
        ]
        permissions: ClassVar = [
            ("manage_keys", "Can issue and revoke the tenant's API keys"),
            ("view_usage", "Can see the tenant's usage and bills"),
            ("read_content", "Can read what the tenant's users were answered"),
            ("complete_repair", "Can complete answers to the tenant that nothing could repair"),
            ("view_deadletter", "Can see the tenant's dead letters"),
            ("redrive_deadletter", "Can redrive the tenant's dead letters"),
            ("decide_deadletter", "Can resolve, discard and reopen the tenant's dead letters"),
            ("hold_deadletter", "Can put the tenant's dead letters on legal hold"),
            ("erase_subject", "Can erase a data subject of the tenant"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def audit_name(self) -> str:
        return f"tenant:{self.slug}"


class CredentialQuerySet(models.QuerySet["ApiKey"]):
    def active(self) -> "CredentialQuerySet":
        """What releases carry: keys that were not revoked, and whose time was not found to be over."""
        return self.filter(revoked_at__isnull=True, lapsed_at__isnull=True)

    def over(self, now: datetime) -> "CredentialQuerySet":
        """Active keys whose time is over."""
        return self.active().filter(expires_at__lte=now)


class Standing(models.TextChoices):
    """How a credential stands."""

    ACTIVE = "active"
    ENDING = "ending"  # another took its place; both are good until its time is over
    ENDED = "ended"
    REVOKED = "revoked"


def _standing(credential: "ApiKey | OperatorToken", *, now: datetime, was_rotated: bool) -> Standing:
    if credential.revoked_at is not None:
        return Standing.REVOKED
    if credential.expires_at is not None and credential.expires_at <= now:
        return Standing.ENDED
    return Standing.ENDING if was_rotated else Standing.ACTIVE


class ApiKey(models.Model):
    """A tenant's key for the gateway: stored as a hash, shown once, revocable.

    `lapsed_at` is when it was noticed that its time, `expires_at`, is over: releases leave it out from then on.
    Gateways refuse it at `expires_at` itself, which every release says that carries it.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, help_text="The first characters, to tell keys apart")
    secret_hash = models.CharField(max_length=64, unique=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    lapsed_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    # One to one: what was rotated is not rotated again, the one that took its place is.
    replaces = models.OneToOneField("self", null=True, blank=True, on_delete=models.PROTECT, related_name="successor")

    objects = CredentialQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["tenant__slug", "-created_at"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(lapsed_at__isnull=True) | Q(lapsed_at__gte=F("expires_at")), name="key_lapses_at_its_end"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… of {self.tenant.slug}"

    @property
    def audit_name(self) -> str:
        return f"api-key:{self.prefix}"

    def standing(self, now: datetime) -> Standing:
        """How it stands; its row was fetched with `successor`."""
        return _standing(self, now=now, was_rotated=hasattr(self, "successor"))


class OperatorToken(models.Model):
    """An operator's token for the console API: stored as a hash, shown once, revocable; as good as its operator."""

    operator = models.ForeignKey(Operator, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)
    secret_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    replaces = models.OneToOneField("self", null=True, blank=True, on_delete=models.CASCADE, related_name="successor")

    class Meta:
        ordering: ClassVar = ["operator__username", "-created_at"]

    def __str__(self) -> str:
        return f"{self.prefix}… of {self.operator}"

    @property
    def audit_name(self) -> str:
        return f"operator-token:{self.prefix}"

    def standing(self, now: datetime) -> Standing:
        """How it stands; its row was fetched with `successor`."""
        return _standing(self, now=now, was_rotated=hasattr(self, "successor"))
