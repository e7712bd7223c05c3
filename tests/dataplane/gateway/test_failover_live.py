"""Failing lanes as applications meet them: OpenAI's own client, a real gateway, and a provider that fails on call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import httpx
import openai
import pytest

from tests.dataplane.conftest import breaker_policy, copy_document, retry_policy, threshold

from .conftest import LiveGateway, lane, make_release, release_sections, wait_until

PRIMARY, ALTERNATE = "openai/eu/first/x", "openai/eu/second/x"
QUESTION = [{"role": "user", "content": "How do I get a refund?"}]
DOWN = "status:code=503"
# So many ways to say nothing, each on a model of its own.
SILENCES = ("silence", "latency:ms=600000", "latency:ms=600000,before=first_chunk")
# Within so long an alternate answers, also on a busy machine.
PATIENCE_SECONDS = 8
# More than any test here fails, so that only tests about it see a breaker open.
NEVER = 1000
# What no attempt is too slow for: how long it takes here says nothing of a lane.
HOUR_MS = 3_600_000
# All with something below their lanes, or the last lane of a route would never open.
ROUTE = {"lanes": [PRIMARY, ALTERNATE], "deadline_ms": 90_000, "fallback": "notice"}
ROUTES: dict[str, dict[str, Any]] = {
    "two": {},
    "stocked": {"fallback": "words"},
    "retrying": {"retry": "r"},
} | {
    f"patient-{number}": {
        "lanes": [f"openai/eu/first/silent-{number}", ALTERNATE],
        "first_token_seconds": threshold(PATIENCE_SECONDS),
        "whole_answer_seconds": threshold(PATIENCE_SECONDS),
    }
    for number in range(len(SILENCES))
}


@dataclass
class Provider:
    """The simulator's admin face, for two accounts."""

    http: httpx.Client

    def strike(self, *accounts: str, fault: str = DOWN, **rule: Any) -> None:
        """Play `fault` on these accounts alone; `rule` says what else it takes."""
        for account in accounts:
            told = {"fault": fault, "account": f"sk-{account}"} | rule
            self.http.post("/admin/faults", json=told).raise_for_status()

    def recover(self) -> None:
        """End all faults."""
        self.http.delete("/admin/faults").raise_for_status()

    def calls(self) -> tuple[int, int]:
        """How often the first and the second account were called; the simulator names them by their last letters."""
        counts = {one["account"]: one["count"] for one in self.http.get("/admin/state").json()["accounts"]}
        return counts.get("sk-first", 0), counts.get("k-second", 0)


@pytest.fixture
def provider(simulator: httpx.Client) -> Provider:
    """The provider behind both lanes."""
    return Provider(simulator)


@pytest.fixture
def adopt(gateway: LiveGateway, simulator_url: str, tmp_path) -> Callable[..., None]:
    """Gives the gateway a release with the routes above, under a breaker policy with these numbers."""
    sections = copy.deepcopy(release_sections(simulator_url))
    routing = sections["routing"]
    for account, name in (("first", PRIMARY), ("second", ALTERNATE)):
        (tmp_path / account).write_text(f"sk-{account}")
        routing["accounts"][account] = routing["accounts"]["main"] | {"secret": f"file:{tmp_path / account}"}
        routing["lanes"][name] = lane("openai", account, "x", breaker="b")
    for number in range(len(SILENCES)):
        model = f"silent-{number}"
        routing["lanes"][f"openai/eu/first/{model}"] = lane(
            "openai", "first", model, upstream_model=f"{model}-instant", breaker="b"
        )
    routing["retries"] = {"r": retry_policy(base_seconds=0.01, cap_seconds=0.02, least_seconds=0.1)}
    routing["fallbacks"] = {
        "words": {"answers": None, "template": {"copy": "template"}, "outage": {"copy": "outage"}},
        "notice": {"answers": None, "template": None, "outage": {"copy": "outage"}},
    }
    routing["routes"] |= {slug: ROUTE | changes for slug, changes in ROUTES.items()}
    sections["copy"] = {
        kind: {"version": 3, "digest": "c" * 64, "document": copy_document(kind)} for kind in ("template", "outage")
    }

    def _adopt(**policy: float) -> None:
        numbers = {
            "minimum_attempts": NEVER,
            "window_seconds": 600,
            "latency_p95_ms": HOUR_MS,
            "ttft_p95_ms": HOUR_MS,
            "drain_tokens_per_second": 0.001,
        } | policy
        gateway.watcher.current = make_release(
            sections | {"routing": routing | {"breakers": {"b": breaker_policy(**numbers)}}}
        )

    return _adopt


