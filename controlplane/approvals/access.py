"""The only way a face gets a change request, a break-glass debt or an approval policy.

What a change asks for comes from its kind, and is asked on its target: this app knows no kind by name.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast, get_args

from django.core.exceptions import PermissionDenied
from django.db.models import BigIntegerField, F, JSONField, Model, OuterRef, Q, QuerySet, Subquery
from django.http import Http404
from guardian.shortcuts import get_objects_for_user
from psycopg.types.json import Jsonb

from controlplane.accounts.access import access, may, may_somewhere, refusal, require
from controlplane.accounts.models import Operator
from controlplane.approvals.kinds import Kind, all_kinds
from controlplane.approvals.models import (
    ApprovalPolicy,
    BreakGlass,
    BreakGlassQuerySet,
    ChangeRequest,
    ChangeRequestQuerySet,
    ChangeState,
    Decision,
    SignOff,
)
from controlplane.audit.operations import Named, name_of
from controlplane.compiled import compiled

# view: look at it. carry: withdraw, rebase or apply it, for who wrote part of it, may sign it or broke the glass on it.
Action = Literal["view", "sign_off", "carry", "break_glass", "review"]
PolicyPermission = Literal["view_approvalpolicy", "propose_policy"]
VIEW_POLICY = "approvals.view_approvalpolicy"
_GONE = "there is no such change request here, or you may not see it"


def access_change(operator: Operator, pk: int, action: Action = "view") -> ChangeRequest:
    """The change request, if the operator may see its target and do `action` there.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    change = ChangeRequest.objects.filter(pk=pk).first()
    if change is None:
        raise Http404(_GONE)
    target = change.target_object()
    if not _sees(operator, change, target):
        raise Http404(_GONE)
    if action != "view" and (lacking := _lacking(operator, change, action, target)):
        raise PermissionDenied(lacking)
    return change


def actions_on(operator: Operator, change: ChangeRequest) -> frozenset[Action]:
    """Everything `access_change` would let this operator do: what a page offers buttons for."""
    target = change.target_object()
    return frozenset(action for action in get_args(Action) if not _lacking(operator, change, action, target))


def _lacking(operator: Operator, change: ChangeRequest, action: Action, target: Model) -> str:
    """The sentence that says why not; empty when the operator may."""
    kind = change.registered
    if action == "view":
        return "" if _sees(operator, change, target) else refusal(kind.view_permission, target)
    if action == "carry":
        if operator.username in change.contributor_names or may(operator, kind.sign_off_permission, target):
            return ""
        # Who broke the glass must not have to wake the author up to use it.
        if change.bypasses.filter(actor=operator.username, ended_at__isnull=True).exists():
            return ""
        rule = f"CR-{change.pk} is carried on by who wrote part of it or may sign it"
        return f"{rule}; {refusal(kind.sign_off_permission, target)}"
    permission = {
        "sign_off": kind.sign_off_permission,
        "break_glass": kind.break_glass_permission,
        "review": kind.review_permission,
    }[action]
    if not permission:
        return f"nobody breaks the glass on a change of kind {kind.label!r}; it waits for its sign-offs"
    return "" if may(operator, permission, target) else refusal(permission, target)


def _sees(operator: Operator, change: ChangeRequest, target: Model) -> bool:
    kind = change.registered
    return may(operator, kind.view_permission, target) or (
        kind.seen is not None and ChangeRequest.objects.filter(_seen(operator, kind), pk=change.pk).exists()
    )


def visible_changes(operator: Operator) -> ChangeRequestQuerySet:
    """The changes whose target the operator may see; at most two queries per registered kind, however many changes."""
    rows = _changes_on(operator, lambda kind: kind.view_permission)
    for kind in all_kinds():
        if not may(operator, kind.view_permission):
            rows |= _seen(operator, kind)
    return ChangeRequest.objects.filter(rows)


def _seen(operator: Operator, kind: Kind) -> Q:
    """The changes of a kind that the operator may look at by the kind's own rule."""
    return Q(pk__in=[]) if kind.seen is None else Q(kind=kind.name, target__in=kind.seen(operator))


def inbox(operator: Operator) -> QuerySet[ChangeRequest]:
    """The open changes that wait for this operator's word: theirs to sign, written by others, not signed as they stand.

    Whether the policy still misses this operator's role is not asked here: that is worked out change by change.
    """
    changes = _changes_on(operator, lambda kind: kind.sign_off_permission)
    return _unanswered(changes, operator=operator.pk, own=[operator.username])


