"""What one gateway process is made of: its parts, put together, and started and stopped in their order."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dataplane.aggregation import Aggregation
from dataplane.attempts import Attempts, UsageSink
from dataplane.copy_desk import CopyDesk
from dataplane.credentials import Secrets
from dataplane.cursors import CursorKeys
from dataplane.desks import Desk
from dataplane.evidence import Evidence
from dataplane.fleet import FleetBreakers
from dataplane.job_desk import JobDesk
from dataplane.job_queue import JobQueue
from dataplane.keyed import KeyedWork
from dataplane.known_questions import KnownQuestions
from dataplane.ladder.counting import SurfaceCounting
from dataplane.ladder.ladders import Ladders
from dataplane.ladder.orders import orders_file
from dataplane.ladder.promises import Promises
from dataplane.ladder.status_desk import StatusDesk
from dataplane.lane_caller import LaneCaller
from dataplane.last_words import LastWords
from dataplane.loop_lag import LoopLag
from dataplane.metrics import GatewayMetrics
from dataplane.pipeline import Pipeline
from dataplane.probes import LaneProbes
from dataplane.providers import ADAPTERS
from dataplane.quota_desk import QuotaDesk
from dataplane.readiness import Dependencies, Dependency
from dataplane.release import Release
from dataplane.repair_desk import RepairDesk
from dataplane.report_metrics import ReportCounts
from dataplane.request_trace import RequestTracer
from dataplane.retrieval.counting import RetrievalCounts
from dataplane.retrieval.desk import RetrieveDesk
from dataplane.retrieval.grounding import Grounding
from dataplane.retrieval.retriever import Retriever
from dataplane.samples import Samples
from dataplane.sandboxes import Sandboxes, TrustedKeys
from dataplane.schema_check import SchemaChecker
from dataplane.settings import GatewaySettings
from dataplane.shadow.offering import Offering
from dataplane.stores.breakers import BreakerStore
from dataplane.stores.corpora import CorpusStore
from dataplane.stores.idempotency import IdempotencyStore
from dataplane.stores.jobs import JobStore
from dataplane.stores.ladder import LadderStore
from dataplane.stores.quota import QuotaStore
from dataplane.stores.repairs import RepairStore
from dataplane.stores.streams import StreamLog
from dataplane.stream_desk import StreamDesk
from dataplane.streams import StreamReports, Streams
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport, Transport
from dataplane.under_way import UnderWay


class Watcher(Protocol):
    """Keeps the release current, such as `ReleaseWatcher`."""

    current: Release | None

    async def start(self) -> None:
        """Begin to watch."""

    async def stop(self) -> None:
        """Stop watching."""

    def subscribe(self, adopted: Callable[[Release], None]) -> None:
        """Call `adopted` with every release from now on, right after it has become current. It must not wait."""


class Reports(UsageSink, StreamReports, ReportCounts, Protocol):
    """Ships what this worker did, such as `ReportShipper`."""

    in_flight: int
    region: str
    lanes: Callable[[], list[dict[str, Any]]] | None
    quotas: Callable[[], list[dict[str, Any]]] | None
    ladders: Callable[[], list[dict[str, Any]]] | None
    surfaces: SurfaceCounting | None

    @property
    def under_way(self) -> UnderWay | None:
        """What sees to it that no attempt goes with the process; None: nothing does."""

    def add_sample(self, row: Mapping[str, Any]) -> None:
        """Take over an answer that is kept as a sample; must not wait."""

    async def start(self) -> None:
        """Begin to ship."""

    async def stop(self) -> None:
        """Ship what is left."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a gateway keeps what outlives a request, or what its fleet shares. Without `breakers`, breakers are this
    process' own; without `streams`, no stream outlives its caller's connection; without `idempotency`, requests with a
    key are refused; without `quotas`, this process keeps to its part of each quota; without `ladders`, it decides by
    itself where its ladders stand; without `jobs`, it takes none; without `repairs`, it keeps no answers for somebody
    to complete; without `corpora`, nobody finds anything in one. `dependencies` are asked where they are by whoever
    wants to know whether the gateway is ready.
    """

    breakers: BreakerStore | None = None
    streams: StreamLog | None = None
    idempotency: IdempotencyStore | None = None
    quotas: QuotaStore | None = None
    ladders: LadderStore | None = None
    jobs: JobStore | None = None
    repairs: RepairStore | None = None
    corpora: CorpusStore | None = None
    dependencies: tuple[Dependency, ...] = ()


NO_STORES: Final = Stores()


class Assembly:
    """The parts of one gateway, on one event loop. `pipeline` serves requests, `retrieve_desk` those to corpora,
    `stream_desk` and `desks` what is kept of them, and `status_desk` whoever asks how surfaces stand.
    """

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        watcher: Watcher,
        reports: Reports,
        aggregation: Aggregation,
        secrets: Secrets,
        transport: Transport | None = None,
        stores: Stores = NO_STORES,
        cursors: CursorKeys | None = None,
        evidence: Evidence | None = None,
        trusted_keys: TrustedKeys | None = None,
        shadows: Offering | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        """`start` and `stop` start and stop `watcher`, `reports`, `transport` and `stores` too. Without `cursors`, no
        stream outlives its caller's connection; without `trusted_keys`, it lets no evals in, and obeys no order on its
        host; without `evidence`, it counts nothing for or against canaries; without `shadows`, nothing is asked again;
        without `tracer`, nothing is traced.
        """
        self.tracer = tracer
        self.watcher = watcher
        self.reports = reports
        self.timers = timers = TimerWheel()
        self._transport = transport = transport or Http1Transport(timers=timers, allowed=settings.allowed)
        self._shadows = shadows
        clock, wall = time.monotonic, time.time
        self.dependencies = Dependencies(stores.dependencies, clock=clock)
        schemas = SchemaChecker()
        retrievals = RetrievalCounts()
        self._breakers = FleetBreakers(store=stores.breakers, report=reports.add_event, clock=clock, wall=wall)
        self._lag = LoopLag(clock=clock)
        self.metrics = GatewayMetrics(
            release=lambda: watcher.current,
            breakers=self._breakers.states,
            quotas=lambda: self._quotas.shares(),
            streams=lambda: self._streams,
            jobs=lambda: self.job_queue.figures,
            ladders=lambda: self._ladders.states(),
            retrievals=retrievals,
            spans=None if tracer is None else tracer.counts,
            reports=reports,
            lag=self._lag,
            shadows=None if shadows is None else shadows.totals,
        )
        caller = LaneCaller(
            transport=transport,
            secrets=secrets,
            adapters=ADAPTERS,
            timers=timers,
            clock=clock,
            wall=wall,
            learn=lambda lane, limits: self._quotas.learn(lane, limits),
        )
        owner = f"{settings.worker}/{uuid.uuid4().hex}"
        self._quotas = QuotaDesk(
            store=stores.quotas, worker=owner, report=reports.add_event, timers=timers, clock=clock, wall=wall
        )
        self._ladders = Ladders(
            store=stores.ladders,
            worker=owner,
            region=settings.region,
            public_url=settings.public_url,
            breakers=self._breakers,
            quotas=self._quotas,
            report=reports.add_event,
            clock=clock,
            wall=wall,
            jobs=stores.jobs,
            orders_file=orders_file(settings.release_file),
            trusted_keys=trusted_keys,
            allowed=settings.allowed,
        )
        attempts = Attempts(
            breakers=self._breakers,
            quotas=self._quotas,
            aggregation=aggregation,
            usage=reports,
            region=settings.region,
            clock=clock,
            wall=wall,
            seen=self._ladders.look.count,
            counts=self.metrics.counts,
            under_way=reports.under_way,
        )
        reports.lanes = lambda: with_waits(self._breakers.states(), attempts)
        reports.quotas = self._quotas.states
        reports.ladders = self._ladders.states
        reports.surfaces = self._ladders.counting
        reports.region = settings.region
        self._streams: Streams | None = None
        if stores.streams is not None and cursors is not None:
            self._streams = Streams(
                store=stores.streams,
                cursors=cursors,
                reports=reports,
                owner=owner,
                timers=timers,
                clock=clock,
                wall=wall,
            )
        self._keyed: KeyedWork | None = None
        if stores.idempotency is not None:
            self._keyed = KeyedWork(
                store=stores.idempotency, streams=self._streams, owner=owner, timers=timers, clock=clock
            )
        self._known_questions = KnownQuestions(attempts=attempts, caller=caller, timers=timers, clock=clock, wall=wall)
        copy_desk = CopyDesk(breakers=self._breakers, known_questions=self._known_questions, schemas=schemas)
        self.job_queue = JobQueue(stores.jobs, limit=settings.job_limit, clock=clock, wall=wall)
        retriever = Retriever(
            stores.corpora, attempts=attempts, caller=caller, counts=retrievals, clock=clock, wall=wall
        )
        self.pipeline = Pipeline(
            releases=watcher,
            caller=caller,
            attempts=attempts,
            copy_desk=copy_desk,
            schemas=schemas,
            aggregation=aggregation,
            metrics=self.metrics,
            region=settings.region,
            timers=timers,
            streams=self._streams,
            keyed=self._keyed,
            job_keys=cursors,
            repairs=stores.repairs,
            samples=Samples(reports.add_sample, clock=clock, wall=wall),
            evidence=evidence,
            sandboxes=None if trusted_keys is None else Sandboxes(trusted_keys),
            shadows=shadows,
            ladder=self._ladders.desk,
            later=Promises(
                self.job_queue,
                desk=self._ladders.desk,
                last_words=LastWords(copy_desk=copy_desk, timers=timers, wall=wall),
                public_url=settings.public_url,
            ),
            surfaces=self._ladders.counting,
            grounding=Grounding(retriever),
            clock=clock,
            wall=wall,
        )
        self.retrieve_desk = RetrieveDesk(retriever, self.pipeline, timers=timers)
        self.stream_desk = StreamDesk(self._streams, self.pipeline)
        job_desk = JobDesk(self.job_queue, self.pipeline, words=self._ladders.desk.speak_later)
        repair_desk = RepairDesk(stores.repairs, self.pipeline, schemas=schemas)
        self.desks: tuple[Desk, ...] = (job_desk, repair_desk)
        self._probes = LaneProbes(
            attempts=attempts,
            caller=caller,
            breakers=self._breakers,
            store=stores.breakers,
            timers=timers,
            clock=clock,
            wall=wall,
        )
        watcher.subscribe(self._breakers.adopt)
        watcher.subscribe(self._quotas.adopt)
        watcher.subscribe(self._ladders.adopt)
        self.status_desk = StatusDesk(
            desk=self._ladders.desk,
            release=lambda: watcher.current,
            tenant_of=lambda authorization: self.pipeline.authenticate(authorization)[1].tenant,
            moved_at=lambda surface: self._ladders.fleet.standing(surface).moved_at or None,
            wall=wall,
            fairness_url=settings.fairness_url,
        )
        watcher.subscribe(self._probes.adopt)
        watcher.subscribe(self._known_questions.adopt)
        if evidence is not None:
            watcher.subscribe(lambda release: evidence.adopt(release.canaries))

    async def start(self) -> None:
        """Start every part, those before that others need."""
        self._lag.start()
        await self.reports.start()
        await self.watcher.start()
        await self._breakers.start()
        await self._ladders.start()
        if self._streams is not None:
            await self._streams.start()
        if self._keyed is not None:
            await self._keyed.start()
        await self.retrieve_desk.start()
        for desk in self.desks:
            await desk.start()
        await self._known_questions.start()
        await self._probes.start()
        if self._shadows is not None:
            await self._shadows.start()

    async def stop(self) -> None:
        """Stop every part, those last that others need to say what they did."""
        self._lag.stop()
        await self.watcher.stop()
        if self._shadows is not None:
            await self._shadows.stop()
        await self._probes.stop()
        await self._known_questions.stop()
        if self._streams is not None:
            await self._streams.stop()
        if self._keyed is not None:
            await self._keyed.stop()
        for desk in self.desks:
            await desk.stop()
        await self.retrieve_desk.stop()
        await self._ladders.stop()
        await self._breakers.stop()
        await self._quotas.stop()
        await self._transport.close()
        await self.reports.stop()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    async def exposition(self) -> bytes:
        """What `/metrics` shows, in Prometheus' text format."""
        await self.job_queue.look()
        return self.metrics.render()

    def interrupt_streams(self) -> None:
        """End what is generated here for callers that may come back, streams each with its terminal event, because the
        process is about to stop. Their readers are still there to see it.
        """
        if self._streams is not None:
            self._streams.interrupt()
        if self._keyed is not None:
            self._keyed.interrupt()


def with_waits(states: list[dict[str, Any]], attempts: Attempts) -> list[dict[str, Any]]:
    """Add to each lane's state how long its callers waited lately, in milliseconds, as `wait_ms`; null: not known."""
    waits = attempts.waits_ms(state["lane"] for state in states)
    return [{**state, "wait_ms": waits[state["lane"]]} for state in states]
