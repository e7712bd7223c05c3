"""What kind of failure a dead letter is of, and which failed alike."""

from __future__ import annotations

import random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.deadletters import (
    MESSAGE_CHARACTERS,
    SUMMARY_CHARACTERS,
    TRANSITIONS,
    Category,
    Event,
    State,
    category_of,
    failure_of,
    fingerprint_of,
    is_known,
    shortened,
    storable,
    summary_of,
)
from dataplane.envelope import FACES
from dataplane.errors.upstream import UpstreamRateLimited


@pytest.mark.parametrize("code", sorted(FACES))
def test_every_error_that_callers_are_told_has_a_category_of_its_own(code):
    """A new code is thought about once, where the others are; its status is for codes of nobody here."""
    assert is_known(code)
    assert category_of(code, status=418) is category_of(code)


@pytest.mark.parametrize(
    ("code", "status", "category"),
    [
        ("upstream_rate_limited", 429, Category.RATE_LIMIT),
        ("quota_exhausted", 429, Category.RATE_LIMIT),
        ("context_length_exceeded", 400, Category.VALIDATION),
        ("content_filter", 400, Category.MODEL_REFUSAL),
        ("upstream_timeout", 504, Category.TIMEOUT),
        ("no_eligible_lane", 503, Category.POLICY),
        ("circuit_open", 503, Category.DEPENDENCY),
        ("internal_error", 500, Category.BUG),
        ("poison", 0, Category.POISON),
        ("a vendor's own", 429, Category.RATE_LIMIT),
        ("a vendor's own", 504, Category.TIMEOUT),
        ("a vendor's own", 403, Category.POLICY),
        ("a vendor's own", 422, Category.VALIDATION),
        ("a vendor's own", 503, Category.DEPENDENCY),
        ("a vendor's own", 500, Category.BUG),
        ("a vendor's own", 0, Category.BUG),
    ],
)
def test_category_is_told_from_the_code_and_only_then_from_the_status(code, status, category):
    assert category_of(code, status=status) is category


@pytest.mark.parametrize(
    ("error", "category", "code"),
    [
        (ZeroDivisionError("division by zero"), Category.BUG, "ZeroDivisionError"),
        (TimeoutError(), Category.TIMEOUT, "TimeoutError"),
        (httpx.ReadTimeout("slow"), Category.TIMEOUT, "ReadTimeout"),
        (httpx.ConnectError("away"), Category.DEPENDENCY, "ConnectError"),
        (ConnectionRefusedError("no"), Category.DEPENDENCY, "ConnectionRefusedError"),
        (UpstreamRateLimited(lane="l"), Category.RATE_LIMIT, "upstream_rate_limited"),
    ],
)
def test_exceptions_are_judged_by_their_code_or_by_the_nearest_class_that_is_known(error, category, code):
    failure = failure_of(error)

    assert (failure.category, failure.code) == (category, code)


def test_messages_that_differ_in_particulars_only_have_one_fingerprint():
    """Numbers, ids, addresses and whatever is quoted, in whatever marks, are particulars."""
    rng = random.Random(7)

    def say() -> str:
        number, name = rng.randrange(10**6), "".join(rng.choices("abcdef", k=9))
        return (
            f"can't reach 'lane/{name}' (\"{name} it's\" of `{name}`) at https://{name}.example/{number}?q={name}: "
            f"request req_{number}x{name} of user{number}@{name}.example waited {number / 7:.1f} s, trace {name * 2}"
        )

    said = {summary_of(say()) for _ in range(50)}

    assert said == {"can't reach * (* of *) at * request * of * waited * s, trace *"}
    [summary] = said
    same = {"kind": "job", "name": "/v1/x", "category": "bug", "code": "c", "summary": summary}
    assert fingerprint_of(**same) == fingerprint_of(**same)
    others = [fingerprint_of(**same | {name: "other"}) for name in same]
    assert len({fingerprint_of(**same), *others}) == 1 + len(same)


@given(st.text(max_size=300), st.text(st.characters(exclude_characters="\"'\\"), min_size=1, max_size=40))
def test_nothing_that_is_quoted_is_in_a_summary(before, secret):
    """Whatever stands around it, and although the end of it was cut off."""
    assert "SECRET" not in summary_of(f'{before.replace(chr(34), "")} "SECRET{secret}"')
    assert "SECRET" not in summary_of(f'{before.replace(chr(34), "")} "{secret}SECRET')


@given(st.text(st.characters(codec=None), max_size=1000))
def test_whatever_an_error_says_a_table_can_take(text):
    """NUL and halves of characters, which PostgreSQL refuses, do not keep work from ending; lengths are bounded."""
    for told, limit in ((storable(text), 10**6), (shortened(text), MESSAGE_CHARACTERS), (summary_of(text), 200)):
        assert "\x00" not in told
        assert told.encode().decode() == told
        assert len(told) <= limit


@pytest.mark.parametrize("piece", ["'", '"', "`", "a", "a.", "a@", "a+", "1,", "'a", '"\\', "a-1", "://"])
def test_summaries_of_hostile_messages_are_bounded(piece):
    """What is read of one, and so the time that it takes, has a limit."""
    assert len(summary_of(piece * 1_000_000)) <= SUMMARY_CHARACTERS


def test_letters_move_along_the_table_and_no_open_one_is_without_its_work():
    """A purged letter can be redriven by nobody, so there is no way on from it; every other closed one can be opened
    again.
    """
    assert {before for before, _ in TRANSITIONS} == set(State) - {State.PURGED}
    assert {before for before, event in TRANSITIONS if event is Event.REOPENED} == {
        State.REDRIVEN,
        State.RESOLVED,
        State.DISCARDED,
    }
