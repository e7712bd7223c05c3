"""What callers see when something goes wrong: one envelope, one table, and never half an answer as a whole one."""

from __future__ import annotations

import asyncio
import json
import re
import time

import httpx
import openai
import pytest

from dataplane.assembly import Stores
from dataplane.envelope import FACES
from dataplane.readiness import Dependency

from .conftest import CHAT_ROUTES, make_release, release_sections, run_gateway, wait_until
from .proxies import HoldingProxy

BODY = {"model": "chat", "messages": [{"role": "user", "content": "How do I get a refund?"}]}
# The first event with words in it, of any vendor.
FIRST_WORDS = re.compile(rb'("delta":\{"content":"|"text_delta").*?\n\n', re.DOTALL)


@pytest.fixture
def provider(gateway, simulator_url):
    """What all lanes lead to: the simulator, whose streams wait after their first words until they `may_go_on`."""
    with HoldingProxy(simulator_url, mark=FIRST_WORDS) as proxy:
        gateway.watcher.current = make_release(release_sections(proxy.url))
        yield proxy


@pytest.mark.parametrize(
    ("fault", "status", "code", "should_retry"),
    [
        ("status:code=400", 400, "invalid_request", "false"),
        ("status:code=401", 502, "upstream_auth_failed", "false"),
        ("status:code=404", 502, "upstream_auth_failed", "false"),
        ("rate_limit:retry_after_seconds=7", 429, "upstream_rate_limited", None),
        ("status:code=500", 503, "upstream_unavailable", None),
        ("status:code=529", 503, "upstream_unavailable", None),
        ("reset", 502, "upstream_interrupted", None),
        ("content_filter:at=prompt", 400, "content_filter", "false"),
    ],
)
@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_upstream_failure_becomes_one_of_our_codes(ask, gateway, route, fault, status, code, should_retry):
    """Whatever the vendor's dialect, the caller gets our code, and a hint not to retry where that cannot help."""
    with pytest.raises(openai.APIStatusError) as caught:
        ask(route, fault=fault)

    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.response.headers.get("x-should-retry") == should_retry
    assert caught.value.response.headers["ballast-lane"]
    (row,) = gateway.rows()
    assert row["outcome"] == code
    if fault != "reset":
        assert (row["input_tokens"], row["cost_micros"]) == (0, 0)


@pytest.mark.parametrize("dialect", ["seconds", "milliseconds", "http_date", "vendor"])
@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_every_dialect_of_wait_becomes_retry_after(ask, route, dialect):
    """However a vendor says how long to wait, the caller reads it in Retry-After, in seconds."""
    asked_at = time.monotonic()
    with pytest.raises(openai.RateLimitError) as caught:
        ask(route, fault=f"rate_limit:retry_after_seconds=30,dialect={dialect}")

    # A date says less and less the longer it is on its way.
    assert 28 - (time.monotonic() - asked_at) <= int(caught.value.response.headers["retry-after"]) <= 31


# A pause before every chunk, so that each comes in a read of its own.
PACED = "slow_drip:ms=15;"
CUTS = (
    PACED + "reset_mid_stream:after=2",
    PACED + "truncated_chunk:after=2,close=abrupt",
    PACED + "truncated_chunk:after=2,close=clean",
    PACED + "malformed_chunk:after=2",
    PACED + "error_mid_stream:after=2",
    PACED + "missing_final:drop=terminator",
    PACED + "missing_final:drop=finish",
)


@pytest.mark.parametrize("fault", CUTS)
@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_cut_stream_is_an_error_to_the_sdk(ask, gateway, provider, route, fault):
    """However the upstream stops short, OpenAI's client raises APIError: a part never passes as the whole."""
    pieces = []

    def read():
        for piece in ask(route, stream=True, fault=fault).answer:
            pieces.append(piece)
            provider.may_go_on.set()

    with pytest.raises(openai.APIError) as caught:
        read()

    assert caught.value.body["code"] == "upstream_interrupted"
    assert pieces
    (row,) = gateway.rows()
    assert row["outcome"] in ("upstream_interrupted", "upstream_malformed")
    assert row["output_tokens"] > 0
    (rollup,) = gateway.rollups()
    assert (rollup["errors"], rollup["cancelled"]) == (1, 0)


@pytest.mark.parametrize("fault", [None, "duplicate_final", *CUTS])
@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_stream_has_gapless_ids_and_one_terminal_event(http, provider, route, fault):
    """Events are numbered from 1 without a gap, and exactly one of `[DONE]` or an error ends them."""
    words = BODY["messages"][0]["content"] + (f" [[fault {fault}]]" if fault else "")
    body = BODY | {"model": route, "stream": True, "messages": [{"role": "user", "content": words}]}

    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        provider.may_go_on.set()
        text = response.read().decode()

    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.split("\n\n") if block]
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    terminal = [event["data"] == "[DONE]" or "error" in json.loads(event["data"]) for event in events]
    assert terminal == [False] * (len(events) - 1) + [True]
    complete = fault in (None, "duplicate_final")
    assert (events[-1]["data"] == "[DONE]") == complete


