"""How corpora stand: how far what is searchable is behind, how much waits, and what nothing could index."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Min, Q

from controlplane.corpora.models import Corpus, Pending, Source
from controlplane.corpora.policies import promises
from dataplane.retrieval.policy import Corpus as Promised
from dataplane.retrieval.tables import Snapshot

# A source that was looked at so lately is not behind for that.
_LOOKED_AT: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class CorpusStanding:
    """One corpus as it stands now.

    Attributes:
        promised: What the policy in force says; who signed its words is not known here.
        snapshot: What is read; None: nothing is searchable yet.
        lag_seconds: The age of the oldest change that is not searchable.
        pending, poisoned: Documents that wait to be indexed, and those that nothing could index.
        waiting: Changes that were seen at its sources and not taken.
    """

    corpus: Corpus
    promised: Promised
    snapshot: Snapshot | None
    lag_seconds: float
    pending: int
    poisoned: int
    waiting: int
    is_stale: bool


def standings(*, now: datetime) -> dict[str, CorpusStanding]:
    """Every corpus that the policy in force names, by its slug; four queries however many."""
    found = promises()
    corpora = Corpus.objects.select_related("live_namespace", "pinned_namespace").filter(slug__in=found)
    good = Q(is_poisoned=False)
    counted: dict[int, Mapping[str, Any]] = {
        row["namespace"]: row
        for row in Pending.objects.order_by()
        .values("namespace")
        .annotate(
            oldest=Min("since", filter=good), good=Count("id", filter=good), bad=Count("id", filter=Q(is_poisoned=True))
        )
    }
    sources: dict[int, list[Source]] = {}
    for source in Source.objects.filter(corpus__slug__in=found):
        sources.setdefault(source.corpus_id, []).append(source)
    standing = {}
    for corpus in corpora:
        row = counted.get(corpus.live_namespace_id or 0, {})
        ours = sources.get(corpus.pk, [])
        since = [one.lag_since() for one in ours if one.oldest_at or now - one.checked_at > _LOOKED_AT]
        oldest = min([*since, *([row["oldest"]] if row.get("oldest") else [])], default=now)
        lag = max(0.0, (now - oldest).total_seconds())
        live = corpus.live_namespace
        standing[corpus.slug] = CorpusStanding(
            corpus=corpus,
            promised=found[corpus.slug],
            snapshot=corpus.pinned or (live.snapshot if live else None),
            lag_seconds=lag,
            pending=row.get("good", 0),
            poisoned=row.get("bad", 0),
            waiting=sum(one.waiting for one in ours),
            is_stale=lag > found[corpus.slug].freshness.max_lag_seconds.value,
        )
    return standing
