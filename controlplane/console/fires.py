"""What is on fire: everything that somebody should look at now, worst first. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from django.urls import reverse

from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.console.corpus_content import CorpusRow
from controlplane.console.deadletter_content import burn_words
from controlplane.console.ladder_now import SurfaceNow
from controlplane.console.lane_content import OpenLane, lane_url
from controlplane.console.quota_content import seconds_words, waiting_words
from controlplane.console.templatetags.ballast import in_words
from controlplane.console.wording import listed
from controlplane.deadletters.burn import Burn
from controlplane.releases.fleet import FleetPage
from controlplane.releases.models import Convergence
from controlplane.rollouts.models import Canary
from controlplane.telemetry.quotas import QuotaStanding
from controlplane.telemetry.traffic import LaneHealth
from controlplane.verdicts.models import CanaryWatch
from controlplane.verdicts.watching import STALE_AFTER
from dataplane.ladder.policy import NO_TOOLS, OFF

# A lane is on fire from this share of failed attempts on, once there were enough for the share to mean something.
FAILURE_RATE: Final = 0.05
MIN_ATTEMPTS: Final = 20
# People who wait so long for an account's quota are somebody's to look at; a moment in a queue is what it is there for.
LONG_WAIT_SECONDS: Final = 3.0
# So many workers that refuse are named, each with its reason; the others are counted.
_MOST_REFUSED: Final = 5


@dataclass(frozen=True, slots=True)
class Fire:
    """One thing to look at. `text` says what and why, `url` leads to where something can be done about it."""

    tone: Literal["bad", "watch"]
    title: str
    text: str
    url: str
    act: str


def fires(
    *,
    fleet: FleetPage | None,
    lanes: Iterable[LaneHealth],
    opened: Iterable[OpenLane],
    quotas: Iterable[QuotaStanding],
    debts: Iterable[BreakGlass],
    drifted: Iterable[ChangeRequest],
    now: datetime,
    burning: Iterable[Burn] = (),
    canaries: Iterable[Canary] = (),
    surfaces: Iterable[SurfaceNow] = (),
    corpora: Iterable[CorpusRow] = (),
) -> list[Fire]:
    """Everything that burns, bad before watch; in the order workers, ladders, open lanes, failing lanes, accounts,
    corpora, dead letters, canaries, debts, changes.

    Args:
        fleet: None when the reader may not look at it.
        drifted: Open changes whose sign-offs are void because what they stand on has moved.
        canaries: With their watch: those that run, and those that were rolled back by themselves lately.
    """
    shut = list(opened)
    known = {one.lane for one in shut}
    found = [
        *(_workers(fleet) if fleet is not None else ()),
        *_ladders(surfaces),
        *_opened(shut),
        # That an open lane failed until it opened is no second fire.
        *_lanes(lane for lane in lanes if lane.lane not in known),
        *_accounts(quotas),
        *_corpora(corpora),
        *_letters(burning),
        *_canaries(canaries, now=now),
        *_debts(debts, now=now),
        *_drifted(drifted),
    ]
    return sorted(found, key=lambda fire: fire.tone != "bad")


def _canaries(canaries: Iterable[Canary], *, now: datetime) -> Iterable[Fire]:
    for canary in canaries:
        name, url = f"{canary.prompt.slug} v{canary.candidate.number}", canary.get_absolute_url()
        if canary.end_evidence is not None and canary.ended_at is not None:
            title = f"{name} was rolled back by itself {in_words(canary.ended_at - now)}"
            yield Fire("watch", title, canary.end_reason.removesuffix("."), url, "Canary")
            continue
        watch: CanaryWatch | None = getattr(canary, "watch", None)
        if canary.guardrails is None or watch is None:
            continue
        if now - watch.looked_at > STALE_AFTER:
            text = (
                "its verdict is not renewed, so a regression would go unseen; see that the control plane's workers run"
            )
            yield Fire("bad", f"Nobody looks at the canary of {name}", text, url, "Canary")
        for alarm in watch.read.alarms:
            yield Fire("watch", f"Live traffic of {name} cannot be compared", alarm.sentence, url, "Canary")


def _workers(shown: FleetPage) -> Iterable[Fire]:
    url, fleet = reverse("releases"), shown.fleet
    if fleet.current is not None and not shown.counts["expected"]:
        yield Fire(
            "bad", "No gateway reports", f"{fleet.current} is released and nobody says it serves it", url, "Fleet"
        )
    refused = [one for one in fleet.expected if one.convergence is Convergence.REFUSED]
    for one in refused[:_MOST_REFUSED]:
        serves = f"r{one.worker.revision}" if one.worker.revision else "nothing"
        text = f"{one.worker.name} serves {serves} instead of {fleet.current}: {one.reason}"
        yield Fire("bad", "A worker refused the release", text, url, "Fleet")
    if (more := shown.counts["refused"] - _MOST_REFUSED) > 0:
        yield Fire("bad", f"{more} more worker{'' if more == 1 else 's'} refused the release", "", url, "Fleet")
    for convergence, number, title in (
        (Convergence.SILENT, shown.counts["silent"], "silent: nobody knows what they serve"),
        (Convergence.BEHIND, shown.counts["behind"], "behind the current release"),
    ):
        names = [one.worker.name for one in fleet.expected if one.convergence is convergence][:5]
        if number:
            count = f"{number} worker{'' if number == 1 else 's'}"
            yield Fire(
                "watch", f"{count} {title}", ", ".join(names) + (" …" if number > len(names) else ""), url, "Fleet"
            )


def _ladders(surfaces: Iterable[SurfaceNow]) -> Iterable[Fire]:
    for one in surfaces:
        if one.is_engaged:
            title = f"{one.surface.title} is on rung {one.rung}"
            yield Fire(
                "bad" if one.rung > NO_TOOLS else "watch", title, one.sentence.removesuffix("."), one.url, "Ladder"
            )
        unsigned = [step.number for step in one.steps if step.state == "unsigned"]
        if unsigned and len(unsigned) == len(one.surface.rungs):
            text = "no words of any rung are signed, so nobody and nothing can engage one when capacity runs short"
            yield Fire("watch", f"{one.surface.title} has a ladder without words", text, one.url, "Ladder")
            continue
        highest = max((trigger.highest for trigger in one.surface.triggers.values()), default=OFF)
        if skipped := [str(number) for number in sorted(unsigned) if number <= highest]:
            rungs = f"rung{'' if len(skipped) == 1 else 's'} {listed(skipped)}"
            text = f"nobody signed the words of {rungs}, which triggers may engage"
            yield Fire("watch", f"Triggers of {one.surface.title} would step over {rungs}", text, one.url, "Ladder")


def _opened(lanes: Iterable[OpenLane]) -> Iterable[Fire]:
    for one in lanes:
        # What a person decided is watched; what a breaker found is on fire.
        title = f"Lane {one.lane} is {'held open' if one.held else 'open'}"
        yield Fire("watch" if one.held else "bad", title, one.text, lane_url(one.lane), "Lane")


def _lanes(lanes: Iterable[LaneHealth]) -> Iterable[Fire]:
    for lane in lanes:
        rate = lane.totals["failure_rate"]
        if rate.value is not None and rate.value >= FAILURE_RATE and rate.n >= MIN_ATTEMPTS:
            text = (
                f"{rate.value:.1%} of {rate.n:,} attempts failed in the last 5 min by its own fault; "
                f"{FAILURE_RATE:.0%} is the threshold"
            )
            yield Fire("bad", f"Lane {lane.lane} fails", text, reverse("routing"), "Routing")


def _accounts(quotas: Iterable[QuotaStanding]) -> Iterable[Fire]:
    for one in quotas:
        url, waits = reverse("quotas"), waiting_words([one]) or "nobody waits"
        eta = one.eta_seconds["interactive"]
        if one.paused_seconds:
            text = f"for {seconds_words(one.paused_seconds)} more after a 429; {waits}"
            yield Fire("bad", f"Account {one.account} is paused", text, url, "Quota")
        elif one.waiting["interactive"] and eta is not None and eta >= LONG_WAIT_SECONDS:
            yield Fire("watch", f"Callers wait for account {one.account}", waits, url, "Quota")
        elif one.alone:
            text = f"{one.alone} of {one.workers} workers cannot ask the others and keep to their part of the limits"
            yield Fire("watch", f"The quota of account {one.account} is not shared", text, url, "Quota")


def _corpora(rows: Iterable[CorpusRow]) -> Iterable[Fire]:
    for row in rows:
        # What a person pinned is watched as long as it is fresh enough; what nobody promises is nobody's fire.
        if row.standing is not None and row.tone in ("bad", "watch"):
            tone: Literal["bad", "watch"] = "bad" if row.tone == "bad" else "watch"
            yield Fire(tone, f"Corpus {row.corpus.slug} is {row.pill}", row.sentence, row.url, "Corpus")
        if row.broken:
            title = f"Recovery of corpus {row.corpus.slug} is not as promised"
            yield Fire("bad", title, ". ".join(row.broken), row.url, "Corpus")


def _letters(burning: Iterable[Burn]) -> Iterable[Fire]:
    for one in burning:
        if one.is_over:
            title = f"Work of kind {one.kind} fails for good"
            yield Fire(
                "bad" if one.is_bad else "watch", title, burn_words(one), reverse("dead-letters"), "Dead letters"
            )


def _debts(debts: Iterable[BreakGlass], *, now: datetime) -> Iterable[Fire]:
    for debt in debts:
        overdue = debt.is_overdue(now)
        text = f"{debt.actor} bypassed CR-{debt.change_id} for {debt.incident}: {debt.reason}"
        title = "Break-glass debt is overdue" if overdue else "Break-glass debt is unpaid"
        yield Fire("bad" if overdue else "watch", title, text, reverse("review", args=[debt.change_id]), "Review")


def _drifted(changes: Iterable[ChangeRequest]) -> Iterable[Fire]:
    for change in changes:
        text = f"{change.title}: what it stands on has moved, so its sign-offs are void until it is rebased"
        yield Fire("watch", f"CR-{change.pk} drifted", text, reverse("review", args=[change.pk]), "Review")
