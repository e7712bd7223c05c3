"""Letting go: of chunks, tombstones and namespaces that nobody can read any more, and of nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from controlplane.audit.models import AuditEvent
from controlplane.corpora.collecting import collect, raise_low_water
from controlplane.corpora.errors import MarkNotProven
from controlplane.corpora.models import Corpus, Document, Namespace, NamespaceState, Reconciliation, Source
from controlplane.corpora.namespaces import switch
from tests.corpora.changes import accept, delete, index, searchable, upsert
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

SOURCES = {"shop": {"dsn_variable": "SHOP_URL"}}
COUNTED = {"revisions": "global", "sources": SOURCES}


def later(**units: float) -> Any:
    return NOW + timedelta(**units)


def serve(namespace: Namespace, now: Any = NOW) -> Namespace:
    switch(corpus=namespace.corpus, namespace=namespace, reason="r", actor=crew.oncall, now=now)
    return namespace


def write(namespace: Namespace, rev: int, now: Any) -> None:
    accept(namespace.corpus, upsert("a", rev, f"r{rev}"), now=now)
    index(namespace, now=now)


def revisions(namespace: Namespace) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT source_rev FROM {namespace.table} ORDER BY id")  # noqa: S608 - a name of ours
        return [rev for (rev,) in cursor.fetchall()]


def compare(corpus: Corpus, now: Any, **changes: Any) -> None:
    """A comparison with its source, which found nothing unless told."""
    found = {"scope": "source", "source": "shop", "actor": "t", "began_at": now, "ended_at": now} | changes
    Reconciliation.objects.create(corpus=corpus, **found)


def raise_to(corpus: Corpus, to: int, now: Any = NOW) -> None:
    raise_low_water(corpus=corpus, to=to, reason="r", actor=crew.oncall, now=now)


def test_chunks_go_when_no_snapshot_that_is_promised_has_them() -> None:
    """Those that ended a day ago; the snapshots before are said to be gone, and what is alive stays however old."""
    namespace = serve(make_namespace(make_corpus()))
    for hours, rev in ((0, 1), (1, 2), (20, 3)):
        write(namespace, rev, later(hours=hours))

    collect(now=later(hours=26))

    namespace.refresh_from_db()
    assert (revisions(namespace), namespace.kept_rev) == ([2, 3], 2)
    collect(now=later(days=99))
    assert searchable(namespace) == {"a": (3, "r3")}


def test_pinned_snapshot_keeps_what_it_has() -> None:
    """However long on-call holds it."""
    namespace = serve(make_namespace(make_corpus()))
    for rev in (1, 2, 3):
        write(namespace, rev, NOW)
    Corpus.objects.update(pinned_namespace=namespace, pinned_rev=2, pinned_at=NOW)

    collect(now=later(days=9))

    namespace.refresh_from_db()
    assert (revisions(namespace), namespace.kept_rev) == ([2, 3], 2)


def test_namespace_that_served_before_goes_when_its_snapshots_do() -> None:
    """One that is pinned stays, and so does a newer one that waits for people."""
    corpus = make_corpus()
    first, pinned, live, _ = (make_namespace(corpus) for _ in range(4))
    serve(live)
    Corpus.objects.update(pinned_namespace=pinned, pinned_rev=0, pinned_at=NOW)

    collect(now=later(hours=23))
    assert not Namespace.objects.filter(state=NamespaceState.DROPPED).exists()
    collect(now=later(hours=25))

    assert list(Namespace.objects.filter(state=NamespaceState.DROPPED)) == [first]


def test_warm_second_of_a_replicated_corpus_stays() -> None:
    """It is there for the day on which the first is lost."""
    corpus = make_corpus(recovery={"strategy": "replicate"})
    old, _, live = (make_namespace(corpus) for _ in range(3))
    serve(live)

    collect(now=later(hours=25))

    assert list(Namespace.objects.filter(state=NamespaceState.DROPPED)) == [old]


def test_mark_is_raised_once_a_comparison_with_the_source_came_out_clean() -> None:
    """Tombstones below it go then, and what replays over them is refused all the same; the record has it."""
    corpus = make_corpus(**COUNTED)
    accept(corpus, upsert("a", 1), delete("a", 2), upsert("b", 3), delete("c", 4))
    compare(corpus, later(hours=2))

    raise_to(corpus, 3, now=later(hours=3))
    collect(now=later(hours=3))

    assert set(Document.objects.values_list("source_key", flat=True)) == {"b", "c"}
    assert accept(corpus, upsert("a", 1)).fates == ("superseded",)
    assert AuditEvent.objects.get(action="corpus.low_water_raised").data["after"] == 3


def test_tombstones_are_kept_for_ever_where_keys_count_by_themselves() -> None:
    """No mark tells a replay there."""
    corpus = make_corpus()
    accept(corpus, delete("a", 1))
    Corpus.objects.update(low_water=9)

    collect(now=later(days=999))

    assert Document.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "compared", "to", "why"),
    [
        ({"sources": SOURCES}, [], 3, "counts revisions per key"),
        (COUNTED, [], 9, "no change of revision 9 or later has come in"),
        (COUNTED, [], 3, "no comparison"),
        ({"revisions": "global"}, [], 3, "nothing to compare with"),
        (COUNTED, [{"began_at": later(minutes=59)}], 3, "no comparison"),
        (COUNTED, [{"scope": "store"}], 3, "no comparison"),
        (COUNTED, [{"counts": {"missing": 1}}], 3, "no comparison"),
        (COUNTED, [{}, {"counts": {"missing": 1}}], 3, "no comparison"),
        (COUNTED, [{}, {"ended_at": None}], 3, "no comparison"),
        (COUNTED, [{}], 0, "is never lowered"),
    ],
)
def test_mark_is_not_raised_over_what_nobody_has_seen(
    changes: dict[str, Any], compared: list[dict[str, Any]], to: int, why: str
) -> None:
    """A change that is only late would be refused as a replay."""
    corpus = make_corpus(**changes)
    accept(corpus, upsert("a", 3))
    for one in compared:
        compare(corpus, later(hours=2), **one)

    with pytest.raises(MarkNotProven, match=why):
        raise_to(corpus, to, now=later(hours=3))

    assert Corpus.objects.get(pk=corpus.pk).low_water == 0


def test_source_that_the_policy_names_no_more_is_forgotten() -> None:
    """Nobody reads it, so that it would make every answer older; those that are named stay."""
    corpus = make_corpus(sources=SOURCES)
    for name in ("shop", "old-shop"):
        Source.objects.create(corpus=corpus, name=name, checked_at=NOW)

    collect(now=NOW)

    assert list(Source.objects.values_list("name", flat=True)) == ["shop"]
