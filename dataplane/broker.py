"""How the data plane's Celery nodes hold on to their broker: it may be away for any time, and is tried again soon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from celery import Celery, bootsteps
from celery.app.amqp import AMQP
from kombu import Connection

BROKER_RETRY_SECONDS: Final = 0.5

# Where DJANGO_SETTINGS_MODULE is set, Celery would set Django up in any node, and with it the whole control plane.
NO_FIXUPS: Final[list[str]] = []

# What every node is told: nothing is kept, and nothing is said that nobody listens to.
WORKER: Final[Mapping[str, Any]] = {
    "task_ignore_result": True,
    "accept_content": ["json"],
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_prefetch_multiplier": 1,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_connection_timeout": 2,
}


class EagerConnection(Connection):
    """A broker connection that is tried again every half second; kombu's own pause grows to 30 s."""

    def ensure_connection(
        self,
        errback: Any = None,
        max_retries: Any = None,
        interval_start: float = BROKER_RETRY_SECONDS,
        interval_step: float = 0,
        interval_max: float = BROKER_RETRY_SECONDS,
        callback: Any = None,
        reraise_as_library_errors: bool = True,
        timeout: Any = None,
    ) -> Any:
        return super().ensure_connection(
            errback,
            max_retries,
            interval_start,  # type: ignore[arg-type]  # the stubs say int, kombu sleeps any number of seconds
            interval_step,  # type: ignore[arg-type]
            interval_max,  # type: ignore[arg-type]
            callback,
            reraise_as_library_errors,
            timeout,
        )


class EagerAMQP(AMQP):
    Connection = EagerConnection


def announce_connections(app: Celery, on_connect: Callable[[], None]) -> None:
    """Have `on_connect` called each time the worker begins to consume, at first and after every loss of the broker."""

    class AnnounceConnection(bootsteps.StartStopStep):
        """Runs after the consumer has subscribed, so that nothing falls between the asking and the listening."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: object) -> None:
            on_connect()

    app.steps["consumer"].add(AnnounceConnection)
