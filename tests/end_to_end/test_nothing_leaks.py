"""Passwords, tokens, keys and what people write are in no log, no metric and no span of a real Ballast."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.receivers import Receiver as Webhook
from tests.end_to_end.stack import DEMO_PASSWORD, Browser, Stack
from tests.observed import documented, exposed
from tests.otlp import Receiver
from tests.planted import found_in
from tests.ports import pick_port

pytestmark = pytest.mark.end_to_end
PROCESSES = ("simulator", "console", "ingest", "agent", "gateway", "worker", "urgent", "beat")
PROMPT, WRONG_PASSWORD, WRONG_TOKEN = "quince-marmalade-8431", "wrong-sloe-gin-7718", "op-medlar-6620"
HOOK_PATH = "T-damson-cheese-9035"
VERSION = {
    "messages": [{"role": "system", "content": f"Never speak of {PROMPT}."}],
    "variables_schema": {"type": "object", "properties": {}},
    "parameters": {"temperature": 0.1},
    "sample_variables": {},
    "change_class": "tone",
    "rationale": f"because of {PROMPT}",
}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Whoever collects traces."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """Where each process is scraped."""
    return {name: pick_port() for name in PROCESSES if name != "simulator"}


@pytest.fixture(scope="module")
def stack(data_dir: Path, receiver: Receiver, ports: dict[str, int]) -> Iterator[Stack]:
    """All of Ballast that hears of secrets, saying as much as it can."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_TRACES_SAMPLER": "always_on",
        "BALLAST_LOG_LEVEL": "DEBUG",
        "BALLAST_LOG_FORMAT": "json",
    }
    own = {name: {"BALLAST_HEALTH_PORT": str(port)} for name, port in ports.items() if name != "gateway"}
    own["gateway"] = {"BALLAST_METRICS_PORT": str(ports["gateway"])}
    stack = Stack(data_dir, processes=PROCESSES, gateway_processes=1, variables=variables, own_variables=own)
    with stack:
        stack.wait_ready()
        yield stack
    assert stack.processes() == []


