"""Durable work over real Celery workers that are killed, a broker that forgets, and messages that nobody can read."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dataplane.deadletters import MAX_LAPSES
from tests.end_to_end.chaos import Chaos
from tests.end_to_end.gateways import OwnRedis

pytestmark = [pytest.mark.end_to_end, pytest.mark.django_db]  # asks for the tables; what is written is committed

ERRANDS, POISON, SEED = 200, 40, 11


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    """A Redis that forgets everything when it is stopped."""
    broker = OwnRedis(tmp_path_factory.mktemp("chaos") / "redis")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def chaos(tmp_path_factory: pytest.TempPathFactory, keys_url: str, broker: OwnRedis) -> Iterator[Chaos]:
    """Two workers of two processes each, on this run's database."""
    directory = tmp_path_factory.mktemp("workers")
    chaos = Chaos(directory, environment=os.environ, database_url=keys_url, broker_url=broker.url)
    try:
        chaos.start_worker(0)
        chaos.start_worker(1)
        yield chaos
    finally:
        chaos.close()
        chaos.sql("DROP TABLE chaos_effect")


def test_every_errand_is_done_once_or_dead_although_workers_are_killed_and_the_broker_forgets(
    chaos: Chaos, broker: OwnRedis
) -> None:
    """What was handed in is done, with one effect, or dead, with a letter and no effect; a task that kills its worker
    is quarantined after three deliveries while the others go on; what nobody can read has its letter too.
    """
    killed_at = chaos.lose_worker_and_broker(broker, errands=ERRANDS, seed=SEED, poison=POISON)

    standing = chaos.standing()
    print(f"killed at {killed_at}, ended at {standing}")
    assert killed_at.done < ERRANDS
    assert standing.done + standing.dead + standing.in_flight == ERRANDS
    assert chaos.effects_of_done() == {1: standing.done}
    assert chaos.effects_of_others() == 0
    assert chaos.letters_without_a_death() == 0
    assert chaos.death_of(POISON) == ("dead", MAX_LAPSES, "poison")
    read = chaos.sql("SELECT category, name FROM deadletters_deadletter WHERE kind = 'message' ORDER BY category, name")
    assert read == [("bug", "nobody.has_it"), ("unserialisable", "unnamed"), *[("unserialisable", "work.run")] * 3]
