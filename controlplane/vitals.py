"""How the control plane's processes that are no server are probed: ingest, capture, index, Celery's workers, its beat.

They do nothing for anybody without PostgreSQL, so they are not ready while it is away; they live on, and go on by
themselves when it is back.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from celery import Celery
from celery.beat import PersistentScheduler
from celery.signals import beat_init, worker_init, worker_process_init, worker_shutting_down
from django.conf import settings
from django.db import connections
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from psycopg.conninfo import make_conninfo

from controlplane import figures
from dataplane.celery_vitals import watch_consumer
from dataplane.process_metrics import Family
from dataplane.pulse import Pulse
from dataplane.readiness import Dependency, broker_answers, postgres_answers, redis_answers
from dataplane.vitals import Vitals

# A tick sends what is due, one message, and sleeps for two seconds at most; a broker that is away takes its time-outs.
BEAT_SECONDS: Final = 60.0
# Of the console's own process, which answers at its own port.
CONSOLE: Final = Vitals()
_CONNECTING: Final = frozenset({"host", "port", "dbname", "user", "password", "sslmode", "sslrootcert", "options"})


def serve_vitals(*, needs: Sequence[Dependency] = ()) -> Vitals:
    """Answer probes where the settings say, if they do, for a process that needs PostgreSQL and what `needs` says.

    Raises:
        OSError: the address cannot be bound.
    """
    vitals = Vitals()
    vitals.depend_on([database(), *needs])
    vitals.serve(settings.HEALTH_ADDRESS)
    return vitals


def database() -> Dependency:
    """PostgreSQL, over a connection of its own: Django's are their threads'."""
    return Dependency("postgresql", _database_answers, needed=True, without="nothing is taken up")


def reports_redis() -> Dependency:
    """The Redis that reports come by."""
    return Dependency("redis", lambda: redis_answers(settings.REDIS_URL), needed=True, without="no report comes in")


def live_redis() -> Dependency:
    """The Redis that pages are told by."""
    return Dependency("redis", lambda: redis_answers(settings.REDIS_URL), needed=False, without="pages poll")


def _database_answers() -> str:
    given = connections["default"].get_connection_params()
    return postgres_answers(make_conninfo(**{name: given[name] for name in _CONNECTING & given.keys()}))


def watch_celery(app: Celery) -> None:
    """Have workers and beats of `app` answer probes."""
    vitals = Vitals()
    consuming = watch_consumer(app, vitals.pulse("consumer"))

    def begin_worker(**_: object) -> None:
        broker = Dependency("broker", consuming.ask, needed=True, without="no word of work is heard")
        vitals.depend_on([database(), broker, live_redis()])
        vitals.expose(task_families)
        vitals.serve(settings.HEALTH_ADDRESS)
        vitals.begin()

    def begin_beat(sender: Any, **_: object) -> None:
        ticking = Vitals()
        ticking.depend_on(
            [
                Dependency(
                    "broker",
                    lambda: broker_answers(settings.CELERY_BROKER_URL),
                    needed=True,
                    without="nothing is sent that is due",
                )
            ]
        )
        # There is one beat, so what is true of the deployment as a whole is shown by it, and by nobody else.
        ticking.expose(figures.families)
        if isinstance(sender.scheduler, Scheduler):
            sender.scheduler.be_watched(ticking.pulse("tick", within_seconds=BEAT_SECONDS))
        ticking.serve(settings.HEALTH_ADDRESS)
        ticking.begin()

    def leave(**_: object) -> None:
        vitals.leave_to_parent()

    def drain(**_: object) -> None:
        vitals.drain()

    worker_init.connect(begin_worker, weak=False)
    worker_process_init.connect(leave, weak=False)
    worker_shutting_down.connect(drain, weak=False)
    beat_init.connect(begin_beat, weak=False)


def task_families() -> Iterator[Family]:
    """What a worker does and has done, by its first process' own count."""
    # What only a worker has loaded.
    from celery.worker import state

    from controlplane.task_metrics import TASKS

    begun = CounterMetricFamily("ballast_worker_tasks", "Tasks that a worker has begun.", labels=["task"])
    for name, number in list(state.total_count.items()):
        begun.add_metric([str(name)], number)
    yield begun
    yield GaugeMetricFamily("ballast_worker_tasks_active", "Tasks under way.", value=len(state.active_requests))
    yield GaugeMetricFamily(
        "ballast_worker_tasks_waiting",
        "Tasks that a worker has taken and not begun.",
        value=max(0, len(state.reserved_requests) - len(state.active_requests)),
    )
    yield from TASKS.families()


class Scheduler(PersistentScheduler):
    """Celery's own, stamping a pulse at each tick. Celery's setting `beat_scheduler` names it."""

    _pulse: Pulse | None = None

    def be_watched(self, pulse: Pulse) -> None:
        """Stamp this one from now on."""
        self._pulse = pulse

    def tick(self, *arguments: Any, **named: Any) -> float:
        """As Celery's."""
        if self._pulse is not None:
            self._pulse.beat()
        return float(super().tick(*arguments, **named))

    def _ensure_connected(self) -> Any:  # the stubs lack it
        # Waits for its first connection, for as long as there is no broker.
        if self._pulse is not None:
            self._pulse.rest()
        return super()._ensure_connected()  # type: ignore[misc]  # as above
