"""Write down how corpora stand, the worst of each minute, and how many ghosts there may be; forget it in time."""

from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from controlplane.corpora.models import Corpus, CorpusMinute, GhostSample
from controlplane.corpora.reconciling import sample_ghosts
from controlplane.corpora.standing import standings

KEPT: Final = timedelta(days=35)

# The revision and the namespace are those of the last look, which pages draw as steps.
_ADD: Final = """
INSERT INTO corpora_corpusminute AS m (
    corpus_id, minute, lag_seconds, pending, poisoned, index_rev, namespace_id_then, max_lag_seconds
)
SELECT * FROM unnest(
    %(corpora)s::bigint[], %(minutes)s::timestamptz[], %(lags)s::float8[], %(pending)s::bigint[],
    %(poisoned)s::bigint[], %(revs)s::bigint[], %(namespaces)s::bigint[], %(bounds)s::float8[]
)
ON CONFLICT (corpus_id, minute) DO UPDATE SET
    lag_seconds = greatest(m.lag_seconds, excluded.lag_seconds), pending = greatest(m.pending, excluded.pending),
    poisoned = greatest(m.poisoned, excluded.poisoned), index_rev = excluded.index_rev,
    namespace_id_then = excluded.namespace_id_then, max_lag_seconds = excluded.max_lag_seconds
"""


def sample(now: datetime) -> int:
    """Add how each corpus stands to its minute. Returns how many corpora there are."""
    # In one order, so that two who sample at a time never wait in a circle.
    found = sorted(standings(now=now).values(), key=lambda one: one.corpus.pk)
    if not found:
        return 0
    minute = now.replace(second=0, microsecond=0)
    parameters: dict[str, Any] = {
        "corpora": [one.corpus.pk for one in found],
        "minutes": [minute for _ in found],
        "lags": [one.lag_seconds for one in found],
        "pending": [one.pending for one in found],
        "poisoned": [one.poisoned for one in found],
        "revs": [0 if one.snapshot is None else one.snapshot.index_rev for one in found],
        "namespaces": [None if one.snapshot is None else one.snapshot.namespace for one in found],
        "bounds": [float(one.promised.freshness.max_lag_seconds.value) for one in found],
    }
    with connection.cursor() as cursor:
        cursor.execute(_ADD, parameters)
    return len(found)


def sample_served(now: datetime) -> int:
    """Look for ghosts among some chunks of every namespace that serves. Returns how many were found.

    Each is read once from end to end, by whoever does this and not by whoever asks how many ghosts there are.
    """
    found = 0
    for corpus in Corpus.objects.filter(live_namespace__isnull=False).select_related("live_namespace"):
        namespace = corpus.live_namespace
        if namespace is None:
            continue
        ghosts = sample_ghosts(namespace)
        found += ghosts.ghosts
        GhostSample.objects.create(
            corpus=corpus,
            namespace=namespace,
            at=now,
            sampled=ghosts.sampled,
            ghosts=ghosts.ghosts,
            most=ghosts.most,
        )
    return found


def forget_minutes(*, now: datetime) -> int:
    """Delete the minutes and samples that nobody looks at any more. Returns how many."""
    minutes, _ = CorpusMinute.objects.filter(minute__lt=now - KEPT).delete()
    samples, _ = GhostSample.objects.filter(at__lt=now - KEPT).delete()
    return minutes + samples
