"""A fleet in virtual time that shares one account, a provider that counts for itself, and callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from dataplane.documents import Node
from dataplane.errors import GatewayError
from dataplane.errors.admission import QuotaExhausted
from dataplane.messages import Usage
from dataplane.policies import QuotaPolicy
from dataplane.quota import QuotaPool
from dataplane.quota_grants import Asking
from dataplane.quota_share import QuotaShare
from dataplane.simulator.limits import AccountLimiter, Charge, Limit, LimitKind
from dataplane.stores.quota import QuotaStoreUnavailable
from dataplane.timers import TimerWheel

PROVENANCE = {
    "origin": "guess",
    "note": "a test's",
    "link": "",
    "author": "ada",
    "on": "2026-03-04",
    "review_by": "2026-06-04",
}
NUMBERS = {
    "window_seconds": 10,
    "requests": 600,
    "tokens": None,
    "input_tokens": None,
    "output_tokens": None,
    "concurrency": None,
    "headroom": 0.06,
    "batch_share": 0.2,
    "vip_concurrency": None,
    "vip_weight": 4,
    "standard_weight": 2,
    "free_weight": 1,
    "spill_seconds": 1,
    "max_wait_seconds": 30,
    "ramp_seconds": 2,
    "fleet_workers": 8,
}


def quota_document(*, learn=False, **numbers):
    """A quota policy as a routing table has it."""
    named = NUMBERS | numbers
    return {"learn": learn} | {
        name: None if value is None else {"value": value, "provenance": PROVENANCE} for name, value in named.items()
    }


def policy(**changes):
    return QuotaPolicy.parse("shared", Node(quota_document(**changes), "$"))


class MemoryQuotaStore:
    """A store in this process: the pool itself, a moment away. `is_away`: nobody can ask it; `is_deaf`: what is told
    arrives, and nobody hears the answer.
    """

    def __init__(self, clock, *, seconds=0.001):
        self.clock = clock
        self.seconds = seconds
        self.pools = {}
        self.is_away = self.is_deaf = False
        self.turns = 0

    async def turn(self, pool, worker, told, terms):
        await asyncio.sleep(self.seconds)
        if self.is_away:
            raise QuotaStoreUnavailable("nobody is there")
        now = self.clock() * 1000
        self.turns += 1
        heard = self.pools.setdefault(pool, QuotaPool(now=now)).turn(worker, told, terms, now=now)
        await asyncio.sleep(self.seconds)
        if self.is_deaf:
            raise QuotaStoreUnavailable("nobody answers")
        return heard

    async def close(self):
        pass


@dataclass
class Tenant:
    name: str
    tier: str = "standard"
    workload: str = "interactive"
    callers: int = 8
    input_tokens: int = 100
    output_tokens: int = 50
    max_tokens: int | None = None
    estimated_tokens: int | None = None


@dataclass
class Told:
    """What became of the requests of a tenant, after the time to settle in."""

    answered: int = 0
    throttled: int = 0
    refused: Counter = field(default_factory=Counter)
    waits_ms: list[float] = field(default_factory=list)


class Fleet:
    """Workers, each with its share of the pool, and the provider that they ask."""

    def __init__(self, kind=LimitKind.TOKEN_BUCKET, *, limits=None, workers=8, own_policy=None, answer_seconds=0.1):
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.policy = own_policy or policy()
        self.store = MemoryQuotaStore(self.clock)
        self.events = []
        self.timers = TimerWheel()
        self.rng = Random(108)
        self.answer_seconds = answer_seconds
        given = limits or {"requests": 600}
        self.provider = AccountLimiter(
            Limit("*", None, kind, self.policy.window_seconds.value, given), "a", now=self.clock()
        )
        self.shares = [self.share(f"w{number}") for number in range(workers)]
        self.told: dict[str, Told] = {}
        self.admitted_at = []
        self.settled_at = float("inf")

    def share(self, worker):
        return QuotaShare(
            "main/shared",
            "main",
            self.policy,
            worker=worker,
            store=self.store,
            timers=self.timers,
            report=self.events.append,
            clock=self.clock,
            wall=self.clock,
            rng=self.rng,
        )

    async def ask(self, share, tenant, *, seconds=30.0):
        """One request: leave, the provider's answer, and what it used."""
        told = self.told.setdefault(tenant.name, Told())
        counts = self.clock() >= self.settled_at
        estimate = tenant.estimated_tokens or tenant.input_tokens
        asking = Asking(tenant.name, tenant.tier, tenant.workload, estimate, tenant.max_tokens)
        began = self.clock()
        try:
            grant = share.take_nowait(asking) or await share.wait(asking, seconds=seconds)
        except QuotaExhausted as exc:
            told.refused["eta" if exc.eta_seconds is not None else "silence"] += 1
            raise
        waited = self.clock() - began
        try:
            await asyncio.sleep(self.rng.random() * 0.01)  # the way there
            charge = Charge(tenant.input_tokens, tenant.max_tokens or tenant.output_tokens)
            shortage = self.provider.shortage(charge, now=self.clock())
            if shortage is not None:
                self.provider.refused += 1
                told.throttled += counts
                share.refused(retry_after_seconds=shortage.wait_seconds, lane="l")
                grant.settle(Usage(), is_complete=False)
                return False
            entry = self.provider.take(charge, now=self.clock())
            self.admitted_at.append(self.clock())
            await asyncio.sleep(self.answer_seconds * (0.5 + self.rng.random()))
            used = Charge(tenant.input_tokens, tenant.output_tokens)
            self.provider.finish(entry, used, now=self.clock())
            grant.settle(Usage(tenant.input_tokens, tenant.output_tokens), is_complete=True)
        finally:
            grant.give_back()
        told.answered += counts
        if counts:
            told.waits_ms.append(waited * 1000)
        return True

    async def storm(self, tenants, *, seconds, settle_seconds=5.0):
        """Every caller asks again as soon as it has its answer, for so long; counted from `settle_seconds` on."""
        began = self.clock()
        self.settled_at = began + settle_seconds
        places = [
            (share, tenant)
            for tenant in tenants
            for share in (self.shares[number % len(self.shares)] for number in range(tenant.callers))
        ]

        async def call(share, tenant):
            while self.clock() < began + seconds:
                try:
                    await self.ask(share, tenant)
                except GatewayError as exc:
                    await asyncio.sleep(exc.retry_after_seconds or 1.0)

        await asyncio.gather(*(call(share, tenant) for share, tenant in places))

    async def stop(self):
        await asyncio.gather(*(share.stop() for share in self.shares))

    @property
    def throttled_share(self):
        asked = sum(told.answered + told.throttled for told in self.told.values())
        return sum(told.throttled for told in self.told.values()) / asked
