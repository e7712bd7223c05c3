"""A listing compared over the API."""

from __future__ import annotations

import pytest

from tests.corpora.changes import accept, upsert
from tests.corpora.kept_corpora import crew, make_corpus

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

PATH = "corpora/help-centre/reconcile"


def test_source_learns_what_differs_and_repairs_it(as_operator):
    """It takes a token, makes its listing, and sends both; what it does not hold is deleted."""
    accept(make_corpus(), upsert("a", 1), upsert("b", 1))
    owner = as_operator(crew.owner)

    token = owner.post(PATH, {"listing": []}).body["token"]
    answer = owner.post(
        PATH, {"listing": [{"key": "a", "rev": 2}], "complete": True, "token": token, "repair": True}
    ).body
    again = owner.post(PATH, {"listing": [{"key": "a", "rev": 1}], "complete": True}).body

    assert [(one["kind"], one["key"]) for one in answer["findings"]] == [("stale", "a"), ("extra", "b")]
    assert (answer["counts"]["extra"], answer["compared"], answer["repaired"]) == (1, 1, 1)
    assert not any(again["counts"].values())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid"),
        ({"listing": [{"key": "a", "rev": 1, "sha256": "short"}]}, 400, "invalid"),
        ({"listing": [{"key": "a", "rev": 1}] * 2}, 400, "invalid_listing"),
        ({"listing": [], "complete": True, "repair": True}, 400, "invalid_listing"),
    ],
)
def test_listing_that_is_none_is_refused(as_operator, body, status, code):
    """In the envelope of every refusal."""
    make_corpus()

    answer = as_operator(crew.owner).post(PATH, body)

    assert (answer.status, answer.body["error"]["code"]) == (status, code)


def test_who_may_not_feed_a_corpus_compares_nothing(as_operator):
    """Nor does anybody a corpus that there is not."""
    assert as_operator(crew.owner).post(PATH, {"listing": []}).status == 404
    make_corpus()

    assert as_operator(crew.approver_one).post(PATH, {"listing": []}).status == 403
