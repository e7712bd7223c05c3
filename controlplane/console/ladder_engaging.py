"""The sheet that engages a rung: for whom, until when and why, and in one sentence what it would do to users."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.utils.text import capfirst

from controlplane.console.forms.ladder import USUAL_MINUTES, EngageForm
from controlplane.console.ladder_now import Readers, readers_of
from controlplane.console.ladder_signed import read_signed
from controlplane.console.ladder_words import clock, scope_shown, tiers_shown
from controlplane.console.wording import listed
from controlplane.ladder.effects import TIER_NAMES, Effect, effect_preview
from controlplane.ladder.models import RungActivation, RungMode
from controlplane.ladder.standing import live_activations
from controlplane.telemetry.surfaces import Confirmation, confirmation, traffic_share
from dataplane.access import TIERS
from dataplane.ladder.policy import MAINTENANCE, Ladder, Surface

# Two taps on the same button, however slow the line: the second finds what the first did.
_TWICE_WITHIN: Final = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Preview:
    """What engaging would do. `sentence` is all of it in one line; the rest is the same, for reading at leisure."""

    sentence: str
    effect: Effect
    readers: Readers
    until: datetime


def sheet(surface: Surface, number: int, form: EngageForm, *, now: datetime) -> dict[str, Any]:
    """The context of `ladder/_sheet.html`; without `preview` where the rung cannot be engaged."""
    known = read_signed(Ladder({surface.slug: surface}))
    rung = surface.rungs[number]
    missing = known.library.missing(surface, rung)
    context: dict[str, Any] = {
        "surface": surface,
        "rung": rung,
        "form": form,
        "missing": missing,
        "signers": known.signers[surface.regulated],
        "changes": [change for words in rung.words for change in known.changes.get(words, ())],
        "generated_at": now,
    }
    if not missing:
        scope, minutes = _chosen(form)
        until = now + timedelta(minutes=minutes)
        readers = readers_of(
            surface, number, scope_shown(scope["regions"], scope["tiers"]), known.book, until=until, now=now
        )
        context["preview"] = _preview(surface, number, scope, readers, until, now=now)
    return context


def engaged_already(
    slug: str,
    number: int,
    scope: Mapping[str, Sequence[str]],
    *,
    actor: str | None,
    now: datetime,
    minutes: int | None = None,
) -> RungActivation | None:
    """What stands for exactly these callers on this rung, so that a second tap has nothing to do; None: nothing.

    Args:
        minutes: Of a sheet that was sent: what somebody engaged a moment ago for another time is no second tap.
        actor: Who sent it; None: whoever engaged it.
    """
    for one in live_activations(now, surface=slug):
        if one.mode != RungMode.ENGAGE or one.rung != number:
            continue
        if not one.is_for(regions=scope["regions"], tiers=scope["tiers"]):
            continue
        if minutes is None:
            return one
        lasts = round((one.until - one.since) / timedelta(minutes=1))
        if one.actor == actor and now - one.at < _TWICE_WITHIN and lasts == minutes:
            return one
    return None


def confirmed(engaged: Sequence[RungActivation], *, now: datetime) -> Confirmation | None:
    """Who of the workers engaged the newest of these; None where nothing is engaged by hand."""
    newest = max(engaged, key=lambda one: one.pk, default=None)
    return None if newest is None else confirmation(newest, now=now)


def _chosen(form: EngageForm) -> tuple[dict[str, list[str]], int]:
    """What the form says, or what it says before anybody chooses."""
    if form.is_bound and form.is_valid():
        return form.scope(), int(form.cleaned_data["minutes"])
    return {"regions": [], "tiers": []}, USUAL_MINUTES


def _preview(
    surface: Surface,
    number: int,
    scope: Mapping[str, list[str]],
    readers: Readers,
    until: datetime,
    *,
    now: datetime,
) -> Preview:
    share = traffic_share(surface.slug, **scope, now=now).share
    effect = effect_preview(surface, number, **scope, share=share)
    of = f" of {surface.title}, {scope_shown(scope['regions'], scope['tiers'])}"
    parts = [
        capfirst(effect.touched) + ("" if share is None else of),
        _served_in_full(surface, number, scope["tiers"]),
        f"users read: “{readers.banner}”",
        f"ends {clock(until)}",
        "undo: Stand down",
    ]
    return Preview("; ".join(part for part in parts if part), effect, readers, until)


def _served_in_full(surface: Surface, number: int, tiers: Sequence[str]) -> str:
    if number >= MAINTENANCE:
        return "nobody is exempt"
    named = []
    for tier in TIER_NAMES:
        promise = surface.promises.get(tier)
        if tier in (tiers or TIERS) and promise is not None and promise.reserved_concurrency.value:
            places = f"{promise.reserved_concurrency.value:,.0f}"
            named.append(f"{tiers_shown([tier])} served in full up to {places} at once")
    return listed(named) if named else "nobody has reserved places"
