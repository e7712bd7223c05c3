"""Questions while what embeds them, or what holds the corpus, is away or hangs."""

from __future__ import annotations

import httpx
import pytest

from dataplane.assembly import Stores
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora_documents import SLUG
from tests.dataplane.conftest import copy_document
from tests.dataplane.gateway.conftest import run_gateway

from .searched_corpora import LANE, OTHER, REFUND, error_of, searched_sections

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


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


def test_model_server_that_is_away_takes_what_rests_on_corpora_and_nothing_else(simulator_url, keys_url, namespaces):
    """Nobody listens where questions are embedded: a search says so, and so does an answer that would rest on it,
    unless its route has signed words for such a case; chat goes on.
    """
    sections = searched_sections(simulator_url)
    routing = sections["routing"]
    for lane in (LANE, OTHER):
        routing["lanes"][lane]["account"] = "nowhere"
    routing["routes"]["azure"]["fallback"] = "words"
    routing["fallbacks"] = {"words": {"answers": None, "template": {"copy": "sorry"}, "outage": {"copy": "out"}}}
    sections["copy"] |= {
        slug: {"version": 1, "digest": "c" * 64, "document": copy_document(kind)}
        for slug, kind in (("sorry", "template"), ("out", "outage"))
    }
    stores = Stores(corpora=PostgresCorpusStore(keys_url, timeout_seconds=60))
    question = {"model": "chat", "messages": [{"role": "user", "content": REFUND}]}

    with (
        run_gateway(sections, stores=stores) as gateway,
        httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90) as http,
    ):
        search = http.post("/v1/retrieve", json={"corpus": SLUG, "query": REFUND})
        grounded = http.post("/v1/chat/completions", json=question | {"corpus": SLUG})
        signed = http.post("/v1/chat/completions", json=question | {"corpus": SLUG, "model": "azure"})
        chat = http.post("/v1/chat/completions", json=question)
        kinds = [row["kind"] for row in gateway.rows(4)]

    for refused in (search, grounded):
        assert (refused.status_code, error_of(refused)["code"]) == (502, "upstream_unreachable")
    assert (signed.status_code, signed.headers["ballast-fallback"]) == (200, "template")
    assert (chat.status_code, chat.headers["ballast-fallback"]) == (200, "none")
    assert kinds == ["retrieval", "retrieval", "retrieval", "primary"]
