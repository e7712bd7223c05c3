"""Game days, as people decide about them: begun, confirmed by a second person where what serves takes part, called off;
and begun by the clock. What workers do is in `drilling`.
"""

import json
from datetime import datetime, timedelta
from typing import Any, Final

from controlplane.accounts.models import Operator
from controlplane.alerts.models import Severity
from controlplane.alerts.operations import raise_alert
from controlplane.audit import operations as audit
from controlplane.corpora.dump_keeping import CLOCK, good_dumps
from controlplane.corpora.errors import (
    DrillNotPossible,
    DrillOver,
    DrillUnderWay,
    SamePerson,
    UnknownCorpus,
    WordsNotTyped,
)
from controlplane.corpora.models import Corpus, Namespace, RecoveryDrill, Sandbox
from controlplane.corpora.namespaces import switch
from controlplane.corpora.policies import promised, promises
from controlplane.corpora.records import DRILL_TRANSITIONS, UNENDED, DrillEvent, DrillState
from controlplane.corpora.recovering import Plan, make_plan, size_of
from controlplane.corpora.sandboxes import clear_sandbox, require_fit
from controlplane.corpora.scenarios import SCENARIOS, Scenario, scenario_of
from controlplane.corpora.telling import announce
from controlplane.work import operations as work
from controlplane.work.models import OVER, Task

KIND: Final = "corpora.drill"
# As alerts call it.
FAILED: Final = "corpus.drill_failed"
# After so long without one the clock begins the next; the strictest tier is asked more often.
EVERY: Final = timedelta(days=91)
EVERY_BY_TIER: Final = {"contractual": timedelta(days=30)}
GONE: Final = "whoever ran it was gone before it ended"


def words_to_type(corpus: Corpus) -> str:
    """What each of two people types for a drill on what serves."""
    return f"drill {corpus.slug} live"


def foresee(corpus: Corpus, scenario: Scenario | None) -> Plan:
    """What a drill of this scenario would do now.

    Raises:
        UnknownCorpus: nothing is promised of the corpus.
        DrillNotPossible: nothing serves, what serves is not what is promised, or there are too few dumps.
    """
    serving = corpus.live_namespace
    if serving is None:
        raise DrillNotPossible(f"corpus {corpus.slug!r} is served from no namespace, so there is nothing to lose")
    what = promised(corpus.slug)
    require_fit(serving, what)
    return make_plan(corpus, what, scenario, size=size_of(serving))


@audit.operation
def start_drill(
    *,
    corpus: Corpus,
    scenario: str,
    reason: str,
    actor: Operator | str,
    now: datetime,
    targets_live: bool = False,
    typed: str = "",
) -> RecoveryDrill:
    """Begin a game day in a sandbox; or, with `targets_live`, ask a second person for one in which what comes back
    really serves for a moment. What serves is harmed by neither.

    Args:
        typed: `words_to_type`, for one on what serves.
    Raises:
        UnknownScenario, UnknownCorpus, DrillNotPossible: as `foresee`.
        DrillUnderWay: another one of the corpus has not ended.
        WordsNotTyped: the words are others.
    """
    what = scenario_of(scenario)
    row = Corpus.objects.select_for_update().get(pk=corpus.pk)
    running = row.drills.filter(state__in=UNENDED).first()
    if running is not None:
        raise DrillUnderWay(f"drill {running.pk} of {row} has not ended; wait for it, or call it off")
    plan = foresee(row, what)
    if targets_live:
        _require_words(row, typed)
    drill = RecoveryDrill.objects.create(
        corpus=row,
        scenario=what.slug,
        targets_live=targets_live,
        state=DrillState.WAITING if targets_live else DrillState.QUEUED,
        reason=reason,
        actor=audit.name_of(actor),
        asked_at=now,
        predicted_seconds=plan.predicted_seconds,
    )
    data = {"scenario": what.slug, "targets_live": targets_live, "reason": reason, "corpus": row.slug}
    audit.record("corpus.drill_asked", actor=actor, target=drill, at=now, data=data)
    if not targets_live:
        enqueue_piece(drill, 1, now=now)
    _announce(row)
    return drill


