"""A pipeline with everything around it faked: what lanes answer is given, what callers and records get is kept."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from dataplane.aggregation import Aggregation
from dataplane.attempts import Attempts
from dataplane.blame import Blame
from dataplane.breaker import Observation
from dataplane.copy_desk import CopyDesk
from dataplane.cursors import CursorKeys
from dataplane.evidence import Evidence
from dataplane.fleet import FleetBreakers
from dataplane.frames import encode_events
from dataplane.journey import Inbound
from dataplane.keyed import KeyedWork
from dataplane.known_questions import KnownQuestions
from dataplane.ladder.counting import SurfaceCounting
from dataplane.ladder.desk import LadderDesk
from dataplane.lane_caller import LaneCaller
from dataplane.metrics import GatewayMetrics
from dataplane.overrides import LaneOverride
from dataplane.pipeline import Pipeline
from dataplane.providers import ADAPTERS
from dataplane.quota_desk import QuotaDesk
from dataplane.release import parse_document
from dataplane.samples import Samples
from dataplane.sandboxes import Sandboxes
from dataplane.schema_check import SchemaChecker
from dataplane.streams import READER_SECONDS, Streams
from dataplane.timers import TimerWheel

WALL = 1_760_000_000.0
BODY = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = json.dumps(
    {
        "id": "c1",
        "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 500_000},
    }
).encode()


def event(**fields):
    return b"data: " + json.dumps({"id": "c1", "model": "m", "created": 1} | fields).encode() + b"\n\n"


STREAM = [
    event(choices=[{"delta": {"role": "assistant", "content": "Hello, "}}]),
    event(choices=[{"delta": {"content": "you there"}}]),
    event(choices=[{"delta": {}, "finish_reason": "stop"}]),
    event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4}),
    b"data: [DONE]\n\n",
]


class Gate:
    """Holds whoever waits at the named place, so that a test can cancel exactly there."""

    def __init__(self, place=None, *, turn=1):
        self.place = place
        self.turn = turn
        self.reached = asyncio.Event()

    async def pass_(self, place):
        if place == self.place:
            self.turn -= 1
            if self.turn == 0:
                self.reached.set()
                await asyncio.Event().wait()


class FakeExchange:
    """An answer that is already here, handed over chunk by chunk."""

    def __init__(self, chunks, gate, *, status=200, error=None):
        self.status = status
        self.closed = False
        self.finished = False
        self._chunks = list(chunks)
        self._gate = gate
        self._error = error

    def headers(self):
        return {}

    async def read(self):
        await self._gate.pass_("read")
        return b"".join(self._chunks)

    async def next_chunk(self):
        await self._gate.pass_("next_chunk")
        if not self._chunks and self._error is not None:
            raise self._error
        return self._chunks.pop(0) if self._chunks else None

    def finish(self):
        self.finished = self.closed = True

    def close(self):
        assert not self.finished, "the connection may carry another call by now"
        self.closed = True


class FedExchange(FakeExchange):
    """An answer that comes as the test gives it; an error breaks it off, None ends it."""

    def __init__(self, gate):
        super().__init__((), gate)
        self._coming = asyncio.Queue()

    def feed(self, *chunks):
        for chunk in chunks:
            self._coming.put_nowait(chunk)

    async def next_chunk(self):
        chunk = await self._coming.get()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk


class FakeTransport:
    """Gives the exchange it was made with; or, by lane, what was given for it, one after the other."""

    def __init__(self, exchange, gate, *, lanes=None):
        self.exchange = exchange
        self.calls = []
        self._gate = gate
        self.answers = {lane: list(answers) for lane, answers in (lanes or {}).items()}

    @property
    def lanes(self):
        """The lanes that were called, in order."""
        return [lane for _, lane, _ in self.calls]

    async def send(self, call, *, lane, limits):
        self.calls.append((call, lane, limits))
        await self._gate.pass_("send")
        answers = self.answers.get(lane)
        answer = self.exchange if answers is None else answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def close(self):
        pass


class FakeReply:
    """Remembers what the caller was sent."""

    def __init__(self, gate):
        self.opened = False
        self.status = None
        self.headers = {}
        self.data = b""
        self.position = 0
        self.ended = 0
        self._gate = gate

    async def send_whole(self, status, headers, body):
        self.opened = True
        self.status, self.headers, self.data = status, dict(headers), body
        await self._gate.pass_("send_whole")

    async def open_stream(self, headers):
        self.opened = True
        self.status, self.headers = 200, dict(headers)
        await self._gate.pass_("open_stream")

    async def send_events(self, payloads, *, ending=None):
        self.data += encode_events(self.position + 1, payloads)
        self.position += len(payloads)
        self.ended += ending is not None
        await self._gate.pass_("send_events")


class Rows(list):
    """Keeps usage rows, and what else is told to the ledger."""

    def __init__(self):
        super().__init__()
        self.streams = []
        self.deliveries = []
        self.samples = []
        self.events = []
        self.under_way = None

    def add_usage(self, row):
        self.append(row)

    def add_stream(self, row):
        self.streams.append(row)

    def add_delivery(self, row):
        self.deliveries.append(row)

    def add_sample(self, row):
        self.samples.append(row)

    def add_event(self, event):
        self.events.append(event)


async def kill(streams, log):
    """End all that a process does for its streams; nothing of it reaches the log from now on."""
    log.hold()
    tasks = [*streams._tasks]
    for production in streams._productions.values():
        production.is_fenced = True
        tasks.append(production.task)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Levels:
    """A fleet whose triggers engage what a test says, by surface, and that leaves each tier the places it says."""

    def __init__(self):
        self.engaged = {}
        self.places = {}

    def level(self, surface):
        return self.engaged.get(surface, 0)

    def allowance(self, surface, tier):
        return self.places.get(tier, 0)


class FixedSecrets:
    """Every reference is the same key."""

    def resolve(self, reference, *, now):
        return "s3cret"


class Bench:
    """A pipeline on a release of its own, and the request that runs through it; with a `log` of streams, and a store of
    idempotency `keys`, the process `owner` of a fleet, whose streams and keys see the time of `stream_clock` and are
    looked after when the test says so. With `trusted` keys, it lets evals in; with `shadows`, it hands requests over.
    """

    def __init__(
        self,
        document,
        *,
        chunks=(ANSWER,),
        gate=None,
        failure=None,
        lanes=None,
        clock=time.monotonic,
        log=None,
        keys=None,
        quota_store=None,
        owner="a",
        stream_clock=time.monotonic,
        reader_seconds=READER_SECONDS,
        trusted=None,
        shadows=None,
        later=None,
        job_keys=None,
        **exchange,
    ):
        self.gate = gate or Gate()
        self.exchange = FakeExchange(chunks, self.gate, **exchange)
        self.transport = FakeTransport(failure or self.exchange, self.gate, lanes=lanes)
        self.reply = FakeReply(self.gate)
        self.rows = Rows()
        self.events = []
        self.aggregation, self.evidence = Aggregation(wall=lambda: WALL), Evidence()
        self.current = parse_document(document, digest="d" * 64)
        self.evidence.adopt(self.current.canaries)
        timers, wall = TimerWheel(), lambda: WALL
        self.wall = wall
        schemas = SchemaChecker()
        self.breakers = FleetBreakers(store=None, report=self.events.append, clock=clock, wall=wall)
        self.breakers.adopt(self.current)
        caller = LaneCaller(
            transport=self.transport, secrets=FixedSecrets(), adapters=ADAPTERS, timers=timers, clock=clock, wall=wall
        )
        self.quotas = QuotaDesk(
            store=quota_store,
            worker=owner,
            report=self.events.append,
            timers=timers,
            clock=stream_clock,
            wall=wall,
            rng=Random(7),
        )
        self.quotas.adopt(self.current)
        self.attempts = attempts = Attempts(
            breakers=self.breakers,
            quotas=self.quotas,
            aggregation=self.aggregation,
            usage=self.rows,
            region="eu-west",
            clock=clock,
            wall=wall,
            rng=Random(7),
        )
        self.known_questions = KnownQuestions(attempts=attempts, caller=caller, timers=timers, clock=clock, wall=wall)
        self.known_questions.adopt(self.current)
        self.log, self.streams = log, None
        if log is not None:
            self.streams = Streams(
                store=log,
                cursors=CursorKeys([b"k" * 32]),
                reports=self.rows,
                owner=owner,
                timers=timers,
                clock=stream_clock,
                wall=wall,
                reader_seconds=reader_seconds,
                tick_seconds=3600,
            )
        self.keyed = None
        if keys is not None:
            self.keyed = KeyedWork(
                store=keys,
                streams=self.streams,
                owner=owner,
                timers=timers,
                clock=stream_clock,
                reader_seconds=reader_seconds,
                turn_seconds=3600,
            )
        self.levels = Levels()
        self.ladder = LadderDesk(fleet=self.levels, region="eu-west", wall=wall, public_url="https://gw.example")
        self.ladder.adopt(self.current)
        self.surfaces = SurfaceCounting(region="eu-west", wall=wall)
        self.metrics = GatewayMetrics(release=lambda: None)
        self.pipeline = Pipeline(
            releases=self,
            caller=caller,
            attempts=attempts,
            copy_desk=CopyDesk(breakers=self.breakers, known_questions=self.known_questions, schemas=schemas),
            schemas=schemas,
            aggregation=self.aggregation,
            metrics=self.metrics,
            region="eu-west",
            timers=timers,
            streams=self.streams,
            keyed=self.keyed,
            job_keys=job_keys,
            samples=Samples(self.rows.add_sample, clock=clock, wall=wall),
            evidence=self.evidence,
            sandboxes=None if trusted is None else Sandboxes(lambda: trusted),
            shadows=shadows,
            ladder=self.ladder,
            later=later,
            surfaces=self.surfaces,
            clock=lambda: asyncio.get_running_loop().time(),
            wall=wall,
        )

    def start(self, *, deadline_ms=None, key="bk-acme", language=None, workload=None, **fields):
        self.reply = FakeReply(self.gate)
        inbound = Inbound(
            "req_1",
            json.dumps(BODY | fields).encode(),
            asyncio.get_running_loop().time(),
            authorization=f"Bearer {key}",
            user="ada",
            deadline_ms=deadline_ms,
            accept_language=language,
            workload=workload,
        )
        return asyncio.create_task(self.pipeline.serve_chat(inbound, self.reply))

    async def read(self, stream, *, after=0, tenant="acme"):
        """Have another caller read a stream; returns its reply and the task that reads."""
        reply = FakeReply(Gate())
        reply.position = after
        view = await self.streams.find(stream, tenant=tenant)
        return reply, asyncio.create_task(self.streams.read_along(view, reply, after=after))

    async def die(self):
        """End the process as SIGKILL does."""
        await kill(self.streams, self.log)

    def attempt_at(self, lane):
        """One good attempt at `lane`, as a caller would have made it."""
        seen = Observation(Blame.NOBODY, False, 100.0)
        self.breakers.record(self.breakers.acquire_nowait(lane), seen)

    def exchange_again(self, lane, exchange):
        """Let `lane` answer with this exchange next."""
        self.transport.answers[lane] = [exchange]

    def hold_open(self, *lanes, seconds):
        """Have an operator hold these lanes open."""
        until = datetime.fromtimestamp(WALL + seconds, UTC)
        self.current = replace(
            self.current,
            lane_overrides={lane: LaneOverride(lane, "open", until, "vendor incident", "oncall") for lane in lanes},
        )
        self.breakers.adopt(self.current)

    def contents(self):
        """The text of every event that went out, in order."""
        datas = [line[6:] for line in self.reply.data.split(b"\n") if line.startswith(b"data: {")]
        choices = [choice for data in datas for choice in json.loads(data).get("choices", [])]
        return [choice["delta"].get("content", "").encode() for choice in choices]

    def totals(self):
        """What telemetry counted over every series; timeouts only when there were any."""
        names = ("attempts", "failures", "throttled", "requests", "errors", "fallbacks", "timeouts")
        rollups = self.aggregation.drain(WALL)
        totals = {name: sum(rollup[name] for rollup in rollups) for name in names}
        return totals if totals["timeouts"] else {name: totals[name] for name in names[:-1]}

    def rollup(self):
        (rollup,) = self.aggregation.drain(WALL)
        return {name: rollup[name] for name in ("requests", "errors", "rejected", "cancelled")}
