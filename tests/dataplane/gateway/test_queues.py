"""Callers who wait for an account's quota at a live gateway, by bare HTTP and by OpenAI's own client."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from dataplane.assembly import Stores
from dataplane.cursors import CursorKeys
from dataplane.stores.quota import RedisQuotaStore
from dataplane.stores.streams import RedisStreamLog
from tests.dataplane.conftest import stream_policy
from tests.dataplane.quota_world import quota_document

from .conftest import release_sections, run_gateway, wait_until

ROUTES = {"plain": "a", "kept": "b", "broken": "c", "learning": "d"}


@pytest.fixture(scope="module")
def gateway(simulator_url, redis_url):
    """Each route has an account of its own that is admitted eight requests a second, little of it at once."""
    sections = copy.deepcopy(release_sections(simulator_url))
    routing = sections["routing"]
    routing["streams"] = {"kept": stream_policy(on_cut="end")}
    routing["quotas"] = {
        "tight": quota_document(
            window_seconds=1, requests=8, headroom=0.1, max_wait_seconds=60, fleet_workers=1, learn=False
        ),
        "ample": quota_document(window_seconds=1, requests=100, fleet_workers=1, learn=True),
    }
    for route, account in ROUTES.items():
        name = f"openai/eu/{account}/gpt-4o"
        routing["accounts"][account] = routing["accounts"]["nowhere" if route == "broken" else "main"]
        routing["lanes"][name] = routing["lanes"]["openai/eu/main/gpt-4o"] | {
            "account": account,
            "quota": "ample" if route == "learning" else "tight",
        }
        routing["routes"][route] = {"lanes": [name], "deadline_ms": 90_000}
    routing["routes"]["kept"]["streams"] = "kept"
    stores = Stores(
        streams=RedisStreamLog(redis_url, timeout_seconds=60), quotas=RedisQuotaStore(redis_url, timeout_seconds=60)
    )
    with run_gateway(sections, stores=stores, cursors=CursorKeys([b"k" * 32])) as gateway:
        yield gateway


@pytest.fixture
def crowd(gateway):
    """`crowd(route)`: others ask again and again until the test is over, so that there is always a queue."""
    over = threading.Event()
    with ThreadPoolExecutor(8) as threads:

        def ask(route):
            with httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=120) as http:
                while not over.is_set():
                    http.post("/v1/chat/completions", json=question(route, stream=False))

        def begin(route):
            for _ in range(4):
                threads.submit(ask, route)

        yield begin
        over.set()


def question(route, *, stream=True):
    return {"model": route, "messages": [{"role": "user", "content": "How do I get a refund?"}], "stream": stream}


def ask(gateway, route, **headers):
    """The whole answer of a stream, with its bytes; a queue was there before it."""
    given = {"authorization": "Bearer bk-globex", "ballast-queue": "comments"} | headers
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=question(route), headers=given, timeout=120)


def ask_until_queued(gateway, route):
    """The first answer before which somebody was told where they stand; without a queue there is nothing to tell."""
    answers = [ask(gateway, route)]

    def is_told():
        if ": queue " not in answers[-1].text:
            answers.append(ask(gateway, route))
        return ": queue " in answers[-1].text

    wait_until(is_told)
    return answers[-1]


def ask_again_and_again(client, headers):
    """Until it raises anything but the deadline of one that was nearly served."""

    def is_served():
        with contextlib.suppress(openai.InternalServerError):
            client.chat.completions.create(**question("plain"), extra_headers=headers).close()
        return False

    wait_until(is_served)


@pytest.mark.parametrize("route", ["plain", "kept"])
def test_a_stream_that_waits_says_where_it_stands(gateway, crowd, route):
    """In comments before the first event; headers that nobody knew yet come as comments too, the events as always."""
    crowd(route)

    answer = ask_until_queued(gateway, route)

    queue, rest = re.match(r"((?:: queue [^\n]*\n\n)+)(.*)", answer.text, re.DOTALL).groups()
    places = re.findall(r": queue position=(\d+) eta_ms=(\d+)", queue)
    assert answer.status_code == 200
    assert answer.headers["ballast-queue"] == "comments"
    assert all(1 <= int(position) <= 8 and int(eta_ms) < 5_000 for position, eta_ms in places)
    assert f": ballast-lane=openai/eu/{ROUTES[route]}/gpt-4o\n" in rest
    assert ": ballast-queue-position=" in rest
    numbers = [int(number) for number in re.findall(r"^id: (\d+)$", rest, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert rest.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("route", ["plain", "kept"])
def test_openai_client_reads_a_stream_that_waited(gateway, crowd, route):
    """It passes over what it does not know."""
    crowd(route)
    url = f"{gateway.url}/v1"
    with openai.OpenAI(base_url=url, api_key="bk-globex", max_retries=0, timeout=120) as client:
        for _ in range(3):
            stream = client.chat.completions.create(**question(route), extra_headers={"ballast-queue": "comments"})
            texts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]

            assert "refund" in "".join(texts).lower()


def test_an_error_after_the_queue_is_the_only_event(gateway, crowd):
    """The status is out by then; the error is not lost, and the stream ends."""
    crowd("broken")

    answer = ask_until_queued(gateway, "broken")

    [(number, data)] = re.findall(r"^id: (\d+)\ndata: (.*)$", answer.text, re.MULTILINE)
    assert (answer.status_code, number) == (200, "1")
    assert json.loads(data)["error"]["code"] == "upstream_unreachable"


def test_who_is_refused_a_place_gets_the_status_that_says_so(gateway, crowd):
    """429 with Retry-After, not a stream with an error in it; OpenAI's client raises what it raises for a provider."""
    crowd("plain")
    ask_until_queued(gateway, "plain")
    headers = {"ballast-queue": "comments", "ballast-deadline-ms": "60"}
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-globex", max_retries=0, timeout=120) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        ask_again_and_again(client, headers)

    assert refused.value.code == "quota_exhausted"
    assert int(refused.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("header", "value"), [("ballast-queue", "loud"), ("ballast-class", "urgent")])
def test_what_a_header_cannot_say_is_refused_with_its_name(gateway, header, value):
    """Rather than passed over."""
    answer = ask(gateway, "plain", **{header: value})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, header)


def test_a_limit_in_the_headers_of_an_answer_is_kept_to(gateway, simulator):
    """The provider admits fewer than was declared: the pool says so, and so does an event."""
    simulator.post(
        "/admin/limits",
        json={"account": "*", "model": None, "kind": "sliding_window", "window_seconds": 60, "requests": 120},
    )

    httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json=question("learning", stream=False),
        headers={"authorization": "Bearer bk-globex"},
        timeout=120,
    ).raise_for_status()

    [state] = [state for state in gateway.reports.quotas() if state["pool"] == "d/ample"]
    assert (state["limits"], state["learned"]) == ({"requests": 2.0}, {"requests": 2.0})
    [event] = [event for event in gateway.reports.events if event.kind == "quota.learned"]
    assert (event.pool, event.limit, event.declared, event.learned) == ("d/ample", "requests", 100.0, 2.0)


def test_quotas_are_in_the_metrics(gateway):
    """By pool, with what was let go and whether the fleet shares it."""
    ask(gateway, "plain")

    text = httpx.get(f"{gateway.url}/metrics", timeout=120).text

    assert 'ballast_gateway_quota_grants_total{pool="a/tight"}' in text
    assert 'ballast_gateway_quota_shared{pool="a/tight"} 1.0' in text
    [state] = [state for state in gateway.reports.quotas() if state["pool"] == "a/tight"]
    assert state["limits"] == {"requests": 8.0}
    assert state["is_alone"] is False
