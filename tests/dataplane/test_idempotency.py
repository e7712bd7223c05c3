"""What a key is, what makes two requests the same, and what follows when one key comes twice."""

from __future__ import annotations

import hashlib
import json

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from dataplane import errors
from dataplane.envelope import error_body, error_headers, face_of
from dataplane.errors import admission, idempotency, upstream
from dataplane.errors.requests import InvalidRequest
from dataplane.idempotency import (
    BEGINNINGS,
    EVIDENCE,
    HEADER,
    PATH,
    TRANSITIONS,
    Event,
    Known,
    Scope,
    State,
    event_of_claim,
    fingerprint_of,
    may_take_over,
    parse_key,
    settle,
    single_key,
)
from tests.dataplane.conftest import ERRORS

CHAT = "/v1/chat/completions"
UUID4 = "8e03978e-40d5-43e8-bc93-6894a57f9324"
BODY = {"model": "chat", "messages": [{"role": "user", "content": "Grüße"}], "temperature": 0.5, "stream": True}


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        (UUID4, UUID4),
        (f'"{UUID4}"', UUID4),
        (f'  "{UUID4}"\t', UUID4),
        ("stainless-python-retry-" + UUID4, "stainless-python-retry-" + UUID4),
        ("order:17/line,3;x=y", "order:17/line,3;x=y"),
        ('say"so', 'say"so'),
        (r'"say\"so\\"', 'say"so\\'),
        ("k" * 255, "k" * 255),
        (f'"{"k" * 255}"', "k" * 255),
    ],
)
def test_key_is_the_same_bare_and_quoted(header, key):
    """SDKs send it bare, the draft has it quoted; anything visible will do."""
    assert parse_key(header) == key


@pytest.mark.parametrize(
    ("header", "fact"),
    [
        ("", "is empty"),
        ('""', "is empty"),
        ("   ", "is empty"),
        ("k" * 256, "has 256 characters; 255 are the most"),
        ("two words", "visible ASCII"),
        ('"two words"', "visible ASCII"),
        (f"{UUID4}, {UUID4}", "visible ASCII"),
        ("clé", "visible ASCII"),
        ("a\x00b", "visible ASCII"),
        (f'"{UUID4}', "is no quoted text to its end"),
        (f'"{UUID4}"; a=b', "is no quoted text to its end"),
        (r'"a\b"', "is no quoted text to its end"),
        ('"', "is no quoted text to its end"),
    ],
)
def test_header_that_is_no_key_is_refused(header, fact):
    """Whoever believes to be protected must hear that they are not."""
    with pytest.raises(InvalidRequest, match=fact) as caught:
        parse_key(header)

    assert caught.value.param == HEADER
    assert face_of(caught.value).status == 400


def test_header_that_came_several_times_holds_one_key():
    """Bare and quoted forms of one are one; which of two was meant is nobody's to guess."""
    assert single_key([]) is None
    assert single_key(["a"]) == "a"
    assert parse_key(single_key(["a", '"a"', " a"])) == "a"
    with pytest.raises(InvalidRequest, match="was sent 2 times with different keys; a request has one") as caught:
        single_key(["a", "b"])
    with pytest.raises(InvalidRequest, match="is empty"):
        single_key(["a", ""])

    assert caught.value.param == HEADER


def test_fingerprint_is_of_the_canonical_json_of_all_that_is_declared():
    """One digest of all fields and the address, and one of each, as RFC 8785 writes them."""
    fingerprint = fingerprint_of({**BODY, "user": "ada"}, path=CHAT)

    assert fingerprint.sha256 == hashlib.sha256(rfc8785.dumps({**BODY, PATH: CHAT})).hexdigest()
    assert fingerprint.by_field.keys() == {*BODY, PATH}
    assert fingerprint.by_field["temperature"] == hashlib.sha256(b"0.5").hexdigest()


names = st.text("abcdefgö𝄞\ue000_:", min_size=1, max_size=4).filter(str.isprintable)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e300, 1e300) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(names, values, max_size=4)


