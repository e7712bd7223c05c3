"""A Celery consumer that buries messages nobody can read, where Celery would log and drop them.

Durable work comes by `operations.enqueue`, which refuses at once what cannot be kept. This is for what others put on
our queues: a body that is no JSON, or no task's; a task that nobody here has.
"""

import logging
import uuid
from typing import Any, Final

from celery.worker.consumer import Consumer as CeleryConsumer
from django.db import Error, connection, transaction
from django.utils import timezone

from controlplane.work import deaths
from dataplane.deadletters import Category, Failure, shortened
from dataplane.quorum import WithoutDelays

logger = logging.getLogger(__name__)

MESSAGE: Final = "message"
_PARTS: Final = 3  # of a body in Celery's protocol 2: arguments, keyword arguments, and what belongs together


class Consumer(CeleryConsumer):
    """See the module. Celery's setting `worker_consumer` names it."""

    Blueprint = WithoutDelays

    def create_task_handler(self, *arguments: Any, **named: Any) -> Any:
        """Look into each message before its task is asked for: Celery leaves that to a child process, in which a body
        that cannot be read is one more exception.
        """
        receive = super().create_task_handler(*arguments, **named)

        def on_task_received(message: Any) -> Any:
            try:
                body = message.decode()
            except Exception as exc:  # noqa: BLE001 - serialisers raise whatever they like
                return self.on_decode_error(message, exc)
            if "task" in (message.headers or {}) and not (isinstance(body, list | tuple) and len(body) == _PARTS):
                return self.on_decode_error(message, ValueError("the body is no list of arguments, options and links"))
            return receive(message)

        return on_task_received

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Bury a message whose body cannot be read."""
        self._bury(message, Failure(Category.UNSERIALISABLE, "unserialisable", shortened(str(exc))))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Bury a message that is of no task."""
        self._bury(message, Failure(Category.UNSERIALISABLE, "unserialisable", "the message names no task"))

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Bury a message that its task cannot be called with."""
        self._bury(message, Failure(Category.UNSERIALISABLE, "unserialisable", shortened(str(exc))))

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Bury a message of a task that this worker does not know."""
        self._bury(message, Failure(Category.BUG, "unknown_task", "no task of that name is registered here"))

    def _bury(self, message: Any, failure: Failure) -> None:
        """Write its letter, and only then take it off the queue: while the database is away it stays the broker's."""
        death = death_of(message, failure)
        try:
            with transaction.atomic():
                deaths.tell(death, now=timezone.now())
        except Error:
            logger.exception("message %s cannot be buried; the broker keeps it", death.work_id)
            return
        finally:
            connection.close()  # else children that are forked from here on would share it
        logger.error("message %s of %r is buried: %s", death.work_id, death.name, failure.message)
        message.ack_log_error(logger, self.connection_errors)  # type: ignore[attr-defined]  # the stubs lack it


def death_of(message: Any, failure: Failure) -> deaths.Death:
    """What a message that failed comes to. Delivered again, it has the same id."""
    headers = message.headers or {}
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode("utf-8", "replace")
    return deaths.Death(
        kind=MESSAGE,
        name=str(headers.get("task") or "unnamed")[:120],
        work_id=_id_of(headers.get("id"), message),
        failure=failure,
        payload=body,
        attempts=1,
        causes=[
            {
                "at": timezone.now().isoformat(),
                "owner": str(headers.get("origin") or "")[:200],
                "code": failure.code,
                "message": failure.message,
                "status": 0,
            }
        ],
    )


def _id_of(told: object, message: Any) -> uuid.UUID:
    try:
        return uuid.UUID(str(told))
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{message.delivery_tag}")
