"""Rules: what they match, how often, how long; and the admin calls that set them."""

from __future__ import annotations

import pytest

from dataplane.simulator.conversation import Wire
from dataplane.simulator.fault_rules import FaultBook
from dataplane.simulator.faults import BadFault

REQUEST = {"wire": Wire.OPENAI, "operation": "chat", "model": "gpt-4o", "account": "sk-main", "now": 100.0}


def struck(book, **change):
    return [fault.name for fault in book.strike(**REQUEST | change)]


@pytest.mark.parametrize(
    ("rule", "hit", "miss"),
    [
        ({"wire": "openai"}, {}, {"wire": Wire.ANTHROPIC}),
        ({"model": "gpt-4o*"}, {"model": "gpt-4o-mini"}, {"model": "claude"}),
        ({"account": "-main"}, {}, {"account": "sk-backup"}),
        ({"operation": "embeddings"}, {"operation": "embeddings"}, {}),
        ({"until": 101}, {}, {"now": 101.0}),
        ({"until": "1970-01-01T00:01:41Z"}, {}, {"now": 101.0}),
        ({"for_seconds": 5}, {"now": 104.0}, {"now": 105.0}),
    ],
)
def test_rule_strikes_what_it_matches_only(rule, hit, miss):
    """Each condition on its own lets one request through and strikes the other."""
    book = FaultBook(seed=1)
    book.add({"fault": "reset"} | rule, now=100.0)

    assert struck(book, **hit) == ["reset"]
    assert struck(book, **miss) == []


def test_count_is_spent_by_hits():
    """After its last hit a rule stays listed and strikes nothing."""
    book = FaultBook(seed=1)
    book.add({"fault": "reset", "count": 2}, now=0)

    assert [struck(book) for _ in range(3)] == [["reset"], ["reset"], []]
    assert (book.list_rules()[0].hits, book.list_rules()[0].remaining) == (2, 0)


def test_probability_draws_can_be_repeated():
    """The same seed strikes the same requests, about as many as was asked for."""

    def draws():
        book = FaultBook(seed=5)
        book.add({"fault": "reset", "probability": 0.25}, now=0)
        return [bool(struck(book)) for _ in range(400)]

    assert draws() == draws()
    assert 60 < sum(draws()) < 140


def test_several_rules_strike_together():
    """Faults of all matching rules are played."""
    book = FaultBook(seed=1)
    book.add([{"fault": "latency"}, {"fault": ["refusal", "wrong_usage"]}], now=0)

    assert struck(book) == ["latency", "refusal", "wrong_usage"]


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("reset", "is not an object"),
        ({}, "needs the field 'fault'"),
        ({"fault": "reset", "modle": "x"}, "unknown field 'modle'"),
        ({"fault": "reset", "wire": "telex"}, "field 'wire'"),
        ({"fault": "reset", "probability": 2}, "field 'probability'"),
        ({"fault": "reset", "count": 0}, "field 'count'"),
        ({"fault": "reset", "until": "soon"}, "field 'until'"),
        ({"fault": "reset", "operation": "sing"}, "field 'operation'"),
    ],
)
def test_bad_rule_is_named_and_none_is_added(rule, named):
    """A list with one bad rule changes nothing."""
    book = FaultBook(seed=1)

    with pytest.raises(BadFault, match=named):
        book.add([{"fault": "reset"}, rule], now=0)

    assert book.empty


def test_admin_calls_add_list_remove_and_count(http, openai_client):
    """A rule set over HTTP strikes, shows its hits, and is gone when removed."""
    added = http.post("/admin/faults", json={"fault": "status:code=503", "wire": "openai", "account": "main"})
    rule_id = added.json()["rules"][0]["id"]

    def status():
        body = {"model": "gpt-4o-instant", "messages": [{"role": "user", "content": "hi"}]}
        return http.post(
            "/openai/v1/chat/completions", json=body, headers={"authorization": "Bearer x-main"}
        ).status_code

    assert added.status_code == 201
    assert [status(), status()] == [503, 503]
    assert http.get("/admin/faults").json()["rules"][0]["hits"] == 2
    assert http.delete(f"/admin/faults/{rule_id}").status_code == 200
    assert http.delete(f"/admin/faults/{rule_id}").status_code == 404
    assert status() == 200
    state = http.get("/admin/state").json()
    assert {(row["status"], row["count"]) for row in state["requests"]} == {(503, 2), (200, 1)}
    assert state["accounts"] == [{"wire": "openai", "account": "x-main", "count": 3}]


def test_bad_admin_call_is_refused(http):
    """Broken JSON and unknown calls say so."""
    assert http.post("/admin/faults", content=b"{").status_code == 400
    assert "earthquake" in http.post("/admin/faults", json={"fault": "earthquake"}).json()["error"]["message"]
    assert http.get("/admin/nothing").status_code == 404


def test_catalogue_lists_every_fault(http):
    """The table can be read over HTTP, parameters and limits included."""
    faults = {each["name"]: each for each in http.get("/admin/catalogue").json()["faults"]}

    assert faults["latency"]["parameters"]["ms"] == {"default": 1000, "minimum": 0, "maximum": 600000}
    assert "http_date" in faults["rate_limit"]["parameters"]["dialect"]["choices"]


def test_ready(http):
    """The simulator says when it is up."""
    assert http.get("/readyz").status_code == 200
