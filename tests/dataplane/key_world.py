"""A fleet of gateway processes on one log of streams and one store of idempotency keys, and the callers of both."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import suppress
from dataclasses import dataclass

from dataplane.errors.idempotency import IdempotencyUnavailable
from dataplane.journey import Inbound

from .bench import BODY, FakeExchange, FakeReply, Gate, kill
from .key_stores import MemoryIdempotencyStore, Register
from .stream_logs import MemoryStreamLog
from .stream_world import FINISHED, FIRST, World, calm, last_of, payloads_in, say, text_in

PLAIN = {"route": {"streams": None}}
SHARED = ("ballast-lane", "ballast-attempts", "ballast-release", "ballast-fallback", "ballast-cohort")
# Long enough for every lease, wait and patience of the data plane.
LONG_SECONDS = 90
MAX_TRIES = 5


class Door(Gate):
    """Holds whoever comes to the named place until it is opened; open from the start without a name."""

    def __init__(self, place=None, *, turn=1):
        super().__init__(place, turn=turn)
        self._opened = asyncio.Event()

    def open(self):
        """Let through whoever waits, and all others."""
        self.place = None
        self._opened.set()

    async def pass_(self, place):
        if place == self.place:
            self.turn -= 1
            if self.turn == 0:
                self.reached.set()
                await self._opened.wait()


class GatedLog(MemoryStreamLog):
    """A log that passes a gate before and after an append, called by what it brings: the first frames, or the last."""

    def __init__(self, shelf, gate):
        super().__init__(shelf)
        self._gate = gate

    async def append(self, appends, *, owner, lease_seconds):
        kinds = ["last append" if one.ending else "first append" if one.first == 1 else "append" for one in appends]
        for kind in kinds:
            await self._gate.pass_(kind)
        answers = await super().append(appends, owner=owner, lease_seconds=lease_seconds)
        for kind in kinds:
            await self._gate.pass_(f"{kind} done")
        return answers


@dataclass
class Call:
    """One request of one caller."""

    reply: FakeReply
    task: asyncio.Task
    process: object

    @property
    def status(self):
        return self.reply.status

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.reply.headers.items()}

    @property
    def is_replayed(self):
        return b"idempotent-replayed" in self.reply.headers

    @property
    def error(self):
        """The error that it was told, whole or as a stream's last event."""
        if self.status == 200:
            last = last_of(self.reply)
            return None if last == "[DONE]" else last
        return json.loads(self.reply.data)["error"]

    @property
    def answer(self):
        """The words of a complete answer; None for anything else."""
        if self.status != 200:
            return None
        if not self.reply.data.startswith(b"id: "):
            return json.loads(self.reply.data)["choices"][0]["message"]["content"]
        payloads = payloads_in(self.reply)
        return text_in(self.reply) if payloads and payloads[max(payloads)] == b"[DONE]" else None

    async def leave(self):
        """Hang up."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


class KeyedWorld(World):
    """See the module. Time stands still unless a test lets it pass."""

    def __init__(self, make_document, clock):
        super().__init__(make_document, clock)
        self.register = Register(clock)
        self.calls = []
        self._numbers = itertools.count(1)

    async def process(self, owner, *answers, store_gate=None, **options):
        """As `World.process`. Its lane gives `answers` in turn, or what the test feeds; `store_gate` is passed by its
        store of keys and its log of streams.
        """
        if answers:
            options["lanes"] = {FIRST: list(answers)}
        gate = store_gate or Door()
        keys = MemoryIdempotencyStore(self.register, gate=gate)
        bench = await super().process(owner, keys=keys, log=GatedLog(self.shelf, gate), **options)
        bench.keys = keys
        await bench.keyed.start()
        return bench

    def ask(self, bench, key="k", *, user="ada", gate=None, path="chat", deadline_ms=None, **fields):
        """Ask a process, with a key; the answer comes as the world turns."""
        reply = FakeReply(gate or Gate())
        inbound = Inbound(
            f"req_{next(self._numbers)}",
            json.dumps(BODY | fields if path == "chat" else fields).encode(),
            asyncio.get_running_loop().time(),
            authorization="Bearer bk-acme",
            user=user,
            deadline_ms=deadline_ms,
            idempotency_key=key,
        )
        serve = bench.pipeline.serve_chat if path == "chat" else bench.pipeline.serve_embeddings
        call = Call(reply, asyncio.create_task(serve(inbound, reply)), bench)
        self.calls.append(call)
        return call

    async def answered(self, *calls):
        """Let the world turn until these have been answered; returns the first."""
        for _ in range(LONG_SECONDS):
            await calm()
            if all(call.task.done() for call in calls):
                break
            await self.pass_seconds(1)
        assert all(call.task.done() for call in calls), "somebody waits for ever"
        for call in calls:
            call.task.result()
        return calls[0]

    async def persist(self, bench, key="k", **fields):
        """A caller who asks again with its key until it has a complete answer; returns its last request."""
        for _ in range(MAX_TRIES):
            call = await self.answered(self.ask(bench, key, **fields))
            if call.answer is not None:
                return call
        raise AssertionError(f"no complete answer in {MAX_TRIES} tries: {call.error}")

    async def pass_seconds(self, seconds, *benches):
        """Let time pass, and these processes, or all, do what they do once a second; so often."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.register.change()
            await calm()
            for bench in benches or list(self.processes):
                await bench.streams.tick()
                for chore in (bench.keyed.leases.renew, bench.keyed.catch_up):
                    with suppress(IdempotencyUnavailable):
                        await chore()
        await calm()

    async def kill(self, bench):
        """End a process as SIGKILL does: nothing of it reaches anything from now on, and its callers are cut off."""
        self.processes.remove(bench)
        bench.keys.is_dead = True
        tasks = [call.task for call in self.calls if call.process is bench]
        tasks += [*bench.keyed._tasks, *bench.keyed._executing]
        for task in tasks:
            task.cancel()
        await kill(bench.streams, bench.log)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def end_all(self):
        for bench in list(self.processes):
            await self.kill(bench)
        for call in self.calls:
            call.task.cancel()
        await asyncio.gather(*(call.task for call in self.calls), return_exceptions=True)


