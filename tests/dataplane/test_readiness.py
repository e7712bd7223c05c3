"""What a process says of what it depends on: what is needed decides, each is asked once a second at most."""

from __future__ import annotations

import threading

import pytest

from dataplane import readiness
from dataplane.readiness import (
    FRESH_SECONDS,
    OK,
    Dependencies,
    Dependency,
    broker_answers,
    postgres_answers,
    redis_answers,
)


class Asked:
    """A dependency that is as the test says, and counts."""

    def __init__(self, state=OK):
        self.state = state
        self.times = 0

    def __call__(self):
        self.times += 1
        return self.state


def needs(**asked):
    return [Dependency(name, ask, needed=name.startswith("needed"), without="less") for name, ask in asked.items()]


def test_only_what_is_needed_decides(clock):
    """What is not needed is told of, with what cannot be done meanwhile."""
    dependencies = Dependencies(needs(needed=Asked(), other=Asked("it does not answer")), clock=clock.now)

    ready, found = dependencies.look()

    assert ready
    assert found == {
        "needed": {"state": "ok", "needed": True},
        "other": {"state": "it does not answer", "needed": False, "without": "less"},
    }


def test_what_is_needed_and_away_makes_it_not_ready(clock):
    """One is enough."""
    dependencies = Dependencies(needs(needed_a=Asked(), needed_b=Asked("away")), clock=clock.now)

    assert dependencies.look()[0] is False


def test_each_is_asked_once_a_second_however_often_the_process_is(clock):
    """A flood of probes reaches no store."""
    asked = Asked()
    dependencies = Dependencies(needs(needed=asked), clock=clock.now)

    for _ in range(50):
        dependencies.look()
    clock.advance(FRESH_SECONDS)
    dependencies.look()

    assert asked.times == 2


def test_who_answers_nothing_keeps_no_probe_waiting_and_is_asked_once(clock, monkeypatch):
    """A name that nobody resolves, say: the probe is answered, by what the others said, and no thread is piled on
    another.
    """
    monkeypatch.setattr(readiness, "WAIT_SECONDS", 0.05)
    never, times = threading.Event(), []

    def hang():
        times.append(1)
        never.wait()
        return OK

    dependencies = Dependencies(needs(needed=Asked(), other=hang), clock=clock.now)
    first = dependencies.look()
    clock.advance(FRESH_SECONDS)
    dependencies.look()

    assert first[0]
    assert first[1]["other"]["state"] == "no answer yet"
    assert len(times) == 1
    never.set()


@pytest.mark.parametrize(
    ("ask", "url"),
    [
        (redis_answers, "redis://:hunter2@127.0.0.1:1/0"),
        (broker_answers, "redis://:hunter2@127.0.0.1:1/0"),
        (broker_answers, "amqp://ballast:hunter2@127.0.0.1:1//"),
        (postgres_answers, "postgresql://ballast:hunter2@127.0.0.1:1/none"),
    ],
)
def test_what_is_away_is_told_of_without_its_address(ask, url):
    """The sentence names a variable, and no password."""
    said = ask(url)

    assert said != OK
    assert "_URL" in said
    assert "hunter2" not in said


def test_what_is_there_answers(redis_url):
    """A real Redis, as a store and as a broker."""
    assert (redis_answers(redis_url), broker_answers(redis_url)) == (OK, OK)
