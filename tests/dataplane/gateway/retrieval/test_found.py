"""What is found to a question over HTTP, for whom, and what is no question."""

from __future__ import annotations

import json

import httpx
import pytest

from dataplane.retrieval.desk import CONSISTENCY
from tests.corpora_documents import MODEL, SLUG

from .searched_corpora import LANE, REFUND, error_of, metric, vector_of

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


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
