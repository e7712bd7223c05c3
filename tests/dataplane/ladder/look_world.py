"""One process's ladders, with real breakers and a real quota beside them, on a loop's own time."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dataplane.fleet import FleetBreakers
from dataplane.ladder.ladders import Ladders
from dataplane.quota_desk import QuotaDesk
from dataplane.quota_grants import Asking
from dataplane.release import parse_document
from dataplane.timers import TimerWheel
from tests.dataplane.conftest import ROUTING, breaker_policy, copy_document
from tests.dataplane.quota_world import MemoryQuotaStore, quota_document
from tests.ladders import rung_copy, surface

SURFACE = "web-chat"
FIRST, SECOND, CHEAP = "openai/eu-west/main/large", "openai/eu-west/main/other", "openai/eu-west/spare/small"
ASKING = Asking("acme", "vip", "interactive", 10, 10)
# Before the end of what the tests engage, which is at 06:00 of that day.
MORNING = 1_772_602_200.0


def document_of(make_document, *, activations=(), quota=True, **changes):
    """Two lanes on one account serve the surface, a third on another the cheaper model."""
    _, lane = next(iter(ROUTING["lanes"].items()))
    held = {"breaker": "b", "quota": "shared"} if quota else {"breaker": "b"}
    document = make_document(
        routing=ROUTING
        | {
            "accounts": ROUTING["accounts"] | {"spare": ROUTING["accounts"]["main"]},
            "lanes": {
                FIRST: lane | {"model": "large"} | held,
                SECOND: lane | {"model": "other"} | held,
                CHEAP: lane | {"model": "small", "account": "spare"} | held,
            },
            "breakers": {"b": breaker_policy(minimum_attempts=2)},
            "quotas": {"shared": quota_document(requests=60)} if quota else {},
            "routes": {
                "chat": {"lanes": [FIRST, SECOND], "deadline_ms": 30_000},
                "cheap": {"lanes": [CHEAP], "deadline_ms": 30_000},
            },
        },
        copy=rung_copy() | {"help-answers": {"version": 1, "digest": "a" * 64, "document": copy_document("answers")}},
        ladder={SURFACE: surface(**changes)},
        activations={f"a{number}": one for number, one in enumerate(activations)},
    )
    document["sections"]["prompts"], document["sections"]["canaries"] = {}, {}
    return document | {"schema": 4}


class World:
    """One process's ladders on a loop's own time, with what they look at."""

    def __init__(self, document):
        now = asyncio.get_running_loop().time
        began = now()
        self.clock = now
        self.events = []

        def wall():
            return MORNING + now() - began

        self.breakers = FleetBreakers(store=None, report=self.events.append, clock=now, wall=wall)
        self.quotas = QuotaDesk(
            store=MemoryQuotaStore(now),
            worker="w",
            report=self.events.append,
            timers=TimerWheel(),
            clock=now,
            wall=wall,
        )
        self.ladders = Ladders(
            store=None,
            worker="w",
            region="eu-west",
            public_url="",
            breakers=self.breakers,
            quotas=self.quotas,
            report=self.events.append,
            clock=now,
            wall=wall,
            orders_file=Path("/none"),
        )
        self.waiting = []
        self.adopt(document)

    def adopt(self, document):
        self.release = parse_document(document, digest="d" * 64)
        for one in (self.breakers, self.quotas, self.ladders):
            one.adopt(self.release)

    @property
    def told(self):
        return self.ladders.look.told(self.release.ladder[SURFACE])

    def lane(self, name):
        return self.release.routing.lanes[name]

    async def ask(self, lane, *, count, asking=ASKING):
        """So many requests take their part of a lane's quota, or wait for it."""
        tasks = [asyncio.create_task(self.quotas.wait(self.lane(lane), asking, seconds=1000)) for _ in range(count)]
        self.waiting += tasks
        await asyncio.sleep(0.05)

    async def end(self):
        for task in self.waiting:
            task.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        await self.quotas.stop()
