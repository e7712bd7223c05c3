"""Doing work: once where that can be promised, again where it failed, never for ever."""

from __future__ import annotations

import threading

import pytest
from django.db import IntegrityError

from controlplane.accounts.models import Tenant
from controlplane.work import deaths, handlers, operations, runner
from controlplane.work.errors import GiveUp, LeaseLost
from controlplane.work.handlers import Handler
from controlplane.work.models import TRANSITIONS, Event, State, Task
from controlplane.work.sql import _state_after
from dataplane.deadletters import MAX_LAPSES, Category
from tests.factories import NOW, make_tenant
from tests.work.conftest import KIND, URGENT, age, sql


def fail(error):
    """A handler's will that raises."""

    def will(arguments):
        raise error

    return will


def only():
    return Task.objects.get()


def test_atomic_work_and_its_end_are_one_transaction(world):
    """What it wrote before it failed is not there; what it wrote in the end is there once."""

    def make_and_fail(arguments):
        make_tenant("made")
        raise ZeroDivisionError("half way")

    world.will = make_and_fail
    world.enqueue()
    world.run_next()
    assert (Tenant.objects.count(), only().state, only().failures) == (0, "queued", 1)
    [cause] = only().causes
    assert (cause["code"], cause["message"], cause["owner"]) == ("ZeroDivisionError", "half way", "w1")

    world.will = lambda arguments: make_tenant("made")
    age("not_before", "queued")
    world.run_next("w2")

    assert (Tenant.objects.count(), only().state, only().epoch) == (1, "done", 2)
    assert [attempt.number for attempt in world.attempts] == [1, 2]
    assert not world.run_next()


def test_whoever_lost_the_work_leaves_nothing_behind(world):
    """Its lease ran out while it was busy, and another has it: what it wrote is undone, and is no failure."""

    def lose(arguments):
        sql("UPDATE work_task SET epoch = epoch + 1, owner = 'w2'")
        make_tenant("by-the-first")

    world.will = lose
    world.enqueue()

    assert world.run_next("w1")

    assert (Tenant.objects.count(), only().failures, only().causes, world.deaths) == (0, 0, [], [])


def test_failures_are_told_to_nobody_but_their_owner(world):
    """One that comes late, of an epoch that is over, changes nothing."""
    world.enqueue()
    old = operations.take(owner="w1")
    assert operations.renew(old)
    age("lease_until", "running")
    operations.sweep(now=NOW, send=False)
    new = operations.take(owner="w2")

    assert not operations.renew(old)
    for late in (
        lambda: operations.fail(old, ZeroDivisionError(), rng=world.rng, now=NOW),
        lambda: operations.finish(old),
    ):
        with pytest.raises(LeaseLost):
            late()
    operations.finish(new)
    assert (only().state, only().epoch, world.deaths) == ("done", 2, [])


def test_work_that_keeps_failing_is_dead_in_the_end_and_told_of(world):
    """After as many attempts as its handler allows, with pauses in between, and with all that is known of it."""
    letter = operations.UUID(int=7)
    world.will = fail(TimeoutError("took 3 s"))
    task = world.enqueue(arguments={"a": 1}, tenant="acme", user_hash="u", key="k", redriven_from=letter)
    waits = []
    for _ in range(3):
        assert world.run_next()
        waits.append(only().not_before > only().taken_at)
        assert not world.run_next()
        if only().state == "queued":
            age("not_before", "queued")

    assert (only().state, waits[:2]) == ("dead", [True, True])
    [death] = world.deaths
    assert (death.kind, death.name, death.work_id, death.attempts) == ("errand", KIND, task, 3)
    assert (death.tenant, death.user_hash, death.key, death.redriven_from) == ("acme", "u", "k", letter)
    assert (death.failure.category, death.failure.code, death.payload) == (
        *(Category.TIMEOUT, "TimeoutError"),
        b'{"a":1}',
    )
    assert [cause["code"] for cause in death.causes] == ["TimeoutError"] * 3


def test_handler_gives_up_at_once_where_trying_again_cannot_help(world):
    world.will = fail(GiveUp("the address is gone", code="gone", category=Category.VALIDATION))
    world.enqueue()

    world.run_next()

    [death] = world.deaths
    assert (only().state, death.attempts, death.failure.code) == ("dead", 1, "gone")
    assert death.failure.category is Category.VALIDATION


def test_work_is_not_dead_where_its_letter_cannot_be_written(world):
    """The two are one transaction: it stays with whoever has it, and comes again when that one's lease is over."""
    world.will = fail(GiveUp("no", code="gone", category=Category.BUG))
    world.enqueue()

    def refuse(death, now):
        raise IntegrityError("no letter")

    deaths.register(refuse)
    try:
        with pytest.raises(IntegrityError):
            world.run_next()
    finally:
        deaths._undertakers.remove(refuse)

    assert (only().state, only().failures) == ("running", 0)


def test_unknown_kinds_wait_for_a_worker_that_knows_them(world):
    """A newer release may have handed it in: it fails and comes again, and dies only after many attempts."""
    world.enqueue()
    Task.objects.update(kind=KIND)  # the same: the kind of a row is fixed
    handler = handlers._handlers.pop(KIND)
    world.run_next()
    handlers.register(handler)

    assert (only().state, only().causes[0]["code"]) == ("queued", "unknown_kind")
    age("not_before", "queued")
    world.run_next()
    assert only().state == "done"


