"""Limits as clients see them: the headers of each vendor as the gateway reads them, and the vendors' own packages."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import anthropic
import httpx
import openai
import pytest

from dataplane.errors.upstream import UpstreamRateLimited
from dataplane.providers import ADAPTERS

# Each look is a round trip, so the simulator has time to notice between two of them.
MOST_LOOKS = 5000
QUESTION = [{"role": "user", "content": "How do I get a refund?"}]
WIRES = ("openai", "azure-openai", "anthropic")
PATHS = {
    "openai": "/openai/v1/chat/completions",
    "azure-openai": "/azure/openai/deployments/gpt-4o-instant/chat/completions?api-version=2024-10-21",
    "anthropic": "/anthropic/v1/messages",
}
MODELS = {"openai": "gpt-4o-instant", "azure-openai": "gpt-4o-instant", "anthropic": "claude-instant"}
ACCOUNT = "sk-limited"
LIMIT = {"account": ACCOUNT, "kind": "sliding_window", "window_seconds": 6000}


@pytest.fixture
def ask(http):
    """Return a function that asks one vendor as bare HTTP, as the limited account unless told otherwise."""

    def _ask(wire="openai", *, account=ACCOUNT, fault=None, **body):
        headers = {"authorization": f"Bearer {account}", "anthropic-version": "2023-06-01"}
        if fault:
            headers["x-simulator-fault"] = fault
        return http.post(
            PATHS[wire],
            json={"model": MODELS[wire], "messages": QUESTION, "max_tokens": 100} | body,
            headers=headers,
        )

    return _ask


def limit(http, **limits):
    http.post("/admin/limits", json=LIMIT | limits).raise_for_status()


def counted(http):
    return http.get("/admin/state").json()["limits"][0]


async def leave(http, body, headers):
    """Ask, and hang up while the answer is under way."""
    async with httpx.AsyncClient(base_url=http.base_url, timeout=90) as client:
        asking = asyncio.create_task(client.post(PATHS["openai"], json=body, headers=headers))
        while not (asking.done() or counted(http)["in_flight"]):  # noqa: ASYNC110 - the simulator has no event for it
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def told(response):
    """All that the headers tell about limits."""
    prefixes = ("x-ratelimit-", "anthropic-ratelimit-")
    return {name: value for name, value in response.headers.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("wire", WIRES)
def test_every_answer_says_how_the_account_stands_in_its_vendors_dialect(http, ask, wire):
    """Limits, what is left of them with this request, and when all is back; also with an error, which uses nothing."""
    limit(http, requests=3, tokens=1000)

    good, bad = ask(wire), ask(wire, messages=[])

    prompt = counted(http)["used"]["input_tokens"]
    assert (good.status_code, bad.status_code) == (200, 400)
    for answer, left in ((good, 1000 - prompt - 100), (bad, 1000 - counted(http)["used"]["tokens"])):
        if wire == "anthropic":
            numbers = {
                "anthropic-ratelimit-requests-limit": "3",
                "anthropic-ratelimit-requests-remaining": "2",
                "anthropic-ratelimit-tokens-limit": "1000",
                "anthropic-ratelimit-tokens-remaining": str(left),
            }
            reset = datetime.fromisoformat(answer.headers["anthropic-ratelimit-requests-reset"]).timestamp()
            assert 5900 < reset - time.time() < 6002
        else:
            numbers = {
                "x-ratelimit-limit-requests": "3",
                "x-ratelimit-remaining-requests": "2",
                "x-ratelimit-limit-tokens": "1000",
                "x-ratelimit-remaining-tokens": str(left),
            }
            assert answer.headers["x-ratelimit-reset-requests"].startswith(("1h39m", "1h40m0s"))
        assert {name: value for name, value in told(answer).items() if "reset" not in name} == numbers


@pytest.mark.parametrize("wire", WIRES)
def test_gateway_reads_how_long_to_wait(http, ask, wire):
    """The 429 tells the time until the oldest request is a window old, in the vendor's dialect."""
    limit(http, requests=1)
    ask(wire)

    refused = ask(wire)
    error = ADAPTERS[wire].error(429, dict(refused.headers), refused.content, lane="lane", wall=time.time())

    assert refused.status_code == 429
    assert isinstance(error, UpstreamRateLimited)
    assert 5900 < error.retry_after_seconds <= 6000
    assert ("retry-after-ms" in refused.headers) is (wire != "anthropic")
    books = counted(http)
    assert (books["admitted"], books["refused"], books["used"]["requests"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("limits", "kind", "words"),
    [
        ({"requests": 1}, "requests", "on requests per 6000 s: Limit 1, Used 1, Requested 1. Please try again in"),
        ({"tokens": 150, "window_seconds": 60}, "tokens", "on tokens per min (TPM): Limit 150, Used"),
        ({"output_tokens": 50}, "tokens", "Request too large for gpt-4o-instant"),
    ],
)
def test_openais_package_raises_its_own_error(http, openai_client, ask, limits, kind, words):
    """RateLimitError with OpenAI's words, code and figures."""
    limit(http, **limits)
    ask()
    client = openai_client.with_options(api_key=ACCOUNT)

    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o-instant", messages=QUESTION, max_tokens=100)

    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", kind)
    assert words in str(caught.value)


def test_azures_and_anthropics_packages_raise_theirs(http, azure_client, anthropic_client, ask):
    """Each with its vendor's envelope."""
    limit(http, requests=1)
    ask()
    azure, other = (client.with_options(api_key=ACCOUNT) for client in (azure_client, anthropic_client))

    with pytest.raises(openai.RateLimitError, match="exceeded call rate limit"):
        azure.chat.completions.create(model="gpt-4o-instant", messages=QUESTION)
    with pytest.raises(anthropic.RateLimitError, match="rate limit of 1 requests per 6000 seconds"):
        other.messages.create(model="claude-instant", max_tokens=10, messages=QUESTION)


def test_client_that_waits_as_told_is_admitted(http, openai_client):
    """OpenAI's package tries again after retry-after-ms, and that was long enough."""
    limit(http, kind="token_bucket", window_seconds=0.2, requests=1)
    client = openai_client.with_options(api_key=ACCOUNT, max_retries=1)

    for _ in range(3):
        client.chat.completions.create(model="gpt-4o-instant", messages=QUESTION)

    assert counted(http)["admitted"] == 3


@pytest.mark.parametrize("wire", WIRES)
def test_account_pays_for_what_it_used_in_the_end(http, ask, wire):
    """Four hundred tokens are held while an answer is written, and its own stay; of a broken stream, those it gave."""
    limit(http, tokens=500, requests=10)

    usage = ask(wire, max_tokens=400).json()["usage"]
    whole = counted(http)["used"]
    ask(wire, max_tokens=400, stream=True, fault="error_mid_stream:after=3")
    broken = counted(http)["used"]

    names = ("input_tokens", "output_tokens") if wire == "anthropic" else ("prompt_tokens", "completion_tokens")
    assert [whole["input_tokens"], whole["output_tokens"]] == [usage[name] for name in names]
    assert broken["output_tokens"] == whole["output_tokens"] + 3
    assert broken["tokens"] == broken["input_tokens"] + broken["output_tokens"]


@pytest.mark.parametrize(
    ("fault", "stream"),
    [
        (None, False),
        (None, True),
        ("reset", False),
        ("silence", False),
        ("reset_mid_stream", True),
        ("silence_mid_stream", True),
        ("truncated_chunk", False),
        ("error_mid_stream", True),
        ("status:code=503", False),
        ("rate_limit", False),
        ("latency:ms=60000", False),
        ("slow_drip:ms=60000", True),
    ],
)
def test_place_is_given_back_however_the_answer_ends(http, fault, stream):
    """With one place in all, the next request gets it, whether the answer before was whole, broken or left."""
    limit(http, concurrency=1)
    body = {"model": "gpt-4o-instant", "messages": QUESTION, "stream": stream}
    headers = {"authorization": f"Bearer {ACCOUNT}"}
    faulty = headers | ({"x-simulator-fault": fault} if fault else {})

    if fault is not None and fault.startswith(("silence", "latency", "slow_drip")):
        asyncio.run(leave(http, body, faulty))
    else:
        try:
            http.post(PATHS["openai"], json=body, headers=faulty)
        except httpx.TransportError:
            assert fault

    books = (counted(http) for _ in range(MOST_LOOKS))
    assert next(one for one in books if not one["in_flight"])["peak"] == (
        fault not in ("status:code=503", "rate_limit")
    )
    assert http.post(PATHS["openai"], json=body, headers=headers).status_code == 200


def test_one_place_is_one_answer_at_a_time(http):
    """While an answer is being written the next is refused, in words about what is limited, and uses nothing."""
    limit(http, concurrency=1)
    body = {"model": "gpt-4o-instant", "messages": QUESTION}
    headers = {"authorization": f"Bearer {ACCOUNT}"}
    slow = headers | {"x-simulator-fault": "slow_drip:ms=60000"}

    with http.stream("POST", PATHS["openai"], json=body | {"stream": True}, headers=slow):
        refused = http.post(PATHS["openai"], json=body, headers=headers)

    assert refused.status_code == 429
    assert "concurrent requests: Limit 1, Used 1" in refused.json()["error"]["message"]
    assert 0 < int(refused.headers["retry-after-ms"]) <= 1000
    assert counted(http)["admitted"] == 1


def test_embeddings_are_counted_by_their_input(http):
    """There is no output, and the headers say how the account stands."""
    limit(http, tokens=100)
    headers = {"authorization": f"Bearer {ACCOUNT}"}

    answer = http.post(
        "/openai/v1/embeddings", json={"model": "benchmark", "input": ["a b c", "d"], "dimensions": 4}, headers=headers
    )

    tokens = answer.json()["usage"]["total_tokens"]
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(100 - tokens)
    assert counted(http)["used"]["tokens"] == tokens


def test_account_without_limits_is_answered_as_ever(http, ask):
    """Another account's limits change neither its headers nor how often it may ask."""
    before = ask(account="sk-other")
    limit(http, requests=1)

    after = [ask(account="sk-other") for _ in range(3)]

    assert {one.status_code for one in after} == {200}
    assert {tuple(told(one).items()) for one in (before, *after)} == {tuple(told(before).items())}
    assert before.headers["x-ratelimit-limit-requests"] == "10000"


def test_fault_of_a_rate_limit_keeps_its_own_words(http, ask):
    """A 429 that is played says what the fault says, not how the account stands, and uses nothing."""
    limit(http, requests=1)

    played = ask(fault="rate_limit:retry_after_seconds=7,dialect=seconds")

    assert (played.status_code, played.headers["retry-after"]) == (429, "7")
    assert told(played) == {}
    assert ask().status_code == 200
