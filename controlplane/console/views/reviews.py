"""The inbox of changes that wait for people, and the one page on which a change is read and signed."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.accounts.models import Operator
from controlplane.accounts.roles import Role
from controlplane.approvals import operations, preparations
from controlplane.approvals.access import access_change, access_debt, actions_on, visible_changes, visible_debts
from controlplane.approvals.access import inbox as changes_for
from controlplane.approvals.models import ChangeRequest, ChangeState, Decision
from controlplane.approvals.operations import Examination
from controlplane.approvals.policy import Standing, Validity
from controlplane.audit.models import AuditEvent
from controlplane.console.eval_run_content import gate_section
from controlplane.console.forms.fields import ReasonForm
from controlplane.console.forms.reviews import BreakGlassForm, SignOffForm
from controlplane.console.lists import newest_page
from controlplane.console.requests import actor_of, refused_as_message, went_through
from controlplane.console.review_content import replay_of, review_content
from controlplane.console.threshold_content import REPLAYED
from controlplane.console.timeline import target_words, timeline
from controlplane.console.trial_content import trial_cards, trial_checklist
from controlplane.evals.access import VIEW as SEE_EVALS

PAGE_SIZE = 25


@login_required
@require_safe
def inbox(request: HttpRequest) -> HttpResponse:
    """Open changes, those that wait for the reader first; closed ones behind a tab."""
    now = timezone.now()
    operator = actor_of(request)
    closed = request.GET.get("show") == "closed"
    changes = visible_changes(operator)
    if closed:
        changes = changes.exclude(state=ChangeState.OPEN)
    else:
        # On the first page, not merely first on theirs.
        for_me = Exists(changes_for(operator).order_by().filter(pk=OuterRef("pk")))
        changes = changes.filter(state=ChangeState.OPEN).annotate(for_me=for_me)
    page = newest_page(request, changes, size=PAGE_SIZE, first="" if closed else "for_me")
    examined = operations.examine([change for change in page.rows if change.is_open], now=now)
    rows = [_inbox_row(change, examined.get(change.pk), operator) for change in page.rows]
    rows.sort(key=lambda row: not row["waits_for_me"])
    debts = list(visible_debts(operator).filter(reviewed_at__isnull=True))
    tabs = [
        {"label": "Open", "url": "?", "active": not closed},
        {"label": "Closed", "url": "?show=closed", "active": closed},
    ]
    context = {"rows": rows, "page": page, "tabs": tabs, "debts": debts, "now": now, "closed": closed}
    return render(request, "reviews/inbox.html", context)


@login_required
@require_safe
def review(request: HttpRequest, pk: int) -> HttpResponse:
    """One change, whole: what would be applied, how it reads, who signed what until when, and what happened."""
    return render(request, "reviews/review.html", _review_context(actor_of(request), pk, now=timezone.now()))


@login_required
@require_safe
def backtest(request: HttpRequest, pk: int) -> HttpResponse:
    """What the breaker thresholds that a change alters would have done; a page of its own, since it takes seconds."""
    change = access_change(actor_of(request), pk)
    context = {"change": change, "replays": replay_of(change, now=timezone.now()), "days": REPLAYED.days}
    return render(request, "reviews/backtest.html", context)


@login_required
@require_POST
def sign(request: HttpRequest, pk: int) -> HttpResponse:
    """Record the reader's word on the digest they were shown."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "sign_off")
    form = SignOffForm(request.POST, roles=_roles_held(operator, operations.examine_one(change, now=now)))
    if not form.is_valid():
        first = next(iter(form.errors.values()))[0]
        messages.error(request, f"Not signed: {first}")
        return redirect("review", pk=pk)
    data = form.cleaned_data
    signed = refused_as_message(
        request,
        lambda: operations.sign_off(
            change=change,
            operator=operator,
            role=Role(data["role"]),
            decision=Decision(data["decision"]),
            digest=data["digest"],
            comment=data["comment"],
            has_seen=data["has_seen"],
            now=now,
        ),
    )
    if signed is not None:
        words = {
            Decision.APPROVE: f"You signed CR-{pk} as {Role(data['role']).label.lower()}",
            Decision.REQUEST_CHANGES: f"You asked for changes to CR-{pk}",
            Decision.WITHDRAW: f"You took your sign-off of CR-{pk} back",
        }
        messages.success(request, words[Decision(data["decision"])])
    return redirect("review", pk=pk)


@login_required
@require_POST
def rebase(request: HttpRequest, pk: int) -> HttpResponse:
    """Take the digest anew after a drift, so that people can sign what would be applied now."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "carry")
    if (
        refused_as_message(request, lambda: operations.rebase_change(change=change, actor=operator, now=now))
        is not None
    ):
        messages.success(request, f"CR-{pk} now stands on what is in force; earlier sign-offs are void")
    return redirect("review", pk=pk)


@login_required
@require_POST
def apply(request: HttpRequest, pk: int) -> HttpResponse:
    """Carry out a change whose sign-offs are complete."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "carry")
    if refused_as_message(request, lambda: operations.apply_change(change=change, actor=operator, now=now)) is not None:
        messages.success(request, f"CR-{pk} is applied; {change.registered.follows}")
    return redirect("review", pk=pk)


