"""A runner of jobs as a Celery node: word of a job comes by the broker, everything else is in the database.

Celery's threads wait for the runner, which lives on an event loop of its own. Word that comes twice, or never, changes
nothing but the time until somebody looks: what a node had not begun when it died is sent again once its leases have
run out, what a broker may have lost when a node is connected to it again, and a runner that hears nothing for some
seconds looks by itself. So word is acknowledged when it comes, not when the job is done: late would add nothing to
that, and a node that lost its broker while its threads were busy would more often stay deaf afterwards, since it could
not acknowledge any more and never asks again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import httpx
from celery import Celery
from celery.signals import worker_shutting_down

from dataplane.broker import NO_FIXUPS, WORKER, EagerAMQP, announce_connections
from dataplane.celery_vitals import watch_consumer
from dataplane.cursors import CursorKeys
from dataplane.job_runner import LOST_SECONDS, JobRunner
from dataplane.pulse import Pulse
from dataplane.quorum import publisher_settings, queue_settings
from dataplane.readiness import Dependency, postgres_answers
from dataplane.settings import RunnerSettings, TracingSettings
from dataplane.span_metrics import span_families
from dataplane.stores.jobs import PostgresJobStore
from dataplane.vitals import Vitals, beat_while_turning

if TYPE_CHECKING:
    from dataplane.otel.process import ProcessTracing

RUN_TASK: Final = "ballast.jobs.run"
QUEUE: Final = "ballast.jobs"
CONNECT_SECONDS: Final = 2

T = TypeVar("T")
log = logging.getLogger("ballast.jobs")


class LoopThread(threading.Thread):
    """An event loop that other threads give work to."""

    def __init__(self, *, pulse: Pulse) -> None:
        super().__init__(name="jobs", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._pulse = pulse

    def run(self) -> None:
        """Turn until `close`."""
        asyncio.set_event_loop(self._loop)
        beating = self._loop.create_task(beat_while_turning(self._pulse), name="beat")
        self._loop.run_forever()
        beating.cancel()
        self._loop.run_until_complete(asyncio.gather(beating, return_exceptions=True))
        self._loop.close()

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` on the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()


def build_app(*, broker_url: str, run: Callable[[UUID], object], on_connect: Callable[[], None]) -> Celery:
    """The Celery application of a runner: one task, one queue, nothing kept.

    Args:
        run: Tries the next job; is told of which job word came.
        on_connect: Called each time the worker begins to consume, at first and after every loss of the broker.
    """
    app = Celery("ballast-jobs", broker=broker_url, amqp=EagerAMQP, set_as_current=False, fixups=NO_FIXUPS)
    app.conf.update(_conf(broker_url))

    @app.task(name=RUN_TASK, acks_late=False)  # see the module
    def run_job(job_id: str) -> None:
        run(UUID(job_id))

    announce_connections(app, on_connect)
    return app


def build_sender(broker_url: str) -> Celery:
    """What word is sent with: it gives up at once when the broker is away, since word is sent again anyway."""
    app = Celery("ballast-jobs-sender", broker=broker_url, set_as_current=False, fixups=NO_FIXUPS)
    app.conf.update(_conf(broker_url) | {"task_publish_retry": False} | publisher_settings(broker_url))
    return app


def _conf(broker_url: str) -> dict[str, Any]:
    return {
        **WORKER,
        "task_default_queue": QUEUE,
        # Else a node that loses the broker while its threads are busy asks for less afterwards, down to nothing.
        "worker_enable_prefetch_count_reduction": False,
        "broker_transport_options": {
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": 10,
            "socket_keepalive": True,
        },
        "worker_consumer": "dataplane.quorum:PlainConsumer",
        **queue_settings(broker_url),
    }


def send_word(sender: Celery, jobs: Sequence[UUID]) -> None:
    """Send word of jobs, in their order. Raises whatever the broker's client does; then some may have been sent."""
    for job in jobs:
        sender.send_task(RUN_TASK, args=[str(job)], queue=QUEUE, expires=LOST_SECONDS)


def run_jobs(settings: RunnerSettings, *, keys: CursorKeys) -> None:
    """Run jobs until SIGTERM or SIGINT. `keys` sign what the gateways are shown.

    Raises:
        OSError: probes cannot be answered where the settings say.
    """
    vitals = Vitals()
    vitals.serve(settings.health)
    tracing = None if settings.tracing is None else _open_tracing(settings.tracing)
    if tracing is not None:
        outbox = tracing.outbox
        vitals.expose(lambda: span_families(outbox))
    loop = LoopThread(pulse=vitals.pulse("jobs"))
    loop.start()
    sender = build_sender(settings.broker_url)

    async def send(jobs: Sequence[UUID]) -> None:
        await asyncio.to_thread(send_word, sender, jobs)

    async def begin() -> tuple[JobRunner, httpx.AsyncClient]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=settings.concurrency)
        client = httpx.AsyncClient(base_url=settings.gateway_url, limits=limits, trust_env=False)
        runner = JobRunner(
            store=PostgresJobStore(settings.database_url),
            client=client,
            keys=keys,
            send=send,
            owner=f"{settings.host_name}/jobs/{uuid.uuid4().hex}",
            concurrency=settings.concurrency,
            keep_seconds=settings.keep_seconds,
            clock=time.monotonic,
            wall=time.time,
            rng=Random(),  # noqa: S311  # jitter, not a secret
            tracing=tracing,
        )
        await runner.start()
        return runner, client

    runner, client = loop.wait_for(begin())
    app = build_app(
        broker_url=settings.broker_url,
        run=lambda job: loop.wait_for(runner.run_next(sent=job)),
        on_connect=lambda: loop.wait_for(runner.resend()),
    )

    consuming = watch_consumer(app, vitals.pulse("consumer"))
    vitals.depend_on(
        [
            Dependency(
                "postgresql",
                lambda: postgres_answers(settings.database_url),
                needed=True,
                without="no job is taken up; what is under way is written down when it is back",
            ),
            Dependency("broker", consuming.ask, needed=False, without="jobs are looked for every few seconds"),
        ]
    )
    vitals.begin()

    def put_back(**_: object) -> None:
        vitals.drain()
        # Before Celery waits for its threads, which wait for the jobs.
        threading.Thread(target=loop.wait_for, args=(runner.stop(),), name="putting-back", daemon=True).start()

    worker_shutting_down.connect(put_back, weak=False)
    try:
        app.Worker(
            pool="threads",
            concurrency=settings.concurrency,
            hostname=f"jobs@{settings.host_name}-{uuid.uuid4().hex[:8]}",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            loglevel="WARNING",
        ).start()
    finally:
        worker_shutting_down.disconnect(put_back)
        loop.wait_for(runner.stop())
        loop.wait_for(client.aclose())
        loop.close()
        if tracing is not None:
            tracing.close()


def _open_tracing(settings: TracingSettings) -> ProcessTracing:
    from dataplane.otel.process import ProcessTracing  # what only who traces is to load

    return ProcessTracing(settings)
