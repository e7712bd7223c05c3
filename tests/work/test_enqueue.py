"""Handing work in: kept with what else is written, refused at once if it could not be."""

from __future__ import annotations

import datetime
import enum
import math
import uuid

import pytest
from django.db import transaction

from controlplane.work.arguments import MAX_BYTES
from controlplane.work.errors import ArgumentsTooLarge, KeyTaken, UnknownKind, UnserialisableArguments
from controlplane.work.models import Task
from tests.factories import NOW
from tests.work.conftest import KIND


class Word(enum.StrEnum):
    YES = "yes"


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_work_is_handed_in_with_the_transaction_or_not_at_all(world, django_capture_on_commit_callbacks):
    """What is undone hands nothing in and sends no word; what is committed does both."""
    with django_capture_on_commit_callbacks() as words:
        with transaction.atomic():
            world.enqueue()
            transaction.set_rollback(True)
        assert Task.objects.count() == 0
        task = world.enqueue(arguments={"a": [1, 2.5, None, True, {"ü": "\x00"}]}, tenant="acme")

    assert len(words) == 1
    assert Task.objects.get().pk == task
    world.run_next()
    assert world.done == [{"a": [1, 2.5, None, True, {"ü": "\x00"}]}]
    [attempt] = world.attempts
    assert (attempt.id, attempt.key, attempt.number, attempt.tenant, attempt.kind) == (
        *(task, str(task)),
        *(1, "acme", KIND),
    )


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (NOW, r"\$\.a\[0\]"),
        (datetime.timedelta(seconds=1), r"\$\.a\[0\]"),
        (uuid.uuid4(), r"\$\.a\[0\]"),
        (b"bytes", r"\$\.a\[0\]"),
        ({"x"}, r"\$\.a\[0\]"),
        ((1, 2), r"\$\.a\[0\]"),
        (Word.YES, r"\$\.a\[0\]"),
        (math.nan, r"\$\.a\[0\]"),
        (math.inf, r"\$\.a\[0\]"),
        ({1: "x"}, r"\$\.a\[0\]"),
        ({"b": object()}, r"\$\.a\[0\]\.b"),
        ("\ud800", r"\$"),
        (nested(100), r"\$\.a\[0\]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_that_would_not_come_back_are_refused_and_named(world, value, path):
    """When they are handed in, where somebody can do something about it; what they hold is not shown."""
    with pytest.raises(UnserialisableArguments, match=f"kind '{KIND}'.*{path}"):
        world.enqueue(arguments={"a": [value]})
    assert Task.objects.count() == 0


def test_large_arguments_and_work_that_nobody_does_are_refused(world):
    """A pointer will do; and a kind without a handler would wait for ever."""
    with pytest.raises(ArgumentsTooLarge, match=str(MAX_BYTES)):
        world.enqueue(arguments={"a": "x" * MAX_BYTES})
    with pytest.raises(UnserialisableArguments):
        world.enqueue(arguments=["a"])
    with pytest.raises(UnknownKind, match="nobody"):
        world.enqueue(kind="nobody.does_it")


def test_key_names_one_piece_of_work_of_its_kind(world, django_capture_on_commit_callbacks):
    """The same again is the same work, also when it is done; other work under it is refused."""
    first = world.enqueue(key="k", arguments={"a": 1, "b": 2})
    with django_capture_on_commit_callbacks() as words:
        assert world.enqueue(key="k", arguments={"b": 2, "a": 1}) == first
    assert words == []
    world.run_next()

    assert world.enqueue(key="k", arguments={"a": 1, "b": 2}) == first
    with pytest.raises(KeyTaken, match="'k'"):
        world.enqueue(key="k", arguments={"a": 2})
    assert world.enqueue() != world.enqueue()
    assert Task.objects.filter(key="k").count() == 1


def test_delayed_work_is_not_due_before(world):
    """And comes in the order in which it is due, not in which it came."""
    late = world.enqueue(delay_seconds=3600)
    soon = world.enqueue()

    world.run_next()

    assert not world.run_next()
    assert [attempt.id for attempt in world.attempts] == [soon]
    Task.objects.filter(pk=late).update(not_before=NOW)
    assert world.run_next()
