"""Requests of a real gateway process as a collector gets to see them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.dataplane.conftest import retry_policy
from tests.end_to_end.gateways import KEY, Gateways, two_lanes
from tests.otlp import Receiver, Span

pytestmark = pytest.mark.end_to_end
QUESTION = "Where is parcel 40-31?"


def routing(simulator_url: str) -> dict[str, Any]:
    """The route `chat` with two lanes, each of which is tried twice."""
    table = two_lanes(["chat"], policy={}, model="gpt-4o-instant")(simulator_url)
    for lane in table["lanes"].values():
        del lane["breaker"]
    del table["breakers"]
    table["retries"] = {"twice": retry_policy(base_seconds=0.01, cap_seconds=0.02, least_seconds=0.1)}
    table["routes"]["chat"]["retry"] = "twice"
    return table


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Whoever collects."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Gateways]:
    """One gateway process that traces whatever its callers trace, and nothing else."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    directory = tmp_path_factory.mktemp("traced")
    with Gateways(directory, routing, processes=1, variables=variables) as gateways:
        yield gateways


class Caller:
    """Asks with a trace of its own, and finds what came of it."""

    def __init__(self, gateways: Gateways, receiver: Receiver) -> None:
        self._receiver = receiver
        self.client = httpx.Client(base_url=gateways.urls[0], timeout=60, headers={"authorization": f"Bearer {KEY}"})
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)

    def head(self, flags: str = "01") -> dict[str, str]:
        """What says that a request is part of the trace."""
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-{flags}"}

    def ask(self, *, flags: str = "01", **more: Any) -> httpx.Response:
        """One question; the response has been read."""
        body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]} | more
        return self.client.post("/v1/chat/completions", json=body, headers=self.head(flags))

    def server_span(self) -> Span:
        """The gateway's span of the request, once it has come; what is below it came before."""
        spans: list[Span] = []

        def has_come() -> bool:
            spans[:] = [one for one in self._receiver.of_trace(self.trace_id) if one.kind == "server"]
            return bool(spans)

        self._receiver.wait_for(has_come)
        [span] = spans
        return span


@pytest.fixture
def caller(gateways: Gateways, receiver: Receiver) -> Iterator[Caller]:
    """A caller with a trace of its own, and a provider that plays no fault."""
    caller = Caller(gateways, receiver)
    yield caller
    caller.client.close()
    gateways.relieve()


