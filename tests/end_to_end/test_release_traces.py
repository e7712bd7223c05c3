"""What a click sets off, as a collector gets to see it: from the console by Celery and agent to the gateways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.receivers import Receiver as Webhook
from tests.end_to_end.stack import Browser, Stack
from tests.otlp import Receiver, Span

pytestmark = pytest.mark.end_to_end
GATEWAY_PROCESSES = 2
PROCESSES = ("simulator", "console", "ingest", "agent", "gateway", "urgent")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Whoever collects."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def stack(data_dir: Path, receiver: Receiver) -> Iterator[Stack]:
    """All of Ballast that a release passes through, told where traces go."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    stack = Stack(data_dir, processes=PROCESSES, gateway_processes=GATEWAY_PROCESSES, variables=variables)
    with stack:
        stack.wait_ready()
        yield stack
    assert stack.processes() == []


def turn_knob(stack: Stack, owner: Browser, position: int) -> int:
    """Click a stage of the running canary; returns the revision of the release that comes of it."""
    ((slug,),) = stack.query("SELECT slug FROM rollouts_canary WHERE state = 'running'")
    ((before,),) = stack.query("SELECT max(revision) FROM releases_release")
    answer = owner.post(f"/canaries/{slug}/knob/", {"stage": str(position)})
    assert answer.status_code == httpx.codes.FOUND
    ((revision,),) = stack.query("SELECT max(revision) FROM releases_release")
    assert isinstance(revision, int)
    assert revision != before, "the click gave no release"
    return revision


def cuts(receiver: Receiver, revision: int) -> list[Span]:
    """How a release was cut."""
    return [one for one in receiver.named("cut release") if one.attributes["ballast.release"] == revision]


def adopted(receiver: Receiver, revision: int) -> list[Span]:
    """How gateway processes took a release."""
    return [one for one in receiver.named("adopt release") if one.attributes["ballast.release"] == revision]


def test_click_is_one_trace_down_to_each_gateway_process(stack: Stack, receiver: Receiver) -> None:
    """Request, cut, push, the agent's task and each gateway process that serves it, one below the other."""
    owner = stack.sign_in("owner")

    revision = turn_knob(stack, owner, 4)

    receiver.wait_for(lambda: len(adopted(receiver, revision)) == GATEWAY_PROCESSES)
    receiver.wait_for(lambda: cuts(receiver, revision))
    [cut] = cuts(receiver, revision)
    receiver.wait_for(lambda: [one for one in receiver.of_trace(cut.trace_id) if one.kind == "server"])
    [click] = [one for one in receiver.of_trace(cut.trace_id) if one.kind == "server"]
    receiver.wait_for(lambda: [one for one in receiver.below(cut) if one.name == "push release"])
    [push] = [one for one in receiver.below(cut) if one.name == "push release"]
    receiver.wait_for(lambda: receiver.below(push))
    [run] = receiver.below(push)
    adoptions = receiver.below(run)
    assert (click.service, click.parent_id) == ("ballast-console", "")
    assert click.name.startswith("POST canaries/")
    assert cut.parent_id == click.span_id
    assert (run.name, run.service, run.kind) == ("run ballast.release.push", "ballast-agent", "consumer")
    assert {one.service for one in adoptions} == {"ballast-gateway"}
    assert {one.instance for one in adoptions} == {"stack/gateway-0", "stack/gateway-1"}
    assert click.began_at <= cut.began_at <= push.began_at <= run.began_at <= min(one.began_at for one in adoptions)
    ((document,),) = stack.query("SELECT document FROM releases_release WHERE revision = %s", [revision])
    assert click.trace_id not in str(document)
    # Queries are part of it, without what was asked for.
    statements = [str(one.attributes.get("db.statement", "")) for one in receiver.of_trace(click.trace_id)]
    assert any(text.startswith('INSERT INTO "releases_release"') and "%s" in text for text in statements)


def test_release_that_an_agent_fetches_is_in_its_trace_too(stack: Stack, receiver: Receiver) -> None:
    """A push that nobody heard costs the trace nothing: whoever asks is told what it belongs to."""
    owner = stack.sign_in("owner")
    stack.stop("agent")
    revision = turn_knob(stack, owner, 2)

    stack.start("agent")

    receiver.wait_for(lambda: len(adopted(receiver, revision)) == GATEWAY_PROCESSES)
    receiver.wait_for(lambda: receiver.named("fetch release"))
    [fetch] = receiver.named("fetch release")
    receiver.wait_for(lambda: cuts(receiver, revision))
    [cut] = cuts(receiver, revision)
    assert (fetch.parent_id, fetch.service) == (cut.span_id, "ballast-agent")
    assert {one.parent_id for one in adopted(receiver, revision)} == {fetch.span_id}


def test_work_that_is_done_later_goes_on_with_the_trace_that_handed_it_in(stack: Stack, receiver: Receiver) -> None:
    """A test alert: asked for by one process, sent by another."""
    with contextlib.closing(Webhook()) as webhook, stack.api("admin") as api:
        hook = {"slug": "traced", "kind": "webhook", "url": webhook.url, "events": []}
        api.post("/alert-channels", json=hook).raise_for_status()
        api.post("/alert-channels/traced/test", json={}).raise_for_status()
        receiver.wait_for(lambda: receiver.named("work alerts.deliver"))

    [work, *_] = receiver.named("work alerts.deliver")
    receiver.wait_for(
        lambda: (
            {"run work.run_urgent", "POST api/v1/alert-channels/<slug:slug>/test"}
            <= {one.name for one in receiver.of_trace(work.trace_id)}
        )
    )
    [asked] = [one for one in receiver.of_trace(work.trace_id) if one.span_id == work.parent_id]
    [word] = [one for one in receiver.of_trace(work.trace_id) if one.name == "run work.run_urgent"]
    assert (work.service, word.service) == ("ballast-worker", "ballast-worker")
    assert (asked.service, asked.kind, word.parent_id) == ("ballast-console", "server", asked.span_id)


def test_probes_and_chores_are_no_traces(stack: Stack, receiver: Receiver) -> None:
    """Nobody asks what became of a probe, and queries of a loop that nobody asked for are not traced."""
    httpx.get(f"{stack.console_url}/livez").raise_for_status()
    httpx.get(f"{stack.console_url}/readyz").raise_for_status()
    owner = stack.sign_in("owner")

    revision = turn_knob(stack, owner, 3)

    receiver.wait_for(lambda: len(adopted(receiver, revision)) == GATEWAY_PROCESSES)
    with receiver.lock:
        roots = {one.name for one in receiver.spans if not one.parent_id}
        kinds = {one.kind for one in receiver.spans if not one.parent_id}
    assert not any(name.endswith(("livez", "readyz")) for name in roots)
    assert "client" not in kinds
