"""Limits in force: whom they bound, what is admitted under several, and the admin calls that set them."""

from __future__ import annotations

import pytest

from dataplane.simulator.limit_book import BadLimit, LimitBook, LimitReached
from dataplane.simulator.limits import Charge

ONE = {"account": "sk-main", "kind": "sliding_window", "window_seconds": 10, "requests": 1}
CHARGE = Charge(10, 10)


def book_of(*limits):
    book = LimitBook()
    book.add(list(limits), now=0)
    return book


def admits(book, account="sk-main", model="gpt-4o", charge=CHARGE, now=0.0):
    try:
        book.admit(account, model, charge, now=now)
    except LimitReached:
        return False
    return True


def test_limit_bounds_its_account_alone():
    """Others are not counted; the key has to be the whole key."""
    book = book_of(ONE)

    assert [admits(book), admits(book), admits(book, "main"), admits(book, "sk-main-2")] == [True, False, True, True]
    assert book.bounds("sk-main")
    assert not book.bounds("sk-other")


def test_star_bounds_each_account_by_itself():
    """What one account used does not count against another."""
    book = book_of(ONE | {"account": "*"})

    assert [admits(book, name) for name in ("a", "b", "a", "b")] == [True, True, False, False]


def test_models_of_one_glob_are_counted_together_and_others_not():
    """As vendors share a limit within a family of models."""
    book = book_of(ONE | {"model": "gpt-4o*"})

    assert [admits(book, model=name) for name in ("gpt-4o", "gpt-4o-mini", "claude", "claude")] == [
        True,
        False,
        True,
        True,
    ]


def test_request_is_admitted_under_all_its_limits_or_none():
    """A refusal by one limit uses nothing of the other."""
    book = book_of(ONE | {"requests": 2}, ONE | {"model": "gpt-4o", "requests": 1})

    assert [admits(book), admits(book), admits(book), admits(book, model="claude")] == [True, False, False, True]
    books = [counted for _, counted in book.books(now=0)]
    assert [(one["admitted"], one["refused"]) for one in books] == [(2, 2), (1, 2)]


def test_permit_is_closed_once():
    """A second closing gives nothing back."""
    book = book_of({"account": "a", "kind": "sliding_window", "window_seconds": 10, "tokens": 100, "concurrency": 2})
    permit = book.admit("a", "m", Charge(10, 50), now=0)

    for _ in range(2):
        permit.close(Charge(10, 0), now=1)

    (_, counted), *_ = book.books(now=1)
    assert (counted["in_flight"], counted["used"]["tokens"]) == (0, 10)


def test_new_limit_takes_the_place_of_the_old_one():
    """One of the same account and model begins anew; an answer under way ends under the old one."""
    book = book_of(ONE)
    permit = book.admit("sk-main", "gpt-4o", CHARGE, now=0)

    book.add(ONE | {"requests": 2}, now=0)
    permit.close(CHARGE, now=1)

    assert len(book.list_limits()) == 1
    assert [admits(book), admits(book), admits(book)] == [True, True, False]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"account": None}, "field 'account'"),
        ({"account": ""}, "field 'account'"),
        ({"model": 4}, "field 'model'"),
        ({"kind": "leaky_bucket"}, "token_bucket, fixed_window, sliding_window"),
        ({"window_seconds": 0}, "field 'window_seconds'"),
        ({"window_seconds": "minute"}, "field 'window_seconds'"),
        ({"requests": 0}, "field 'requests'"),
        ({"requests": True}, "field 'requests'"),
        ({"tokens": 1.5}, "field 'tokens'"),
        ({"requests": None}, "at least one of requests, tokens, input_tokens, output_tokens, concurrency"),
        ({"burst": 2}, "unknown field 'burst'"),
    ],
)
def test_bad_limit_is_named_and_none_is_added(change, named):
    """A list with one bad limit changes nothing."""
    book = LimitBook()

    with pytest.raises(BadLimit, match=named):
        book.add([ONE, ONE | change], now=0)

    assert book.list_limits() == []


def test_admin_calls_set_list_and_remove_limits(http):
    """What was set is listed as it was given, and is gone when removed or reset."""
    added = http.post("/admin/limits", json=ONE)
    listed = http.get("/admin/limits").json()["limits"]
    removed = http.delete("/admin/limits").json()
    http.post("/admin/limits", json=[ONE, ONE | {"account": "*"}])
    http.post("/admin/reset")

    assert added.status_code == 201
    assert added.json()["limits"] == listed == [ONE | {"model": None}]
    assert removed == {"removed": 1}
    assert http.get("/admin/limits").json() == {"limits": []}
    assert http.get("/admin/state").json()["limits"] == []


def test_bad_admin_call_says_what_is_wrong(http):
    """Broken JSON, no object and a bad field each get a 400 in words."""
    refused = [http.post("/admin/limits", content=body) for body in (b"{", b"3", b'{"account": "a", "kind": "odd"}')]

    assert [one.status_code for one in refused] == [400, 400, 400]
    messages = [one.json()["error"]["message"] for one in refused]
    for words, message in zip(("is not JSON", "3 is not an object", "at least one of"), messages, strict=True):
        assert words in message
