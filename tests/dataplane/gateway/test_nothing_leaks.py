"""Prompts, answers and keys are in no log line, no metric and no span, whatever becomes of a request."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dataplane import logs
from dataplane.otel.process import ProcessTracing
from dataplane.otel.requests import RequestSpans
from dataplane.providers.base import UpstreamCall
from dataplane.settings import TracingSettings
from dataplane.timers import TimerWheel
from dataplane.transport import Exchange, Http1Transport, Limits
from tests.dataplane.conftest import copy_document, retry_policy
from tests.dataplane.test_validating import CARDS, policy
from tests.planted import found_in

from .conftest import LiveGateway, lane, release_sections, run_gateway, wait_until

CARD = "4111 1111 1111 1111"
PLANTS = {
    "prompt": "quince-marmalade-8431",
    "system prompt": "gooseberry-fool-2277",
    "variable": "medlar-jelly-6620",
    "answer": "damson-cheese-9035",
    "withheld answer": CARD,
    "tenant key": "bk-rowan-berry-5512",
    "wrong key": "bk-sloe-gin-7718",
    "provider key": "sk-elderflower-3304",
    "user": "user-bilberry-1199",
    "idempotency key": "key-cloudberry-4400",
}
BROKEN = "openai/eu/main/broken"
ECHOING = "openai/eu/main/echoing"


class Faulty:
    """The real transport, but for two lanes: one has a bug, and at the other the provider repeats what it was told."""

    def __init__(self, timers: TimerWheel) -> None:
        self._real = Http1Transport(timers=timers)

    async def send(self, call: UpstreamCall, *, lane: str, limits: Limits) -> Exchange:
        """As `Transport.send`."""
        words = orjson.loads(call.body)  # what a traceback would show, if it showed the values of variables
        if lane == BROKEN:
            raise ZeroDivisionError("a bug")
        if lane == ECHOING:
            return Echo(words)
        return await self._real.send(call, lane=lane, limits=limits)

    async def close(self) -> None:
        """As `Transport.close`."""
        await self._real.close()


class Echo:
    """A refusal that has the caller's words in it, as vendors' have."""

    status = 400

    def __init__(self, words: Any) -> None:
        told = {"error": {"message": f"cannot answer {words['messages'][-1]['content']}", "param": "messages"}}
        self._body = orjson.dumps(told)

    def headers(self) -> dict[str, str]:
        """As `Exchange.headers`."""
        return {}

    async def read(self) -> bytes:
        """As `Exchange.read`."""
        return self._body

    async def next_chunk(self) -> bytes | None:
        """As `Exchange.next_chunk`."""
        return None

    def finish(self) -> None:
        """As `Exchange.finish`."""

    def close(self) -> None:
        """As `Exchange.close`."""


@dataclass
class World:
    """A gateway that logs everything and traces everything."""

    gateway: LiveGateway
    client: httpx.Client
    simulator: httpx.Client
    log: io.StringIO
    spans: InMemorySpanExporter
    tracing: ProcessTracing

    def ask(self, route: str, *, key: str = PLANTS["tenant key"], **more: Any) -> httpx.Response:
        """A question with plants wherever a caller can say something."""
        body = {
            "model": route,
            "user": PLANTS["user"],
            "messages": [
                {"role": "system", "content": f"Never speak of {PLANTS['system prompt']}."},
                {"role": "user", "content": f"What is {PLANTS['prompt']}?"},
            ],
        } | more
        return self.client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})

    def written(self) -> dict[str, str]:
        """All that a process tells of itself, by where."""
        self.gateway.wait_until_idle()
        wait_until(lambda: self.gateway.app._metrics.in_flight == 0)
        self.tracing.outbox.force_flush()
        return {
            "log": self.log.getvalue(),
            "metrics": self.client.get("/metrics").text,
            "spans": "\n".join(span.to_json() for span in self.spans.get_finished_spans()),
        }


@pytest.fixture
def world(simulator: httpx.Client, simulator_url: str, tmp_path: Any) -> Iterator[World]:
    """With a lane that fails and one that does not, one with a bug, one that repeats what it was told."""
    sections = copy.deepcopy(release_sections(simulator_url))
    routing = sections["routing"]
    sections["access"]["keys"] = {
        hashlib.sha256(PLANTS["tenant key"].encode()).hexdigest(): {"tenant": "globex", "id": "k-globex"}
    }
    (tmp_path / "key").write_text(PLANTS["provider key"])
    routing["accounts"]["main"]["secret"] = f"file:{tmp_path / 'key'}"
    routing["accounts"]["other"] = routing["accounts"]["main"] | {"secret": "env:SIM_KEY"}
    routing["lanes"]["openai/eu/other/gpt-4o"] = lane("openai", "other", "gpt-4o")
    for name in (BROKEN, ECHOING):
        routing["lanes"][name] = lane("openai", "main", name.rpartition("/")[2])
    routing["retries"] = {"r": retry_policy(base_seconds=0.01, cap_seconds=0.02, least_seconds=0.1)}
    routing["fallbacks"] = {"words": {"answers": None, "template": {"copy": "template"}, "outage": {"copy": "outage"}}}
    routing["validators"] = {"careful": policy(CARDS, escalation="withheld")}
    escalation = copy_document("escalation")
    escalation["locales"] = {"en": {"text": "Please call us.", "json": None}}
    sections["copy"] = {
        kind: {"version": 3, "digest": "c" * 64, "document": copy_document(kind)} for kind in ("template", "outage")
    } | {
        "withheld": {"version": 2, "digest": "c" * 64, "document": escalation},
    }
    both = ["openai/eu/main/gpt-4o", "openai/eu/other/gpt-4o"]
    routing["routes"] |= {
        "two": {"lanes": both, "deadline_ms": 90_000, "retry": "r"},
        "stocked": {"lanes": both[:1], "deadline_ms": 90_000, "fallback": "words"},
        "careful": {"lanes": both[:1], "deadline_ms": 90_000, "validators": "careful"},
        "broken": {"lanes": [BROKEN], "deadline_ms": 90_000},
        "echoing": {"lanes": [ECHOING], "deadline_ms": 90_000},
    }
    text, spans = io.StringIO(), InMemorySpanExporter()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logs.formatter(logs.LogFormat.JSON, service="ballast-gateway"))
    root, level = logging.getLogger(), logging.getLogger().level
    settings = TracingSettings(endpoint="http://127.0.0.1:1", service="ballast-gateway", worker="test/gateway-0")
    tracing = ProcessTracing(settings, exporter=spans)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with (
            run_gateway(sections, tracer=RequestSpans(tracing), transport=Faulty(TimerWheel())) as gateway,
            httpx.Client(base_url=gateway.url, timeout=60) as client,
        ):
            yield World(gateway, client, simulator, text, spans, tracing)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        tracing.close()


def say(world: World, text: str) -> None:
    """Have the model say this."""
    world.simulator.post("/admin/faults", json={"fault": [{"name": "say", "text": text}]}).raise_for_status()


def strike(world: World, fault: str, count: int) -> None:
    """Have the account with the planted key meet this."""
    rule = {"fault": fault, "account": PLANTS["provider key"], "count": count}
    world.simulator.post("/admin/faults", json=rule).raise_for_status()


def test_nothing_of_anybodys_is_told(world: World) -> None:
    """Answered, streamed, repeated, elsewhere, in signed words, withheld, refused, failed, crashed: no plant is in what
    the process tells of itself, and what it tells on purpose is.
    """
    say(world, f"That is {PLANTS['answer']}.")
    answers = [said := world.ask("chat"), world.ask("chat", stream=True)]
    variables = {"company": PLANTS["variable"], "question": "?"}
    answers.append(world.ask("chat", prompt={"id": "support", "variables": variables}))
    strike(world, "status:code=503", 2)
    answers.append(elsewhere := world.ask("two"))
    strike(world, "status:code=500", 1)
    answers.append(stocked := world.ask("stocked"))
    strike(world, "reset_mid_stream:after=1", 1)
    answers.append(world.ask("chat", stream=True))
    world.simulator.post("/admin/reset")
    say(world, f"Your card is {CARD}.")
    answers.append(careful := world.ask("careful"))
    world.simulator.post("/admin/reset")
    answers += [
        world.ask("chat", key=PLANTS["wrong key"]),
        world.ask("chat", nonsense=PLANTS["prompt"], temperature=PLANTS["prompt"]),
        world.ask(PLANTS["prompt"]),
        world.client.post(
            "/v1/chat/completions",
            content=f'{{"model": "{PLANTS["prompt"]}", '.encode(),
            headers={"authorization": f"Bearer {PLANTS['tenant key']}", "content-type": "application/json"},
        ),
        world.client.get("/v1/jobs/none", headers={"authorization": f"Bearer {PLANTS['wrong key']}"}),
        world.client.post(
            "/v1/chat/completions",
            json={"model": "chat", "messages": [{"role": "user", "content": PLANTS["prompt"]}]},
            headers={"authorization": f"Bearer {PLANTS['tenant key']}", "idempotency-key": PLANTS["idempotency key"]},
        ),
        world.ask("embed"),
        echoed := world.ask("echoing"),
        crashed := world.ask("broken"),
    ]
    written = world.written()

    # It all happened: what was planted was really there.
    assert PLANTS["answer"] in said.text
    assert elsewhere.headers["ballast-fallback"] == "alternate"
    assert stocked.headers["ballast-fallback"] == "template"
    assert careful.headers["ballast-validation"]
    assert PLANTS["prompt"] in echoed.text
    assert crashed.status_code == 500
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 404, 500}
    assert "ZeroDivisionError: a bug" in written["log"]

    assert {where: found_in(text, PLANTS) for where, text in written.items()} == {"log": [], "metrics": [], "spans": []}


def test_search_finds_what_is_told_on_purpose(world: World) -> None:
    """A request's id, in the line of a crash and in its span, the route in metrics: the search is no blind one."""
    answer = world.ask("broken")
    written = world.written()

    request_id = answer.headers["ballast-request-id"]
    lines = [orjson.loads(line) for line in written["log"].splitlines()]
    [crash] = [line for line in lines if line.get("exception") and request_id in line["message"]]

    on_purpose = {"request": request_id, "operation": 'operation="chat"'}
    assert found_in(written["log"], on_purpose) == ["request"]
    assert found_in(written["spans"], on_purpose) == ["request"]
    assert found_in(written["metrics"], on_purpose) == ["operation"]
    [span] = [one for one in world.spans.get_finished_spans() if one.name == "POST /v1/chat/completions"]
    assert (crash["trace_id"], crash["level"]) == (f"{span.context.trace_id:032x}", "error")


@pytest.mark.parametrize("write", [str, lambda text: orjson.dumps([text]).decode(), lambda text: text.encode().hex()])
def test_plant_is_found_however_it_is_written(write: Any) -> None:
    """As it is, inside of JSON, in hexadecimal, and in base64 wherever it begins there."""
    for before in ("", "x", "xy"):
        text = write(before + PLANTS["prompt"] + " and more")
        assert found_in(text, PLANTS) == ["prompt"]
        coded = base64.b64encode(f"{before}{PLANTS['prompt']} and more".encode()).decode()
        assert found_in(coded, PLANTS) == ["prompt"]