@audit.operation
def confirm_live(*, drill: RecoveryDrill, typed: str, actor: Operator | str, now: datetime) -> RecoveryDrill:
    """Agree to a drill on what serves, which begins by that.

    Raises:
        SamePerson: who asked for it cannot confirm it.
        WordsNotTyped: the words are others.
        DrillOver: it does not wait for anybody.
    """
    row = RecoveryDrill.objects.select_for_update().select_related("corpus").get(pk=drill.pk)
    name = audit.name_of(actor)
    if row.state != DrillState.WAITING:
        raise DrillOver(f"drill {row.pk} is {row.get_state_display().lower()}; it waits for nobody")
    if name == row.actor:
        raise SamePerson(f"{name} asked for drill {row.pk} of what serves; somebody else has to confirm it")
    _require_words(row.corpus, typed)
    move(row, DrillEvent.CONFIRMED, confirmed_by=name, confirmed_at=now)
    audit.record("corpus.drill_confirmed", actor=actor, target=row, at=now, data={"asked_by": row.actor})
    enqueue_piece(row, 1, now=now)
    return row


@audit.operation
def cancel_drill(*, drill: RecoveryDrill, reason: str, actor: Operator | str, now: datetime) -> RecoveryDrill:
    """Call a drill off. What is under way ends with its next word of progress, and its sandbox is dropped then.

    Raises:
        DrillOver: it has ended.
    """
    row = RecoveryDrill.objects.select_for_update().select_related("corpus").get(pk=drill.pk)
    why = f"{audit.name_of(actor)} called it off: {reason}"[:300]
    if not move(row, DrillEvent.CANCELLED, ended_at=now, error=why):
        raise DrillOver(f"drill {row.pk} has ended: {row.get_state_display().lower()}")
    audit.record("corpus.drill_cancelled", actor=actor, target=row, at=now, data={"reason": reason})
    return row


def _require_words(corpus: Corpus, typed: str) -> None:
    wanted = words_to_type(corpus)
    if typed.strip() != wanted:
        raise WordsNotTyped(f"what serves takes part in it: type {wanted!r}, word by word")


# --- what workers and the clock do ------------------------------------------------------------------------------------
def move(drill: RecoveryDrill, event: DrillEvent, **found: Any) -> bool:
    """Take the one legal step, if nobody else has meanwhile. Only this function writes `state`; `drill` is as it is
    afterwards.
    """
    origins = [before for before, what in DRILL_TRANSITIONS if what == event]
    (after,) = {DRILL_TRANSITIONS[before, event] for before in origins}
    if not RecoveryDrill.objects.filter(pk=drill.pk, state__in=origins).update(state=after, **found):
        drill.refresh_from_db()
        return False
    drill.refresh_from_db()
    _announce(drill.corpus)
    return True


def enqueue_piece(drill: RecoveryDrill, piece: int, *, now: datetime) -> None:
    """Have a drill gone on with. One piece is under way at a time, and asks for the next."""
    work.enqueue(kind=KIND, arguments={"drill": drill.pk, "piece": piece}, key=f"{drill.pk}/{piece}", now=now)


def clear(drill: RecoveryDrill, *, now: datetime) -> bool:
    """Drop all that a drill made, and have the corpus served from what served before; False: nothing was left."""

    def switch_back(namespace: Namespace) -> None:
        why = f"drill {drill.pk} ended while its namespace served"
        switch(corpus=drill.corpus, namespace=namespace, reason=why, actor=CLOCK, now=now)

    return clear_sandbox(drill, now=now, switch_back=switch_back)


