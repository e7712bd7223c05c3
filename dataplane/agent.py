"""The one agent of a host: takes releases that the control plane pushes, verifies them, and writes the release file.

Two ways lead here, because a push can be lost: a Celery broadcast (milliseconds), and a conditional GET every few
seconds. The agent is not trusted by the gateways: they verify the file again. What it refuses is reported and never
written.

What keeps an older release out: a release must be newer than the one on disk. Beside the release file stands a mark,
`<file>.mark`, with the highest revision and its digest ever accepted, so a release file that is lost or damaged does
not open the door to an old one that is sent again; losing both files does, and then any validly signed release is
accepted, as on a new host. Resetting a control plane so that its revisions start again means removing both, and
`<file>.trust`, in which is kept how signing keys changed: see `dataplane.trust`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from celery import Celery
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from kombu.common import Broadcast
from prometheus_client.core import GaugeMetricFamily

from dataplane.broker import NO_FIXUPS, WORKER, EagerAMQP, announce_connections
from dataplane.celery_vitals import Consuming, watch_consumer
from dataplane.documents import MalformedRelease, Node
from dataplane.process_metrics import Family
from dataplane.pulse import Pulse
from dataplane.readiness import OK, Dependency, redis_answers
from dataplane.release import (
    Envelope,
    Release,
    ReleaseRefused,
    StaleRevision,
    UnknownKey,
    parse_statements,
    verify,
)
from dataplane.release_trace import write_release_trace
from dataplane.report_metrics import report_families
from dataplane.reports import ReportShipper, Verdict
from dataplane.settings import AgentSettings, TracingSettings
from dataplane.span_metrics import span_families
from dataplane.stores.files import write_atomically
from dataplane.tracing import Tracing, read_traceparent
from dataplane.trust import merged, read_kept, read_trusted, trust_file, written
from dataplane.vitals import LOOP_SECONDS, Vitals, beat_while_turning
from dataplane.watcher import Acknowledge, claimed_revision

if TYPE_CHECKING:
    from dataplane.otel.process import ProcessTracing

PUSH_TASK: Final = "ballast.release.push"
PUSH_EXCHANGE: Final = "ballast.releases"

log = logging.getLogger("ballast.agent")


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest release that this host has accepted."""

    revision: int
    digest: str


