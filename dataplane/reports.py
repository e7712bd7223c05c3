"""What a worker tells the control plane: its state every second, acknowledgements at once, rollups, usage and events.

Batches go to one Redis stream. When Redis is away, or nobody empties the stream, they go to the local spool and are
replayed in order; where the disk has no room either, up to HELD_BYTES of them are held in memory. Delivery is at least
once: a batch names its worker, boot and sequence number, and rollups are cumulative, so a consumer loses nothing by
seeing one twice.

Usage rows, which nobody else can tell, also stand in a file until they are with Redis or in the spool, so that a killed
process loses none of attempts that have ended; of those that had not ended its successor tells too (`outliving`).

The stream is never trimmed from here, because that would lose batches that nobody has read: the consumer deletes what
it has stored, and the length limit is what makes workers spool when it does not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import orjson

from dataplane.aggregation import Aggregation
from dataplane.events import Event, ReportsCaughtUp, ReportsDelayed, ReportsDropped
from dataplane.evidence import Evidence
from dataplane.holding import Holding
from dataplane.ladder.counting import SurfaceCounting
from dataplane.outliving import Outliving
from dataplane.release import Release
from dataplane.report_sinks import ReportSink, SinkUnavailable, sink_for
from dataplane.settings import ReportSettings
from dataplane.shadow.counting import ShadowCounting
from dataplane.stores.spool import Spool

MAX_ROWS_PER_BATCH: Final = 500
# JSON in JSON grows; what reads batches takes 16 MiB.
MAX_TRANSCRIPT_BYTES: Final = 3 * 1024 * 1024
ROW_BYTES: Final = 2048
MAX_SAMPLES_PER_BATCH: Final = 10
# Of all groups of an arm, so some 5 kB each.
MAX_EVIDENCE_PER_BATCH: Final = 50
# Each with two sketches.
MAX_SHADOWS_PER_BATCH: Final = 200
MAX_SURFACES_PER_BATCH: Final = 200
REPLAY_CHUNK_BYTES: Final = 512 * 1024
REPLAY_BYTES_PER_INTERVAL: Final = 8 * 1024 * 1024

# Of batches that neither Redis nor the disk takes; minutes of a busy worker.
HELD_BYTES: Final = 8 * 1024 * 1024

STOP_SECONDS: Final = 3.0

Kind = Literal["gateway", "agent", "shadow"]
Status = Literal["starting", "serving", "draining", "stopped"]
Verdict = Literal["ack", "nack"]

log = logging.getLogger("ballast.reports")


class ReportShipper:
    """One worker's reports. Everything but `start` and `stop` is called on the event loop that `start` ran on.

    `status`, `serving`, `in_flight`, `region`, `lanes`, `quotas` and `ladders` are plain attributes: whoever knows them
    sets them, the next heartbeat says them; an empty region is left out. `lanes` is asked each time how this worker
    holds the lanes that have a breaker, `quotas` how the quotas stand that it shares, `ladders` where the ladders of
    its surfaces stand; None: there are none. `surfaces` is drained each time: what became of requests there, and how
    loaded they were.
    Shape of what `quotas` answers: see `QuotaShare.state`; of `ladders`: see `Ladders.states`; of `lanes`:
    [{"lane": str, "state": "closed"|"open"|"half_open"|"forced_open"|"forced_closed", "open_for_seconds": float or
    null, "probes", "attempts", "failures": int, "cause": str}].
    """

    def __init__(
        self,
        *,
        worker: str,
        kind: Kind,
        host: str,
        settings: ReportSettings,
        aggregation: Aggregation | None = None,
        evidence: Evidence | None = None,
        shadows: ShadowCounting | None = None,
        sink: ReportSink | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.worker = worker
        self.boot = uuid.uuid4().hex
        self.status: Status = "starting"
        self.serving: Release | None = None
        self.in_flight = 0
        self.region = ""
        self.lanes: Callable[[], list[dict[str, Any]]] | None = None
        self.quotas: Callable[[], list[dict[str, Any]]] | None = None
        self.ladders: Callable[[], list[dict[str, Any]]] | None = None
        self.surfaces: SurfaceCounting | None = None
        self._kind = kind
        self._host = host
        self._settings = settings
        self._aggregation = aggregation
        self._evidence = evidence
        self._shadows = shadows
        self._wall = wall
        self._started_at = wall()
        self._sink: ReportSink = sink or sink_for(settings)
        self._spool: Spool | None = None
        self.outliving = Outliving(worker, ring_bytes=settings.ring_bytes)
        self.under_way = self.outliving.under_way
        self._held = Holding(max_bytes=HELD_BYTES)
        self._sequence = 0
        self._acks: list[dict[str, Any]] = []
        self._usage: list[orjson.Fragment] = []
        self._streams: list[Mapping[str, Any]] = []
        self._deliveries: list[Mapping[str, Any]] = []
        self._samples: list[Mapping[str, Any]] = []
        self._shadow_samples: list[Mapping[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._ack_waiting = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._delayed = False
        self._replayed = 0
        self.dropped_batches = 0

    @property
    def spooled_bytes(self) -> int:
        """How much waits on disk to be delivered."""
        return 0 if self._spool is None else self._spool.pending_bytes

    @property
    def spool_max_bytes(self) -> int:
        """How much may wait there, before the oldest is dropped."""
        return self._settings.spool_max_bytes

    @property
    def is_delayed(self) -> bool:
        """Whether reports cannot be delivered now."""
        return self._delayed

    def ack(self, *, revision: int, digest: str, verdict: Verdict, reason: str = "") -> None:
        """Say what became of a release. It goes out at once, in a batch of its own."""
        self._acks.append(
            {"revision": revision, "digest": digest, "verdict": verdict, "reason": reason, "at": self._wall()}
        )
        self._ack_waiting.set()

    def add_usage(self, row: Mapping[str, Any]) -> None:
        """Hand over the usage row of one attempt, in the shape of the reports contract. It outlives this process from
        here on, unless the ring is full. Costs its JSON, which is what is shipped, and two copies: no system call.
        """
        line = orjson.dumps(row)
        self.outliving.guard(line)
        # A copy: what orjson gives lies in a block that was cut down, and to keep thousands of those takes 3 us each.
        self._usage.append(orjson.Fragment(bytes(memoryview(line))))

    def add_stream(self, row: Mapping[str, Any]) -> None:
        """Hand over the row of a stream that has ended: see `stream_rows.with_delivery`. A transcript that is too long
        for a batch is left out.
        """
        if row["transcript"] is not None and row["bytes"] > MAX_TRANSCRIPT_BYTES:
            row = {**row, "transcript": None}
        self._streams.append(row)

    def add_delivery(self, row: Mapping[str, Any]) -> None:
        """Hand over what was delivered or acknowledged of a stream after its row."""
        self._deliveries.append(row)

    def add_sample(self, row: Mapping[str, Any]) -> None:
        """Hand over an answer that is kept as a sample: see `samples.Samples`."""
        self._samples.append(row)

    def add_shadow_sample(self, row: Mapping[str, Any]) -> None:
        """Hand over a comparison that is kept as a sample: see `shadow.comparing.sample_of`."""
        self._shadow_samples.append(row)

    def add_event(self, event: Event) -> None:
        """Hand over something that happened."""
        self._events.append(event.to_json())

    def set_status(self, status: Status) -> None:
        """Change the status and let a heartbeat say so at once."""
        self.status = status
        self._ack_waiting.set()

    async def start(self) -> None:
        """Open the spool, take over the usage rows that a killed predecessor left, and begin to ship.

        Raises:
            SpoolBusy: another process reports under the same worker id.
            OSError: the spool directory cannot be used.
        """
        directory = self._settings.spool_dir / self.worker.replace("/", "_")
        self._spool = Spool(directory, max_bytes=self._settings.spool_max_bytes)
        if self._kind != "agent":  # which asks no provider anything
            self._usage[:0] = map(orjson.Fragment, self.outliving.open(directory, now=self._wall()))
        self._tasks = [
            asyncio.create_task(self._ship_acks(), name="ship-acks"),
            asyncio.create_task(self._ship_regularly(), name="ship-reports"),
        ]

    async def stop(self) -> None:
        """Ship what is left with status `stopped`, or spool it, and let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.status = "stopped"
        if self._spool is not None:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self.flush()
            except TimeoutError:
                log.warning(
                    "the last reports of %s stay in its spool: no answer within %s s", self.worker, STOP_SECONDS
                )
            if self._held.batches:
                log.error(
                    "%d batches of %s are lost: the spool cannot be written", len(self._held.batches), self.worker
                )
            self.outliving.close()
            self._spool.close()
            self._spool = None
        await self._sink.close()

    async def flush(self) -> None:
        """Ship, or spool, everything that is known now. The regular tick does only this.

        One at a time: what another one has drained and not handed over yet would be forgotten with this one's.
        """
        await self._flush_acks()
        progress = await self._replay()
        # Drained only now, and handed over or kept without fail: a cancelled flush loses nothing.
        now = self._wall()
        data = self._data_batches(now)
        try:
            if progress == "done":
                delivered = await (self._deliver(data) if data else self._try_send([self._batch(now)]))
            else:
                self._keep(data)
                # A heartbeat overtakes what is spooled, and is never spooled itself: an old one is worth nothing.
                delivered = progress == "more" and await self._try_send([self._batch(now)])
        finally:
            # What is held in memory would be lost with the process.
            if not self._held.batches:
                self.outliving.forget_drained()
        if delivered and self._delayed and not self._held.batches and self._opened_spool().is_empty:
            self._delayed = False
            # Not sooner: an event about what was lost would be lost with its own batch.
            self._report_dropped(*self._held.take_dropped())
            log.warning("reports of %s are delivered again, %d batches replayed", self.worker, self._replayed)
            self.add_event(ReportsCaughtUp(at=now, batches=self._replayed))
            self._replayed = 0

    async def _ship_regularly(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                await self.flush()
            except Exception:  # reporting must outlive its own mistakes; the heartbeat is how people notice
                log.exception("reports of %s could not be shipped", self.worker)
            due = max(due + self._settings.interval_seconds, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _ship_acks(self) -> None:
        while True:
            await self._ack_waiting.wait()
            self._ack_waiting.clear()
            try:
                await self._flush_acks(heartbeat=True)
            except Exception:  # as above
                log.exception("an acknowledgement of %s could not be shipped", self.worker)

    async def _flush_acks(self, *, heartbeat: bool = False) -> None:
        if not self._acks and not heartbeat:
            return
        acks, self._acks = self._acks, []
        batch = self._batch(self._wall(), acks=acks)
        if acks:
            await self._deliver([batch], urgent=True)
        else:
            await self._try_send([batch], urgent=True)

    async def _deliver(self, batches: list[bytes], *, urgent: bool = False) -> bool:
        """Send, or keep for later: also when the wait is cancelled, since nobody else holds these batches."""
        delivered = False
        try:
            delivered = await self._try_send(batches, urgent=urgent)
        finally:
            if not delivered:
                self._keep(batches)
        return delivered

    async def _try_send(self, batches: Sequence[bytes], *, urgent: bool = False) -> bool:
        try:
            await self._sink.send(batches, urgent=urgent)
        except SinkUnavailable as exc:
            if not self._delayed:
                self._delayed = True
                log.warning("reports of %s go to the spool: %s", self.worker, exc)
                self.add_event(ReportsDelayed(at=self._wall(), reason=str(exc)))
            return False
        return True

    async def _replay(self) -> Literal["done", "more", "failed"]:
        """Send what is spooled, then what is held, oldest first, up to a bound per tick: heartbeats stay fresh."""
        spool = self._opened_spool()
        budget = REPLAY_BYTES_PER_INTERVAL
        while (chunk := spool.peek(REPLAY_CHUNK_BYTES)) is not None:
            if budget <= 0:
                return "more"
            if not await self._try_send(chunk.lines):
                return "failed"
            spool.remove(chunk)
            self._replayed += len(chunk.lines)
            budget -= sum(map(len, chunk.lines))
        while held := self._held.peek(REPLAY_CHUNK_BYTES):
            if budget <= 0:
                return "more"
            if not await self._try_send(held):
                return "failed"
            self._held.remove(held)
            self._replayed += len(held)
            budget -= sum(map(len, held))
        return "done"

    def _opened_spool(self) -> Spool:
        if self._spool is None:
            raise RuntimeError("reports are shipped between start and stop")
        return self._spool

    def _keep(self, batches: list[bytes]) -> None:
        """Spool batches, behind those that are held; hold them as long as the spool cannot be written."""
        if not batches:
            return
        spool = self._opened_spool()
        waiting = [*self._held.batches, *batches]
        try:
            spool.append(waiting)
        except OSError as exc:
            if not self._held.batches:
                log.error("reports of %s are held in memory, the spool cannot be written: %s", self.worker, exc)
            if dropped := self._held.hold(waiting):
                log.error("%d batches of %s are lost: no more can be held in memory", dropped, self.worker)
        else:
            self._held.hold([])
        self._report_dropped(*spool.take_dropped())

    def _report_dropped(self, batches: int, size: int) -> None:
        if batches:
            self.dropped_batches += batches
            self.add_event(ReportsDropped(at=self._wall(), batches=batches, bytes=size))

    def _data_batches(self, now: float) -> list[bytes]:
        for row in self.outliving.lost_rows(now):
            self.add_usage(row)
        rollups = [] if self._aggregation is None else self._aggregation.drain(now)
        usage, self._usage = self._usage, []
        self.outliving.drain()
        events, self._events = self._events, []
        batches = []
        for start in range(0, max(len(rollups), len(usage), len(events)), MAX_ROWS_PER_BATCH):
            rows = slice(start, start + MAX_ROWS_PER_BATCH)
            batches.append(self._batch(now, rollups=rollups[rows], usage=usage[rows], events=events[rows]))
        batches += self._evidence_batches(now) + self._shadow_batches(now) + self._surface_batches(now)
        return batches + self._stream_batches(now)

    def _evidence_batches(self, now: float) -> list[bytes]:
        if self._evidence is None:
            return []
        cells = self._evidence.drain(is_last=self.status == "stopped")
        exposures = self._evidence.drain_exposures()
        batches = []
        for start in range(0, len(cells), MAX_EVIDENCE_PER_BATCH):
            batches.append(self._batch(now, evidence=cells[start : start + MAX_EVIDENCE_PER_BATCH]))
        for start in range(0, len(exposures), MAX_ROWS_PER_BATCH):
            batches.append(self._batch(now, exposures=exposures[start : start + MAX_ROWS_PER_BATCH]))
        return batches

    def _shadow_batches(self, now: float) -> list[bytes]:
        rows = [] if self._shadows is None else self._shadows.drain(now)
        samples, self._shadow_samples = self._shadow_samples, []
        batches = []
        for start in range(0, len(rows), MAX_SHADOWS_PER_BATCH):
            batches.append(self._batch(now, shadow=rows[start : start + MAX_SHADOWS_PER_BATCH]))
        for start in range(0, len(samples), MAX_SAMPLES_PER_BATCH):
            batches.append(self._batch(now, shadow_samples=samples[start : start + MAX_SAMPLES_PER_BATCH]))
        return batches

    def _surface_batches(self, now: float) -> list[bytes]:
        if self.surfaces is None:
            return []
        rows, loads = self.surfaces.drain(now), self.surfaces.drain_loads(now)
        batches = []
        for start in range(0, max(len(rows), len(loads)), MAX_SURFACES_PER_BATCH):
            part = slice(start, start + MAX_SURFACES_PER_BATCH)
            batches.append(self._batch(now, surfaces=rows[part], surface_readings=loads[part]))
        return batches

    def _stream_batches(self, now: float) -> list[bytes]:
        """Transcripts are long, so these rows are counted in bytes."""
        streams, self._streams = self._streams, []
        deliveries, self._deliveries = self._deliveries, []
        samples, self._samples = self._samples, []
        batches = []
        for start in range(0, len(samples), MAX_SAMPLES_PER_BATCH):
            batches.append(self._batch(now, samples=samples[start : start + MAX_SAMPLES_PER_BATCH]))
        for start in range(0, len(deliveries), MAX_ROWS_PER_BATCH):
            batches.append(self._batch(now, deliveries=deliveries[start : start + MAX_ROWS_PER_BATCH]))
        rows: list[Mapping[str, Any]] = []
        size = 0
        for row in streams:
            rows.append(row)
            size += ROW_BYTES + (row["bytes"] if row["transcript"] is not None else 0)
            if size > MAX_TRANSCRIPT_BYTES:
                batches.append(self._batch(now, streams=rows))
                rows, size = [], 0
        if rows:
            batches.append(self._batch(now, streams=rows))
        return batches

    def _batch(
        self,
        now: float,
        *,
        acks: Sequence[Mapping[str, Any]] = (),
        rollups: Sequence[Mapping[str, Any]] = (),
        usage: Sequence[orjson.Fragment] = (),
        events: Sequence[Mapping[str, Any]] = (),
        streams: Sequence[Mapping[str, Any]] = (),
        deliveries: Sequence[Mapping[str, Any]] = (),
        samples: Sequence[Mapping[str, Any]] = (),
        evidence: Sequence[Mapping[str, Any]] = (),
        exposures: Sequence[Mapping[str, Any]] = (),
        shadow: Sequence[Mapping[str, Any]] = (),
        shadow_samples: Sequence[Mapping[str, Any]] = (),
        surfaces: Sequence[Mapping[str, Any]] = (),
        surface_readings: Sequence[Mapping[str, Any]] = (),
    ) -> bytes:
        """One batch as JSON; every batch carries the worker's state, so any of them is a heartbeat."""
        self._sequence += 1
        release = self.serving
        return orjson.dumps(
            {
                "worker": self.worker,
                "boot": self.boot,
                "seq": self._sequence,
                "sent_at": now,
                "state": {
                    "kind": self._kind,
                    "host": self._host,
                    "pid": os.getpid(),
                    "status": self.status,
                    "revision": None if release is None else release.revision,
                    "digest": None if release is None else release.digest,
                    "started_at": self._started_at,
                    "in_flight": self.in_flight,
                    **({"region": self.region} if self.region else {}),
                    **self._told("lanes", self.lanes),
                    **self._told("quotas", self.quotas),
                    **self._told("ladders", self.ladders),
                },
                "acks": acks,
                "rollups": rollups,
                "usage": usage,
                "events": events,
                "streams": streams,
                "deliveries": deliveries,
                "samples": samples,
                "evidence": evidence,
                "exposures": exposures,
                "shadow": shadow,
                "shadow_samples": shadow_samples,
                "surfaces": surfaces,
                "surface_readings": surface_readings,
            }
        )

    def _told(self, name: str, tell: Callable[[], list[dict[str, Any]]] | None) -> dict[str, Any]:
        """One member of the state; absent when there is none to tell of."""
        if tell is None:
            return {}
        try:
            return {name: tell()}
        except Exception:  # the batch may hold rollups that nobody else has: they must not be lost with this
            log.exception("the %s of %s could not be told", name, self.worker)
            return {}
