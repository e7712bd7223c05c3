"""What a gateway hands over, when, and what it never does for it: wait, fail, or keep without bound."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dataplane.access import OURSELVES, ApiKey
from dataplane.errors.upstream import UpstreamUnavailable
from dataplane.journey import Admission, Inbound, Journey
from dataplane.otel.requests import PassedOn
from dataplane.release import parse_document
from dataplane.shadow import offering as module
from dataplane.shadow.counting import ShadowCounting
from dataplane.shadow.offering import MAX_UNSENT_BYTES, MAX_WAITING, Offering
from dataplane.shadow.offers import MAX_OFFER_BYTES, Offer
from tests.dataplane.bench import ANSWER, STREAM, WALL, Bench, FakeExchange, FakeReply, FedExchange, Gate, event
from tests.dataplane.conftest import LANE, TENANT, breaker_policy
from tests.dataplane.eval_world import token_for
from tests.dataplane.key_world import PLAIN, KeyedWorld, whole
from tests.dataplane.stream_world import FINISHED, FIRST, calm, document_with, done, last_of, until

from .shadow_world import CANDIDATE, CONTROL, shadow_policy, shadow_routing


def tool_delta(**fields):
    return event(choices=[{"delta": {"tool_calls": [{"index": 0} | fields]}}])


TOOL_STREAM = [
    event(choices=[{"delta": {"role": "assistant", "content": "Let me see."}}]),
    tool_delta(id="t", type="function", function={"name": "find", "arguments": '{"i'}),
    tool_delta(function={"arguments": 'd": 1}'}),
    event(choices=[{"delta": {}, "finish_reason": "tool_calls"}]),
    event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4}),
    b"data: [DONE]\n\n",
]


class Peer:
    """The shadow process as a gateway's connection sees it; remembers what it is sent, in `happened` too."""

    def __init__(self, happened=None):
        self.sent = []
        self.happened = [] if happened is None else happened
        self.unsent = 0
        self.is_gone = False

    def write(self, data):
        self.happened.append("handed over")
        self.sent.append(Offer.from_bytes(data[4:]))

    def get_write_buffer_size(self):
        return self.unsent

    def is_closing(self):
        return self.is_gone

    def abort(self):
        self.is_gone = True


class Told(FakeReply):
    """A caller's side that notes when it has been given all there is."""

    def __init__(self, happened):
        super().__init__(Gate())
        self._happened = happened

    async def send_whole(self, status, headers, body):
        await super().send_whole(status, headers, body)
        self._happened.append("answered")

    async def send_events(self, payloads, *, ending=None):
        await super().send_events(payloads, ending=ending)
        self._happened.append("streamed" if ending is None else "answered")


class Life:
    """A gateway with a shadow, and what it hands over."""

    def __init__(self, document, peer, **options):
        self.peer = peer
        self.counting = ShadowCounting(wall=lambda: WALL)

        async def connect(path):
            if self.peer is None:
                raise ConnectionRefusedError("nobody listens")
            return self.peer

        self.offering = Offering(Path("nowhere"), counting=self.counting, connect=connect)
        self.bench = Bench(document, shadows=self.offering, **options)

    async def begin(self):
        await self.offering.start()
        await settle()
        return self

    async def ask(self, *, reply=None, key="bk-acme", trace=None, **fields):
        """Ask, and let everything run that follows."""
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]} | fields
        now = asyncio.get_running_loop().time()
        inbound = Inbound("req_1", json.dumps(body).encode(), now, authorization=f"Bearer {key}", user="ada")
        inbound.trace = trace
        reply = reply or FakeReply(Gate())
        await self.bench.pipeline.serve_chat(inbound, reply)
        await settle()
        return reply

    @property
    def counted(self):
        """What was counted: how many were handed over, and how many were not by reason."""
        rows = self.counting.drain(WALL)
        discarded = {}
        for row in rows:
            discarded |= row["discarded"]
        return sum(row["offered"] for row in rows), discarded


