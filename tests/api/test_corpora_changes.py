"""Feeding a corpus over HTTP, and looking at one document."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.corpora.models import Corpus, Document
from controlplane.corpora.namespaces import switch
from dataplane.retrieval.tables import read_token
from tests.corpora.changes import accept, index, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import NOW, crew

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

URL = "corpora/help-centre/changes"


@pytest.fixture
def corpus() -> Corpus:
    return make_corpus()


def put(key: str, rev: int, **more: Any) -> dict[str, Any]:
    return {"key": key, "rev": rev, "op": "upsert", "content": "Words.", **more}


def test_batch_is_answered_with_a_token_and_what_became_of_each(corpus: Corpus, as_operator: Any) -> None:
    """Sending it again is answered with duplicates and the same token."""
    batch = {"changes": [put("faq/größe", 2, metadata={"title": "G"}), {"key": "old", "rev": 1, "op": "delete"}]}

    first, again = (as_operator(crew.owner).post(URL, batch) for _ in range(2))

    assert first.body["counts"] == {"accepted": 2}
    assert first.body["results"][0] == {"key": "faq/größe", "rev": 2, "fate": "accepted"}
    assert again.body["counts"] == {"duplicate": 2}
    assert first.body["token"] == again.body["token"]
    assert read_token(first.body["token"]) == max(Document.objects.values_list("seq", flat=True))


def test_malformed_changes_are_named_one_by_one(corpus: Corpus, as_operator: Any) -> None:
    """Each with its place in the batch; nothing of it was taken in."""
    batch = [
        put("a", 1),
        put("b", -1),
        {"key": "c", "rev": 1, "op": "upsert"},
        put("d", 1, colour="red"),
        {"rev": 1},
        7,
    ]

    answer = as_operator(crew.owner).post(URL, {"changes": batch})

    error = answer.body["error"]
    assert (answer.status, error["code"]) == (400, "invalid_changes")
    assert [one["path"] for one in error["problems"]] == [
        *("changes[1].rev", "changes[2].content", "changes[3].colour"),
        *("changes[4].key", "changes[4].op", "changes[5]"),
    ]
    assert not Document.objects.exists()


@pytest.mark.parametrize(
    ("body", "code"),
    [({}, "invalid"), ({"changes": []}, "invalid"), ({"changes": [put("a", 1)] * 1_001}, "too_many_changes")],
)
def test_batch_that_is_none_is_refused(corpus: Corpus, as_operator: Any, body: dict[str, Any], code: str) -> None:
    """Empty, or larger than what is taken in at once."""
    answer = as_operator(crew.owner).post(URL, body)

    assert (answer.status, answer.body["error"]["code"]) == (400, code)


def test_corpus_that_nobody_knows_is_not_found(as_operator: Any) -> None:
    """Whoever misspells it hears of it."""
    assert as_operator(crew.owner).post(URL, {"changes": [put("a", 1)]}).status == 404


def test_document_tells_what_is_searchable_where(corpus: Corpus, as_operator: Any) -> None:
    """By its newest accepted revision, and by what each namespace has."""
    namespace = make_namespace(corpus)
    switch(corpus=corpus, namespace=namespace, reason="r", actor=crew.oncall, now=NOW)
    accept(corpus, upsert("faq/größe", 1))
    index(namespace)
    accept(corpus, upsert("faq/größe", 2))

    answer = as_operator(crew.auditor).get("corpora/help-centre/documents/faq/größe")

    body = answer.body
    assert (body["key"], body["rev"], body["is_deleted"]) == ("faq/größe", 2, False)
    assert body["namespaces"] == [
        {
            "snapshot": f"ns_{namespace.pk}.1",
            "is_live": True,
            "searchable_rev": 1,
            "chunks": 1,
            "is_pending": True,
            "is_poisoned": False,
        }
    ]
    assert as_operator(crew.auditor).get("corpora/help-centre/documents/none").status == 404
