"""Orders signed beforehand: what is signed, what is believed, and what engages nothing after all."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.documents import MalformedRelease
from dataplane.ladder.emergency import (
    Given,
    Order,
    OrderRefused,
    obeyed,
    orders_of,
    parse_given,
    parse_signed,
    read_order,
    sign_order,
)
from dataplane.release import BadSignature, DigestMismatch, Envelope, UnknownKey, parse_document, sign
from tests.dataplane.conftest import threshold
from tests.dataplane.ladder.conftest import ANSWERS
from tests.ladders import rung_copy, rungs

NOW = datetime(2026, 3, 4, 5, 30, tzinfo=UTC)


def orders_in(release):
    """The orders of a release, by rung."""
    signed = {slug: (piece.reference, piece.digest) for slug, piece in release.copy.items()}
    return {order.rung: order for order in orders_of(release.ladder, signed)}


def give(order, key, **changes):
    """An order as somebody gave it at NOW, for ten minutes."""
    envelope = sign_order(order, key)
    until = NOW + timedelta(minutes=10)
    return replace(Given("emergency-1", envelope, NOW, until, "fire", "oncall"), **changes)


def test_every_rung_that_can_be_engaged_has_an_order_and_no_other(ladder_release):
    """It names all words that its rung shows, and for how long it is good."""
    orders = orders_in(ladder_release(copy=rung_copy(1, 5)))

    assert orders == {
        1: Order("web-chat", 1, {"rung-1@1": "1" * 64}, 60),
        5: Order("web-chat", 5, {"rung-5@1": "5" * 64, "help-answers@3": "a" * 64}, 60),
    }


def test_good_order_engages_its_rung_for_everybody(ladder_release, signing_key, trusted):
    """As long as whoever gave it said, and no longer."""
    release = ladder_release()
    given = give(orders_in(release)[6], signing_key)

    activation = obeyed(given, trusted=trusted, release=release)

    assert (activation.id, activation.surface, activation.rung, activation.mode) == (
        "emergency-1",
        "web-chat",
        6,
        "engage",
    )
    assert (activation.regions, activation.tiers) == (frozenset(), frozenset())
    assert (activation.since, activation.until) == (given.since, given.until)
    assert (activation.reason, activation.by) == ("fire", "oncall")


def test_what_is_written_down_reads_back(ladder_release, signing_key):
    """Signed orders by surface and rung, and what was given, through JSON."""
    order = orders_in(ladder_release())[4]
    given = give(order, signing_key)

    assert parse_given(json.loads(json.dumps({"orders": [given.to_mapping()]}))) == (given,)
    section = {"web-chat": {"4": sign_order(order, signing_key).to_mapping()}}
    assert parse_signed(section) == {"web-chat": {4: given.envelope}}
    assert Order.parse(order.to_mapping()) == order


def test_same_order_is_signed_alike(ladder_release, signing_key):
    """So a release of the same state is the same."""
    order = orders_in(ladder_release())[4]

    assert sign_order(order, signing_key) == sign_order(order, signing_key)


def forged(envelope: Envelope, **changes: Any) -> Envelope:
    """The same with another document."""
    document = json.dumps(json.loads(envelope.document) | changes)
    return replace(envelope, document=document)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda envelope: forged(envelope, rung=6), BadSignature),
        (lambda envelope: forged(envelope, max_minutes=1440), BadSignature),
        (lambda envelope: forged(envelope, surface="voice"), BadSignature),
        (lambda envelope: replace(envelope, signature="AAAA"), BadSignature),
        (lambda envelope: replace(envelope, digest="0" * 64), DigestMismatch),
        (lambda envelope: replace(envelope, key_id="0" * 16), UnknownKey),
    ],
)
def test_altered_order_is_not_believed(ladder_release, signing_key, trusted, spoil, error):
    """Not in its rung, nor in how long it is good for, nor in what it is for."""
    envelope = sign_order(orders_in(ladder_release())[4], signing_key)

    with pytest.raises(error):
        read_order(spoil(envelope), trusted=trusted)


def test_order_of_another_key_is_not_believed(ladder_release, trusted):
    """Whoever made a key of their own has signed nothing."""
    stranger = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)

    with pytest.raises(UnknownKey):
        read_order(sign_order(orders_in(ladder_release())[4], stranger), trusted=trusted)


def test_what_was_signed_as_a_release_is_no_order(ladder_release, signing_key, trusted):
    """Each kind of document is signed as what it is."""
    order = orders_in(ladder_release())[4]

    with pytest.raises(BadSignature):
        read_order(sign(order.to_mapping(), signing_key), trusted=trusted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"copy": rung_copy(1, 2, 3)}, "rung 4 of surface 'web-chat' has no signed words"),
        (
            {"copy": rung_copy() | {"rung-4": rung_copy(4)["rung-4"] | {"version": 2, "digest": "e" * 64}}},
            "are not those that the order was signed with, rung-4@1",
        ),
        ({"rungs": {"1": rungs()["1"]}, "triggers": {}}, "rung 4 of surface 'web-chat' has no signed words"),
    ],
)
def test_release_that_has_other_words_by_now_ends_an_order(ladder_release, signing_key, trusted, changes, words):
    """Users read only what stands signed today."""
    given = give(orders_in(ladder_release())[4], signing_key)

    with pytest.raises(OrderRefused, match=words):
        obeyed(given, trusted=trusted, release=ladder_release(**changes))


def test_other_answers_end_an_order_for_known_answers_too(ladder_release, signing_key, trusted):
    """They are words that its rung shows."""
    given = give(orders_in(ladder_release())[5], signing_key)

    with pytest.raises(OrderRefused, match="signed with, help-answers@3, rung-5@1"):
        obeyed(given, trusted=trusted, release=ladder_release(answers=ANSWERS | {"digest": "b" * 64}))


def test_surface_that_is_gone_has_no_orders(ladder_release, make_document, signing_key, trusted):
    """There is nobody to engage it for."""
    given = give(orders_in(ladder_release())[4], signing_key)

    with pytest.raises(OrderRefused, match="no surface 'web-chat'"):
        obeyed(given, trusted=trusted, release=parse_document(make_document(), digest="e" * 64))


@pytest.mark.parametrize(
    ("minutes", "fits"), [(-10, False), (0, False), (1, True), (60, True), (60.5, False), (10**6, False)]
)
def test_order_lasts_no_longer_than_was_signed(ladder_release, signing_key, trusted, minutes, fits):
    """Whatever the file on the host says."""
    release = ladder_release()
    given = give(orders_in(release)[4], signing_key, until=NOW + timedelta(minutes=minutes))

    if fits:
        assert obeyed(given, trusted=trusted, release=release).until == given.until
    else:
        with pytest.raises(OrderRefused, match="1 to 60 are allowed"):
            obeyed(given, trusted=trusted, release=release)


def test_policy_that_allows_less_by_now_counts(ladder_release, signing_key, trusted):
    """An old order is no way around it."""
    given = give(orders_in(ladder_release())[4], signing_key)

    with pytest.raises(OrderRefused, match="1 to 5 are allowed"):
        obeyed(given, trusted=trusted, release=ladder_release(emergency_minutes=threshold(5)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "expected an object"),
        ({"orders": [{}]}, "missing key"),
        ({"orders": [{}] * 101}, "at most 100"),
        ({"orders": "x"}, "expected an array"),
    ],
)
def test_file_of_another_shape_is_refused_with_its_path(content, words):
    """Nothing of it is guessed."""
    with pytest.raises(MalformedRelease, match=words):
        parse_given(content)


@pytest.mark.parametrize(
    "changes", [{"id": "r-7"}, {"id": "emergency-" + "x" * 80}, {"reason": "x" * 301}, {"since": "2026-03-04T05:30:00"}]
)
def test_given_order_of_another_shape_is_refused(ladder_release, signing_key, changes):
    """Also where it would pass for what the console engaged."""
    good = give(orders_in(ladder_release())[4], signing_key).to_mapping()

    with pytest.raises(MalformedRelease):
        parse_given({"orders": [good | changes]})
    with pytest.raises(MalformedRelease, match="given twice"):
        parse_given({"orders": [good, good]})
