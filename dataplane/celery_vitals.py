"""The pulse of a Celery node: its consumer's loop stamps by a timer, and rests while there is no broker to consume
from.

While the broker is away the consumer's loop does not turn: kombu connects, again and again, within time-outs of its
own, and a restart would mend nothing. Whether the node has its broker is a question of readiness.
"""

from __future__ import annotations

from typing import Any, Final

from celery import Celery, bootsteps

from dataplane.pulse import Pulse
from dataplane.readiness import OK

CONSUMER: Final = "consumer"
BEAT_SECONDS: Final = 1.0


class Consuming:
    """Whether a node consumes at the moment, by its own word."""

    def __init__(self) -> None:
        self.is_consuming = False

    def ask(self) -> str:
        """As a dependency is asked."""
        return OK if self.is_consuming else "not connected to the broker; check CELERY_BROKER_URL"


def watch_consumer(app: Celery, pulse: Pulse) -> Consuming:
    """Have a worker of `app` stamp `pulse` while it consumes."""
    consuming = Consuming()

    class StampTurns(bootsteps.StartStopStep):
        """Runs after the consumer has subscribed, and stops with every loss of the broker."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, parent: Any, **named: Any) -> None:
            super().__init__(parent, **named)
            self._timers: list[Any] = []

        def start(self, parent: Any) -> None:
            pulse.beat()  # from here on the loop is to turn

            def turn() -> None:
                consuming.is_consuming = True
                pulse.beat()

            # The timer of the loop itself: it fires only when the loop turns.
            self._timers = [parent.timer.call_after(0, turn), parent.timer.call_repeatedly(BEAT_SECONDS, turn)]

        def stop(self, parent: Any) -> None:
            for timer in self._timers:
                timer.cancel()
            self._timers = []
            consuming.is_consuming = False
            pulse.rest()

        shutdown = stop

    app.steps[CONSUMER].add(StampTurns)
    return consuming
