"""The shadow process of a host: its parts put together. It serves nobody, so whatever it does, nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import Final

import uvloop

from dataplane.credentials import Secrets
from dataplane.fleet import FleetBreakers
from dataplane.lane_caller import LaneCaller
from dataplane.providers import ADAPTERS
from dataplane.quota_desk import QuotaDesk
from dataplane.readiness import OK, Dependency, redis_answers
from dataplane.release import Release
from dataplane.reports import ReportShipper
from dataplane.request_trace import ShadowTracer
from dataplane.settings import ShadowSettings, TracingSettings
from dataplane.shadow.bounded import BoundedTransport
from dataplane.shadow.counting import ShadowCounting
from dataplane.shadow.figures import load_families, shadow_families
from dataplane.shadow.wire import listen
from dataplane.shadow.worker import ShadowWorker
from dataplane.span_metrics import span_families
from dataplane.stores.quota import RedisQuotaStore
from dataplane.stores.shadow_budget import RedisShadowStore
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport
from dataplane.vitals import Vitals, beat_while_turning
from dataplane.watcher import ReleaseWatcher

log = logging.getLogger("ballast.shadow")

NICENESS: Final = 15
GIVEN_WAY_SECONDS: Final = 600.0


def run_shadow(settings: ShadowSettings, *, secrets: Secrets) -> None:
    """Ask again what the gateways of this host hand over, until SIGTERM or SIGINT.

    Raises:
        OSError: the socket or the spool directory cannot be used, or probes cannot be answered where the settings say.
    """
    vitals = Vitals()
    vitals.serve(settings.health)  # before it gives way: whoever asks is not to wait for an idle machine
    give_way()
    uvloop.run(_run(settings, secrets, vitals))


def give_way() -> None:
    """Let every other process of this machine go first: where the system knows how, this one runs only when nobody else
    would, so that who serves is never kept off a processor by it, not even for the rest of a time slice.
    """
    with suppress(OSError):
        os.nice(NICENESS)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def take_part() -> None:
    """Be scheduled like everybody again, as far as the system lets go of what `give_way` asked for: a process that only
    has to end holds up whoever waits for that, and on a busy machine its last 100 ms would take minutes.
    """
    with suppress(OSError):
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def only_shadows(release: Release) -> Release:
    """The release without the lanes that serve callers: what is judged and shared here is none of theirs."""
    names = {name for policy in release.routing.shadows.values() for name in policy.all_lanes}
    lanes = {name: lane for name, lane in release.routing.lanes.items() if name in names}
    return replace(release, routing=replace(release.routing, lanes=lanes, routes={}))


async def _run(settings: ShadowSettings, secrets: Secrets, vitals: Vitals) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    tracer = None if settings.tracing is None else _open_tracing(settings.tracing)
    if tracer is not None:
        counts = tracer.counts
        vitals.expose(lambda: span_families(counts))
    counting, timers, clock, wall = ShadowCounting(), TimerWheel(), time.monotonic, time.time
    reports = ReportShipper(
        worker=settings.worker,
        kind="shadow",
        host=settings.host_name,
        settings=settings.reports,
        shadows=counting,
    )
    watcher = ReleaseWatcher(
        release_file=settings.release_file,
        trusted_keys_file=settings.trusted_keys_file,
        acknowledge=reports.ack,
        poll_seconds=settings.release_poll_seconds,
    )
    transport = BoundedTransport(Http1Transport(timers=timers, allowed=settings.allowed))
    breakers = FleetBreakers(store=None, report=reports.add_event, clock=clock, wall=wall)
    redis_url = settings.reports.redis_url
    quotas = QuotaDesk(
        store=None if redis_url is None else RedisQuotaStore(redis_url),
        worker=f"{settings.worker}/{uuid.uuid4().hex}",
        report=reports.add_event,
        timers=timers,
        clock=clock,
        wall=wall,
    )
    worker = ShadowWorker(
        caller=LaneCaller(
            transport=transport,
            secrets=secrets,
            adapters=ADAPTERS,
            timers=timers,
            clock=clock,
            wall=wall,
            learn=quotas.learn,
        ),
        breakers=breakers,
        quotas=quotas,
        store=None if redis_url is None else RedisShadowStore(redis_url),
        counting=counting,
        reports=reports,
        timers=timers,
        clock=clock,
        wall=wall,
        tracer=tracer,
    )
    vitals.expose(lambda: shadow_families(counting))
    vitals.expose(lambda: load_families(worker))

    def adopted(release: Release) -> None:
        lanes = only_shadows(release)
        breakers.adopt(lanes)
        quotas.adopt(lanes)
        worker.adopt(release)
        reports.serving = release
        if reports.status == "starting":
            reports.set_status("serving")

    watcher.subscribe(adopted)
    # On a machine that has no time left it does not turn, which is as it should be, for minutes.
    pulse = vitals.pulse("shadow", within_seconds=GIVEN_WAY_SECONDS)
    vitals.depend_on(_dependencies(watcher, redis_url))
    await reports.start()  # which finds out whether another shadow process of this host lives
    try:
        await watcher.start()
        await worker.start()
        server = await listen(settings.socket, worker.take)
        log.info("shadows are taken at %s", settings.socket)
        beating = asyncio.create_task(beat_while_turning(pulse), name="beat")
        vitals.begin()
        try:
            await stopping.wait()
        finally:
            take_part()
            vitals.drain()
            beating.cancel()
            server.close()
            reports.set_status("draining")
    finally:
        await watcher.stop()
        await worker.stop()
        await quotas.stop()
        await transport.close()
        await reports.stop()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)


def _open_tracing(settings: TracingSettings) -> ShadowTracer:
    from dataplane.otel.shadows import ShadowSpans  # what only who traces is to load

    return ShadowSpans(settings)


def _dependencies(watcher: ReleaseWatcher, redis_url: str | None) -> list[Dependency]:
    release = Dependency(
        "release",
        lambda: OK if watcher.current is not None else "no verified release yet",
        needed=True,
        without="nothing is asked again",
    )
    if redis_url is None:
        return [release]
    away = "shadows are discarded and counted, since what they cost cannot be shared; reports wait on disk, bounded"
    return [release, Dependency("redis", lambda: redis_answers(redis_url), needed=False, without=away)]
