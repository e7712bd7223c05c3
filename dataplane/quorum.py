"""How Celery keeps its queues at a RabbitMQ. At Redis, which has one kind of queue, none of this says anything.

Queues that outlive their consumers are quorum queues, replicated over the nodes of a cluster: classic ones are on one
node each, and away with it. An agent's own queue, which goes with the agent, stays classic: a broadcast that nobody
hears is made up for by asking. What goes with quorum queues:

- They know no prefetch for all consumers of a channel; Celery finds that out by the queues it knows, and sets it for
each. - Celery would make 28 queues and as many exchanges for tasks that are to wait. Nothing here is sent to wait at
  the broker (the database says what is due when), so that step is left out.
- A queue cannot change its kind: who declares it otherwise is refused. So senders and workers are told alike.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from celery.worker.consumer import Consumer

AMQP_SCHEMES: Final = frozenset({"amqp", "amqps", "pyamqp"})
# A broker that says nothing any more: nobody waits for it as for one that is away.
WRITE_SECONDS: Final = 5
READ_SECONDS: Final = 10
QUORUM: Final = {"x-queue-type": "quorum"}


def is_rabbitmq(broker_url: str) -> bool:
    """Whether a broker is one, by its address."""
    return urlsplit(broker_url).scheme in AMQP_SCHEMES


def queue_settings(broker_url: str) -> dict[str, Any]:
    """Celery's settings for queues that are shared and kept, in its lower-case names; none for Redis."""
    if not is_rabbitmq(broker_url):
        return {}
    return {
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_type": "quorum",
        # A connection that was kept is not known to be broken until something is sent by it, and what was sent is lost:
        # once more, by a new one. Redis' client does as much by itself.
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
        "broker_transport_options": {"write_timeout": WRITE_SECONDS},
    }


def publisher_settings(broker_url: str) -> dict[str, Any]:
    """The same for a process that sends and never consumes: it waits for an answer no longer than this. A consumer may
    not be told so: for it, nothing to read for so long is an ordinary day.
    """
    settings = queue_settings(broker_url)
    if settings:
        settings["broker_transport_options"]["read_timeout"] = READ_SECONDS
    return settings


class WithoutDelays(Consumer.Blueprint):  # type: ignore[misc, valid-type]  # the stubs say it is a variable
    """The steps of Celery's consumer but the one that makes queues to wait in."""

    default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]


class PlainConsumer(Consumer):
    """Celery's, without queues to wait in. Celery's setting `worker_consumer` names it."""

    Blueprint = WithoutDelays
