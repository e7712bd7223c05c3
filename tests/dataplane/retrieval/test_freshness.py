"""What follows from the age of what was found."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.errors.requests import InvalidRequest
from dataplane.retrieval.freshness import Outcome, Standing, judge
from dataplane.retrieval.modes import ANY, Mode, read_mode
from dataplane.retrieval.policy import Corpora, Corpus
from dataplane.retrieval.tables import Snapshot
from tests.corpora_documents import BANNER, SLUG, corpora


def promised(**freshness: Any) -> Corpus:
    """A corpus that may be 300 s old, whose banner is signed."""
    return Corpora.parse(corpora(freshness=freshness)).with_words({BANNER})[SLUG]


def standing(lag_seconds: float, **changes: Any) -> Standing:
    return Standing(Snapshot(1, 7), lag_seconds=lag_seconds, pending=1, poisoned=0, **changes)


@pytest.mark.parametrize(
    ("on_breach", "lag_seconds", "outcome"),
    [
        ("banner", 300, Outcome.SERVE),
        ("banner", 301, Outcome.BANNER),
        ("block", 300, Outcome.SERVE),
        ("block", 301, Outcome.REFUSE),
    ],
)
def test_policy_decides_what_is_done_with_what_is_too_old(on_breach: str, lag_seconds: float, outcome: Outcome) -> None:
    """Up to the promised age everything is served; beyond it, with signed words or not at all."""
    judged = judge(promised(on_breach=on_breach), ANY, standing(lag_seconds))

    assert (judged.outcome, judged.is_stale) == (outcome, lag_seconds > 300)


def test_bound_of_a_caller_is_a_demand() -> None:
    """Who asks for no more than ten seconds gets nothing older, whatever banner there is; a laxer bound loosens
    nothing.
    """
    corpus = promised()

    assert judge(corpus, Mode(max_lag_seconds=10), standing(11)).outcome is Outcome.REFUSE
    assert judge(corpus, Mode(max_lag_seconds=900), standing(400)).outcome is Outcome.BANNER


def test_pinned_corpus_is_served_with_its_banner_however_old() -> None:
    """Somebody decided that, so it does not block; the answer says so."""
    assert judge(promised(on_breach="block"), ANY, standing(9000, is_pinned=True)).outcome is Outcome.BANNER


def test_who_waits_for_a_write_waits_before_anything_else() -> None:
    """Old or not: what is not there yet is not answered without."""
    assert judge(promised(), Mode(at_least=9), standing(1, waited_for=True)).outcome is Outcome.WAIT


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "any"),
        ({"at_least": "ct_12"}, "at_least"),
        ({"snapshot": "ns_3.40"}, "snapshot"),
        ({"max_lag_seconds": 5, "snapshot": None}, "max_lag"),
    ],
)
def test_mode_is_what_the_caller_gives(fields: dict[str, Any], mode: str) -> None:
    """At most one demand; null is none."""
    assert read_mode(fields).name == mode


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"at_least": "ct_0"}, "corpus.at_least: 'ct_0' is no consistency token"),
        ({"at_least": 12}, "corpus.at_least: '12' is no consistency token"),
        ({"snapshot": "ns_3"}, "corpus.snapshot: 'ns_3' is no snapshot"),
        ({"max_lag_seconds": True}, "corpus.max_lag_seconds: expected seconds"),
        ({"max_lag_seconds": -1}, "corpus.max_lag_seconds: expected seconds"),
        ({"at_least": "ct_1", "snapshot": "ns_3.1"}, "give 'at_least' or 'snapshot', not both"),
    ],
)
def test_mode_that_nobody_understands_is_refused_by_name(fields: dict[str, Any], fact: str) -> None:
    """The caller learns which member is wrong."""
    with pytest.raises(InvalidRequest, match=fact):
        read_mode(fields, path="corpus.")