def told(answer: Any) -> tuple[str | None, str, str]:
    """What the headers say of who served: lane, fallback, attempts."""
    names = ("ballast-lane", "ballast-fallback", "ballast-attempts")
    lane_id, fallback, attempts = (answer.headers.get(name) for name in names)
    return lane_id, fallback, attempts


def causes(gateway: LiveGateway) -> list[str]:
    """Why the primary's breaker moved, from the first time to the last."""
    return [event.cause for event in list(gateway.reports.events) if event.lane == PRIMARY]


def text_of(answer: Any, *, stream: bool) -> str:
    """The answer's text, from all chunks of a stream."""
    if not stream:
        return answer.choices[0].message.content
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


# --- the alternate ----------------------------------------------------------------------------------------------------
def test_lane_that_fails_is_covered_and_then_left_alone(adopt, ask, gateway, provider):
    """The alternate serves, at first after a failed attempt, and from the threshold on without calling the primary.

    The caller gets the same answer all the time, streamed or not, and every attempt is on record.
    """
    adopt(minimum_attempts=6, open_seconds=600, max_open_seconds=600)
    healthy = ask("two")
    provider.strike("first")
    answers = []

    for number in range(10):
        answer = ask("two", stream=number % 2 == 1)
        answers.append((told(answer), text_of(answer.answer, stream=number % 2 == 1)))

    words = healthy.answer.choices[0].message.content
    assert told(healthy) == (PRIMARY, "none", "1")
    after_failure = ((ALTERNATE, "alternate", "2"), words)
    at_once = ((ALTERNATE, "alternate", "1"), words)
    assert answers == [after_failure] * 5 + [at_once] * 5
    assert provider.calls() == (1 + 5, 10)
    outcomes = [(row["lane"], row["kind"], row["outcome"]) for row in gateway.rows(16)[1:]]
    failed, covered = (PRIMARY, "primary", "upstream_unavailable"), (ALTERNATE, "fallback", "ok")
    assert outcomes == [failed, covered] * 5 + [(ALTERNATE, "primary", "ok")] * 5
    assert causes(gateway) == ["tripped"]


def test_silent_lane_is_left_within_the_routes_limit(adopt, ask, gateway, provider):
    """A provider that says nothing, or nothing for ten minutes, costs the caller no answer, whole or streamed; the
    attempt is a time-out.
    """
    adopt()
    for number, fault in enumerate(SILENCES):
        provider.strike("first", fault=fault, model=f"silent-{number}-*")
    questions = list(product(range(len(SILENCES)), (False, True)))

    with ThreadPoolExecutor(len(questions)) as threads:
        answers = list(threads.map(lambda one: ask(f"patient-{one[0]}", stream=one[1]), questions))

    for (_, stream), answer in zip(questions, answers, strict=True):
        assert text_of(answer.answer, stream=stream)
        assert told(answer) == (ALTERNATE, "alternate", "2")
    rows = gateway.rows(2 * len(questions))
    for (number, _), answer in zip(questions, answers, strict=True):
        first, second = (row for row in rows if row["request_id"] == answer.headers["ballast-request-id"])
        silent = f"openai/eu/first/silent-{number}"
        assert (first["lane"], first["outcome"], first["status"]) == (silent, "upstream_timeout", 504)
        assert (second["lane"], second["cause"], second["outcome"]) == (ALTERNATE, "upstream_timeout", "ok")
    # Nobody is left waiting for an answer that nobody wants: all that is under way is this question.
    wait_until(lambda: provider.http.get("/admin/state").json()["active_requests"] == 1)