def test_silence_before_a_stream_is_a_time_out(ask, gateway):
    """A lane that sends nothing within its first_byte time-out is a 504 that says so."""
    with pytest.raises(openai.InternalServerError, match="first_byte") as caught:
        ask("impatient", fault="silence", stream=True)

    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    assert gateway.rows()[0]["outcome"] == "upstream_timeout"


def test_silence_in_a_stream_is_an_interruption(ask, gateway, simulator):
    """A lane that falls silent longer than its idle time-out ends the stream with an error and is hung up on."""
    with pytest.raises(openai.APIError) as caught:
        list(ask("restless", fault="silence_mid_stream:after=2", stream=True).answer)

    assert (caught.value.body["code"], caught.value.body["reason"]) == ("upstream_interrupted", "upstream_timeout")
    wait_until(lambda: simulator.get("/admin/state").json()["active_streams"] == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_callers_deadline_bounds_the_whole(ask, gateway, simulator, stream):
    """When ballast-deadline-ms is over the caller gets a 504 and the upstream is hung up on."""
    with pytest.raises(openai.InternalServerError) as caught:
        ask(fault="silence", stream=stream, extra_headers={"ballast-deadline-ms": "200"})

    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert gateway.rows()[0]["outcome"] == "deadline_exceeded"
    wait_until(lambda: simulator.get("/admin/state").json()["active_requests"] == 1)


def test_deadline_ends_a_running_stream_with_an_error(ask):
    """A deadline in the middle of a stream is its terminal event."""
    with pytest.raises(openai.APIError) as caught:
        list(ask(fault="slow_drip:ms=150", stream=True, extra_headers={"ballast-deadline-ms": "400"}).answer)

    assert caught.value.body["code"] == "deadline_exceeded"


def test_deadline_that_is_no_number_is_refused(ask):
    """A bad header is the caller's mistake, named."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(extra_headers={"ballast-deadline-ms": "soon"})

    assert caught.value.param == "ballast-deadline-ms"


def test_two_different_idempotency_keys_are_refused(http, gateway, simulator):
    """Not the last of them is taken. The same one twice is one, which this gateway, without a database, cannot keep."""

    def asked(*keys):
        return http.post("/v1/chat/completions", json=BODY, headers=[("Idempotency-Key", key) for key in keys])

    two, one = asked("order-7", "order-8"), asked("order-7", '"order-7"')

    assert (two.status_code, two.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert "was sent 2 times with different keys" in two.json()["error"]["message"]
    assert two.headers["x-should-retry"] == "false"
    assert (one.status_code, one.json()["error"]["code"]) == (503, "idempotency_unavailable")
    assert simulator.get("/admin/state").json()["total"] == 0


async def leave(http, body, *, once):
    """Ask, and hang up `once` it is so."""
    async with httpx.AsyncClient(base_url=http.base_url, headers=http.headers, timeout=90) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await asyncio.to_thread(wait_until, once)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("stream", [False, True])
def test_caller_who_leaves_hangs_up_the_upstream(http, gateway, simulator, stream):
    """A vanished caller closes the upstream connection and is recorded once, as cancelled, with what was delivered."""
    fault = "silence_mid_stream:after=4" if stream else "silence"
    body = BODY | {"stream": stream, "messages": [{"role": "user", "content": f"Refund? [[fault {fault}]]"}]}
    if stream:
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            next(line for line in response.iter_lines() if line.startswith("id: 4"))
    else:
        asyncio.run(leave(http, body, once=lambda: simulator.get("/admin/state").json()["faults"] == {"silence": 1}))

    (row,) = gateway.rows()
    assert (row["outcome"], row["status"]) == ("cancelled", 499)
    assert (row["output_tokens"] > 0) == stream
    wait_until(lambda: simulator.get("/admin/state").json()["active_requests"] == 1)  # the question itself
    (rollup,) = gateway.rollups()
    assert (rollup["requests"], rollup["cancelled"], rollup["errors"]) == (1, 1, 0)


def test_unknown_key_is_unauthorized(gateway):
    """A key that the release does not hold gets a 401, and nothing is recorded under any tenant."""
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-nobody", max_retries=2) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(**BODY)

    assert caught.value.code == "unauthorized"
    assert gateway.rollups() == []


def test_pinned_tenant_is_never_served_elsewhere(gateway, simulator):
    """A tenant pinned to EU lanes is refused on a route without one, and no byte leaves."""
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-acme", max_retries=2) as client,
        pytest.raises(openai.InternalServerError, match="outside the pin eu") as caught,
    ):
        client.chat.completions.create(**BODY | {"model": "claude"})

    assert caught.value.code == "no_eligible_lane"
    assert simulator.get("/admin/state").json()["total"] == 0


@pytest.mark.parametrize(
    ("route", "status", "code"),
    [
        ("unreachable", 502, "upstream_unreachable"),
        ("keyless", 503, "secret_unavailable"),
        ("refused", 502, "upstream_auth_failed"),
        ("nothing", 404, "model_not_found"),
    ],
)
def test_route_that_cannot_serve_says_why(ask, route, status, code):
    """Nobody listening, a key not set, a key refused and an unknown route are told apart."""
    with pytest.raises(openai.APIStatusError) as caught:
        ask(route)

    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert "sk-sim" not in str(caught.value)


def test_error_about_a_secret_names_the_reference(ask):
    """Whoever reads it learns which variable to set, and no value."""
    with pytest.raises(openai.InternalServerError, match="env:NO_SUCH_KEY"):
        ask("keyless")


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "code"),
    [
        ("GET", "/v1/nothing", {}, b"", "not_found"),
        ("GET", "/v1/chat/completions", {}, b"", "method_not_allowed"),
        ("POST", "/v1/models", {}, b"", "method_not_allowed"),
        ("POST", "/v1/chat/completions", {"content-type": "text/plain"}, b"hi", "unsupported_media_type"),
        ("POST", "/v1/chat/completions", {"content-type": "application/json"}, b"x" * 200_000, "request_too_large"),
        ("POST", "/v1/chat/completions", {"content-type": "application/json"}, b"{", "invalid_request"),
        ("GET", "/v1/models/nothing", {}, b"", "model_not_found"),
    ],
)
def test_wrong_http_gets_openais_envelope(http, method, path, headers, body, code):
    """Path, method, media type, size and JSON are refused in the same envelope, with a request id."""
    response = http.request(method, path, headers=headers, content=body)

    assert response.status_code == FACES[code].status
    error = response.json()["error"]
    assert (error["code"], error["type"]) == (code, FACES[code].type)
    assert error["request_id"] == response.headers["ballast-request-id"]
    assert response.headers["x-should-retry"] == "false"


def test_body_of_unknown_length_is_bounded_too(http):
    """A chunked body is cut off at the limit."""
    chunks = (b"x" * 10_000 for _ in range(50))

    response = http.post("/v1/chat/completions", headers={"content-type": "application/json"}, content=chunks)

    assert response.status_code == 413


def test_worker_without_a_release_admits_nobody(gateway, http, ask):
    """Before the first verified release the worker is alive, not ready, and asks to be tried again."""
    gateway.watcher.current = None

    with pytest.raises(openai.InternalServerError) as caught:
        ask()

    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("no_release", "1")
    assert [http.get(path).status_code for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 503]


def test_worker_with_a_release_is_ready(http):
    """Health is 200 everywhere once a release is held."""
    assert [http.get(path).status_code for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 200]


def test_readiness_says_what_is_served_and_what_it_stands_on(gateway, http):
    """The revision and its digest; of the stores, whether they are there, and that none is needed."""
    body = http.get("/readyz").json()

    release = gateway.watcher.current
    assert body["status"] == "ready"
    assert body["release"] == {
        "revision": release.revision,
        "digest": release.digest,
        "cut_at": release.cut_at.isoformat(),
    }
    assert not any(store["needed"] for store in body["dependencies"].values())


def test_gateway_that_was_told_to_stop_says_so_and_sends_callers_on(simulator_url):
    """Not ready, though it has all it needs; a request is answered, and its connection closed, so that the next one is
    sent to somebody else.
    """
    with (
        run_gateway(release_sections(simulator_url)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=90) as http,
    ):
        ready = http.get("/readyz")
        gateway.app.drain()
        draining, asked = http.get("/readyz"), http.get("/v1/models", headers={"authorization": "Bearer bk-globex"})

    assert (ready.status_code, draining.status_code, asked.status_code) == (200, 503, 200)
    assert draining.json()["status"] == "draining"
    assert "connection" not in ready.headers
    assert draining.headers["connection"] == asked.headers["connection"] == "close"


def test_store_that_is_away_is_named_and_makes_nobody_unready(simulator_url):
    """A gateway serves on without it: docs/failure-modes.md says what it refuses meanwhile."""
    away = Dependency("postgresql", lambda: "it does not answer", needed=False, without="keys are refused")
    stores = Stores(dependencies=(away,))

    with run_gateway(release_sections(simulator_url), stores=stores) as gateway:
        answer = httpx.get(f"{gateway.url}/readyz", timeout=90)

    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert answer.json()["dependencies"] == {
        "postgresql": {"state": "it does not answer", "needed": False, "without": "keys are refused"}
    }