def test_request_is_one_trace_with_its_retry_and_its_fallback(
    caller: Caller, gateways: Gateways, receiver: Receiver
) -> None:
    """A lane that fails twice and another that answers: a server span in the caller's trace, a client span for each
    attempt, and the wait and the fallback between them.
    """
    gateways.strike("chat-primary", "status:code=503", count=2)

    answer = caller.ask()

    span = caller.server_span()
    first, again, other = receiver.below(span)
    assert answer.status_code == 200
    assert (span.name, span.parent_id, span.is_error) == ("POST /v1/chat/completions", caller.span_id, False)
    assert (span.service, span.instance) == ("ballast-gateway", "fleet/gateway-0")
    told = span.attributes
    assert told["ballast.request_id"] == answer.headers["ballast-request-id"]
    assert told["http.response.status_code"] == 200
    assert {
        name: told[f"ballast.{name}"] for name in ("route", "lane", "fallback", "attempts", "tenant", "release")
    } == {
        "route": "chat",
        "lane": "chat/alternate",
        "fallback": "alternate",
        "attempts": 3,
        "tenant": "demo",
        "release": 1,
    }
    assert [name for name, _ in span.events] == ["ballast.retry.wait", "ballast.fallback"]
    assert 0 < span.events[0][1]["ballast.wait_seconds"] <= 0.1

    assert {one.name for one in (first, again, other)} == {"chat gpt-4o-instant"}
    assert {one.kind for one in (first, again, other)} == {"client"}
    assert [one.attributes["ballast.attempt.kind"] for one in (first, again, other)] == ["primary", "retry", "fallback"]
    assert [one.attributes["ballast.lane"] for one in (first, again, other)] == [
        "chat/primary",
        "chat/primary",
        "chat/alternate",
    ]
    assert [one.attributes.get("error.type") for one in (first, again, other)] == [
        "upstream_unavailable",
        "upstream_unavailable",
        None,
    ]
    assert [one.attributes["http.response.status_code"] for one in (first, again, other)] == [503, 503, 200]
    assert [one.is_error for one in (first, again, other)] == [True, True, False]
    said = other.attributes
    assert (said["gen_ai.operation.name"], said["gen_ai.provider.name"]) == ("chat", "openai")
    assert (said["gen_ai.request.model"], said["gen_ai.response.finish_reasons"]) == ("gpt-4o-instant", ["stop"])
    assert said["gen_ai.response.model"] == answer.json()["model"]
    assert said["gen_ai.response.id"] == answer.json()["id"]
    usage = answer.json()["usage"]
    assert said["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert said["server.address"] == "127.0.0.1"
    assert str(said["server.port"]) == gateways.simulator_url.rpartition(":")[2]


def test_what_is_billed_says_in_which_trace_it_is(caller: Caller, gateways: Gateways) -> None:
    """The usage row of each attempt names its trace, and its span the row; where no trace is kept, none is named."""
    kept = caller.ask().headers["ballast-request-id"]
    span = caller.server_span()
    unkept = caller.ask(flags="00").headers["ballast-request-id"]

    def rows() -> dict[str, dict[str, Any]]:
        return {row["request_id"]: row for row in gateways.reported("usage")}

    gateways.wait_for(lambda: rows().keys() >= {kept, unkept})
    assert rows()[kept]["trace_id"] == span.trace_id == caller.trace_id
    assert "trace_id" not in rows()[unkept]


def test_span_of_a_stream_ends_with_its_last_event(caller: Caller, receiver: Receiver) -> None:
    """The first token has its time, and what the answer cost is known at the end."""
    answer = caller.ask(stream=True)

    span = caller.server_span()
    [attempt] = receiver.below(span)
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert span.attributes["ballast.stream"] is True
    assert span.attributes["ballast.time_to_first_token_ms"] > 0
    assert attempt.attributes["gen_ai.request.stream"] is True
    assert attempt.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert attempt.attributes["gen_ai.usage.output_tokens"] > 0
    assert attempt.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert span.began_at <= attempt.began_at <= attempt.ended_at <= span.ended_at


def test_caller_who_leaves_ends_the_span(caller: Caller, gateways: Gateways) -> None:
    """What was asked is over with its caller, and no failure of anybody's."""
    gateways.strike("chat-primary", "silence")
    with pytest.raises(httpx.ReadTimeout):
        caller.client.post(
            "/v1/chat/completions",
            json={"model": "chat", "messages": [{"role": "user", "content": QUESTION}]},
            headers=caller.head(),
            timeout=0.5,
        )

    span = caller.server_span()

    assert (span.attributes["ballast.outcome"], span.attributes["http.response.status_code"]) == ("cancelled", 499)
    assert not span.is_error


@pytest.mark.parametrize(
    ("change", "status", "outcome"),
    [
        ({"headers": {"authorization": "Bearer bk-nobody"}}, 401, "unauthorized"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"content": b"no JSON", "headers": {"content-type": "application/json"}}, 400, "invalid_request"),
    ],
)
def test_refused_request_has_a_span_without_an_error(
    caller: Caller, change: dict[str, Any], status: int, outcome: str
) -> None:
    """The mistake is the caller's: the span says which, and is none of the server's failures."""
    body = {"model": "chat", "messages": []}
    sent = {"json": body} | change if "content" not in change else dict(change)
    sent["headers"] = caller.head() | change["headers"]

    answer = caller.client.post("/v1/chat/completions", **sent)

    span = caller.server_span()
    assert answer.status_code == span.attributes["http.response.status_code"] == status
    assert (span.attributes["error.type"], span.is_error) == (outcome, False)


def test_requests_that_are_not_kept_make_no_spans(caller: Caller, receiver: Receiver) -> None:
    """Neither those whose caller does not keep them, nor, at a ratio of 0, those of callers without a trace."""
    caller.ask(flags="00")
    body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
    unnamed = caller.client.post("/v1/chat/completions", json=body)
    before = len(receiver.named("POST /v1/chat/completions"))

    caller.trace_id = secrets.token_hex(16)
    caller.ask()
    caller.server_span()

    assert len(receiver.named("POST /v1/chat/completions")) == before + 1
    with receiver.lock:
        ids = {span.attributes.get("ballast.request_id") for span in receiver.spans}
    assert unnamed.headers["ballast-request-id"] not in ids


def test_receiver_that_is_away_costs_spans_and_no_request(
    caller: Caller, gateways: Gateways, receiver: Receiver
) -> None:
    """Requests are answered as ever; the spans are counted as lost, and later ones arrive again."""
    receiver.status = 400
    try:
        answers = [caller.ask() for _ in range(3)]

        def lost() -> float:
            text = caller.client.get("/metrics").text
            [line] = [one for one in text.splitlines() if one.startswith('ballast_trace_spans_total{outcome="failed"}')]
            return float(line.split()[1])

        receiver.wait_for(lambda: lost() >= 6)
    finally:
        receiver.status = 200
    assert [answer.status_code for answer in answers] == [200, 200, 200]

    caller.trace_id = secrets.token_hex(16)
    caller.ask()

    assert caller.server_span().attributes["ballast.outcome"] == "ok"


def test_nothing_is_lost_when_the_process_ends(tmp_path: Any, receiver: Receiver) -> None:
    """What waits to be sent is sent before a gateway that was told to stop is gone."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    with Gateways(tmp_path, routing, processes=1, variables=variables) as gateways:
        caller = Caller(gateways, receiver)
        answers = [caller.ask().headers["ballast-request-id"] for _ in range(20)]
        caller.client.close()

    spans = receiver.of_trace(caller.trace_id)

    assert sorted(one.attributes["ballast.request_id"] for one in spans if one.kind == "server") == sorted(answers)
    assert sum(one.kind == "client" for one in spans) == len(answers)
