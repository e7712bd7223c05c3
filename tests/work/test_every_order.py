"""Work under events in any order: owners that die, wake, fail and finish, and sweeps in between."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from controlplane.work import operations
from controlplane.work.errors import LeaseLost
from controlplane.work.models import OVER, Task
from dataplane.deadletters import MAX_LAPSES
from tests.factories import NOW
from tests.work.conftest import age, sql

STEPS = 120
# The row lapses counted, or its failures, before it was dead.
MAX_ATTEMPTS = 3


@pytest.mark.parametrize("seed", range(4))
def test_each_piece_of_work_ends_once_and_each_death_is_told(world, seed):
    """Done or dead, never both, never twice; of what is dead, and of nothing else, somebody was told; nothing that an
    owner of an earlier epoch says counts.
    """
    rng = Random(seed)
    tasks = [world.enqueue() for _ in range(8)]
    held, ends = [], Counter()

    def finish(taken):
        operations.finish(taken)
        ends[taken.id] += 1

    def fail(taken):
        operations.fail(taken, ZeroDivisionError(), rng=rng, now=NOW)

    for _ in range(STEPS):
        match rng.randrange(8):
            case 0 | 1 | 2:
                taken = operations.take(owner=rng.choice("ab"))
                if taken is not None:
                    held.append(taken)
            case 3 | 4 if held:
                taken = rng.choice(held)
                try:
                    rng.choice([finish, fail, fail])(taken)
                except LeaseLost:
                    continue
            case 5:
                age("not_before", "queued")
            case 6 if held:
                operations.renew(rng.choice(held))
            case _:
                sql(
                    "UPDATE work_task SET lease_until = now() - interval '1 h'"
                    " WHERE state = 'running' AND get_byte(uuid_send(id), 15) %% 2 = %s",
                    rng.randrange(2),
                )
                operations.sweep(now=NOW, send=False)
        for task in Task.objects.exclude(state__in=OVER):
            assert task.failures < MAX_ATTEMPTS
            assert task.lapses < MAX_LAPSES

    for _ in range(2 * MAX_LAPSES):
        age("lease_until", "running")
        operations.sweep(now=NOW, send=False)
        age("not_before", "queued")
        while taken := operations.take(owner="c"):
            finish(taken)

    states = dict(Task.objects.values_list("pk", "state"))
    dead = sorted(task for task, state in states.items() if state == "dead")
    assert set(states) == set(tasks)
    assert set(states.values()) <= set(OVER)
    assert sorted(death.work_id for death in world.deaths) == dead
    assert ends == Counter(task for task, state in states.items() if state == "done")
