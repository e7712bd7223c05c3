"""A fleet of gateway processes on one log in memory, whose providers say what a test has them say."""

from __future__ import annotations

import asyncio
import json

from .bench import Bench, FedExchange, Gate, event
from .conftest import LANE, ROUTING, copy_document, stream_policy
from .stream_logs import MemoryStreamLog, Shelf

FIRST, SECOND = "openai/eu/main/a", "openai/eu/main/b"
PATIENCE_SECONDS = 60


def say(text):
    """A provider's event with a piece of the answer."""
    return event(choices=[{"delta": {"content": text}}])


FINISHED = (event(choices=[{"delta": {}, "finish_reason": "stop"}]), b"data: [DONE]\n\n")


def document_with(make_document, *, policy=None, lanes=None, log_content=True, route=None, repairs=None):
    """A release whose route `chat` keeps its streams; `route` is what else it says. `lanes` are its lanes, with what
    differs of each.
    """
    lanes = {FIRST: {}} if lanes is None else lanes
    routing = ROUTING | {
        "lanes": {name: LANE | {"model": name} | changes for name, changes in lanes.items()},
        "streams": {"kept": stream_policy(**(policy or {"on_cut": "end"}))},
        "routes": {"chat": {"lanes": list(lanes), "deadline_ms": 30_000, "streams": "kept", **(route or {})}},
        "fallbacks": {"help": {"answers": None, "template": {"copy": "template"}, "outage": {"copy": "outage"}}},
    }
    if repairs is not None:
        routing["repairs"] = repairs
    copy = {
        slug: {"version": 2, "digest": "c" * 64, "document": copy_document(slug)} for slug in ("template", "outage")
    }
    document = make_document(routing=routing, copy=copy)
    document["sections"]["access"]["tenants"]["acme"]["log_content"] = log_content
    return document


class World:
    """The shelf, and the processes of a test."""

    def __init__(self, make_document, clock):
        self.clock = clock
        self.shelf = Shelf(clock)
        self.processes = []
        self._make_document = make_document

    async def process(self, owner="a", *, document=None, **options):
        """Start one more process. Its provider's answer is `source`, as tests feed it, unless lanes say otherwise."""
        options.setdefault("gate", Gate())
        source = FedExchange(options["gate"])
        options.setdefault("lanes", {FIRST: [source]})
        options.setdefault("log", MemoryStreamLog(self.shelf))
        bench = Bench(
            document_with(self._make_document, **(document or {})),
            owner=owner,
            stream_clock=self.clock,
            **options,
        )
        bench.source = source
        await bench.streams.start()
        self.processes.append(bench)
        return bench

    async def begin(self, bench, *pieces, **fields):
        """Ask for a stream and have the first pieces of it; returns the caller's task and the stream's id."""
        task = bench.start(stream=True, **fields)
        bench.source.feed(*map(say, pieces))
        reply = bench.reply
        await until(lambda: text_in(reply) == "".join(pieces) or task.done())
        return task, reply.headers.get(b"ballast-stream-id", b"").decode()

    async def pass_seconds(self, seconds, *benches):
        """Let time pass, and these processes, or all, do what they do once a second; so often."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            await calm()
            for bench in benches or self.processes:
                await bench.streams.tick()
        await calm()

    async def end_all(self):
        for bench in self.processes:
            await bench.die()


async def until(condition):
    """Let everything run until it is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await calm()


async def done(doing):
    """Wait for it; a test that would hang fails instead."""
    return await asyncio.wait_for(doing, PATIENCE_SECONDS)


async def calm(turns=100):
    """Let everything run that can, without time passing."""
    for _ in range(turns):
        await asyncio.sleep(0)


def payloads_in(reply):
    """What a caller was sent, by sequence number."""
    events = [block.split(b"\n") for block in reply.data.split(b"\n\n") if block.startswith(b"id: ")]
    return {int(lines[0][4:]): lines[1][6:] for lines in events}


def text_in(reply):
    """The words that a caller was sent."""
    chunks = [json.loads(one) for one in payloads_in(reply).values() if one.startswith(b"{")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices") or ())


def last_of(reply):
    """The last event: [DONE], or the error."""
    payloads = payloads_in(reply)
    last = payloads[max(payloads)]
    return "[DONE]" if last == b"[DONE]" else json.loads(last)["error"]


def stored_in(world, stream):
    """What the log has of a stream: its payloads, and how it ended."""
    kept = world.shelf.streams[stream]
    return kept.frames, kept.ending