def _unanswered(changes: Q, *, operator: int, own: Sequence[str]) -> QuerySet[ChangeRequest]:
    """Those of the changes that wait for the word of the operator with this key, who wrote what these wrote."""
    word = SignOff.objects.filter(change=OuterRef("pk"), operator_id=operator).order_by("-id")
    return (
        ChangeRequest.objects.filter(changes)
        .filter(state=ChangeState.OPEN)
        .exclude(contributors__contains=own)
        .annotate(own_word=Subquery(word.values("decision")[:1]), own_digest=Subquery(word.values("digest")[:1]))
        .filter(Q(own_word__isnull=True) | Q(own_word=Decision.WITHDRAW) | ~Q(own_digest=F("digest")))
    )


def count_waiting(operator: Operator) -> int:
    """How many changes are in the operator's inbox; one query where permissions are held everywhere."""
    kinds = _held_everywhere(operator, lambda kind: kind.sign_off_permission)
    if kinds is None:
        return inbox(operator).count()
    return _waiting.count(kinds, operator=operator.pk, own=Jsonb([operator.username]))


@compiled(operator=BigIntegerField(), own=JSONField())
def _waiting(kinds: tuple[str, ...], *, operator: int, own: Any) -> QuerySet[ChangeRequest, Any]:
    return _unanswered(Q(kind__in=kinds), operator=operator, own=own).order_by().values("pk")


def _held_everywhere(operator: Operator, permission_of: Callable[[Kind], str]) -> tuple[str, ...] | None:
    """The kinds of change for which the operator holds the permission on everything; None: for some kind they hold it
    on single objects, so that no list of kinds says which changes are meant.
    """
    kinds = all_kinds()
    held = tuple(kind.name for kind in kinds if may(operator, permission_of(kind)))
    others = (kind for kind in kinds if kind.name not in held)
    return None if any(may_somewhere(operator, permission_of(kind)) for kind in others) else held


def _changes_on(operator: Operator, permission_of: Callable[[Kind], str]) -> Q:
    """The changes on whose target the operator holds the permission that `permission_of` names for their kind."""
    rows = Q(pk__in=[])
    names: dict[str, list[str]] = {}
    for kind in all_kinds():
        permission = permission_of(kind)
        if may(operator, permission):
            rows |= Q(kind=kind.name)
            continue
        if not may_somewhere(operator, permission):
            continue
        if permission not in names:
            held: QuerySet[Model] = get_objects_for_user(operator, permission, accept_global_perms=False)
            names[permission] = [name_of(thing) for thing in cast("Iterable[Named]", held)]
        rows |= Q(kind=kind.name, target__in=names[permission])
    return rows


def access_debt(operator: Operator, pk: int, action: Action = "review") -> BreakGlass:
    """A use of break-glass with its change; asked on the change's target."""
    debt = BreakGlass.objects.filter(pk=pk).first()
    if debt is None:
        raise Http404("there is no such bypass here, or you may not see it")
    debt.change = access_change(operator, debt.change_id, action)
    return debt


def visible_debts(operator: Operator) -> BreakGlassQuerySet:
    """The uses of break-glass on changes that the operator may see, each with its change."""
    return BreakGlass.objects.select_related("change").filter(
        change__in=visible_changes(operator).order_by().values("pk")
    )


def count_unpaid(operator: Operator) -> int:
    """How many visible bypasses nobody else has reviewed yet; one query where permissions are held everywhere."""
    kinds = _held_everywhere(operator, lambda kind: kind.view_permission)
    if kinds is None or any(kind.seen is not None and kind.name not in kinds for kind in all_kinds()):
        return visible_debts(operator).unpaid().count()
    return _unpaid.count(kinds)


@compiled()
def _unpaid(kinds: tuple[str, ...]) -> QuerySet[BreakGlass, Any]:
    return BreakGlass.objects.filter(change__kind__in=kinds).unpaid().order_by().values("pk")


def access_policy(
    operator: Operator, number: int, permission: PolicyPermission = "view_approvalpolicy"
) -> ApprovalPolicy:
    """One version of the approval policy; it has no narrower object than the deployment."""
    policy = ApprovalPolicy.objects.filter(number=number).first()
    return access(operator, policy, view=VIEW_POLICY, permission=f"approvals.{permission}")


def visible_policies(operator: Operator) -> QuerySet[ApprovalPolicy]:
    """Every version of the approval policy.

    Raises:
        PermissionDenied: the operator may not look at policies.
    """
    require(operator, VIEW_POLICY)
    return ApprovalPolicy.objects.all()


def require_proposer(operator: Operator) -> None:
    """Return if the operator may submit approval policies.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, "approvals.propose_policy")
