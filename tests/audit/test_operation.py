import asyncio
import contextvars
from threading import Thread

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent
from tests.factories import NOW


@audit.operation
def note(action, *, fail=False):
    """An operation that records one event."""
    audit.record(action, actor="ada", target="thing:1", at=NOW)
    if fail:
        raise LookupError(action)


def close_own_connection():
    """Close the calling thread's connection, so that the test database can go."""
    connection.close()


def actions():
    return list(AuditEvent.objects.order_by("seq").values_list("action", flat=True))


@pytest.mark.django_db
def test_a_failed_operation_leaves_no_event():
    """What did not happen is not recorded."""
    with pytest.raises(LookupError):
        note("broken", fail=True)

    assert actions() == []


@pytest.mark.django_db
def test_an_inner_operation_that_fails_leaves_nothing_though_it_is_caught():
    """Each operation keeps its promise that nothing was changed, whatever its caller makes of the exception."""

    @audit.operation
    def outer():
        note("before")
        with pytest.raises(LookupError):
            note("broken", fail=True)
        note("after")

    outer()

    assert actions() == ["before", "after"]
    assert audit.verify().findings == ()


@pytest.mark.django_db
def test_finishers_run_once_at_the_end_of_the_outermost_operation():
    """Several requests under one key are one; a finisher may ask for another."""
    ran = []

    @audit.operation
    def inner():
        audit.before_commit("release", lambda: ran.append("second request"))
        assert ran == []

    @audit.operation
    def outer():
        audit.before_commit("release", first)
        inner()

    def first():
        ran.append("release")
        audit.before_commit("mail", lambda: ran.append("mail"))

    outer()

    assert ran == ["release", "mail"]


@pytest.mark.django_db
def test_a_finisher_that_fails_undoes_the_operation():
    """A state whose release cannot be cut is never committed."""

    @audit.operation
    def unlucky():
        note("done")
        audit.before_commit("release", lambda: note("release", fail=True))

    with pytest.raises(LookupError):
        unlucky()

    assert actions() == []


@pytest.mark.django_db
def test_nothing_is_deferred_or_stepped_into_outside_an_operation():
    """Nobody would ever finish it."""
    with pytest.raises(RuntimeError, match="outside an operation"):
        audit.before_commit("release", lambda: None)
    with pytest.raises(RuntimeError, match="call the operation"):
        audit.require_operation()


@pytest.mark.django_db(transaction=True)
def test_recording_outside_a_transaction_is_refused():
    """An event in autocommit could outlive the change that it speaks of."""
    with pytest.raises(RuntimeError, match="outside a transaction"):
        audit.record("loose", actor="ada", target="thing:1", at=NOW)

    assert actions() == []


@pytest.mark.django_db(transaction=True)
def test_a_context_copied_into_a_thread_does_not_carry_the_operation():
    """The thread has another connection: its operation must wait for the chain and commit by itself."""
    copied = []

    @audit.operation
    def outer():
        copied.append(contextvars.copy_context())
        note("outer")

    def elsewhere():
        try:
            copied[0].run(note, "elsewhere")
        finally:
            close_own_connection()

    outer()
    thread = Thread(target=elsewhere)
    thread.start()
    thread.join(60)

    assert actions() == ["outer", "elsewhere"]
    assert audit.verify().findings == ()


@pytest.mark.django_db(transaction=True)
def test_a_context_that_outlives_its_operation_is_not_inside_it():
    """A task started inside an operation and run after it opens its own transaction."""
    copied = []

    @audit.operation
    def outer():
        copied.append(contextvars.copy_context())

    outer()

    with pytest.raises(LookupError):
        copied[0].run(note, "late", fail=True)
    assert actions() == []


@pytest.mark.django_db(transaction=True)
def test_operations_called_from_async_code_keep_one_chain():
    """Consumers and async views call operations through sync_to_async, at the same time and from many tasks."""

    async def everybody():
        await asyncio.gather(*(sync_to_async(note)(f"task {number}") for number in range(8)))
        await sync_to_async(close_own_connection)()

    asyncio.run(everybody())

    assert sorted(actions()) == [f"task {number}" for number in range(8)]
    assert audit.verify().findings == ()


@pytest.mark.django_db(transaction=True)
def test_chain_survives_concurrent_writers():
    """Eight connections write at once: every event is there, in one order, none lost and none twice."""
    failures = []

    def write(number):
        try:
            for turn in range(5):
                note(f"writer {number} turn {turn}")
        except Exception as exc:  # noqa: BLE001 - handed to the test's own thread
            failures.append(exc)
        finally:
            close_own_connection()

    threads = [Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert sorted(AuditEvent.objects.values_list("seq", flat=True)) == list(range(1, 41))
    assert len(set(actions())) == 40
    assert audit.verify().findings == ()
