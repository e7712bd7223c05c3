"""How old what is found may be: banners, refusals, waiting for a change, snapshots, and what on-call holds."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from dataplane.retrieval.tables import Snapshot, write_token
from tests.corpora_documents import BANNER, SLUG

from .searched_corpora import REFUND, ago, error_of, metric, vector_of

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


@pytest.mark.parametrize(
    ("language", "locale", "beginning"),
    [("en", "en", "Help centre may lack what changed since "), ("de-AT,en;q=0.5", "de", "Help centre kann 6 min alt")],
)
def test_corpus_that_is_too_old_is_told_with_its_signed_banner(
    retrieve, tables, namespaces, language, locale, beginning
):
    """In the language of whoever reads it, with the age filled in."""
    tables.pending(namespaces[SLUG], "refunds", since=ago(400))

    answer = retrieve(headers={"accept-language": language})

    assert answer.status_code == 200
    banner, freshness = answer.json()["banner"], answer.json()["freshness"]
    assert banner["text"].startswith(beginning)
    assert (banner["locale"], banner["copy"]) == (locale, f"{BANNER}@1")
    assert freshness["is_stale"]
    assert freshness["lag_seconds"] >= 400
    assert not answer.json()["chunks"][0]["is_current"]


@pytest.mark.parametrize(
    ("slug", "lag_seconds", "asked", "said"),
    [
        ("strict", 400, {}, "retry later"),
        ("strict", 400, {"max_lag_seconds": 10**6}, "retry later"),
        (SLUG, 30, {"max_lag_seconds": 10}, "allow a greater max_lag_seconds"),
        (SLUG, 400, {"max_lag_seconds": 10}, "retry later"),
    ],
)
def test_corpus_that_is_older_than_policy_or_caller_allow_is_refused(
    gateway, retrieve, tables, namespaces, slug, lag_seconds, asked, said
):
    """With its figures, and when to look again; nothing of it is told."""
    tables.pending(namespaces[slug], "refunds", since=ago(lag_seconds))

    answer = retrieve(corpus=slug, **asked)

    assert answer.status_code == 503
    error = error_of(answer)
    assert (error["code"], error["corpus"]) == ("corpus_stale", slug)
    assert error["freshness"]["lag_seconds"] >= lag_seconds
    assert error["freshness"]["pending"] == 1
    assert said in error["message"]
    assert repr(slug) in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert int(answer.headers["retry-after"]) >= 1
    assert metric(gateway, "ballast_retrievals_total", corpus=slug, outcome="corpus_stale") >= 1
    assert metric(gateway, "ballast_corpus_lag_seconds", corpus=slug) >= lag_seconds


def test_young_enough_corpus_is_served_to_whoever_sets_a_bound(retrieve, tables, namespaces):
    """The answer says by which bound it was judged."""
    tables.pending(namespaces[SLUG], "refunds", since=ago(30))

    answer = retrieve(max_lag_seconds=200)

    assert answer.status_code == 200
    assert (answer.json()["freshness"]["max_lag_seconds"], answer.json()["banner"]) == (200, None)


def test_change_that_a_caller_waits_for_is_served_once_it_is_searchable(gateway, retrieve, tables, namespaces):
    """Not before, and without asking a lane again."""
    namespace, token = namespaces[SLUG], write_token(7)
    tables.pending(namespace, "refunds", since=ago(1), seqs=(7, 7))

    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(retrieve, at_least=token)
        gateway.rows()  # its question is embedded
        assert not answer.done()
        tables.chunks(namespace, "DELETE FROM {table} WHERE source_key = 'refunds'")
        text = "How to get a refund for a parcel: ask"
        tables.chunk(namespace, "refunds", text, vector_of(text), rev=2)
        tables.run("DELETE FROM corpora_pending")
        told = answer.result(timeout=60)

    assert told.status_code == 200
    assert (told.json()["chunks"][0]["text"], told.json()["chunks"][0]["source_rev"]) == (text, 2)
    assert len(gateway.rows()) == 1


def test_change_that_is_not_searchable_within_the_deadline_ends_with_it(retrieve, tables, namespaces):
    """The caller's own deadline bounds the wait."""
    tables.pending(namespaces[SLUG], "refunds", since=ago(1), seqs=(7, 7))

    answer = retrieve(at_least=write_token(7), headers={"ballast-deadline-ms": "1500"})

    assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")