def test_lane_that_recovers_is_found_by_probes_and_used_again(adopt, ask, gateway, provider):
    """It opens, the alternate serves, a probe fails, and once it is well the next ones bring traffic back to it."""
    adopt(minimum_attempts=3, open_seconds=0.2, flap_factor=1, max_open_seconds=0.2, healthy_probes=3)
    provider.strike("first")
    wait_until(lambda: told(ask("two"))[0] == ALTERNATE and "probe_failed" in causes(gateway))
    provider.recover()

    wait_until(lambda: told(ask("two", stream=True))[0] == PRIMARY and causes(gateway)[-1] == "probes_passed")

    assert told(ask("two")) == (PRIMARY, "none", "1")
    seen = causes(gateway)
    flaps = len(seen) // 2 - 1
    assert seen == ["tripped", *["cooled_down", "probe_failed"] * flaps, "cooled_down", "probes_passed"]


# --- nobody left ------------------------------------------------------------------------------------------------------
def test_signed_copy_answers_when_every_lane_is_down(adopt, ask, provider):
    """To the SDK it is a completion like any other, whole and streamed, and `ballast` says whose words they are."""
    adopt()
    provider.strike("first", "second")

    whole = ask("stocked")
    streamed = ask("stocked", stream=True, stream_options={"include_usage": True})
    *chunks, last = list(streamed.answer)

    words = "stocked is back in 1 minutes."
    said = {"fallback": "template", "copy": "template@3", "locale": "en", "score": None}
    assert [told(answer) for answer in (whole, streamed)] == [(None, "template", "2")] * 2
    assert whole.answer.choices[0].message.content == words
    assert (whole.answer.choices[0].finish_reason, whole.answer.model) == ("stop", "copy:template@3")
    assert whole.answer.usage.total_tokens == 0
    assert whole.answer.model_extra["ballast"] == said
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == words
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert [chunk.model_extra["ballast"] for chunk in (*chunks, last)] == [said] * (len(chunks) + 1)
    assert (last.choices, last.usage.total_tokens) == ([], 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_outage_is_told_in_signed_words_with_when_to_come_back(adopt, ask, provider, stream):
    """An error with a code, the signed message in the caller's language, and Retry-After; also once breakers are open,
    when it takes no call to know.
    """
    adopt(minimum_attempts=2, open_seconds=50)
    provider.strike("first", "second")
    caught = []

    for _ in range(3):
        with pytest.raises(openai.APIStatusError) as error:
            ask("two", stream=stream, extra_headers={"accept-language": "de-DE"})
        caught.append(error.value)

    assert [(error.status_code, error.code) for error in caught] == [
        (503, "upstream_unavailable"),
        (503, "upstream_unavailable"),
        (503, "circuit_open"),
    ]
    after_two, after_none = (ALTERNATE, "outage", "2"), (None, "outage", "0")
    assert [told(error.response) for error in caught] == [after_two, after_two, after_none]
    for error in caught:
        assert error.body["message"] == "two ist in 1 Minuten zurück."
        assert (error.body["copy"], error.body["locale"]) == ("outage@3", "de")
        assert 1 <= int(error.response.headers["retry-after"]) == error.body["eta_seconds"] <= 50
        assert "x-should-retry" not in error.response.headers
    assert ALTERNATE in caught[0].body["detail"]
    assert provider.calls() == (2, 2)


# --- work that must not be done twice ---------------------------------------------------------------------------------
def test_work_that_must_not_be_repeated_is_asked_for_once_by_the_sdk_too(adopt, gateway, provider):
    """Neither this gateway nor the SDK sends it again, unless its caller says that it may be."""
    adopt()
    provider.strike("first")
    question = {"model": "two", "messages": QUESTION, "store": True}
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-globex", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**question)
        after_first = provider.calls()
        harmless = client.chat.completions.with_raw_response.create(
            **question, extra_body={"tool_effects": "idempotent"}
        )

    assert (caught.value.status_code, caught.value.response.headers["x-should-retry"]) == (503, "false")
    assert after_first == (1, 0)
    assert told(harmless) == (ALTERNATE, "alternate", "2")
    assert provider.calls() == (2, 1)


def test_blip_is_ridden_out_on_the_same_lane(adopt, ask, gateway, provider):
    """One failure, a short wait, and the same lane answers: one request to the caller, two attempts on record."""
    adopt()
    provider.http.post("/admin/faults", json={"fault": DOWN, "account": "sk-first", "count": 1}).raise_for_status()

    answer = ask("retrying")

    assert told(answer) == (PRIMARY, "none", "2")
    assert [(row["kind"], row["outcome"]) for row in gateway.rows(2)] == [
        ("primary", "upstream_unavailable"),
        ("retry", "ok"),
    ]