async def settle(turns=20):
    """Let everything run that can."""
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.fixture
async def life(make_document):
    """Makes gateways with a shadow of everything, or as `routing` says."""
    lives = []

    async def make(*, peer="there", routing=None, access=None, **options):
        sections = {"routing": routing or shadow_routing()} | ({} if access is None else {"access": access})
        made = Life(make_document(**sections), Peer() if peer == "there" else peer, **options)
        lives.append(made)
        return await made.begin()

    yield make
    for one in lives:
        await one.offering.stop()


async def test_whole_answer_is_handed_over_with_what_was_asked(life):
    """As the lane gave it, and what it took; for whom, and under which policy."""
    gateway = await life()

    reply = await gateway.ask(temperature=0)

    assert (reply.status, reply.data) == (200, ANSWER)
    (offer,) = gateway.peer.sent
    assert (offer.policy, offer.request_id, offer.tenant, offer.key_id) == ("trial", "req_1", "acme", "k1")
    assert (offer.residency, offer.log_content, offer.route) == (frozenset({"eu"}), False, "chat")
    assert offer.request.messages == [{"role": "user", "content": "Hello"}]
    assert offer.request.parameters == {"temperature": 0}
    assert (offer.given.lane, offer.given.text, offer.given.finish_reason) == (CONTROL, "Hi", "stop")
    assert offer.given.cost_micros == 7_500_000
    assert gateway.counted == (1, {})


@pytest.mark.parametrize(
    ("chunks", "text", "calls", "finish"),
    [
        (STREAM, "Hello, you there", (), "stop"),
        (TOOL_STREAM, "", (("find", '{"id": 1}'),), "tool_calls"),
    ],
)
async def test_streamed_answer_is_handed_over_in_one_piece(life, chunks, text, calls, finish):
    """Its words, or its tool calls with their names."""
    gateway = await life(chunks=chunks)

    await gateway.ask(stream=True)

    (offer,) = gateway.peer.sent
    assert (offer.given.text, offer.given.tool_calls, offer.given.finish_reason) == (text, calls, finish)
    assert offer.given.ttft_ms is not None


async def test_managed_prompt_is_filled_in(life):
    """What is asked again is what the lane was asked, with the prompt that it came from."""
    gateway = await life()

    await gateway.ask(
        prompt={"id": "support-answer", "variables": {"company": "Acme", "question": "Hello"}}, messages=[]
    )

    (offer,) = gateway.peer.sent
    assert offer.prompt == "support-answer"
    assert offer.request.messages[0]["content"] == "You help customers of Acme."
    assert offer.request.parameters == {"temperature": 0.2, "max_tokens": 400}


@pytest.mark.parametrize(("stream", "chunks"), [(False, (ANSWER,)), (True, STREAM)])
async def test_nothing_happens_before_the_caller_has_all_of_it(life, stream, chunks):
    """The whole answer, or the stream's terminal event, goes first."""
    happened = []
    gateway = await life(peer=Peer(happened), chunks=chunks)

    await gateway.ask(reply=Told(happened), stream=stream)

    assert [one for one in happened if one != "streamed"] == ["answered", "handed over"]


async def test_answer_under_a_key_is_handed_over_after_it_is_given_and_once(make_document, clock):
    """It is kept before it is given; whoever gets it again has nothing asked again."""
    happened, world = [], KeyedWorld(make_document, clock)
    life = Life(make_document(routing=shadow_routing()), Peer(happened))
    await life.begin()
    bench = await world.process("a", whole("Hi"), document=PLAIN, shadows=life.offering)
    bench.current = life.bench.current

    class Noting(Gate):
        async def pass_(self, place):
            happened.append(place)

    first = await world.answered(world.ask(bench, gate=Noting()))
    again = await world.answered(world.ask(bench))
    await settle()

    assert (first.status, again.is_replayed) == (200, True)
    assert happened == ["send_whole", "handed over"]
    await life.offering.stop()
    await world.end_all()


