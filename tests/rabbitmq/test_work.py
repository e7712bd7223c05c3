"""Durable work whose word goes by RabbitMQ: a worker is killed, and the broker goes away and comes back."""

import os
from collections.abc import Iterator

import pytest

from dataplane.deadletters import MAX_LAPSES
from tests.end_to_end.chaos import CONTROL_QUEUE, WORK_QUEUE, Chaos
from tests.rabbitmq.broker import Broker

pytestmark = [pytest.mark.rabbitmq, pytest.mark.django_db]  # asks for the tables; what is written is committed

ERRANDS, POISON, SEED = 120, 40, 11


@pytest.fixture
def chaos(tmp_path_factory: pytest.TempPathFactory, keys_url: str, rabbitmq: Broker) -> Iterator[Chaos]:
    """Two workers of two processes each, on this run's database."""
    directory = tmp_path_factory.mktemp("workers")
    chaos = Chaos(directory, environment=os.environ, database_url=keys_url, broker_url=rabbitmq.url)
    try:
        chaos.start_worker(0)
        chaos.start_worker(1)
        yield chaos
    finally:
        chaos.close()
        chaos.sql("DROP TABLE chaos_effect")


def test_every_errand_is_done_once_or_dead_although_a_worker_is_killed_and_the_broker_restarted(
    chaos: Chaos, rabbitmq: Broker
) -> None:
    """As on Redis: what was handed in is done once, or dead with a letter; what kills workers is quarantined; what
    nobody can read has its letter; and the queues are replicated ones, without Celery's queues to wait in.
    """
    killed_at = chaos.lose_worker_and_broker(rabbitmq, errands=ERRANDS, seed=SEED, poison=POISON)

    standing = chaos.standing()
    assert killed_at.done < ERRANDS
    assert standing.done + standing.dead == ERRANDS
    assert chaos.effects_of_done() == {1: standing.done}
    assert chaos.effects_of_others() == 0
    assert chaos.letters_without_a_death() == 0
    assert chaos.death_of(POISON) == ("dead", MAX_LAPSES, "poison")
    queues = rabbitmq.server.queues()
    assert (queues[CONTROL_QUEUE], queues[WORK_QUEUE]) == ("quorum", "quorum")
    assert [name for name in queues if "delayed" in name] == []
