"""What is promised of a corpus and not kept: noted while it lasts, and told once."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.alerts import kinds
from controlplane.alerts.models import Alert
from controlplane.corpora.breaches import BROKEN, KEPT, SETTLED, standing_breaches, watch_promises
from controlplane.corpora.models import Corpus, Dump, PromiseBreach, RecoveryDrill, RecoveryRate
from controlplane.corpora.namespaces import switch
from tests.corpora.changes import accept, index, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace, make_policy, policy_document
from tests.corpora_documents import SLUG
from tests.factories import NOW, SETUP

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

MINUTE = timedelta(minutes=1)


def serving(slug: str = SLUG, *, documents: int = 4, **changes: Any) -> Corpus:
    """A corpus whose documents are all searchable, without a dump, a drill or a measure."""
    if not Corpus.objects.filter(slug=slug).exists():
        make_corpus(slug=slug, **changes)
    return serve(Corpus.objects.get(slug=slug), documents=documents)


def serve(corpus: Corpus, *, documents: int = 4) -> Corpus:
    namespace = make_namespace(corpus)
    switch(corpus=corpus, namespace=namespace, reason="r", actor=SETUP, now=NOW)
    accept(corpus, *(upsert(f"page/{at}", 1, f"Words of page {at}.") for at in range(documents)))
    index(namespace)
    return Corpus.objects.select_related("live_namespace").get(pk=corpus.pk)


def add_dump(corpus: Corpus, *, at: datetime, **facts: Any) -> Dump:
    """A good dump of that moment."""
    assert corpus.live_namespace is not None
    facts = {"state": "complete", "began_at": at, "as_of": at, "actor": SETUP} | facts
    return Dump.objects.create(
        corpus=corpus, namespace=corpus.live_namespace, name=f"d-{Dump.objects.count()}", **facts
    )


def add_drill(corpus: Corpus, *, ended_at: datetime, rto_seconds: float = 60.0) -> None:
    """A drill in which it came back from a dump."""
    RecoveryDrill.objects.create(
        corpus=corpus,
        scenario="index_dropped",
        state="passed",
        reason="r",
        actor=SETUP,
        asked_at=ended_at,
        ended_at=ended_at,
        rto_seconds=rto_seconds,
        report={"way": "restore", "rows": 4},
    )


def add_rate(corpus: Corpus, way: str, *, seconds: float) -> None:
    """What it took to have as many chunks again as there are."""
    assert corpus.live_namespace is not None
    RecoveryRate.objects.create(
        corpus=corpus,
        way=way,
        namespace_id_then=corpus.live_namespace.pk,
        dimensions=8,
        rows=4,
        bytes=1_000,
        tokens=4,
        load_seconds=seconds,
        index_seconds=0,
        at=NOW,
    )


def told() -> list[tuple[str, str]]:
    """Each alert: its kind, and which clause it is of."""
    return [(one.kind, one.facts["clause"]) for one in Alert.objects.order_by("id")]


def stands() -> list[str]:
    return [one.clause for one in standing_breaches()]


# --- each clause ------------------------------------------------------------------------------------------------------
def grow_stale(corpus: Corpus) -> datetime:
    accept(corpus, upsert("late", 1))
    return NOW + timedelta(seconds=301)


def dump_nothing(corpus: Corpus) -> datetime:
    return NOW + timedelta(hours=2)


def dump_early(corpus: Corpus) -> datetime:
    add_dump(corpus, at=NOW)
    return NOW + timedelta(hours=2)


def restore_slowly(corpus: Corpus) -> datetime:
    add_dump(corpus, at=NOW)
    add_rate(corpus, "restore", seconds=5_000)
    return NOW + MINUTE


def embed_slowly(corpus: Corpus) -> datetime:
    add_dump(corpus, at=NOW)
    add_rate(corpus, "rebuild", seconds=5_000)
    return NOW + MINUTE


def drill_slowly(corpus: Corpus) -> datetime:
    add_drill(corpus, ended_at=NOW, rto_seconds=1_200)
    return NOW + MINUTE


def drill_long_ago(corpus: Corpus) -> datetime:
    later = NOW + timedelta(days=99)
    add_drill(corpus, ended_at=NOW)
    add_dump(corpus, at=later)
    return later


def drill_never(corpus: Corpus) -> datetime:
    later = NOW + timedelta(days=99)
    add_dump(corpus, at=later)
    return later


@pytest.mark.parametrize(
    ("spoil", "clause", "severity", "title", "sentence"),
    [
        (
            grow_stale,
            "freshness",
            "page",
            "is older than promised",
            "behind by 5 min 1 s; 5 min is promised",
        ),
        (
            dump_nothing,
            "rpo",
            "warn",
            "has no dump that is as new",
            "no good dump; one of the last 1 h is",
        ),
        (dump_early, "rpo", "warn", "has no dump that is as new", "is 2 h old; 1 h is promised. See why"),
        (
            restore_slowly,
            "rto",
            "warn",
            "would come back later",
            "predicted to take 1 h 25 min; 15 min is",
        ),
        (embed_slowly, "reembed", "warn", "To embed corpus help", "We accept 30 minutes of re-embed; 4 chunks would"),
        (drill_slowly, "drilled", "warn", "took longer than promised", "took 20 min; 15 min is promised. Its report"),
        (drill_long_ago, "proven", "warn", "Nobody has proven", "was 99 d ago; one in 91 days is asked for. Run a"),
        (drill_never, "proven", "warn", "Nobody has proven", "It never came back in a drill, .* Run a game day."),
    ],
)
def test_each_promise_that_is_broken_is_noted_and_told_with_what_to_do(
    spoil: Callable[[Corpus], datetime], clause: str, severity: str, title: str, sentence: str
) -> None:
    """One clause is broken, and of the others nothing is said."""
    corpus = serving()
    watch_promises(now=NOW)
    before = told()
    later = spoil(corpus)

    count = watch_promises(now=later)

    assert (before, count) == ([], 1)
    breach, alert = PromiseBreach.objects.get(), Alert.objects.get()
    assert (breach.clause, breach.since, breach.kept_since, breach.ended_at) == (clause, later, None, None)
    assert (alert.kind, alert.severity, alert.facts["clause"]) == (BROKEN, severity, clause)
    assert (alert.target, alert.link) == (f"corpus:{SLUG}", f"/corpora/{SLUG}/")
    assert alert.facts["seconds"] > alert.facts["bound_seconds"]
    assert alert.sentence.startswith(breach.words)
    assert title in alert.title
    assert re.search(sentence, alert.sentence)


def test_channels_can_want_what_is_told_of_promises() -> None:
    """Each kind has its words."""
    assert {BROKEN, KEPT} <= set(kinds.known())


def test_while_nothing_serves_nothing_is_promised() -> None:
    """A corpus that is being built is neither stale nor lost."""
    make_corpus()

    assert watch_promises(now=NOW + timedelta(days=200)) == 0


# --- once -------------------------------------------------------------------------------------------------------------
def test_breach_is_told_once_however_long_it_lasts() -> None:
    """Its words go on, and its beginning stays."""
    serving()
    begun = NOW + timedelta(hours=2)

    for hours in (2, 3, 30):
        watch_promises(now=NOW + timedelta(hours=hours))

    breach = PromiseBreach.objects.get(clause="rpo")
    assert (breach.since, told()) == (begun, [(BROKEN, "rpo")])


def test_what_moves_around_its_bound_is_one_breach() -> None:
    """Kept for a moment it is not on fire, and broken again it is the breach that it was."""
    corpus = serving()
    grow_stale(corpus)
    assert corpus.live_namespace is not None
    begun = NOW + timedelta(seconds=301)

    watch_promises(now=begun)
    index(corpus.live_namespace, now=begun)
    watch_promises(now=begun + MINUTE)
    between = stands()
    accept(corpus, upsert("later", 1))
    watch_promises(now=begun + 2 * MINUTE)

    assert (between, stands()) == ([], ["freshness"])
    assert PromiseBreach.objects.get().since == begun
    assert told() == [(BROKEN, "freshness")]


def test_breach_ends_when_the_promise_was_kept_for_a_while_and_the_next_is_another() -> None:
    """People hear of both ends, and then of the next."""
    corpus = serving()
    late = NOW + timedelta(hours=2)
    watch_promises(now=late)
    add_dump(corpus, at=late)

    watch_promises(now=late + MINUTE)
    watch_promises(now=late + SETTLED)
    early = told()
    watch_promises(now=late + SETTLED + MINUTE)
    watch_promises(now=late + timedelta(hours=2))

    assert early == [(BROKEN, "rpo")]
    assert told() == [(BROKEN, "rpo"), (KEPT, "rpo"), (BROKEN, "rpo")]
    kept = Alert.objects.get(kind=KEPT)
    assert (kept.severity, kept.title) == (
        "info",
        "Corpus help-centre is as promised again: how old its newest dump is",
    )
    assert "It was not since 2026-03-04 14:00 UTC" in kept.sentence
    ended, standing = PromiseBreach.objects.order_by("id")
    assert (ended.since, ended.kept_since, ended.ended_at) == (late, late + MINUTE, late + SETTLED + MINUTE)
    assert (standing.since, standing.ended_at) == (late + timedelta(hours=2), None)


def test_what_nobody_knows_any_more_is_not_kept_again() -> None:
    """Its only dump is refused, and nobody has measured how long it takes to embed it."""
    corpus = serving()
    dump = add_dump(corpus, at=NOW)
    add_rate(corpus, "restore", seconds=5_000)
    watch_promises(now=NOW + MINUTE)
    Dump.objects.filter(pk=dump.pk).update(verify_error="chunks-000000: its bytes are others")

    for minutes in (2, 20, 30):
        watch_promises(now=NOW + timedelta(minutes=minutes))

    assert (stands(), told()) == (["rto"], [(BROKEN, "rto")])


def test_what_is_not_promised_any_more_is_not_broken() -> None:
    """It comes back another way by now: its dumps may be as old as they like."""
    serving()
    watch_promises(now=NOW + timedelta(hours=2))
    make_policy(policy_document(recovery={"strategy": "rebuild"}))

    for minutes in (121, 131):
        watch_promises(now=NOW + timedelta(minutes=minutes))

    assert (stands(), told()) == ([], [(BROKEN, "rpo"), (KEPT, "rpo")])
    assert "Nothing of the kind is promised any more." in Alert.objects.get(kind=KEPT).sentence


def test_breaches_of_a_corpus_that_no_policy_names_end_without_a_word() -> None:
    """Nothing is promised of it, and nothing was made good."""
    serving()
    watch_promises(now=NOW + timedelta(hours=2))
    make_policy(policy_document(slug="wiki"))

    watch_promises(now=NOW + timedelta(hours=3))

    assert (stands(), told()) == ([], [(BROKEN, "rpo")])
    assert PromiseBreach.objects.get().ended_at == NOW + timedelta(hours=3)


# --- many -------------------------------------------------------------------------------------------------------------
def test_corpus_that_cannot_be_looked_at_keeps_nobody_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """Its chunks are gone; of the other it is told that there is no dump."""
    make_policy(policy_document(slug="bad") | policy_document(slug="good"))
    bad, _ = serving("bad"), serving("good")
    assert bad.live_namespace is not None
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {bad.live_namespace.table}")

    with caplog.at_level(logging.ERROR):
        watch_promises(now=NOW + timedelta(hours=2))

    assert [one.corpus.slug for one in standing_breaches()] == ["good"]
    assert "what is promised of corpus bad cannot be looked at" in caplog.text


def test_look_takes_as_many_queries_for_much_as_for_little() -> None:
    """However many documents, changes that wait, dumps, drills, measures and former breaches there are."""
    corpus = serving(documents=2)
    add_dump(corpus, at=NOW)
    add_drill(corpus, ended_at=NOW)
    add_rate(corpus, "restore", seconds=1)
    add_rate(corpus, "rebuild", seconds=1)
    watch_promises(now=NOW)
    with CaptureQueriesContext(connection) as few:
        watch_promises(now=NOW)
    assert corpus.live_namespace is not None
    accept(corpus, *(upsert(f"more/{at}", 1, f"More of page {at}.") for at in range(60)))
    index(corpus.live_namespace)
    accept(corpus, *(upsert(f"more/{at}", 2, f"Other words of page {at}.") for at in range(60)))
    for at in range(6):
        add_dump(corpus, at=NOW + at * MINUTE)
        add_drill(corpus, ended_at=NOW + at * MINUTE)
        add_rate(corpus, "restore", seconds=1)
        add_rate(corpus, "rebuild", seconds=1)
        PromiseBreach.objects.create(corpus=corpus, clause="rpo", words="w", since=NOW, ended_at=NOW)

    with CaptureQueriesContext(connection) as many:
        watch_promises(now=NOW)

    assert len(many) <= len(few), [one["sql"] for one in many]
