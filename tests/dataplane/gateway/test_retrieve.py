"""Questions to a corpus over HTTP: a live gateway, a live simulator that embeds, and the real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from dataplane.assembly import Stores
from dataplane.retrieval.desk import CONSISTENCY
from dataplane.retrieval.tables import Snapshot, write_token
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora_documents import BANNER, MODEL, SLUG
from tests.dataplane.retrieval.corpus_tables import corpus_tables

from .conftest import run_gateway
from .searched_corpora import DIMENSIONS, LANE, OTHER, REFUND, fill, searched_sections, serve_all, vector_of

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


@pytest.fixture(scope="module")
def retrieving_gateway(simulator_url, keys_url):
    """A gateway that is told of the database."""
    stores = Stores(corpora=PostgresCorpusStore(keys_url, timeout_seconds=60))
    with run_gateway(searched_sections(simulator_url), stores=stores) as gateway:
        yield gateway


@pytest.fixture
def gateway(retrieving_gateway, simulator):
    """That gateway, with nothing recorded yet."""
    retrieving_gateway.forget()
    return retrieving_gateway


@pytest.fixture
def tables(keys_url):
    """The tables, empty."""
    with corpus_tables(keys_url) as tables:
        yield tables


@pytest.fixture
def namespaces(tables):
    """What serves each corpus, by its slug."""
    return serve_all(tables)


def ago(seconds):
    return datetime.now(UTC) - timedelta(seconds=seconds)


@pytest.fixture
def retrieve(http, namespaces):
    """Asks a question as one tenant."""

    def _retrieve(*, headers=None, **fields):
        return http.post("/v1/retrieve", json={"corpus": SLUG, "query": REFUND} | fields, headers=headers)

    return _retrieve


def error_of(response):
    return response.json()["error"]


def metric(gateway, name, **labels):
    """A figure at /metrics; 0 where there is none."""
    told = ",".join(f'{key}="{value}"' for key, value in labels.items())
    wanted = f"{name}{{{told}}} "
    lines = httpx.get(f"{gateway.url}/metrics", timeout=60).text.splitlines()
    return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0)


def test_question_finds_the_nearest_chunks_with_their_revisions_and_freshness(gateway, retrieve, namespaces):
    """All that there is to know of them, in the answer and its headers."""
    answer = retrieve(k=2)

    assert answer.status_code == 200
    assert (answer.headers["ballast-release"], answer.headers["ballast-lane"]) == ("1", LANE)
    assert answer.headers["ballast-request-id"].startswith("req_")
    told = answer.json()
    first, _ = told.pop("chunks")
    assert told == {
        "object": "retrieval",
        "corpus": SLUG,
        "query_embedding": {"model": MODEL, "lane": LANE},
        "freshness": {
            "snapshot": f"ns_{namespaces[SLUG]}.1",
            "index_rev": 1,
            "lag_seconds": 0,
            "max_lag_seconds": 300,
            "is_stale": False,
            "is_pinned": False,
            "pending": 0,
            "poisoned": 0,
        },
        "banner": None,
        "consistency": CONSISTENCY,
    }
    expected = float(vector_of(REFUND) @ vector_of(first["text"]))
    assert first.pop("id").startswith("ch_")
    assert first.pop("score") == pytest.approx(expected, abs=1e-5)
    assert first.pop("event_at") > 1_700_000_000
    assert first == {
        "source_key": "refunds",
        "source_rev": 1,
        "ordinal": 0,
        "text": "How to get a refund for a parcel",
        "metadata": {"title": "refunds", "is_public": True},
        "is_current": True,
    }


def test_retrieval_is_billed_and_counted_once(gateway, retrieve):
    """To the tenant that asked, as what it was; the corpus and its outcome are at /metrics."""
    before = metric(gateway, "ballast_retrievals_total", corpus=SLUG, outcome="serve")
    requests = metric(gateway, "ballast_gateway_requests_total", operation="retrieve", outcome="ok")

    retrieve(headers={"ballast-user": "ada"})

    (row,) = gateway.rows()
    assert (row["tenant"], row["kind"], row["lane"], row["route"]) == ("globex", "retrieval", LANE, "embed")
    assert (row["outcome"], row["output_tokens"], row["attempt"]) == ("ok", 0, 1)
    assert row["input_tokens"] > 0
    assert row["cost_micros"] == row["input_tokens"] * 2
    assert sorted((one["lane"], one["requests"], one["attempts"]) for one in gateway.rollups()) == [
        ("", 1, 0),
        (LANE, 0, 1),
    ]
    assert metric(gateway, "ballast_retrievals_total", corpus=SLUG, outcome="serve") == before + 1
    assert metric(gateway, "ballast_gateway_requests_total", operation="retrieve", outcome="ok") == requests + 1
    assert metric(gateway, "ballast_corpus_lag_seconds", corpus=SLUG) == 0


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


def test_filter_narrows_what_is_found(retrieve):
    """By equality of metadata."""
    answer = retrieve(filter={"is_public": False, "title": "jobs"})

    assert [chunk["source_key"] for chunk in answer.json()["chunks"]] == ["jobs"]


def test_corpus_of_other_tenants_looks_as_if_it_did_not_exist(gateway, retrieve):
    """To everybody but its own."""
    ours = httpx.post(
        f"{gateway.url}/v1/retrieve",
        json={"corpus": "private", "query": REFUND},
        headers={"authorization": "Bearer bk-acme"},
        timeout=60,
    )

    refused = [retrieve(corpus="private"), retrieve(corpus="nowhere")]

    assert ours.status_code == 200
    for answer, slug in zip(refused, ("private", "nowhere"), strict=True):
        assert (answer.status_code, error_of(answer)["code"]) == (404, "corpus_not_found")
        assert error_of(answer)["message"] == f"corpus {slug!r} does not exist, or not for your tenant"
        assert error_of(answer)["param"] == "corpus"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"corpus": None}, "corpus"),
        ({"query": " "}, "query"),
        ({"query": "a" * 8001}, "query"),
        ({"k": 0}, "k"),
        ({"k": 51}, "k"),
        ({"k": True}, "k"),
        ({"filter": []}, "filter"),
        ({"filter": {"tags": ["a"]}}, "filter.tags"),
        ({"filter": {"a": "\x00"}}, "filter.a"),
        ({"filter": {"a": None}}, "filter.a"),
        ({"top_k": 3}, "top_k"),
        ({"at_least": "7"}, "at_least"),
        ({"snapshot": "ns_1"}, "snapshot"),
        ({"max_lag_seconds": -1}, "max_lag_seconds"),
        ({"snapshot": "ns_1.1", "max_lag_seconds": 1}, "max_lag_seconds"),
    ],
)
def test_request_that_makes_no_sense_is_refused_by_name(gateway, retrieve, fields, param):
    """Before anything is asked of a lane."""
    answer = retrieve(**fields)

    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_request")
    assert error_of(answer)["param"] == param
    assert gateway.reports.rows == []


def test_edge_refuses_what_is_no_question(gateway, http):
    """Another method, no JSON, an unknown key, a deadline that is none."""
    body = json.dumps({"corpus": SLUG, "query": REFUND})
    headers = {"content-type": "application/json"}

    answers = [
        http.get("/v1/retrieve"),
        http.post("/v1/retrieve", content="{", headers=headers),
        http.post("/v1/retrieve", content="[]", headers=headers),
        http.post("/v1/retrieve", content=body, headers=headers | {"authorization": "Bearer nobody"}),
        http.post("/v1/retrieve", content=body, headers=headers | {"ballast-deadline-ms": "soon"}),
    ]

    assert [answer.status_code for answer in answers] == [405, 400, 400, 401, 400]


def test_switch_to_another_model_asks_a_lane_of_that_model(gateway, retrieve, tables, namespaces):
    """The question that was embedded by the old one is embedded again, once; from then on only by the new one."""
    retrieve()
    ((corpus,),) = tables.run("SELECT id FROM corpora_corpus WHERE slug = %s", SLUG)
    moved = fill(tables, corpus, model="other")
    tables.serve(corpus, moved)

    answers = [retrieve(), retrieve()]

    assert [answer.headers["ballast-lane"] for answer in answers] == [OTHER, OTHER]
    assert answers[0].json()["query_embedding"]["model"] == "other"
    assert [row["lane"] for row in gateway.rows(4)] == [LANE, LANE, OTHER, OTHER]
    assert {row["kind"] for row in gateway.rows(4)} == {"retrieval"}


def test_model_whose_lanes_are_gone_is_not_asked_once_another_serves(gateway, retrieve, simulator, tables, namespaces):
    """What the gateway knew of who serves is looked up again before a failure to embed is told."""
    ((corpus,),) = tables.run("SELECT id FROM corpora_corpus WHERE slug = %s", SLUG)
    gone = tables.namespace(corpus, dimensions=DIMENSIONS, model="nobody's")
    tables.serve(corpus, gone)
    refused = retrieve()
    tables.serve(corpus, namespaces[SLUG])

    answer = retrieve()

    assert (refused.status_code, error_of(refused)["code"]) == (503, "no_eligible_lane")
    assert "embeds by 'embedding', not by \"nobody's\"" in error_of(refused)["message"]
    assert answer.status_code == 200


def test_switch_of_namespaces_loses_no_query_and_mixes_none(gateway, retrieve, tables, namespaces):
    """Back and forth under queries: each is answered from one namespace whole."""
    ((corpus,),) = tables.run("SELECT id FROM corpora_corpus WHERE slug = %s", SLUG)
    words = {namespaces[SLUG]: "refund", fill(tables, corpus, word="return"): "return"}

    answers = []
    with ThreadPoolExecutor(4) as threads:
        for turn in range(20):
            asked = [threads.submit(retrieve) for _ in range(4)]
            tables.serve(corpus, list(words)[turn % 2])
            answers += [one.result(timeout=60) for one in asked]

    assert {answer.status_code for answer in answers} == {200}
    seen = set()
    for answer in answers:
        namespace = Snapshot.read(answer.json()["freshness"]["snapshot"]).namespace
        text = next(chunk["text"] for chunk in answer.json()["chunks"] if chunk["source_key"] == "refunds")
        assert len(answer.json()["chunks"]) == 3
        assert words[namespace] in text
        seen.add(namespace)
    assert seen == set(words)


def test_vectors_of_another_length_are_a_failure_of_the_lane(gateway, retrieve, tables, namespaces):
    """It says how many there are, and how many are needed."""
    ((corpus,),) = tables.run("SELECT id FROM corpora_corpus WHERE slug = %s", SLUG)
    tables.serve(corpus, tables.namespace(corpus, dimensions=8))
    tables.run("UPDATE corpora_namespace SET model = 'other' WHERE dimensions = 8")

    answer = retrieve()

    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_malformed")
    assert "1536 dimensions, not 8" in error_of(answer)["message"]


def test_lane_that_fails_is_told_as_such_and_nothing_is_searched(gateway, retrieve, simulator):
    """A question that nobody embeds finds nothing."""
    simulator.post("/admin/faults", json={"fault": "status:code=500", "count": 5}).raise_for_status()

    answer = retrieve()

    assert answer.status_code >= 500
    assert error_of(answer)["code"].startswith("upstream_")


def test_deadline_bounds_a_search_that_hangs(gateway, retrieve, tables):
    """Somebody holds the table; the caller is told in time."""
    retrieve()
    with tables.sql.transaction():
        tables.run("LOCK TABLE corpora_corpus IN ACCESS EXCLUSIVE MODE")

        answer = retrieve(headers={"ballast-deadline-ms": "1500"})

    assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("stores", [Stores(), "away"])
def test_without_the_database_nothing_is_told(simulator_url, simulator, stores):
    """A deleted document may stand there; chat goes on."""
    if stores == "away":
        url = "postgresql://nobody@127.0.0.1:1/none"
        stores = Stores(corpora=PostgresCorpusStore(url, timeout_seconds=0.5))
    with (
        run_gateway(searched_sections(simulator_url), stores=stores) as gateway,
        httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90) as http,
    ):
        answer = http.post("/v1/retrieve", json={"corpus": SLUG, "query": REFUND})
        chat = http.post(
            "/v1/chat/completions", json={"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
        )

    assert (answer.status_code, error_of(answer)["code"]) == (503, "corpus_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert chat.status_code == 200