class ReleaseKeeper:
    """Keeps one release file: accepts newer releases, refuses the rest. May be called from several threads."""

    def __init__(
        self,
        *,
        release_file: Path,
        trusted_keys_file: Path,
        acknowledge: Acknowledge,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._release_file = release_file
        self._mark_file = release_file.with_name(release_file.name + ".mark")
        self._trusted_keys_file = trusted_keys_file
        self._acknowledge = acknowledge
        self._lock = threading.Lock()
        self._refused: tuple[str, str] | None = None
        self.current: Release | None = None
        # The release offered last is signed with a key that this host does not know; it may have been away for long.
        self.lacks_key = False
        self._mark = self._read_mark()
        self._load()

    def receive(self, envelope: object) -> bool:
        """Take an envelope, as JSON text or parsed, from wherever it came. True when it was new, and is on disk now.

        A refusal is reported, once for each release and reason, and nothing else happens. The release on disk, received
        again, is no news.

        Raises:
            OSError: the release is good but the file cannot be written.
        """
        with self._lock:
            try:
                parsed = Envelope.from_json(envelope) if isinstance(envelope, str) else Envelope.from_mapping(envelope)
            except MalformedRelease as exc:
                self._refuse(0, "", exc)
                return False
            if self.current is not None and parsed.digest == self.current.digest:
                return False
            try:
                release = self._verify(parsed)
            except ReleaseRefused as exc:
                self.lacks_key = isinstance(exc, UnknownKey)
                self._refuse(claimed_revision(parsed), parsed.digest, exc)
                return False
            self.lacks_key = False
            self._note_trace(release)
            write_atomically(self._release_file, parsed.to_json().encode())
            # After the file, so that a crash in between leaves a mark that is too low: the file then speaks for itself.
            self._mark = Mark(release.revision, release.digest)
            mark = {"revision": release.revision, "digest": release.digest}
            write_atomically(self._mark_file, json.dumps(mark).encode())
            self.current = release
            self._refused = None
            # Last: what retires the key of the release before this one is heard of by gateways that have this one.
            self._keep(release.statements)
            log.info("release %d (%s) written", release.revision, release.digest[:12])
            return True

    def _note_trace(self, release: Release) -> None:
        """Let gateways go on with the trace that this release came by."""
        if self._tracing is not None:
            try:
                write_release_trace(self._release_file, digest=release.digest, traceparent=self._tracing.current)
            except OSError as exc:  # the release itself is tried all the same
                log.warning("the trace of release %d is not kept: %s", release.revision, exc)

    def learn(self, section: object) -> None:
        """Take statements about signing keys from wherever they came: each proves itself, or says nothing. For a host
        that was away while keys changed, and is offered a release that none of its keys signed.

        Raises:
            MalformedRelease: it is no such section.
            OSError: they cannot be written.
        """
        statements = parse_statements(Node(section, "$.trust"))
        with self._lock:
            self._keep(statements)
            self._refused = None  # the same release may be good now

    def _keep(self, statements: Sequence[Envelope]) -> None:
        try:
            kept = read_kept(self._release_file)
        except (OSError, ValueError) as exc:
            log.error("%s; it is written anew", exc)
            kept = ()
        together = merged(kept, statements)
        if together != kept:
            write_atomically(trust_file(self._release_file), written(together))
            log.info("%d statements about signing keys kept", len(together))

    def _verify(self, envelope: Envelope) -> Release:
        trusted: Mapping[str, Ed25519PublicKey] = {}
        try:
            trusted = read_trusted(self._trusted_keys_file, self._release_file)
        except (OSError, ValueError) as exc:
            log.error("trusted keys %s: %s", self._trusted_keys_file, exc)
        release = verify(envelope, trusted=trusted, current=self.current)
        mark = self._mark
        if mark is not None and (
            release.revision < mark.revision or (release.revision == mark.revision and release.digest != mark.digest)
        ):
            raise StaleRevision(offered=release.revision, serving=mark.revision)
        return release

    def _refuse(self, revision: int, digest: str, refusal: ReleaseRefused) -> None:
        if (digest, refusal.message) == self._refused:
            return
        self._refused = (digest, refusal.message)
        log.error("release refused: %s: %s", refusal.code, refusal)
        self._acknowledge(revision=revision, digest=digest, verdict="nack", reason=f"{refusal.code}: {refusal}")

    def _load(self) -> None:
        """Begin with what is on disk.

        A damaged file is reported in the log and left for the next release to replace.
        """
        try:
            data = self._release_file.read_bytes()
        except FileNotFoundError:
            return
        try:
            self.current = self._verify(Envelope.from_json(data))
            # A crash may have come between the release and what it says about keys.
            self._keep(self.current.statements)
        except ReleaseRefused as exc:
            log.error("release file %s is not usable: %s: %s", self._release_file, exc.code, exc)

    def _read_mark(self) -> Mark | None:
        try:
            content = json.loads(self._mark_file.read_bytes())
            return Mark(int(content["revision"]), str(content["digest"]))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as exc:
            log.error("mark %s is not usable, the release file alone counts: %r", self._mark_file, exc)
            return None


class Reconciler(threading.Thread):
    """Asks the control plane for the current release every few seconds, and at once when `wake` is called."""

    def __init__(
        self,
        *,
        receive: Callable[[object], bool],
        current_digest: Callable[[], str | None],
        learn: Callable[[object], None],
        lacks_key: Callable[[], bool],
        client: httpx.Client,
        url: str,
        interval_seconds: float,
        rng: random.Random,
        pulse: Pulse,
        tracing: Tracing | None = None,
    ) -> None:
        super().__init__(name="reconcile", daemon=True)
        self._tracing = tracing
        self._pulse = pulse
        self._receive = receive
        self._current_digest = current_digest
        self._learn = learn
        self._lacks_key = lacks_key
        self._client = client
        self._url = url
        self._interval_seconds = interval_seconds
        self._rng = rng
        self._waking = threading.Event()
        self._stopping = False
        self._failing = False

    def wake(self) -> None:
        """Ask now: a push may have been missed."""
        self._waking.set()

    def stop(self) -> None:
        """End the thread after the request under way."""
        self._stopping = True
        self._waking.set()

    def run(self) -> None:
        """Ask until stopped."""
        while not self._stopping:
            self._pulse.beat()
            try:
                self.reconcile()
            except Exception:  # an agent without its second way to a release would look healthy
                log.exception("reconciling failed")
            # A fifth of jitter both ways keeps a fleet that was started together from asking together.
            self._waking.wait(self._interval_seconds * self._rng.uniform(0.8, 1.2))
            self._waking.clear()

    def reconcile(self) -> bool:
        """Ask once. True when a new release was written.

        A control plane that is away, or has no release yet, is no error: the host serves what it has.
        """
        digest = self._current_digest()
        headers = {} if digest is None else {"If-None-Match": f'"{digest}"'}
        try:
            response = self._client.get(self._url, headers=headers)
        except httpx.HTTPError as exc:
            self._say_failing(f"{type(exc).__name__}: {exc}")
            return False
        if response.status_code in (304, 404):
            self._failing = False
            return False
        if response.status_code != 200:
            self._say_failing(f"status {response.status_code}")
            return False
        self._failing = False
        try:
            envelope = response.json()
        except ValueError as exc:
            self._say_failing(f"the answer is not JSON: {exc}")
            return False
        with self._traced(response):
            if self._receive(envelope):
                return True
        return self._lacks_key() and self._catch_up() and self._receive(envelope)

    def _traced(self, response: httpx.Response) -> AbstractContextManager[None]:
        """Part of the trace that the release was cut in, as the control plane says it in the answer's head."""
        parent = read_traceparent(response.headers.get("traceparent"))
        if self._tracing is None or not parent:
            return nullcontext()
        return self._tracing.span("fetch release", parent=parent, is_entry=True)

    def _catch_up(self) -> bool:
        """Ask how signing keys changed while this host was away. True when there was an answer."""
        try:
            response = self._client.get(f"{self._url.rpartition('/')[0]}/trust")
            if response.status_code == 200:
                self._learn(response.json())
                return True
            self._say_failing(f"how signing keys changed: status {response.status_code}")
        except (httpx.HTTPError, ValueError, ReleaseRefused) as exc:
            self._say_failing(f"how signing keys changed: {type(exc).__name__}: {exc}")
        return False

    def _say_failing(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            log.warning("cannot reconcile with %s: %s", self._url, reason)


class ReportThread(threading.Thread):
    """Runs the agent's ReportShipper on an event loop of its own, since Celery's worker has the main thread."""

    def __init__(self, shipper_factory: Callable[[], ReportShipper], *, pulse: Pulse) -> None:
        super().__init__(name="reports", daemon=True)
        self._pulse = pulse
        self._shipper_factory = shipper_factory
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._finish: asyncio.Event | None = None
        self._shipper: ReportShipper | None = None
        self._failure: OSError | None = None

    def start_and_wait(self) -> None:
        """Start, and come back when reports can be taken.

        Raises:
            OSError: the spool cannot be used.
        """
        self.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Ship until `stop`."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    def stop(self) -> None:
        """Ship what is left and end the thread."""
        if self._finish is not None and self.is_alive():
            self._loop.call_soon_threadsafe(self._finish.set)
            self.join()

    def acknowledge(self, *, revision: int, digest: str, verdict: Verdict, reason: str = "") -> None:
        """As `ReportShipper.ack`, from any thread."""
        shipper = self._require()
        self._loop.call_soon_threadsafe(
            lambda: shipper.ack(revision=revision, digest=digest, verdict=verdict, reason=reason)
        )

    def serve(self, release: Release | None) -> None:
        """Say in the next heartbeats which release is on disk, from any thread."""
        shipper = self._require()

        def update() -> None:
            shipper.serving = release
            shipper.set_status("serving")

        self._loop.call_soon_threadsafe(update)

    @property
    def shipper(self) -> ReportShipper | None:
        """Who ships; None before the thread has started."""
        return self._shipper

    def _require(self) -> ReportShipper:
        if self._shipper is None:
            raise RuntimeError("start_and_wait has not been called")
        return self._shipper

    async def _run(self) -> None:
        shipper = self._shipper_factory()
        self._finish = asyncio.Event()
        try:
            await shipper.start()
        except OSError as exc:
            self._failure = exc
            self._ready.set()
            return
        self._shipper = shipper
        self._ready.set()
        beating = asyncio.create_task(beat_while_turning(self._pulse), name="beat")
        await self._finish.wait()
        await shipper.stop()
        beating.cancel()


def build_app(*, broker_url: str, receive: Callable[[object], object], on_connect: Callable[[], None]) -> Celery:
    """The data plane's Celery application: one task, one broadcast queue, nothing kept.

    Args:
        receive: Takes a pushed envelope.
        on_connect: Called each time the worker begins to consume, at first and after every loss of the broker.
    """
    app = Celery("ballast-dataplane", broker=broker_url, amqp=EagerAMQP, set_as_current=False, fixups=NO_FIXUPS)
    app.conf.update(
        task_queues=(Broadcast(PUSH_EXCHANGE),),
        task_default_queue=PUSH_EXCHANGE,
        **WORKER,
        broker_transport_options={
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            # Celery gives the queue a routing key, and with patterns Redis' channel would be named after it: a sender
            # who gives none, as one does for a fanout, would not be heard.
            "fanout_patterns": False,
        },
    )

    @app.task(name=PUSH_TASK)
    def push(envelope: object) -> None:
        try:
            receive(envelope)
        except OSError:
            log.exception("a pushed release cannot be written; reconciling will try again")

    announce_connections(app, on_connect)
    return app


def run_agent(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises:
        OSError: the spool directory cannot be used, another agent of this host is running, or probes cannot be
        answered.
    """
    vitals = Vitals()
    vitals.serve(settings.health)
    tracing = None if settings.tracing is None else _open_tracing(settings.tracing)
    settings.release_file.parent.mkdir(parents=True, exist_ok=True)
    reports = ReportThread(
        lambda: ReportShipper(worker=settings.worker, kind="agent", host=settings.host_name, settings=settings.reports),
        pulse=vitals.pulse("reports"),
    )
    reports.start_and_wait()
    keeper = ReleaseKeeper(
        release_file=settings.release_file,
        trusted_keys_file=settings.trusted_keys_file,
        acknowledge=reports.acknowledge,
        tracing=tracing,
    )
    reports.serve(keeper.current)

    def receive(envelope: object) -> bool:
        accepted = keeper.receive(envelope)
        if accepted:
            reports.serve(keeper.current)
        return accepted

    reconciler: Reconciler | None = None
    if settings.console_url is not None:
        client = httpx.Client(
            headers={"Authorization": f"Bearer {settings.token}"}, timeout=settings.reconcile_timeout_seconds
        )
        reconciler = Reconciler(
            receive=receive,
            current_digest=lambda: None if keeper.current is None else keeper.current.digest,
            learn=keeper.learn,
            lacks_key=lambda: keeper.lacks_key,
            client=client,
            url=f"{settings.console_url.rstrip('/')}/api/v1/releases/current",
            interval_seconds=settings.reconcile_seconds,
            rng=random.Random(),  # noqa: S311  # jitter, not a secret
            # A turn is one pause and one question, each of its parts within the time-out.
            pulse=vitals.pulse(
                "reconcile", within_seconds=2 * settings.reconcile_seconds + 4 * settings.reconcile_timeout_seconds
            ),
            tracing=tracing,
        )
    app = build_app(
        broker_url=settings.broker_url,
        receive=receive,
        on_connect=lambda: None if reconciler is None else reconciler.wake(),
    )
    consuming = watch_consumer(app, vitals.pulse("consumer", within_seconds=LOOP_SECONDS))
    vitals.depend_on(_dependencies(keeper, consuming, redis_url=settings.reports.redis_url))
    vitals.expose(lambda: _agent_families(keeper, reports, tracing))
    if reconciler is not None:
        reconciler.start()
    vitals.begin()
    try:
        # One thread, no prefork, none of the chatter between workers: a start takes half a second, a push milliseconds.
        app.Worker(
            pool="solo",
            hostname=f"agent@{settings.host_name}",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            loglevel="WARNING",
        ).start()
    finally:
        if reconciler is not None:
            reconciler.stop()
        reports.stop()
        if tracing is not None:
            tracing.close()


def _open_tracing(settings: TracingSettings) -> ProcessTracing:
    # What only who traces is to load.
    from dataplane.otel.process import ProcessTracing
    from dataplane.otel.tasks import TaskTracing

    tracing = ProcessTracing(settings)
    TaskTracing(tracing).connect()
    return tracing


def _agent_families(keeper: ReleaseKeeper, reports: ReportThread, tracing: ProcessTracing | None) -> Iterator[Family]:
    yield GaugeMetricFamily(
        "ballast_agent_release_revision",
        "Revision of the release on disk; 0 while there is none.",
        value=0 if keeper.current is None else keeper.current.revision,
    )
    if reports.shipper is not None:
        yield from report_families(reports.shipper)
    if tracing is not None:
        yield from span_families(tracing.outbox)


def _dependencies(keeper: ReleaseKeeper, consuming: Consuming, *, redis_url: str | None) -> list[Dependency]:
    def release() -> str:
        return OK if keeper.current is not None else "no verified release on disk yet"

    found = [
        Dependency("release", release, needed=True, without="gateways of this host have nothing to serve"),
        Dependency(
            "broker", consuming.ask, needed=False, without="releases come by asking the console every few seconds"
        ),
    ]
    if redis_url is not None:
        without = "reports wait on disk, bounded"
        found.append(Dependency("redis", lambda: redis_answers(redis_url), needed=False, without=without))
    return found