async def test_kept_stream_is_handed_over_when_it_is_complete_whether_or_not_its_caller_stays(make_document, world):
    """Behind its terminal event, once for each stream."""
    life = await Life(make_document(routing=shadow_routing()), Peer()).begin()
    document = document_with(make_document)
    shadowed = shadow_routing()
    for part in ("accounts", "lanes"):
        document["sections"]["routing"][part] |= shadowed[part]
    document["sections"]["routing"]["shadows"] = {"trial": shadow_policy(noise_lanes=())}
    document["sections"]["routing"]["routes"]["chat"]["shadow"] = "trial"
    bench = await world.process(shadows=life.offering)
    bench.current = parse_document(document, digest="e" * 64)

    task, _ = await world.begin(bench, "Hello")
    reply = bench.reply
    bench.source.feed(*FINISHED)
    await until(lambda: life.peer.sent)
    assert last_of(reply) == "[DONE]"
    await done(task)
    bench.exchange_again(FIRST, source := FedExchange(Gate()))
    bench.source = source
    leaving, _ = await world.begin(bench, "Bye")
    leaving.cancel()
    await calm()
    source.feed(*FINISHED)
    await until(lambda: len(life.peer.sent) > 1)

    assert [offer.given.text for offer in life.peer.sent] == ["Hello", "Bye"]
    await life.offering.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_failed_request_is_not_handed_over(life, stream):
    """There is no answer that another could be compared with."""
    gateway = await life(failure=UpstreamUnavailable("no", lane=CONTROL, status=503))

    reply = await gateway.ask(stream=stream)

    assert reply.status == 503
    assert gateway.counted == (0, {})


async def test_broken_stream_is_not_handed_over(life):
    """Nor what its caller has of it."""
    gateway = await life(chunks=STREAM[:2])

    await gateway.ask(stream=True)

    assert gateway.counted == (0, {})


async def test_caller_who_leaves_leaves_nothing(life):
    """A request that is cancelled while its answer is on its way is not handed over."""
    gateway = await life()
    gate = Gate("send_whole")
    asking = asyncio.create_task(gateway.ask(reply=FakeReply(gate)))
    await gate.reached.wait()

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert gateway.counted == (0, {})


async def test_eval_is_not_handed_over(life, signing_key, trusted):
    """Evals are nobody's traffic."""
    gateway = await life(trusted=trusted)

    reply = await gateway.ask(key=token_for(signing_key, now=WALL))

    assert reply.status == 200
    assert gateway.counted == (0, {})


@pytest.mark.parametrize(
    "changes",
    [{"is_job": True}, {"copy": object()}, {"kind": "probe"}, {"outcome": "repair_failed"}, {"admission": "eval"}],
)
async def test_what_is_no_callers_own_answer_is_passed_over(life, make_document, changes):
    """A runner may come again with the same work, our own questions are nobody's, and signed copy is no lane's."""
    gateway = await life()
    journey = Journey(Inbound("req_1", b"{}", 0.0))
    journey.outcome = "ok"
    if "admission" in changes:
        live = parse_document(make_document(), digest="0" * 64)
        changes = {"admission": Admission(journey.inbound, live, ApiKey("run:7", OURSELVES), live)}
    for name, value in changes.items():
        setattr(journey, name, value)

    assert module._is_to_be_asked_again(journey) is False
    assert gateway.counted == (0, {})


async def test_route_without_a_shadow_keeps_nothing(life):
    """Not even what was answered."""
    gateway = await life(routing=shadow_routing(shadow=None))

    await gateway.ask()

    assert gateway.counted == (0, {})


async def test_percentage_of_nothing_hands_nothing_over(life):
    """A policy at 0 % stands by."""
    gateway = await life(routing=shadow_routing(shadow_policy(percent=0)))

    await gateway.ask()

    assert gateway.counted == (0, {})


async def test_absent_process_costs_an_answer_nothing(life):
    """What it would have been handed is counted, and the caller does not notice."""
    gateway = await life(peer=None)

    reply = await gateway.ask()

    assert reply.status == 200
    assert gateway.counted == (0, {"process_away": 1})


async def test_process_that_went_away_is_found_gone(life):
    """Between two requests: the second is counted as discarded."""
    gateway = await life()
    await gateway.ask()
    gateway.peer.is_gone = True

    await gateway.ask()

    assert gateway.counted == (1, {"process_away": 1})


async def test_process_that_takes_nothing_fills_no_more_than_its_buffer(life):
    """What is beyond is discarded, and nobody waits for it to drain."""
    gateway = await life()
    gateway.peer.unsent = MAX_UNSENT_BYTES

    await gateway.ask()

    assert gateway.peer.sent == []
    assert gateway.counted == (0, {"process_slow": 1})


