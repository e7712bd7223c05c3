"""What an application gets from the gateway while a rung is engaged by hand, through OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest

from tests.dataplane.conftest import copy_document, threshold
from tests.ladders import activation, rung_copy, rungs, surface

from .conftest import CHAT_ROUTES, LiveGateway, lane, make_release, release_sections, wait_until
from .test_chat import WEATHER

QUESTION = "How do I reset my password?"
ANSWER = "Choose “Forgot password” on the sign-in page."
BUSY = [{"role": "user", "content": "How do I get a refund? [[fault silence_mid_stream:after=2]]"}]
# Of the answers that the simulator gives, so that what is cut can be told from what is not.
MAX_TOKENS = 5
EU, US = "openai/eu/main/gpt-4o", "openai/us/main/small"


@pytest.fixture
def engage(gateway: LiveGateway, simulator_url: str) -> Callable[..., None]:
    """Engages a rung of the surface that all routes are of, for the rest of the test; 0 lets go of it."""

    def _engage(rung: int, *, places: int = 0, **changes: Any) -> None:
        steps = rungs()
        steps["1"]["max_output_tokens"] = threshold(MAX_TOKENS)
        promises = surface()["promises"]
        promises["vip"]["reserved_concurrency"] = threshold(places)
        sections = release_sections(simulator_url)
        routing = sections["routing"]
        routing["lanes"][US] = lane("openai", "main", "small", residency="us")
        routing["routes"]["cheap"] = {"lanes": [US], "deadline_ms": 90_000}
        answers = {"version": 1, "digest": "a" * 64, "document": copy_document("answers")}
        now = datetime.now(UTC)
        times = {"since": now.isoformat(), "until": (now + timedelta(hours=1)).isoformat()}
        sections |= {
            "copy": rung_copy() | {"help-answers": answers},
            "ladder": {"web-chat": surface(routes=[*CHAT_ROUTES, "embed"], rungs=steps, promises=promises)},
            "activations": {"by-hand": activation(rung=rung, **times | changes)} if rung else {},
        }
        gateway.watcher.current = make_release(sections, revision=2)

    return _engage


def said_in(answer: Any) -> dict[str, Any]:
    """The member `ballast` of a body or a chunk, as an application finds it beside OpenAI's fields."""
    said: dict[str, Any] = (answer.model_extra or {}).get("ballast", {})
    return said


@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_answer_on_rung_1_is_shorter_and_says_so(ask: Any, engage: Any, route: str) -> None:
    """Whatever the vendor: OpenAI's client reads the answer, and the banner beside it."""
    engage(1)

    got = ask(route)

    assert got.answer.usage.completion_tokens <= MAX_TOKENS
    assert got.answer.choices[0].finish_reason == "length"
    assert got.headers["ballast-rung"] == "1"
    said = said_in(got.answer)
    assert (said["surface"], said["rung"], said["name"], said["locale"]) == ("web-chat", 1, "Shorter answers", "en")
    assert said["banner"].startswith("Web chat answers more briefly; back to normal in about ")
    assert 0 < said["eta_seconds"] <= 3600


@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_stream_on_rung_1_says_so_with_its_first_chunk(ask: Any, engage: Any, route: str) -> None:
    """The words are those of the plain answer; the rest of the chunks are as ever."""
    engage(1)
    plain = ask(route).answer

    got = ask(route, stream=True, extra_headers={"accept-language": "de"})
    chunks = list(got.answer)

    assert got.headers["ballast-rung"] == "1"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert said_in(chunks[0])["banner"] == "Web chat antwortet kürzer."
    assert not any(said_in(chunk) for chunk in chunks[1:])
    assert chunks[0].choices[0].delta.role == "assistant"


@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_tools_are_neither_offered_nor_called_on_rung_2(client: openai.OpenAI, engage: Any, route: str) -> None:
    """A conversation in which one was called goes on in words, on every wire; who insists on a call is told why not."""
    engage(2)
    call = {"id": "call_1", "type": "function", "function": {"name": "track_parcel", "arguments": '{"number": "12"}'}}
    told: list[Any] = [
        {"role": "user", "content": "Where is parcel 12?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "in Graz"},
    ]

    answer = client.chat.completions.create(model=route, messages=told, tools=[WEATHER])
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model=route, messages=told, tools=[WEATHER], tool_choice="required")

    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls
    assert said_in(answer)["rung"] == 2
    assert (refused.value.status_code, refused.value.code) == (503, "shed")
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_cheaper_model_serves_whoever_may_go_there(engage: Any, gateway: LiveGateway) -> None:
    """A tenant whose pin the cheap lane is outside of stays with its own, one rung below."""
    engage(3)
    seen = {}
    for tenant in ("globex", "acme"):
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=f"bk-{tenant}", max_retries=0, timeout=90) as client:
            raw = client.chat.completions.with_raw_response.create(
                model="chat", messages=[{"role": "user", "content": "Hello"}]
            )
            rung = said_in(raw.parse())["rung"]
            seen[tenant] = (raw.headers["ballast-lane"], raw.headers["ballast-rung"], rung)

    assert seen == {"globex": (US, "3", 3), "acme": (EU, "2", 2)}
    assert [row["lane"] for row in gateway.rows(2)] == [US, EU]


