"""Documents compared with a listing that their source sends."""

from __future__ import annotations

import pytest

from controlplane.corpora.listing_reconciling import InvalidListing, Listed, Span, reconcile_listing
from controlplane.corpora.models import Corpus, Document, Reconciliation
from dataplane.retrieval.hashes import content_digest
from tests.corpora.changes import accept, delete, upsert
from tests.corpora.kept_corpora import crew, make_corpus
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

ALL = [Listed("a", 3), Listed("b", 3), Listed("c", 3)]
WHOLE = Span(is_complete=True)


@pytest.fixture
def corpus() -> Corpus:
    """Three documents at revision 3, and a fourth that is deleted."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 3), upsert("b", 3), upsert("c", 3, "Sea", url="/c"), delete("d", 3))
    return corpus


def token(corpus):
    return compare(corpus, [], span=Span(is_complete=False)).token


def compare(corpus, listed, *, span=WHOLE, token=None, repair=False):
    return reconcile_listing(
        corpus=corpus, listed=listed, span=span, token=token, actor=crew.owner, now=NOW, repair=repair
    )


def named(compared):
    return [(one.kind.value, one.source_key) for one in compared.findings.named]


def alive(corpus):
    return sorted(Document.objects.filter(corpus=corpus, is_deleted=False).values_list("source_key", flat=True))


def test_listing_of_what_there_is_is_clean(corpus):
    """And is written down as a comparison with the source."""
    listed = [*ALL[:2], Listed("c", 3, content_digest("Sea", {"url": "/c"}))]

    compared = compare(corpus, listed)

    assert compared.row == Reconciliation.objects.get()
    assert compared.row.is_clean
    assert (compared.row.scope, compared.row.compared) == ("source", 3)


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([*ALL, Listed("e", 1)], ("missing", "e")),
        ([*ALL, Listed("d", 2)], ("missing", "d")),
        ([*ALL[:2], Listed("c", 4)], ("stale", "c")),
        ([*ALL[:2], Listed("c", 2)], ("stale", "c")),
        ([*ALL[:2], Listed("c", 3, "0" * 64)], ("stale", "c")),
        (ALL[:2], ("extra", "c")),
    ],
)
def test_each_kind_of_difference_is_named(corpus, listed, found):
    """Nothing is changed unless that is asked for."""
    compared = compare(corpus, listed)

    assert named(compared) == [found]
    assert not compared.row.is_clean
    assert alive(corpus) == ["a", "b", "c"]


def test_repair_deletes_what_is_not_listed_at_its_own_revision(corpus):
    """So the next change of that key is newer."""
    since = token(corpus)

    compared = compare(corpus, ALL[:2], token=since, repair=True)
    accept(corpus, upsert("c", 4))

    assert compared.findings.repaired == 1
    assert Document.objects.get(source_key="c").source_rev == 4
    assert alive(corpus) == ["a", "b", "c"]


def test_what_was_taken_in_since_the_listing_was_made_is_no_difference(corpus):
    """A document that is new, one that has changed, and one that is gone."""
    since = token(corpus)
    accept(corpus, upsert("e", 1), upsert("a", 4), delete("b", 4))

    compared = compare(corpus, ALL, token=since, repair=True)

    assert named(compared) == []
    assert alive(corpus) == ["a", "c", "e"]


def test_range_of_keys_is_compared_by_itself(corpus):
    """By code points; and a listing of a part is no clean bill for the whole."""
    compared = compare(corpus, [Listed("b", 3)], span=Span(is_complete=True, after="a", until="b"))
    others = compare(corpus, [], span=Span(is_complete=True, after="b"))

    assert named(compared) == []
    assert named(others) == [("extra", "c")]
    assert compared.row is None
    assert not Reconciliation.objects.exists()


def test_repair_of_a_part_is_written_down_as_one(corpus):
    """It is no clean comparison with the source."""
    since = token(corpus)

    compared = compare(corpus, [], span=Span(is_complete=True, after="b"), token=since, repair=True)

    assert compared.row.error == "of some of its documents only"
    assert not compared.row.is_clean


@pytest.mark.parametrize(
    ("listed", "how", "fact"),
    [
        ([Listed("a", 1), Listed("a", 2)], {}, "'a' is listed twice"),
        ([Listed("a", 1)], {"span": Span(True, after="b")}, "'a' is not in the range"),
        (ALL, {"repair": True}, "must be complete and name the token"),
        (ALL, {"repair": True, "token": "ct_1", "span": Span(False)}, "must be complete"),
        ([], {"repair": True, "token": "ct_1"}, "holds nothing is not believed"),
        (ALL, {"token": "ct_999999999999"}, "is no consistency token"),
        (ALL, {"token": "hello"}, "is no consistency token"),
        ([Listed(str(number), 1) for number in range(10_001)], {}, "at most 10000"),
    ],
)
def test_listing_that_cannot_be_compared_is_refused_by_what_is_wrong(corpus, listed, how, fact):
    """Nothing is compared or deleted."""
    with pytest.raises(InvalidListing, match=fact):
        compare(corpus, listed, **how)

    assert alive(corpus) == ["a", "b", "c"]