@given(body=bodies, other=bodies, order=st.randoms(use_true_random=False))
def test_requests_are_the_same_exactly_when_their_fields_are(body, other, order):
    """Order and white space do not count; whatever else differs is named, from either side."""
    members = list(json.loads(json.dumps(body, indent=3)).items())
    order.shuffle(members)
    mine, theirs = fingerprint_of(body, path=CHAT), fingerprint_of(other, path=CHAT)

    assert fingerprint_of(dict(members), path=CHAT) == mine
    assert mine.sha256 == hashlib.sha256(rfc8785.dumps({**body, PATH: CHAT})).hexdigest()
    differing = {
        name
        for name in body.keys() | other.keys()
        if (name in body) != (name in other) or rfc8785.dumps(body[name]) != rfc8785.dumps(other[name])
    }
    assert set(mine.differing(theirs)) == set(theirs.differing(mine)) == differing
    assert (mine.sha256 == theirs.sha256) == (not differing)


def test_who_asks_is_not_what_is_asked_but_where_is():
    """The user is a part of the scope; the same body at another address is another request."""
    mine = fingerprint_of({**BODY, "user": "ada"}, path=CHAT)

    assert fingerprint_of({**BODY, "user": "bob"}, path=CHAT) == mine
    assert fingerprint_of(BODY, path="/v1/jobs").differing(mine) == (PATH,)
    assert fingerprint_of({**BODY, "temperature": 5e-1, "seed": 1}, path=CHAT).differing(mine) == ("seed",)
    assert Scope("acme", "ada").user_hash == hashlib.sha256(b"ada").hexdigest()
    assert Scope("acme").user_hash == Scope("acme", "").user_hash == ""