def test_answers_that_come_later_are_refused_where_nobody_keeps_them(ask: Any, engage: Any) -> None:
    """A gateway without a database cannot promise anything."""
    engage(4)

    with pytest.raises(openai.InternalServerError) as refused:
        ask()

    assert (refused.value.status_code, refused.value.code) == (503, "shed")


@pytest.mark.parametrize("stream", [False, True])
def test_known_question_is_answered_and_any_other_in_signed_words(
    client: openai.OpenAI, engage: Any, gateway: LiveGateway, stream: bool
) -> None:
    """OpenAI's client cannot tell them from a model's answer, but by what stands beside; nobody is billed."""
    engage(5)
    texts = []
    for question in (QUESTION, "Where is my parcel?"):
        answer: Any = client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": question}], stream=stream
        )
        if stream:
            chunks = list(answer)
            assert chunks[-1].choices[0].finish_reason == "stop"
            texts.append(("".join(chunk.choices[0].delta.content or "" for chunk in chunks), said_in(chunks[0])))
        else:
            texts.append((answer.choices[0].message.content, said_in(answer)))

    (known, beside), (words, more) = texts
    assert (known, beside["fallback"], beside["rung"], beside["copy"]) == (ANSWER, "cached", 5, "help-answers@1")
    assert words.startswith("We are very busy. Request req_")
    assert (more["fallback"], more["copy"], more["detail"]) == ("template", "rung-5@1", words)
    assert "<strong>very busy</strong>" in more["html"]
    gateway.wait_until_idle()
    assert gateway.reports.rows == []


@pytest.mark.parametrize("stream", [False, True])
def test_maintenance_is_an_error_that_says_until_when(http: httpx.Client, engage: Any, stream: bool) -> None:
    """Whole, also where a stream was asked for; a client that repeats by itself is told not to."""
    engage(6)

    response = http.post(
        "/v1/chat/completions",
        json={"model": "chat", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]},
        headers={"accept-language": "de"},
    )

    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "maintenance")
    assert response.headers["content-type"] == "application/json"
    assert error["message"] == error["detail"]
    assert (error["rung"], error["locale"], error["status_url"]) == (6, "de", "/status/web-chat")
    assert error["html"] == '<p lang="de">Es ist sehr viel los.</p>'
    assert int(response.headers["retry-after"]) == error["eta_seconds"] > 0
    assert (response.headers["x-should-retry"], response.headers["ballast-rung"]) == ("false", "6")


def test_rung_stands_for_those_that_it_was_engaged_for(http: httpx.Client, engage: Any) -> None:
    """Another tier, another region, and routes of no surface are served as ever."""
    question = {"messages": [{"role": "user", "content": "Hello"}]}

    def rung_of(key: str, route: str = "chat") -> tuple[int, str]:
        headers = {"authorization": f"Bearer {key}"}
        response = http.post("/v1/chat/completions", json=question | {"model": route}, headers=headers)
        return response.status_code, response.headers["ballast-rung"]

    engage(6, tiers=["standard"])
    assert (rung_of("bk-globex"), rung_of("bk-acme")) == ((503, "6"), (200, "0"))
    assert rung_of("bk-globex", "restless") == (200, "0")
    engage(6, regions=["us-east"])
    assert rung_of("bk-globex") == (200, "0")
    engage(6, regions=["eu-west"])
    assert rung_of("bk-globex") == (503, "6")
    engage(0)
    assert rung_of("bk-globex") == (200, "0")


def test_promised_places_are_served_in_full_until_they_are_taken(
    engage: Any, gateway: LiveGateway, http: httpx.Client
) -> None:
    """The request beyond them stands on the rung; once a caller has hung up, its place is free."""
    engage(3, places=1)
    key = {"authorization": "Bearer bk-acme"}

    def rung() -> str:
        question = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
        header: str = http.post("/v1/chat/completions", json=question, headers=key).headers["ballast-rung"]
        return header

    busy = {"model": "chat", "stream": True, "messages": BUSY}
    with http.stream("POST", "/v1/chat/completions", json=busy, headers=key) as held:
        assert held.headers["ballast-rung"] == "0"
        assert next(held.iter_lines())
        assert rung() == "2"

    wait_until(lambda: rung() == "0")


@pytest.mark.parametrize(("rung", "code"), [(4, None), (5, "shed"), (6, "maintenance")])
def test_embeddings_are_what_they_are_or_are_not(http: httpx.Client, engage: Any, rung: int, code: str | None) -> None:
    """No words stand in for a vector."""
    engage(rung)

    response = http.post("/v1/embeddings", json={"model": "embed", "input": "refund"})

    body = response.json()
    assert response.headers["ballast-rung"] == str(rung)
    assert body.get("error", {}).get("code") == code
    assert ("data" in body, "ballast" in body) == (code is None, False)


def test_json_is_not_cut_and_never_replaced_by_prose(client: openai.OpenAI, engage: Any) -> None:
    """An application that asked for JSON gets JSON, or an error that it can read."""
    options: Any = {
        "model": "chat",
        "messages": [{"role": "user", "content": "Where is my parcel?"}],
        "response_format": {"type": "json_object"},
    }
    engage(1)
    answer = client.chat.completions.create(**options)
    engage(5)

    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(**options)

    assert json.loads(answer.choices[0].message.content or "")
    assert said_in(answer)["rung"] == 1
    assert refused.value.code == "shed"