def test_work_that_its_workers_die_of_is_quarantined_while_other_work_goes_on(world):
    """So many in a row; an attempt that somebody lived to tell of puts an end to the row."""
    poison = world.enqueue(arguments={"poison": True})
    for round_of in (2, MAX_LAPSES):
        for lapses in range(1, round_of + 1):
            assert operations.take(owner=f"w{lapses}").id == poison
            age("lease_until", "running")
            assert operations.sweep(now=NOW, send=False) == 1
            if only().state == "queued":
                assert only().lapses == lapses
                age("not_before", "queued")
        if round_of == 2:
            world.will = fail(ZeroDivisionError())
            world.run_next()
            world.will = lambda arguments: None
            assert only().lapses == 0
            age("not_before", "queued")
    world.enqueue(arguments={"poison": False})
    assert world.run_next()

    assert world.done == [{"poison": False}]
    [death] = world.deaths
    assert (death.work_id, death.failure.category, death.failure.code) == (poison, Category.POISON, "poison")
    assert [cause["code"] for cause in death.causes] == ["lapsed"] * 2 + ["ZeroDivisionError"] + ["lapsed"] * 3
    assert (death.attempts, Task.objects.get(pk=poison).state) == (6, "dead")


def test_sweep_forgets_what_was_over_long_ago(world):
    """And nothing that may still be of use."""
    for _ in range(3):
        world.enqueue()
    world.run_next()
    assert operations.sweep(now=NOW, send=False) == 0

    sql("ALTER TABLE work_task DISABLE TRIGGER USER")
    sql("UPDATE work_task SET ended_at = now() - interval '8 d' WHERE state = 'done'")
    sql("ALTER TABLE work_task ENABLE TRIGGER USER")

    assert operations.sweep(now=NOW, send=False) == 1
    assert [task.state for task in Task.objects.all()] == ["queued", "queued"]


def test_one_word_is_enough_for_all_that_is_due(world):
    """Whoever is awake goes on until nothing is due, or until somebody else should have a turn."""
    for number in range(5):
        world.enqueue(arguments={"n": number})
    ticks = iter([0.0, 1.0, 2.0, 9.0, 0.0, 1.0, 2.0, 3.0])

    first = runner.run_due(rng=world.rng, now=lambda: NOW, clock=lambda: next(ticks))
    second = runner.run_due(rng=world.rng, now=lambda: NOW, clock=lambda: next(ticks))

    assert (first, second) == (3, 2)
    assert [told["n"] for told in world.done] == [0, 1, 2, 3, 4]


def test_work_that_is_not_atomic_is_done_and_noted_apart(world):
    """A handler that talks to others holds no transaction meanwhile."""
    seen = []
    handlers.register(
        Handler(KIND, lambda told, attempt: seen.append((told, operations.connection.in_atomic_block)), max_attempts=3)
    )
    world.enqueue(arguments={"a": 1})

    world.run_next()

    assert (only().state, [told for told, _ in seen]) == ("done", [{"a": 1}])


def test_subject_of_work_that_is_over_is_forgotten(world):
    """What is still to be done is not lost with it."""
    done, waits = world.enqueue(tenant="acme", user_hash="u"), None
    world.run_next()
    for tenant, user_hash in (("acme", "u"), ("acme", ""), ("globex", "u")):
        waits = world.enqueue(tenant=tenant, user_hash=user_hash)

    assert operations.forget_subject(tenant="acme", user_hash="u") == 1
    assert operations.forget_subject(tenant="acme", user_hash="") == 0
    assert done not in {task.pk for task in Task.objects.all()}
    assert waits in {task.pk for task in Task.objects.all()}


def test_the_table_takes_no_other_move_than_the_machine(world):
    """Whoever writes: a move that the table of moves lacks leads nowhere, and what is over stays as it ended."""
    for state in State:
        for event in Event:
            [[moved]] = sql(
                f"SELECT {_state_after('%s::text')} FROM (SELECT %s::text AS state) AS t",  # noqa: S608 - ours
                *[event.value] * len(TRANSITIONS),
                state.value,
            )
            assert moved == TRANSITIONS.get((state, event))
    world.enqueue()
    world.run_next()
    with pytest.raises(Exception, match="Cannot update"):
        Task.objects.update(state="queued", ended_at=None)


def test_what_is_urgent_does_not_stand_behind_the_rest(world):
    """Whoever is there for it takes nothing else, and whoever does all kinds takes it too, should nobody be there."""
    world.enqueue(arguments={"n": 1})
    world.enqueue(arguments={"n": 2}, kind=URGENT)
    world.enqueue(arguments={"n": 3}, kind=URGENT)

    assert world.run_next(is_urgent=True)
    assert world.run_next()
    assert world.run_next()
    assert not world.run_next(is_urgent=True)

    assert [one["n"] for one in world.done] == [2, 1, 3]


def test_work_that_takes_longer_than_its_handler_allows_ends_with_its_process(world):
    """What hangs cannot be asked to stop: its process goes, and its lease is for whoever comes next."""
    world.enqueue()
    taken = operations.take(owner="w1")
    seconds, ended = iter([0.0, 100.0]), threading.Event()

    with runner.Holding(taken, limit_seconds=60, seconds=0.001, clock=lambda: next(seconds), end=ended.set):
        was_ended = ended.wait(60)

    assert was_ended
    assert handlers.limit_of(KIND) == handlers.limit_of("nobody.knows") == handlers.LIMIT_SECONDS
