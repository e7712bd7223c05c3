"""Two plans for the same letters, and two workers at each of them: real connections, real threads."""

from __future__ import annotations

import pytest
from obstore.store import MemoryStore

from controlplane.deadletters import execution
from controlplane.deadletters.models import DeadLetter, Group
from controlplane.ledger.jobs import Job
from dataplane.stores.payloads import KEY_BYTES, ObjectPayloadStore, PayloadKeys
from tests.deadletters.redrives import fail_job, make_ground, plan_for
from tests.factories import crew
from tests.rollouts.test_at_the_same_time import at_once

pytestmark = pytest.mark.django_db(transaction=True)
LETTERS, MOST_TURNS = 8, 30


def test_work_is_handed_in_once_whoever_does_it():
    """Each letter is in both plans and each step is taken twice; each has one job all the same, and the groups' counts
    are those of the letters.
    """
    key = make_ground()
    letters = [fail_job(key) for _ in range(LETTERS)]
    store = ObjectPayloadStore(MemoryStore(), PayloadKeys([b"k" * KEY_BYTES]))
    first, second = (
        plan_for(letters, store, edit=edit, canary_letters=1, per_minute=6000, most_per_minute=6000)
        for edit in (None, {"merge": {"temperature": 0}})
    )
    first.start()
    second.start(crew.approver_one)

    for _ in range(MOST_TURNS):
        for made in (first, second):
            made.fresh()
            made.clock.advance(5)
        if first.plan.is_over and second.plan.is_over:
            break
        acts = [
            lambda made=made: execution.take_step(made.plan.pk, made.plan.step, store=store, now=made.clock)
            for made in (first, second, first, second)
        ]
        results = at_once(*acts)
        assert [result for result in results if isinstance(result, Exception)] == []
        first.end_jobs()
        second.end_jobs()

    handed_in = list(Job.objects.filter(redriven_from__isnull=False).values_list("redriven_from", flat=True))
    assert sorted(handed_in) == sorted(letter.pk for letter in letters)
    assert sorted(first.states() + second.states()) == ["done"] * LETTERS + ["skipped"] * LETTERS
    assert {first.fresh().state, second.fresh().state} == {"done"}
    assert {letter.state for letter in DeadLetter.objects.all()} == {"resolved"}
    assert Group.objects.get().open == 0
