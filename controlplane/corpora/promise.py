"""Whether what is promised of a corpus is kept today, or would be after a loss, by what was measured; in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from django.db.models import QuerySet

from controlplane.corpora.drills import EVERY, EVERY_BY_TIER
from controlplane.corpora.dump_keeping import good_dumps
from controlplane.corpora.models import Corpus, RecoveryDrill
from controlplane.corpora.rates import Rebuilding, measured, predict_rebuild
from controlplane.corpora.records import DrillState, PromiseClause, RecoveryWay
from controlplane.corpora.recovering import Plan, Size, make_plan, size_of, tokens_of
from controlplane.corpora.standing import CorpusStanding
from controlplane.durations import span
from dataplane.retrieval.policy import REBUILD, REPLICATE, RESTORE
from dataplane.retrieval.policy import Corpus as Promised

# The clock begins the next one when the time is over; so long it may take until somebody has to ask why it did not.
_LATE: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing that was promised, held against what is.

    Attributes:
        words: A sentence without its full stop.
        seconds: How long or how old it is, or is predicted to be; None: nobody knows.
        bound_seconds: How long or how old it may be.
        is_sure: Whether that is more than what nobody has looked into.
    """

    name: PromiseClause
    words: str
    seconds: float | None
    bound_seconds: float
    is_sure: bool = True

    @property
    def is_kept(self) -> bool | None:
        """None: nobody knows."""
        return None if self.seconds is None else self.seconds <= self.bound_seconds

    @property
    def tone(self) -> Literal["good", "watch", "bad"]:
        """Bad is broken, watch is that nobody knows, or knows for sure."""
        if self.is_kept is False:
            return "bad"
        return "good" if self.is_kept and self.is_sure else "watch"


def proven(corpus: Corpus) -> RecoveryDrill | None:
    """The newest drill in which it really came back, restored or rebuilt; None: none ever."""
    return proven_drills().filter(corpus=corpus).first()


def proven_drills() -> QuerySet[RecoveryDrill]:
    """Drills that prove a way back: passed, and something was restored or rebuilt. The newest first."""
    return RecoveryDrill.objects.filter(state=DrillState.PASSED, report__way__in=[RESTORE, REBUILD])


def clauses(corpus: Corpus, promised: Promised, *, now: datetime) -> list[Clause]:
    """Everything that is promised of a corpus' recovery; nothing while nothing serves. Some queries."""
    if corpus.live_namespace is None:
        return []
    size = size_of(corpus.live_namespace)
    return [
        _rto(make_plan(corpus, promised, None, size=size), promised),
        _reembed(corpus, promised, size),
        *_rpo(corpus, promised, now),
        *_drilled(corpus, promised, now),
    ]


def freshness(standing: CorpusStanding) -> list[Clause]:
    """How old a corpus is against how old it may be; nothing while nothing serves. No query."""
    if standing.corpus.live_namespace_id is None:
        return []
    lag, bound = standing.lag_seconds, standing.promised.freshness.max_lag_seconds.value
    return [Clause(PromiseClause.FRESHNESS, f"It is behind by {span(lag)}; {span(bound)} is promised", lag, bound)]


def _rto(plan: Plan, promised: Promised) -> Clause:
    within, predicted = promised.recovery.rto_seconds.value, plan.predicted_seconds
    if predicted is None:
        words = f"Nobody measured yet how long it takes to {plan.way}; {span(within)} is promised"
    else:
        words = f"To {plan.way} it is predicted to take {span(predicted)}; {span(within)} is promised"
    return Clause(PromiseClause.RTO, words, predicted, within)


def _reembed(corpus: Corpus, promised: Promised, size: Size) -> Clause:
    accepted = promised.recovery.reembed_minutes.value
    tokens = tokens_of(corpus, size)
    found = predict_rebuild(corpus, promised, chunks=size.chunks, tokens=tokens, kind=size.kind)
    accept = f"We accept {accepted:,.10g} minutes of re-embed"
    if found is None:
        words = f"{accept}; nobody measured yet what {size.chunks:,} chunks would take"
        return Clause(PromiseClause.REEMBED, words, None, accepted * 60)
    words = f"{accept}; {size.chunks:,} chunks would take {span(found.seconds)}{_measured(corpus, size)}{_cost(found)}"
    return Clause(PromiseClause.REEMBED, words, found.seconds, accepted * 60)


def _measured(corpus: Corpus, size: Size) -> str:
    """The rate behind it, of the newest measure."""
    newest = measured(corpus, RecoveryWay.REBUILD, kind=size.kind)[0]
    return f" at the {newest.rows / max(newest.seconds, 0.001):,.0f} chunks/s that were measured"


def _cost(found: Rebuilding) -> str:
    return f", {found.tokens:,} tokens and ${found.cost_micros / 1e6:,.2f}"


def _rpo(corpus: Corpus, promised: Promised, now: datetime) -> Iterator[Clause]:
    """Of what is restored from dumps; what is rebuilt or replicated is as old as its documents."""
    if promised.recovery.strategy != RESTORE:
        return
    within = promised.recovery.rpo_seconds.value
    dumps = good_dumps(corpus)
    fresh = dumps.filter(verified_at__isnull=False, as_of__gte=now - timedelta(seconds=within)).first()
    dump = fresh or dumps.first()
    if dump is None or dump.as_of is None:
        # Before its first dump is due, nothing is late.
        age = (now - (corpus.switched_at or corpus.created_at)).total_seconds()
        words = f"There is no good dump; one of the last {span(within)} is promised"
        yield Clause(PromiseClause.RPO, words, age, within, is_sure=False)
        return
    age = (now - dump.as_of).total_seconds()
    which = "verified dump" if fresh else "dump" if dump.verified_at else "dump, which nobody verified yet,"
    words = f"The newest {which} is {span(age)} old; {span(within)} is promised"
    yield Clause(PromiseClause.RPO, words, age, within, is_sure=dump.verified_at is not None)


def _drilled(corpus: Corpus, promised: Promised, now: datetime) -> Iterator[Clause]:
    """How long the last proven restore took, and how long ago that was."""
    within, every = promised.recovery.rto_seconds.value, EVERY_BY_TIER.get(promised.recovery.tier, EVERY)
    bound = (every + _LATE).total_seconds()
    newest = proven(corpus)
    if newest is None or newest.ended_at is None:
        # A replica that is switched to proves no restore, so that nobody can ask for one in time.
        is_due = promised.recovery.strategy != REPLICATE
        age = (now - corpus.created_at).total_seconds() if is_due else None
        words = "It never came back in a drill, so all of this is a guess"
        yield Clause(PromiseClause.PROVEN, words, age, bound, is_sure=False)
        return
    if newest.rto_seconds is not None:
        words = f"The last proven restore took {span(newest.rto_seconds)}; {span(within)} is promised"
        yield Clause(PromiseClause.DRILLED, words, newest.rto_seconds, within)
    age = (now - newest.ended_at).total_seconds()
    words = f"The last proven restore was {span(age)} ago; one in {every.days} days is asked for"
    yield Clause(PromiseClause.PROVEN, words, age, bound)
