"""Ages and moments as readers are told of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dataplane.retrieval.policy import Corpora
from dataplane.retrieval.words import age_in_words, banner_of, moment_in_words
from dataplane.signed_copy import CopyBook
from tests.corpora_documents import BANNER, SLUG, banner_copy, corpora

NOW = datetime(2026, 3, 4, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3700, "1 h 1 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_age_has_two_units_at_most(seconds: float, words: str) -> None:
    """And is never told as greater than it is."""
    assert age_in_words(seconds) == words


def test_moment_of_another_day_has_its_date() -> None:
    """Or a reader would look for it today."""
    assert moment_in_words(NOW.replace(minute=1), now=NOW) == "00:01 UTC"
    assert moment_in_words(datetime(2026, 3, 3, 23, 59, tzinfo=UTC), now=NOW) == "2026-03-03 23:59 UTC"


@pytest.mark.parametrize(("accepted", "locale"), [(None, "en"), ("de-CH", "de"), ("fr", "en")])
def test_banner_is_filled_in_the_language_of_its_reader(accepted: str | None, locale: str) -> None:
    """Or in its default, where it has no other."""
    corpus = Corpora.parse(corpora())[SLUG]
    copy = CopyBook.parse(banner_copy())[BANNER]

    banner = banner_of(corpus, copy, lag_seconds=600, now=NOW, accepted=accepted)

    words = {
        "en": "Help centre may lack what changed since 2026-03-03 23:55 UTC (10 min).",
        "de": "Help centre kann 10 min alt sein.",
    }
    assert (banner.text, banner.locale, banner.copy) == (words[locale], locale, f"{BANNER}@1")