def test_no_process_tells_what_it_was_trusted_with(stack: Stack, receiver: Receiver, ports: dict[str, int]) -> None:
    """Signing in, with the right password and a wrong one; tokens, good and bad; a webhook with its secret, delivered;
    a prompt that is submitted, looked for at the console, and asked at the gateway.
    """
    plants = {"prompt": PROMPT, "wrong password": WRONG_PASSWORD, "wrong token": WRONG_TOKEN, "hook": HOOK_PATH}
    plants |= {"password": DEMO_PASSWORD, "operator token": "op-demo-admin", "tenant key": "bk-demo-globex"}
    plants["agent token"] = stack.environment["BALLAST_AGENT_TOKEN"]
    plants["secret key"] = stack.environment["BALLAST_SECRET_KEY"]

    stranger = Browser(stack)
    stranger.client.get("/accounts/login/").raise_for_status()
    refused = stranger.post("/accounts/login/", {"login": "owner", "password": WRONG_PASSWORD})
    bad_token = httpx.get(
        f"{stack.console_url}/api/v1/releases", headers={"authorization": f"Bearer {WRONG_TOKEN}"}, timeout=60
    )
    owner = stack.sign_in("owner")
    plants["session"] = next(value for name, value in owner.client.cookies.items() if "session" in name)
    page = owner.client.get("/prompts/", params={"q": PROMPT})
    with stack.api("owner") as api:
        submitted = api.post("/prompts/support-answer/versions", json=VERSION)
    with contextlib.closing(Webhook()) as webhook, stack.api("admin") as api:
        hook = {"slug": "planted", "kind": "webhook", "url": f"{webhook.url}/{HOOK_PATH}", "events": []}
        issued = api.post("/alert-channels", json=hook)
        plants["webhook secret"] = issued.json()["secret"].removeprefix("whsec_")
        api.post("/alert-channels/planted/test", json={}).raise_for_status()
        odd = api.post("/alert-channels", json={"slug": PROMPT, "kind": WRONG_TOKEN, "secret": PROMPT})
        stack.wait_for(lambda: bool(webhook.taken), "the webhook is delivered")
    key = {"authorization": "Bearer bk-demo-globex"}
    question = {"model": "chat", "messages": [{"role": "user", "content": f"What is {PROMPT}?"}]}
    with httpx.Client(base_url=stack.gateway_url, timeout=60) as client:
        answer = client.post("/v1/chat/completions", json=question, headers=key)
        plants["answer"] = answer.json()["choices"][0]["message"]["content"][:60]
        client.post("/v1/chat/completions", json=question | {"stream": True}, headers=key).raise_for_status()
        client.post("/v1/chat/completions", json=question | {"model": PROMPT}, headers=key)
        stream = client.get(f"/v1/streams/{PROMPT}", params={"cursor": WRONG_TOKEN})
    receiver.wait_for(lambda: receiver.named("work alerts.deliver") and receiver.named("POST /v1/chat/completions"))
    request_id = answer.headers["ballast-request-id"]
    receiver.wait_for(lambda: any(request_id.encode() in body for body in receiver.bodies))

    logs = {name: stack.log_of(name) for name in PROCESSES}
    metrics = scrape(ports)

    assert [one.status_code for one in (refused, bad_token, page, submitted)] == [200, 401, 200, 201]
    assert (issued.status_code, odd.status_code, answer.status_code) == (201, 400, 200)
    assert stream.status_code >= 400
    assert len(plants["answer"]) > 20
    assert {name: found_in(text, plants) for name, text in logs.items()} == {name: [] for name in PROCESSES}
    assert {name: found_in(text, plants) for name, text in metrics.items()} == {name: [] for name in metrics}
    with receiver.lock:
        spans = b"\n".join(receiver.bodies)
    assert found_in(spans.decode("latin-1"), plants) == []
    # The search sees what is told on purpose: in a span, and in a line of each process that logs one when it starts.
    assert found_in(spans.decode("latin-1"), {"request": request_id}) == ["request"]
    port = str(stack.settings.gateway_port)
    assert found_in(logs["gateway"], {"port": f"127.0.0.1:{port}"}) == ["port"]
    assert base64.b64encode(PROMPT.encode()).decode() not in spans.decode("latin-1")


def test_every_process_shows_what_the_guide_says(stack: Stack, ports: dict[str, int]) -> None:
    """Scraped for real, each at its own port: nothing that the guide lacks, and what is asked of each is there."""
    httpx.post(
        f"{stack.gateway_url}/v1/chat/completions",
        json={"model": "chat", "messages": [{"role": "user", "content": "Where is my parcel?"}]},
        headers={"authorization": "Bearer bk-demo-globex"},
        timeout=60,
    ).raise_for_status()
    stack.wait_for(lambda: "ballast_fleet_workers" in scrape(ports)["beat"], "the figures are computed and shown")

    shown = {name: exposed(text) for name, text in scrape(ports).items()}

    names = {re.sub(r"_(bucket|count|sum)$", "", one) for series in shown.values() for one in series}
    assert {one for one in names if one.startswith("ballast_")} <= documented()
    expected = {
        "console": {"ballast_console_requests_total", "ballast_process_loop_silent_seconds"},
        "ingest": {"ballast_process_loop_silent_seconds"},
        "agent": {"ballast_agent_release_revision", "ballast_reports_spool_bytes", "ballast_trace_spans_total"},
        "gateway": {
            "ballast_gateway_route_requests_total",
            "ballast_gateway_attempts_total",
            "ballast_trace_spans_total",
        },
        "worker": {"ballast_worker_tasks_total"},
        "urgent": {"ballast_worker_tasks_active"},
        "beat": {"ballast_fleet_workers", "ballast_work_tasks", "ballast_figures_computed_timestamp_seconds"},
    }
    assert {name: wanted - set(shown[name]) for name, wanted in expected.items()} == {name: set() for name in expected}
    # Of the deployment as a whole, nobody but the beat tells.
    assert [name for name, series in shown.items() if "ballast_fleet_workers" in series] == ["beat"]


def scrape(ports: dict[str, int]) -> dict[str, str]:
    """What each process shows."""
    return {name: httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text for name, port in ports.items()}