@login_required
@require_POST
def reject(request: HttpRequest, pk: int) -> HttpResponse:
    """Close a change and remember its content as rejected."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "sign_off")
    form = ReasonForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say why; the reason is shown whenever somebody tries this content again")
    elif _is_carried_by_canary(change):
        messages.error(request, "A canary carries this change; roll the canary back or give it up instead")
    else:
        reason = form.cleaned_data["reason"]
        if went_through(
            request, lambda: operations.reject_change(change=change, actor=operator, reason=reason, now=now)
        ):
            messages.success(request, f"CR-{pk} is rejected, and its content is remembered")
    return redirect("review", pk=pk)


@login_required
@require_POST
def withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    """Close a change without a verdict."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "carry")
    form = ReasonForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say why; the reason is kept in the audit record")
    elif _is_carried_by_canary(change):
        messages.error(request, "A canary carries this change; give the canary up instead")
    else:
        reason = form.cleaned_data["reason"]
        if went_through(
            request, lambda: operations.withdraw_change(change=change, actor=operator, reason=reason, now=now)
        ):
            messages.success(request, f"CR-{pk} is withdrawn; it may be opened again")
    return redirect("review", pk=pk)


@login_required
@require_POST
def break_glass(request: HttpRequest, pk: int) -> HttpResponse:
    """Bypass the sign-offs of one change for a while, and owe a review."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "break_glass")
    form = BreakGlassForm(request.POST)
    if not form.is_valid():
        messages.error(request, "A bypass needs a reason, the id of the incident, and 1 to 240 minutes")
        return redirect("review", pk=pk)
    data = form.cleaned_data
    bypass = refused_as_message(
        request,
        lambda: operations.break_glass(
            change=change,
            actor=operator,
            reason=data["reason"],
            incident=data["incident"],
            lasts=timedelta(minutes=data["minutes"]),
            digest=data["digest"],
            now=now,
        ),
    )
    if bypass is not None:
        messages.warning(request, f"Glass broken until {bypass.lapses_at:%H:%M} UTC; somebody else must review it")
    return redirect("review", pk=pk)


@login_required
@require_POST
def review_debt(request: HttpRequest, pk: int) -> HttpResponse:
    """Pay the debt of a bypass: say what was found."""
    now = timezone.now()
    operator = actor_of(request)
    debt = access_debt(operator, pk)
    note = request.POST.get("reason", "")
    if went_through(request, lambda: operations.review_break_glass(debt=debt, reviewer=operator, note=note, now=now)):
        messages.success(request, f"The bypass of CR-{debt.change_id} is reviewed")
    return redirect("review", pk=debt.change_id)


# --- what the pages show ----------------------------------------------------------------------------------------------
def _review_context(operator: Operator, pk: int, *, now: datetime) -> dict[str, Any]:
    change = access_change(operator, pk, "view")
    examined = operations.examine_one(change, now=now)
    if not change.is_open:
        examined = examined.as_it_closed()
    current, gates = examined.current, examined.standings()
    held = _roles_held(operator, examined)
    allowed = actions_on(operator, change)
    acts = allowed if change.is_open else frozenset()
    is_contributor = operator.username in change.contributor_names
    by_canary = _is_carried_by_canary(change)
    sign_offs = list(change.sign_offs.all())
    debts = list(change.bypasses.all())
    content = review_content(change)
    cards = trial_cards(change, now=now)
    unmet = preparations.unmet(change) if change.is_open else []
    asked = gate_section(change, unmet, now=now)
    content["checklist"] = [*content["checklist"], *trial_checklist(cards), *asked.checklist]
    return {
        "change": change,
        "content": content,
        "trials": cards,
        "is_trying": any(card.is_running for card in cards),
        "may_try": bool(cards) and "carry" in acts,
        "evals": asked,
        "sees_evals": may(operator, SEE_EVALS),
        "may_run_evals": "carry" in acts and asked.can_run,
        "unmet": unmet,
        "to_see": preparations.to_see(change) if change.is_open else [],
        "stages_note": f"by {content['canary'].unit}" if content.get("canary") else "",
        "drifted": change.is_open and examined.is_drifted,
        "rule": current.rule,
        "bars": _bars(gates),
        "target": target_words(change.target),
        # Broken glass opens every gate too, for the digest that it was broken on.
        "all_open": all(standing.is_open for standing in gates)
        or any(debt.is_in_effect(now) and debt.digest == current.digest for debt in debts),
        "sign_form": SignOffForm(roles=held, initial={"digest": current.digest, "decision": Decision.APPROVE}),
        "current_digest": current.digest,
        "may_sign": "sign_off" in acts and bool(held) and not is_contributor,
        "may_apply": "carry" in acts and change.registered.apply is not None,
        "may_carry": "carry" in acts,
        "may_break": "break_glass" in acts and change.registered.lapse is not None,
        "may_reject": "sign_off" in acts and not is_contributor and not by_canary,
        "may_withdraw": "carry" in acts and not by_canary,
        "break_title": f"Break the glass on CR-{change.pk}",
        "reject_title": f"Reject CR-{change.pk}: {change.title}",
        "withdraw_title": f"Withdraw CR-{change.pk}: {change.title}",
        "signed_by_me": _has_signed(operator, gates),
        "is_contributor": is_contributor,
        "debts": debts,
        "may_review_debt": "review" in allowed and not is_contributor,
        "sign_offs": sign_offs,
        "events": timeline(AuditEvent.objects.filter(target=change.audit_name)[:30]),
        "now": now,
    }


def _bars(standings: list[Standing]) -> list[dict[str, Any]]:
    """One sign-off bar per set of seats: gates that ask the same people share one, named after all of them."""
    bars: list[dict[str, Any]] = []
    for standing in standings:
        bar = _gate(standing)
        same = next((other for other in bars if all(other[key] == bar[key] for key in _BAR_KEYS)), None)
        if same is None:
            bars.append(bar)
        else:
            same["names"].append(bar["name"])
    for bar in bars:
        names = sorted(bar["names"], key=_gate_order)
        label = ", and ".join(GATE_LABELS.get(name, name) for name in names)
        bar["label"] = label[:1].upper() + label[1:]
    return sorted(bars, key=lambda bar: min(_gate_order(name) for name in bar["names"]))


_BAR_KEYS = ("seats", "sentence", "is_open", "expires_at")


def _gate_order(name: str) -> int:
    return list(GATE_LABELS).index(name) if name in GATE_LABELS else len(GATE_LABELS)


def _gate(standing: Standing) -> dict[str, Any]:
    """A gate as the sign-off bar takes it: a seat per required person, filled in the order they signed."""
    seats = []
    counted = [s for s, validity in standing.signatures if validity is Validity.COUNTS]
    for requirement in standing.gate.requirements:
        signed = [s for s in counted if s.role == requirement.role]
        for index in range(max(requirement.count, len(signed))):
            by = signed[index] if index < len(signed) else None
            seats.append(
                {
                    "role": requirement.role.label,
                    "name": by.operator if by else "",
                    "at": by.signed_at if by else None,
                    "state": "signed" if by else "waiting",
                }
            )
    for signature, validity in standing.signatures:
        if validity not in {Validity.COUNTS, Validity.TAKEN_BACK}:
            state = "refused" if validity is Validity.CHANGES_REQUESTED else "void"
            why = "" if validity in {Validity.CHANGES_REQUESTED, Validity.VOID} else validity.value
            seats.append({"role": signature.role.label, "name": signature.operator, "state": state, "why": why})
    return {
        "name": standing.gate.name,
        "names": [standing.gate.name],
        "sentence": standing.sentence,
        "is_open": standing.is_open,
        "seats": seats,
        "expires_at": min((s.expires_at for s in counted), default=None),
    }


# In the order in which a change passes them.
GATE_LABELS = {
    "internal": "to start with internal users",
    "public": "to leave internal-only",
    "live": "to pass half of the public and to promote",
    "apply": "to apply",
}


def _inbox_row(change: ChangeRequest, examined: Examination | None, operator: Operator) -> dict[str, Any]:
    """One line of the inbox; `examined` None: the change is closed."""
    if examined is None:
        return {"change": change, "waits_for_me": False, "sentence": change.closing_note, "tone": "off"}
    standings = examined.standings()
    missing = {role for standing in standings for role in standing.missing}
    waits = (
        operator.username not in change.contributor_names
        and bool(missing & set(_roles_held(operator, examined)))
        and not _has_signed(operator, standings)
    )
    if examined.is_drifted:
        return {"change": change, "waits_for_me": waits, "sentence": "Drifted: sign-offs are void", "tone": "watch"}
    blocked = next((standing for standing in standings if not standing.is_open), None)
    sentence = blocked.sentence if blocked else "Every sign-off is there"
    return {"change": change, "waits_for_me": waits, "sentence": sentence, "tone": "watch" if blocked else "good"}


def _has_signed(operator: Operator, standings: list[Standing]) -> bool:
    return any(
        signature.operator == operator.username and validity is Validity.COUNTS
        for standing in standings
        for signature, validity in standing.signatures
    )


def _roles_held(operator: Operator, examined: Examination) -> list[Role]:
    """The roles that the reader could sign as: held on the target, those that the rule asks for first."""
    held = [role for role in Role if operator.holds(role, examined.target)]
    asked = {r.role for gate in examined.current.rule.gates.values() for r in gate.requirements}
    return sorted(held, key=lambda role: role not in asked)


def _is_carried_by_canary(change: ChangeRequest) -> bool:
    return hasattr(change, "canary")
