"""Questions while another namespace, or another model, comes to serve a corpus."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane.retrieval.tables import Snapshot
from tests.corpora_documents import SLUG

from .searched_corpora import DIMENSIONS, LANE, OTHER, error_of, fill

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


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