class Slow(FakeExchange):
    """A provider's answer in one piece, which comes when the test says `go`."""

    def __init__(self, words):
        super().__init__((answer_of(words),), Gate())
        self.go = asyncio.Event()

    async def read(self):
        await self.go.wait()
        return await super().read()


def answer_of(words):
    """The bytes of a whole answer."""
    body = {
        "id": "c1",
        "choices": [{"message": {"role": "assistant", "content": words}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return json.dumps(body).encode()


def whole(words):
    """A provider's answer in one piece."""
    return FakeExchange((answer_of(words),), Gate())


def streamed(*words):
    """A provider's answer as a stream."""
    return FakeExchange([*map(say, words), *FINISHED], Gate())


def failing(status=503):
    """A provider that cannot."""
    return FakeExchange((b"{}",), Gate(), status=status)


def series_of(bench):
    """What telemetry counted, by lane and prompt: how many requests came to what, after how many attempts."""
    names = ("requests", "errors", "rejected", "cancelled", "attempts")
    rollups = bench.aggregation.drain(bench.wall())
    return {(one["lane"], one["prompt"], one["cohort"]): tuple(one[name] for name in names) for one in rollups}


def counted(bench, operation, outcome):
    """How many requests /metrics shows."""
    words = f'ballast_gateway_requests_total{{operation="{operation}",outcome="{outcome}"}} '.encode()
    lines = [line for line in bench.metrics.render().splitlines() if line.startswith(words)]
    return int(float(lines[0].removeprefix(words))) if lines else 0


def calls(*benches):
    """How many calls providers got, from each process."""
    return [len(bench.transport.calls) for bench in benches]


def shared(call):
    """What the headers say that everybody gets who gets the answer."""
    return {name: call.headers[name] for name in SHARED}