@pytest.mark.parametrize(
    ("body", "param", "fact"),
    [
        ({"seed": 2**53}, "seed", "exceeds safe integer domain"),
        ({"messages": [{"x": float("inf")}]}, "messages", "not representable"),
        ({"x": orjson.loads(b"[" * 1000 + b"]" * 1000)}, "x", "nested too deeply"),
        ({PATH: 1}, PATH, "there is no field"),
        ({f"f{n}": n for n in range(257)}, None, "257 fields; 256 are the most"),
        ({"n" * 129: 1}, None, "longer than 128 characters"),
        ({"a\x00": 1}, None, "not printable"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_named(body, param, fact):
    """Two requests that look the same but are not would be one answer for two questions."""
    with pytest.raises(InvalidRequest, match=fact) as caught:
        fingerprint_of(body, path=CHAT)

    assert caught.value.param == param


def known(state, **facts):
    """A record of a repeatable request whose owner lives."""
    usual = {
        "fingerprint": "f",
        "owner": "w1",
        "request_id": "r1",
        "is_repeatable": True,
        "lease_left_seconds": 10.0,
        "ttl_left_seconds": 1000.0,
    }
    return Known(state, **(usual | facts))


DEAD = {"lease_left_seconds": -1.0}
OVER = {"ttl_left_seconds": -1.0}


@pytest.mark.parametrize(
    ("record", "event"),
    [
        (None, Event.CREATED),
        (known(State.RUNNING), Event.ATTACHED),
        (known(State.RUNNING, fingerprint="g"), Event.MISMATCH),
        (known(State.RUNNING, **DEAD), Event.TAKEN_OVER),
        (known(State.RUNNING, **DEAD, is_repeatable=False), Event.INDETERMINATE),
        (known(State.RUNNING, **DEAD, fingerprint="g"), Event.MISMATCH),
        (known(State.RUNNING, owner="w2", request_id="r2"), Event.RESUMED),
        (known(State.RUNNING, **OVER), Event.ATTACHED),
        (known(State.RUNNING, **OVER, **DEAD), Event.EXPIRED),
        (known(State.DONE), Event.REPLAYED),
        (known(State.DONE, is_kept=False), Event.NOT_KEPT),
        (known(State.DONE, fingerprint="g"), Event.MISMATCH),
        (known(State.DONE, **OVER), Event.EXPIRED),
        (known(State.RELEASED, fingerprint="g"), Event.REOPENED),
        (known(State.RELEASED, **OVER), Event.EXPIRED),
        (known(State.INDETERMINATE), Event.INDETERMINATE),
        (known(State.INDETERMINATE, fingerprint="g"), Event.MISMATCH),
        (known(State.INDETERMINATE, **OVER), Event.EXPIRED),
    ],
)
def test_each_claim_comes_to_one_legal_step(record, event):
    """Whatever the record says, a request with its key has one thing to do, and the table of moves has it."""
    found = event_of_claim(record, fingerprint="f", owner="w2", request_id="r2", is_repeatable=True)

    assert found is event
    assert record is None or (record.state, event) in TRANSITIONS


def test_only_a_dead_owners_repeatable_work_is_begun_anew():
    """As long as the lease lasts, nobody; after it, nobody if it must not happen twice."""
    assert may_take_over(0.0, is_repeatable=True)
    assert not may_take_over(0.1, is_repeatable=True)
    assert not may_take_over(-100.0, is_repeatable=False)


def test_no_way_leads_on_from_the_end_and_every_state_has_an_end():
    """An expired record is gone; no outcome is ever replaced by another."""
    assert {before for before, _ in TRANSITIONS} == set(State) - {State.EXPIRED}
    assert all((state, Event.EXPIRED) in TRANSITIONS for state in set(State) - {State.EXPIRED})
    assert {after for (before, _), after in TRANSITIONS.items() if before is State.DONE} == {State.DONE, State.EXPIRED}
    assert [move for move, after in TRANSITIONS.items() if after is State.DONE and move[0] is not State.DONE] == [
        (State.RUNNING, Event.COMPLETED)
    ]
    assert {event for _, event in TRANSITIONS} | {Event.CREATED} == set(Event)
    assert {TRANSITIONS[move] for move in TRANSITIONS if move[1] in BEGINNINGS} == {State.RUNNING}


def test_evidence_is_hashed_in_the_order_of_canonical_json():
    """The database writes the fields in the order of the table; RFC 8785 sorts them."""
    assert list(EVIDENCE) == sorted(EVIDENCE, key=lambda name: name.encode("utf-16-be"))


REFUSED = upstream.UpstreamRateLimited(lane="l")
CUT = upstream.UpstreamInterrupted("cut", lane="l")
UNSENT = upstream.UpstreamUnreachable("no", lane="l")
LATE = admission.DeadlineExceeded(deadline_ms=1, stage="waiting")


@pytest.mark.parametrize(
    ("error", "is_repeatable", "was_sent", "event"),
    [
        (None, False, True, Event.COMPLETED),
        (CUT, True, True, Event.RELEASED),
        (CUT, False, True, Event.INDETERMINATE),
        (LATE, False, True, Event.INDETERMINATE),
        (LATE, False, False, Event.RELEASED),
        (REFUSED, False, True, Event.RELEASED),
        (UNSENT, False, True, Event.RELEASED),
        (errors.GatewayError("a bug of ours"), False, True, Event.INDETERMINATE),
        (InvalidRequest("no"), False, False, Event.RELEASED),
    ],
)
def test_failure_leaves_the_key_free_unless_something_may_have_happened(error, is_repeatable, was_sent, event):
    """An answer is kept; a failure is not, so that whoever tries again gets another try."""
    assert settle(error, is_repeatable=is_repeatable, was_sent=was_sent) is event
    assert (State.RUNNING, event) in TRANSITIONS


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [
        (idempotency.IdempotencyMismatch, 422, None),
        (idempotency.IdempotencyInProgress, 409, b"3"),
        (idempotency.IdempotencyIndeterminate, 409, None),
        (idempotency.IdempotencyOutcomeNotKept, 409, None),
    ],
)
def test_no_sdk_repeats_by_itself_what_a_key_forbids(kind, status, retry_after):
    """409 makes OpenAI's SDK try again, so each says that it should not; one says when an application may."""
    (error,) = (error for error in ERRORS if type(error) is kind)
    headers = dict(error_headers(error))

    assert face_of(error).status == status
    assert headers[b"x-should-retry"] == b"false"
    assert headers.get(b"retry-after") == retry_after


def test_mismatch_names_the_fields_in_words_and_for_programs():
    """Ten in the message, all of them beside it."""
    fields = tuple(f"f{n:02}" for n in range(12))

    error = json.loads(error_body(idempotency.IdempotencyMismatch("k", fields=fields), request_id="r"))["error"]

    assert error["fields"] == list(fields)
    assert "these differ: f00, f01, f02" in error["message"]
    assert "f09 and 2 more" in error["message"]
    assert (error["code"], error["param"]) == ("idempotency_mismatch", "Idempotency-Key")
