import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.ladder.emergency import compile_emergency
from controlplane.ladder.operations import return_to
from controlplane.releases.operations import current_release, sandbox_document
from controlplane.releases.signing import signing_key
from dataplane.ladder.emergency import Order, most_minutes, parse_signed, read_order
from dataplane.release import key_id_of
from tests.dataplane.conftest import threshold
from tests.factories import NOW, crew, make_live_copy
from tests.ladder.ladder_policies import SURFACE, ladder_document, make_ladder, make_words, section, served

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def trusted():
    public = signing_key().public_key()
    return {key_id_of(public): public}


def orders():
    """The orders of the current release, by rung, as a host reads them."""
    return {
        rung: read_order(envelope, trusted=trusted())
        for rung, envelope in parse_signed(section("emergency")).get(SURFACE, {}).items()
    }


def test_release_carries_an_order_for_every_rung_that_can_be_engaged():
    """Good on a host that has nothing but the release: the words are those of it, the time is the policy's."""
    make_words(1, 5)
    make_ladder(ladder_document(emergency_minutes=threshold(45)))

    found, release = orders(), served()

    answers = release.copy["help-answers"]
    assert found.keys() == {1, 5}
    assert found[5] == Order(
        SURFACE, 5, {"rung-5@1": release.copy["rung-5"].digest, "help-answers@1": answers.digest}, 45
    )
    assert [most_minutes(order, release) for order in found.values()] == [45, 45]


def test_words_that_are_signed_later_bring_their_order_with_them():
    """The release that carries the words carries the order too."""
    make_words(1)
    make_ladder()
    assert orders().keys() == {1}

    make_words(6)

    assert orders().keys() == {1, 6}


def test_other_words_have_another_order():
    """The old one names what nobody reads any more; words that return have theirs again."""
    first = make_live_copy(slug="rung-1", kind="rung")
    make_ladder()
    before = section("emergency")

    make_live_copy(first.copy, "We are even busier")

    assert list(orders()[1].words) == ["rung-1@2"]
    return_to(version=first, actor=crew.oncall, reason="as before", now=NOW)
    assert section("emergency") == before


def test_same_state_is_signed_alike_in_few_queries():
    """So a release is cut only where something changed."""
    make_words()
    make_ladder()
    before = section("emergency")

    with CaptureQueriesContext(connection) as queries:
        again = compile_emergency()

    assert again == before
    assert len(queries) == 2


def test_without_a_ladder_there_is_nothing_to_order():
    """And nothing to sign."""
    assert section("emergency") == {}


def test_evals_are_given_no_orders():
    """They stand on no ladder, and what they try does not change with a key."""
    make_words(1)
    make_ladder()

    assert sandbox_document({})["sections"]["emergency"] == {}
    assert current_release().content["sections"]["emergency"] != {}
