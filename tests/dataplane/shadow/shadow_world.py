"""A release with a shadow, offers under it, a store in memory, and a worker on lanes that the test answers for."""

from __future__ import annotations

import json

from dataplane.fleet import FleetBreakers
from dataplane.lane_caller import LaneCaller
from dataplane.messages import ChatRequest
from dataplane.providers import ADAPTERS
from dataplane.quota_desk import QuotaDesk
from dataplane.release import parse_document
from dataplane.shadow.bounded import BoundedTransport
from dataplane.shadow.counting import ShadowCounting
from dataplane.shadow.offers import Given, Offer
from dataplane.shadow.process import only_shadows
from dataplane.shadow.sampling import canonical_bytes, draw
from dataplane.shadow.worker import ShadowWorker
from dataplane.stores.shadow_budget import Killed, Reserved, ShadowStoreUnavailable, Spent, Standing
from dataplane.timers import TimerWheel
from tests.dataplane.bench import ANSWER, WALL, FakeExchange, FakeTransport, FixedSecrets, Gate, Rows
from tests.dataplane.conftest import LANE, ROUTING, threshold

CONTROL = "openai/eu-west/main/gpt-4o"
CANDIDATE = "openai/eu-west/trial/gpt-5"
US_CANDIDATE = "openai/us-east/trial/gpt-5"
TWIN = "openai/eu-west/trial/gpt-4o"
QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}


def shadow_policy(*, lanes=(CANDIDATE,), noise_lanes=(TWIN,), **changes):
    """A shadow policy as a release carries it, every number a guess; `changes` are other numbers, by name."""
    numbers = {"percent": 100, "noise_percent": 0, "max_in_flight": 2, "queue": 2, "deadline_ms": 60_000}
    budget = {"calls": 1000, "tokens": 10**9, "cost_micros": 10**9}
    kill = {"failure_rate": 1, "minimum_calls": 1000, "cost_ratio": 1000}
    given = {name: threshold(value) for name, value in (numbers | budget | kill | changes).items()}
    return {
        "lanes": list(lanes),
        "noise_lanes": list(noise_lanes),
        "budget": {name: given.pop(name) for name in budget},
        "kill": {name: given.pop(name) for name in kill},
        **given,
    }


def shadow_routing(policy=None, *, lanes=None, **route):
    """The routing section of the other tests with a shadow on its route, whose lanes have an account of their own."""
    account = ROUTING["accounts"]["main"] | {"secret": "env:TRIAL_KEY"}
    trial = LANE | {"account": "trial", "model": "gpt-5"}
    own = {
        CANDIDATE: trial,
        US_CANDIDATE: trial | {"region": "us-east", "residency": "us"},
        TWIN: trial | {"model": "gpt-4o"},
    }
    routing = json.loads(json.dumps(ROUTING))
    routing["accounts"]["trial"] = account
    routing["lanes"] |= own | (lanes or {})
    routing["shadows"] = {"trial": policy or shadow_policy()}
    routing["routes"]["chat"] |= {"shadow": "trial"} | route
    return routing


def answer(text="Hi", *, tokens=(3, 2), finish="stop", **message):
    """A whole answer on OpenAI's wire."""
    return json.dumps(
        {
            "id": "c2",
            "choices": [{"message": {"role": "assistant", "content": text} | message, "finish_reason": finish}],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
        }
    ).encode()


class MemoryStore:
    """The fleet's store for one process, which may be away, or lose all that it knows."""

    def __init__(self):
        self.away = False
        self.epoch = "1"
        self.killed = {}
        self.settled = {}
        self.held = {}
        self.most = 0

    def _be_there(self):
        if self.away:
            raise ShadowStoreUnavailable("away")

    async def reserve(self, digest, *, day, reservation, amounts, limits):
        self._be_there()
        if digest in self.killed:
            return Killed(self.killed[digest])
        for name in ("calls", "tokens", "cost_micros"):
            used = sum(getattr(one, name) for one in self.settled.values())
            held = sum(getattr(one, name) for one in self.held.values())
            asked, limit = getattr(amounts, name), getattr(limits, name)
            if used + held + asked > limit:
                return Spent(name, used + asked > limit)
        self.held[reservation] = amounts
        self.most = max(self.most, len(self.held))
        return Reserved()

    async def settle(self, digest, *, day, reservation, amounts):
        self._be_there()
        if self.held.pop(reservation, None) is not None:
            self.settled[reservation] = amounts

    async def kill(self, digest, reason):
        self._be_there()
        self.killed.setdefault(digest, reason)

    async def look(self, digests):
        self._be_there()
        return Standing(self.epoch, {digest: self.killed[digest] for digest in digests if digest in self.killed})

    async def close(self):
        pass


