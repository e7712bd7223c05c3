"""What is promised of corpora and not kept: noted while it lasts, and told to people once.

Every corpus is looked at once a minute. What is found broken stands as one row per corpus and clause, which pages read,
and which is the occasion of one alert. It ends once it was kept for SETTLED; until then the same breach goes on, so
that what moves around its bound is told once and not every minute. What nobody knows any more leaves all as it was.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import QuerySet

from controlplane.alerts.models import Severity
from controlplane.alerts.operations import raise_alert
from controlplane.corpora.models import Corpus, PromiseBreach
from controlplane.corpora.promise import Clause, clauses, freshness
from controlplane.corpora.records import PromiseClause
from controlplane.corpora.standing import CorpusStanding, standings
from controlplane.corpora.telling import announce

logger = logging.getLogger(__name__)

BROKEN: Final = "corpus.promise_broken"
KEPT: Final = "corpus.promise_kept"
SETTLED: Final = timedelta(minutes=10)

# What happened, and what to do now.
_TOLD: Final[Mapping[str, tuple[str, str]]] = {
    PromiseClause.FRESHNESS: (
        "Corpus {} is older than promised",
        "See whether its changes are captured and indexed: the processes, its sources, and the lanes that embed.",
    ),
    PromiseClause.RTO: (
        "Corpus {} would come back later than promised",
        "Find out in a game day; then have it come back another way, or promise what can be kept.",
    ),
    PromiseClause.REEMBED: (
        "To embed corpus {} again would take longer than is accepted",
        "Find out in a game day; then embed it by faster lanes, or accept what it takes.",
    ),
    PromiseClause.RPO: ("Corpus {} has no dump that is as new as promised", "See why none was made, and make one."),
    PromiseClause.DRILLED: (
        "Corpus {} took longer than promised to come back in a drill",
        "Its report says which phase took so long.",
    ),
    PromiseClause.PROVEN: ("Nobody has proven for too long that corpus {} comes back", "Run a game day."),
}


def standing_breaches() -> QuerySet[PromiseBreach]:
    """What is broken, as of the last look, the oldest first."""
    return PromiseBreach.objects.filter(ended_at=None, kept_since=None).order_by("id")


def watch_promises(*, now: datetime) -> int:
    """Hold every corpus that is promised against what is; returns how many promises are broken. Some queries a corpus,
    whatever its traffic; one that cannot be looked at keeps nobody else from it.
    """
    found = standings(now=now)
    # Of what nobody promises any more nothing is broken, and nothing is kept again either.
    PromiseBreach.objects.filter(ended_at=None).exclude(corpus__slug__in=list(found)).update(ended_at=now)
    corpora = Corpus.objects.select_related("live_namespace").in_bulk([one.corpus.pk for one in found.values()])
    for one in found.values():
        try:
            look_at(corpora[one.corpus.pk], one, now=now)
        except Exception:
            logger.exception("what is promised of corpus %s cannot be looked at", one.corpus)
    return standing_breaches().count()


@transaction.atomic
def look_at(corpus: Corpus, standing: CorpusStanding, *, now: datetime) -> None:
    """Hold one corpus against what is promised of it, and note what changed.

    Args:
        corpus: With the namespace that it is served from.
    """
    found = [*freshness(standing), *clauses(corpus, standing.promised, now=now)]
    _note(corpus, found, now=now)


def _note(corpus: Corpus, found: Sequence[Clause], *, now: datetime) -> None:
    # Locked: of two who look at a time, the second goes on from what the first has noted.
    rows = PromiseBreach.objects.select_for_update().filter(corpus=corpus, ended_at=None).order_by("id")
    there, held = {row.clause: row for row in rows}, {one.name: one for one in found}
    for name in PromiseClause:
        breach, clause = there.get(name), held.get(name)
        if clause is not None and clause.is_kept is False:
            _break(corpus, breach, clause, now=now)
        elif breach is not None and (clause is None or clause.is_kept):
            _keep(corpus, breach, clause, now=now)


def _break(corpus: Corpus, breach: PromiseBreach | None, clause: Clause, *, now: datetime) -> None:
    if breach is None:
        # Who looks at the same time may have come first; then his is the one, and told.
        breach, is_new = PromiseBreach.objects.get_or_create(
            corpus=corpus, clause=clause.name, ended_at=None, defaults={"words": clause.words, "since": now}
        )
        if is_new:
            _tell_broken(corpus, breach, clause, now=now)
            announce(corpus)
        return
    if (breach.kept_since, breach.words) == (None, clause.words):
        return
    breach.kept_since, breach.words = None, clause.words
    breach.save(update_fields=["kept_since", "words"])
    announce(corpus)


def _keep(corpus: Corpus, breach: PromiseBreach, clause: Clause | None, *, now: datetime) -> None:
    """`clause` None: it is not promised any more, which is as good."""
    if breach.kept_since is None:
        breach.kept_since = now
    elif now - breach.kept_since >= SETTLED:
        breach.ended_at = now
        _tell_kept(corpus, breach, clause, now=now)
    else:
        return
    breach.save(update_fields=["kept_since", "ended_at"])
    announce(corpus)


# --- telling ----------------------------------------------------------------------------------------------------------
def _tell_broken(corpus: Corpus, breach: PromiseBreach, clause: Clause, *, now: datetime) -> None:
    title, act = _TOLD[clause.name]
    raise_alert(
        kind=BROKEN,
        # What is stale is read by somebody at this moment; a loss may come on any other day.
        severity=Severity.PAGE if clause.name is PromiseClause.FRESHNESS else Severity.WARN,
        title=title.format(corpus.slug),
        sentence=f"{clause.words}. {act}",
        facts={
            "corpus": corpus.slug,
            "clause": clause.name,
            "seconds": clause.seconds,
            "bound_seconds": clause.bound_seconds,
        },
        link=corpus.get_absolute_url(),
        target=corpus,
        dedupe=str(breach.pk),
        now=now,
    )


def _tell_kept(corpus: Corpus, breach: PromiseBreach, clause: Clause | None, *, now: datetime) -> None:
    is_so = f"{clause.words}." if clause is not None else "Nothing of the kind is promised any more."
    label = PromiseClause(breach.clause).label
    raise_alert(
        kind=KEPT,
        severity=Severity.INFO,
        title=f"Corpus {corpus.slug} is as promised again: {label}",
        sentence=f"{is_so} It was not since {breach.since:%Y-%m-%d %H:%M} UTC. Nothing has to be done.",
        facts={"corpus": corpus.slug, "clause": breach.clause, "broken_since": breach.since.isoformat()},
        link=corpus.get_absolute_url(),
        target=corpus,
        dedupe=str(breach.pk),
        now=now,
    )