async def leave(gateway, body):
    """Ask, and hang up once the question is embedded."""
    headers = {"authorization": "Bearer bk-globex"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=90) as client:
        asking = asyncio.create_task(client.post("/v1/retrieve", json=body))
        await asyncio.to_thread(gateway.rows)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def test_caller_who_leaves_while_waiting_is_waited_for_no_longer(gateway, tables, namespaces):
    """Its request ends, and is counted once as cancelled."""
    tables.pending(namespaces[SLUG], "refunds", since=ago(1), seqs=(7, 7))
    before = metric(gateway, "ballast_retrievals_total", corpus=SLUG, outcome="cancelled")

    asyncio.run(leave(gateway, {"corpus": SLUG, "query": REFUND, "at_least": write_token(7)}))

    request, _ = sorted(gateway.rollups(), key=lambda rollup: rollup["lane"])
    assert (request["requests"], request["cancelled"], request["errors"]) == (1, 1, 0)
    assert metric(gateway, "ballast_retrievals_total", corpus=SLUG, outcome="cancelled") == before + 1


def test_conversation_reads_the_snapshot_that_it_was_answered_from(retrieve, tables, namespaces):
    """Whatever became searchable since, until it is no longer kept."""
    namespace = namespaces[SLUG]
    snapshot = retrieve().json()["freshness"]["snapshot"]
    tables.chunks(namespace, "UPDATE {table} SET died = 2 WHERE source_key = 'refunds'")
    text = "How to get a refund for a parcel: never"
    tables.chunk(namespace, "refunds", text, vector_of(text), rev=2, born=2, event_at=ago(20))
    tables.run("UPDATE corpora_namespace SET index_rev = 2 WHERE id = %s", namespace)

    then, now = retrieve(snapshot=snapshot).json(), retrieve().json()

    assert then["freshness"]["snapshot"] == snapshot
    assert (then["chunks"][0]["source_rev"], then["chunks"][0]["is_current"]) == (1, False)
    assert then["freshness"]["lag_seconds"] >= 20
    assert (now["chunks"][0]["text"], now["freshness"]["index_rev"]) == (text, 2)
    tables.run("UPDATE corpora_namespace SET kept_rev = 2 WHERE id = %s", namespace)
    gone = retrieve(snapshot=snapshot)
    assert (gone.status_code, error_of(gone)["code"]) == (410, "snapshot_gone")
    assert gone.headers["x-should-retry"] == "false"


def test_pinned_corpus_is_served_as_it_was_with_its_banner(retrieve, tables, namespaces):
    """Also one that would block: somebody decided that. No change is known to be in it, so nobody waits for one."""
    namespace = namespaces["strict"]
    tables.pending(namespace, "refunds", since=ago(4000))
    tables.run("UPDATE corpora_namespace SET index_rev = 3 WHERE id = %s", namespace)
    ((corpus,),) = tables.run("SELECT id FROM corpora_corpus WHERE slug = 'strict'")
    tables.pin(corpus, Snapshot(namespace, 1))

    answer = retrieve(corpus="strict")
    waiting = retrieve(corpus="strict", at_least=write_token(1))

    assert answer.status_code == 200
    assert answer.json()["freshness"]["is_pinned"]
    assert "1 h 6 min" in answer.json()["banner"]["text"]
    assert (waiting.status_code, error_of(waiting)["code"]) == (503, "corpus_stale")
    assert "pinned" in error_of(waiting)["message"]


def test_paused_and_empty_corpora_are_told_apart(gateway, retrieve, tables, namespaces):
    """The second question to a paused corpus is not even embedded."""
    tables.run("UPDATE corpora_corpus SET live_namespace_id = NULL WHERE slug = 'strict'")
    retrieve()
    tables.run("UPDATE corpora_corpus SET paused_at = now() WHERE slug = %s", SLUG)

    paused, again, empty = retrieve(), retrieve(), retrieve(corpus="strict")

    assert [(one.status_code, error_of(one)["code"]) for one in (paused, again, empty)] == [
        (503, "corpus_paused"),
        (503, "corpus_paused"),
        (503, "corpus_not_ready"),
    ]
    assert "retry-after" in paused.headers
    assert len(gateway.rows(2)) <= 3