@audit.operation
def end_failed(drill: RecoveryDrill, *, error: str, now: datetime, **found: Any) -> bool:
    """Note that a drill did not come back; False: it is over."""
    if not move(drill, DrillEvent.FAILED, ended_at=now, error=" ".join(error.split())[:300], **found):
        return False
    data = {"corpus": drill.corpus.slug, "scenario": drill.scenario, "error": drill.error}
    audit.record("corpus.drill_failed", actor=CLOCK, target=drill, at=now, data=data)
    tell_failed(drill, now=now)
    return True


def tell_failed(drill: RecoveryDrill, *, now: datetime) -> None:
    """Tell people of a drill that did not come back; in the transaction that ends it."""
    said = drill.error[:1].upper() + drill.error[1:].rstrip(".")
    raise_alert(
        kind=FAILED,
        # Nobody's search is the worse for it today; where what serves took part, that is worth a look now.
        severity=Severity.PAGE if drill.targets_live else Severity.WARN,
        title=f"A recovery drill of corpus {drill.corpus.slug} failed",
        sentence=f"{said}. A real loss may end like this: mend what kept it from coming back, and drill again.",
        facts={"corpus": drill.corpus.slug, "scenario": drill.scenario, "targets_live": drill.targets_live},
        link=drill.get_absolute_url(),
        target=drill,
        dedupe=str(drill.pk),
        now=now,
    )


def sweep_drills(*, now: datetime) -> int:
    """End drills that nobody goes on with, and drop what ended ones left behind; returns how many of both."""
    swept = 0
    for drill in RecoveryDrill.objects.filter(state__in=(DrillState.QUEUED, DrillState.RUNNING)):
        if not _is_worked_on(drill):
            swept += end_failed(drill, error=GONE, now=now)
    left = Sandbox.objects.filter(cleared_at=None).exclude(drill__state__in=UNENDED).select_related("drill__corpus")
    for sandbox in left:
        swept += clear(sandbox.drill, now=now)
    return swept


def _is_worked_on(drill: RecoveryDrill) -> bool:
    tasks = Task.objects.filter(kind=KIND, key__startswith=f"{drill.pk}/")
    return tasks.exclude(state__in=[state.value for state in OVER]).exists()


def ask_due(*, now: datetime) -> int:
    """Begin a drill of each corpus that had none for as long as its tier allows, the next scenario in turn. Returns how
    many. A corpus has its first one so long after it was made.
    """
    begun = 0
    for slug, what in promises().items():
        corpus = Corpus.objects.select_related("live_namespace").filter(slug=slug, live_namespace__isnull=False).first()
        if corpus is None:
            continue
        newest = corpus.drills.first()
        since = corpus.created_at if newest is None else newest.ended_at or newest.asked_at
        if now - since < EVERY_BY_TIER.get(what.recovery.tier, EVERY):
            continue
        try:
            reason = f"by the clock: none for {(now - since).days} days"
            start_drill(corpus=corpus, scenario=_in_turn(corpus).slug, reason=reason, actor=CLOCK, now=now)
        except (DrillUnderWay, DrillNotPossible, UnknownCorpus):
            continue
        begun += 1
    return begun


def _in_turn(corpus: Corpus) -> Scenario:
    """The scenario after the one that the clock began last, of those that there are dumps enough for."""
    order = list(SCENARIOS)
    last = corpus.drills.filter(actor=CLOCK).first()
    start = order.index(last.scenario) + 1 if last is not None and last.scenario in SCENARIOS else 0
    dumps = good_dumps(corpus).count()
    turn = [SCENARIOS[slug] for slug in order[start:] + order[:start]]
    return next(one for one in turn if one.least_dumps <= dumps)


def _announce(corpus: Corpus) -> None:
    announce(corpus)


def report_file(drill: RecoveryDrill) -> bytes:
    """The signed report of a drill, as it is downloaded and verified; empty: there is none."""
    if drill.report_signature is None:
        return b""
    return json.dumps(drill.report_signature, ensure_ascii=False, separators=(",", ":")).encode()