async def test_queue_is_bounded(life):
    """Requests that come in one breath find so many places, and no more."""
    gateway = await life()
    for task in gateway.offering._tasks:
        task.cancel()

    for _ in range(MAX_WAITING + 3):
        await gateway.ask()

    assert len(gateway.offering._waiting) == MAX_WAITING
    assert gateway.counted == (0, {"queue_full": 3})


async def test_long_request_is_answered_and_not_handed_over(life):
    """A megabyte is no question to ask twice."""
    gateway = await life()

    reply = await gateway.ask(messages=[{"role": "user", "content": "x" * MAX_OFFER_BYTES}])

    assert reply.status == 200
    assert gateway.counted == (0, {"too_long": 1})


async def test_failure_of_the_shadow_is_none_of_the_request(life, monkeypatch):
    """Whatever goes wrong in handing over, the answer has gone out, and it is recorded as it was."""

    def fail(policy, canonical):
        raise RuntimeError("a mistake of ours")

    gateway = await life()
    monkeypatch.setattr(module, "draw", fail)  # nothing else in there can be made to fail

    reply = await gateway.ask()

    assert reply.status == 200
    assert [row["outcome"] for row in gateway.bench.rows] == ["ok"]
    assert gateway.counted == (0, {"not_handed_over": 1})


async def test_request_leaves_nothing_of_its_shadow_behind(life, make_document):
    """One usage row, one attempt at one lane, and no lane's breaker that has seen anything else."""
    routing = shadow_routing()
    routing["breakers"] = {"hosted": breaker_policy()}
    for lane in (CONTROL, CANDIDATE):
        routing["lanes"][lane]["breaker"] = "hosted"
    gateway = await life(routing=routing)

    await gateway.ask()

    assert [row["kind"] for row in gateway.bench.rows] == ["primary"]
    assert gateway.bench.transport.lanes == [CONTROL]
    states = {state["lane"]: state["attempts"] for state in gateway.bench.breakers.states()}
    assert states == {CONTROL: 1, CANDIDATE: 0}
    assert gateway.bench.totals()["requests"] == 1
    assert gateway.bench.rows.streams == []


async def test_offer_is_read_as_it_was_written(make_document, life):
    """Sources and pins too, which no lane is sent."""
    access = {
        "tenants": {"acme": TENANT | {"residency": ["eu", "ch"], "log_content": True}},
        "keys": make_document()["sections"]["access"]["keys"],
    }
    gateway = await life(access=access)

    await gateway.ask(sources=[{"id": "terms", "text": "14 days"}])

    (offer,) = gateway.peer.sent
    assert offer.residency == {"eu", "ch"}
    assert offer.log_content
    assert [(source.id, source.text) for source in offer.request.sources] == [("terms", "14 days")]


@pytest.mark.parametrize("traceparent", ["", f"00-{'a1' * 16}-{'b2' * 8}-01"])
async def test_offer_names_the_trace_of_its_request(life, traceparent):
    """To which the shadow's is linked; nothing, where nobody traces."""
    gateway = await life()

    await gateway.ask(trace=PassedOn(traceparent) if traceparent else None)

    (offer,) = gateway.peer.sent
    assert offer.traceparent == traceparent


async def test_answer_of_another_lane_is_told_as_that_lanes(life):
    """The one that answered, whichever was asked first."""
    other = "openai/eu-north/main/gpt-4o"
    routing = shadow_routing(lanes={other: LANE | {"region": "eu-north"}})
    routing["routes"]["chat"]["lanes"] = [CONTROL, other]
    down = UpstreamUnavailable("no", lane=CONTROL, status=503)
    gateway = await life(routing=routing, lanes={CONTROL: [down], other: [FakeExchange((ANSWER,), Gate())]})

    await gateway.ask()

    (offer,) = gateway.peer.sent
    assert offer.given.lane == other


def test_release_of_before_has_no_shadow(make_document):
    """Routes without one are served as before."""
    release = parse_document(make_document(), digest="0" * 64)

    assert release.routing.routes["chat"].shadow is None
