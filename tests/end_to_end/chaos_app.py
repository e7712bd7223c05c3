"""The control plane's Celery application, with errands that fail, hang on and kill as they are told.

    python -m celery -A tests.end_to_end.chaos_app worker --queues ballast.work,ballast.control

An errand leaves its effect in the table `chaos_effect` before it fails, so that one which is not undone is seen.
"""

from __future__ import annotations

import os
import signal
import time
from random import Random
from typing import Any

import django
from django.db import connection, transaction
from django.utils import timezone

from controlplane.celery import app

django.setup()

from controlplane.work import handlers, operations  # noqa: E402 - only once Django is set up
from controlplane.work.errors import GiveUp  # noqa: E402 - as above
from controlplane.work.handlers import Attempt, Handler  # noqa: E402 - as above
from dataplane.deadletters import Category  # noqa: E402 - as above

KIND = "chaos.errand"
HAND_IN = "chaos.hand_in"
MAX_ATTEMPTS = 4
POISON = "poison"
# Of a hundred errands, so many go each way; whatever is left goes well at once.
WAYS = {"slow": 20, "flaky": 12, "broken": 4, "refused": 2}
ERRORS = (ZeroDivisionError, KeyError, TimeoutError, ConnectionResetError, ValueError, MemoryError)


def way_of(number: int, *, seed: int, poison: frozenset[int]) -> str:
    """What becomes of an errand, the same whoever asks."""
    if number in poison:
        return POISON
    drawn = Random(f"{seed}/{number}").randrange(100)
    for way, share in WAYS.items():
        if drawn < share:
            return way
        drawn -= share
    return "well"


def run(arguments: dict[str, Any], attempt: Attempt) -> None:
    """Do an errand: leave the effect, then let become of it what was told."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO chaos_effect VALUES (%s, %s, %s)", [arguments["number"], attempt.number, os.getpid()]
        )
    rng = Random(f"{arguments['number']}/{attempt.number}")
    match arguments["way"]:
        case "slow":
            time.sleep(rng.uniform(0.0, arguments["slowest"]))
        case "flaky" if attempt.number <= rng.choice([1, 1, 2]):
            raise rng.choice(ERRORS)(f"errand {arguments['number']} of 'somebody' failed after {rng.random():.3f} s")
        case "broken":
            raise rng.choice(ERRORS)(f"errand {arguments['number']} never works")
        case "refused":
            raise GiveUp(f"nobody is at door {arguments['number']}", code="refused", category=Category.POLICY)
        case "poison":
            os.kill(os.getpid(), signal.SIGKILL)


handlers.register(Handler(KIND, run, work="errand", max_attempts=MAX_ATTEMPTS, is_atomic=True))


@app.task(name=HAND_IN, acks_late=False)
def hand_in(first: int, last: int, seed: int, poison: list[int], slowest: float, delay_seconds: float) -> None:
    """Hand in the errands first..last-1, all of them or none; again is nothing."""
    with transaction.atomic():
        for number in range(first, last):
            way = way_of(number, seed=seed, poison=frozenset(poison))
            operations.enqueue(
                kind=KIND,
                arguments={"number": number, "way": way, "slowest": slowest},
                key=str(number),
                tenant="acme",
                delay_seconds=delay_seconds,
                now=timezone.now(),
            )


# Nothing but what is tried here; the console's chores are none of it.
app.conf.beat_schedule = {
    name: entry for name, entry in app.conf.beat_schedule.items() if name in {"sweep-work", "store-payloads"}
}
