"""Evals over HTTP, at a gateway that knows the keys of releases: candidates are asked, and nobody else is served so."""

from __future__ import annotations

import copy
import time

import httpx
import pytest

from tests.dataplane.eval_world import sandbox_of, token_for

from .conftest import lane, release_sections, run_gateway

CANDIDATE = "openai/eu/main/candidate"
ASKED = {"messages": [{"role": "user", "content": "How do I get a refund?"}]}


@pytest.fixture(scope="module")
def evals(simulator_url, trusted):
    """A gateway that lets evals in."""
    with run_gateway(release_sections(simulator_url), trusted_keys=lambda: trusted) as gateway:
        yield gateway


@pytest.fixture
def gateway(evals, simulator):
    """The same with nothing recorded yet."""
    evals.forget()
    return evals


@pytest.fixture
def token(signing_key):
    """Makes tokens that are good now."""
    return lambda **claims: token_for(signing_key, now=time.time(), **claims)


@pytest.fixture
def ask(gateway, simulator):
    """Asks as whoever shows a key or a token."""
    with httpx.Client(base_url=gateway.url, timeout=90) as client:
        yield lambda key, path="/v1/chat/completions", **body: client.post(
            path, json=body, headers={"authorization": f"Bearer {key}"}
        )


@pytest.fixture
def candidate(make_document, signing_key, simulator_url):
    """A sandbox whose route `chat` tries an American lane first, and then one that no live release has."""
    sections = copy.deepcopy(release_sections(simulator_url))
    routing = sections["routing"]
    routing["lanes"][CANDIDATE] = lane("openai", "main", "candidate", upstream_model="gpt-4o-mini-instant")
    routing["lanes"]["us"] = lane("openai", "main", "us", residency="us")
    routing["routes"]["chat"]["lanes"] = ["us", CANDIDATE]
    return sandbox_of(make_document(**sections), signing_key)


def test_candidate_lane_is_asked_for_an_eval_and_for_nobody_else(gateway, ask, token, candidate):
    """With its cost and its time in headers; the customer who comes next is served by what is live."""
    asked = ask(
        token(residency=["eu"], sandbox=candidate), model="chat", ballast_sandbox=candidate.to_mapping(), **ASKED
    )
    served = ask("bk-globex", model="chat", **ASKED)

    assert (asked.status_code, asked.headers["ballast-lane"], asked.headers["ballast-release"]) == (200, CANDIDATE, "0")
    assert float(asked.headers["ballast-latency-ms"]) > 0
    first, second = gateway.rows(2)
    assert (first["kind"], first["tenant"], first["lane"]) == ("eval", "ballast", CANDIDATE)
    assert int(asked.headers["ballast-cost-micros"]) == first["cost_micros"] > 0
    assert (served.headers["ballast-release"], second["kind"], second["tenant"]) == ("1", "primary", "globex")
    assert {rollup["lane"] for rollup in gateway.rollups()} == {second["lane"]}
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert CANDIDATE not in metrics
    assert 'ballast_gateway_requests_total{operation="eval",outcome="ok"}' in metrics


def test_embeddings_are_made_for_an_eval(gateway, ask, token):
    """As for a customer, and told what they cost."""
    answer = ask(token(), "/v1/embeddings", model="embed", input="refund")

    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 1
    assert "ballast-cost-micros" in answer.headers
    assert [row["kind"] for row in gateway.rows()] == ["eval"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"stream": True}, "stream"), ({"ballast_sandbox": {}}, "ballast_sandbox")],
)
def test_what_an_eval_cannot_have_is_refused_in_the_usual_envelope(ask, token, changes, param):
    """400, with the name of the member."""
    answer = ask(token(), model="chat", **ASKED, **changes)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/jobs"), ("GET", "/v1/models"), ("GET", "/v1/streams/" + "0" * 32)]
)
def test_token_of_an_eval_opens_nothing_else(gateway, token, method, path):
    """Neither jobs nor streams nor the list of routes: it is nobody's key."""
    headers = {"authorization": f"Bearer {token()}"}

    answer = httpx.request(method, gateway.url + path, headers=headers, json={}, timeout=90)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert "an eval token is good for" in answer.json()["error"]["message"]