class Tellings(Rows):
    """What a shadow process tells."""

    def __init__(self):
        super().__init__()
        self.shadow_samples = []

    def add_shadow_sample(self, row):
        self.shadow_samples.append(row)


class ShadowWorld:
    """A shadow worker whose lanes answer what the test gives; it looks after the fleet's word when the test says so."""

    def __init__(self, document, *, clock, store=None, lanes=None, gate=None, answers=ANSWER, tracer=None):
        self.release = parse_document(document, digest="d" * 64)
        self.policy = next(iter(self.release.routing.shadows.values()))
        self.gate = gate or Gate()
        self.transport = FakeTransport(None, self.gate, lanes=lanes)
        self.answers = answers
        self.store = MemoryStore() if store is None else store
        self.rows = Tellings()
        self.counting = ShadowCounting(wall=lambda: WALL)
        self.wall = WALL
        timers, wall = TimerWheel(), lambda: self.wall
        breakers = FleetBreakers(store=None, report=self.rows.add_event, clock=clock, wall=wall)
        quotas = QuotaDesk(store=None, worker="w", report=self.rows.add_event, timers=timers, clock=clock, wall=wall)
        breakers.adopt(only_shadows(self.release))
        quotas.adopt(only_shadows(self.release))
        self.breakers, self.quotas = breakers, quotas
        self.worker = ShadowWorker(
            caller=LaneCaller(
                transport=BoundedTransport(self),
                secrets=FixedSecrets(),
                adapters=ADAPTERS,
                timers=timers,
                clock=clock,
                wall=wall,
            ),
            breakers=breakers,
            quotas=quotas,
            store=self.store,
            counting=self.counting,
            reports=self.rows,
            timers=timers,
            clock=clock,
            wall=wall,
            look_seconds=3600,
            tracer=tracer,
        )
        self.worker.adopt(self.release)

    async def send(self, call, *, lane, limits):
        """As `Transport.send`: what the test gave for the lane, else the same answer for all of them."""
        if lane not in self.transport.answers:
            self.transport.exchange = FakeExchange([self.answers], self.gate)
        return await self.transport.send(call, lane=lane, limits=limits)

    async def close(self):
        pass

    def offer(
        self,
        number=0,
        *,
        given=None,
        tenant="acme",
        residency=("eu",),
        log_content=False,
        sources=(),
        traceparent="",
        **fields,
    ):
        """What a gateway hands over of a request, told from others by `number`; `fields` are parameters of it."""
        messages = fields.pop("messages", [{"role": "user", "content": f"Hello {number}"}])
        request = ChatRequest("chat", messages, fields, sources=tuple(sources))
        canonical = canonical_bytes(request)
        return Offer(
            policy=self.policy.slug,
            digest=self.policy.digest,
            is_noise=draw(self.policy.slug, canonical).is_noise(self.policy),
            request_id=f"req_{number}",
            tenant=tenant,
            key_id="k1",
            residency=frozenset(residency),
            log_content=log_content,
            route="chat",
            prompt="",
            version=0,
            request=request,
            given=given or Given(CONTROL, "Hi", (), "stop", False, 30, 100.0),
            traceparent=traceparent,
        ).to_bytes(canonical)

    async def take(self, *offers):
        """Hand offers over, and wait until all that follows is done."""
        for offer in offers:
            self.worker.take(offer)
        await self.worker.settle_all()

    def adopt(self, release):
        """Have the process serve another release."""
        self.release = release
        self.worker.adopt(release)

    def drained(self):
        """All rows as one: counts, reasons, failures, rules and moments added up."""
        total = {}
        for row in self.counting.drain(WALL):
            for name, value in row.items():
                if isinstance(value, int):
                    total[name] = total.get(name, 0) + value
                elif name in ("discarded", "failed", "rules"):
                    sums = total.setdefault(name, {})
                    for key, count in value.items():
                        sums[key] = sums.get(key, 0) + count
        return total
