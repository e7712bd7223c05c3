"""Tasks of a Celery worker by name: how long they took, and how many failed, by the count of its first process, which
hears of each however it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Final

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # the stubs lack it
from billiard.exceptions import WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from dataplane.process_metrics import Family
from dataplane.request_counts import Histogram

# Seconds: chores are done in a moment; what plans, exports and replays may take minutes.
BOUNDS: Final = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0)
# How a task failed: it raised something, its time was over, or its process was gone.
RAISED, OVERDUE, LOST = "raised", "overdue", "lost"
_NO_FAILURES: Final = (Retry, Ignore, Reject)


class TaskMetrics:
    """Counts the tasks of a worker, whose pool tells of them from threads of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, Histogram] = {}

    def took(self, task: str, seconds: float) -> None:
        """Count one that was done."""
        with self._lock:
            self._seconds.setdefault(task, Histogram(BOUNDS)).observe(seconds)

    def failed(self, task: str, how: str) -> None:
        """Count one that failed."""
        with self._lock:
            self._failures[task, how] = self._failures.get((task, how), 0) + 1

    def families(self) -> Iterator[Family]:
        """What is shown of them."""
        failures = CounterMetricFamily(
            "ballast_worker_task_failures", "Tasks that failed, by how: raised, overdue, lost.", labels=["task", "how"]
        )
        seconds = HistogramMetricFamily(
            "ballast_worker_task_seconds", "Seconds that tasks took which did not fail.", labels=["task"]
        )
        with self._lock:
            for key, number in self._failures.items():
                failures.add_metric(key, number)
            for task, histogram in self._seconds.items():
                seconds.add_metric([task], *histogram.buckets())
        yield from (failures, seconds)


TASKS: Final = TaskMetrics()


class CountedRequest(Request):
    """Celery's own, which counts. `Celery.task_cls.Request` names it (see `celery.py`)."""

    def __init_subclass__(cls, **named: Any) -> None:
        """Celery makes a class of each task's, whose `on_success` is its own once more, so it is counted there."""
        super().__init_subclass__(**named)
        made = cls.on_success

        def on_success(self: CountedRequest, told: tuple[Any, Any, float | None], **named: Any) -> Any:
            """As Celery's: the task came to an end, of itself. What raised does not tell how long that took."""
            failed, result, seconds = told
            if not failed and seconds is not None:
                TASKS.took(self.name, seconds)
            elif not isinstance(_exception_in(result), _NO_FAILURES):
                TASKS.failed(self.name, RAISED)
            return made(self, told, **named)

        cls.on_success = on_success  # type: ignore[method-assign, assignment]  # as Celery makes it: the stubs know less

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """As Celery's, which calls it of what has raised (`return_ok`), and of what did not get to tell."""
        if not return_ok and isinstance(_exception_in(exc_info), WorkerLostError):
            TASKS.failed(self.name, LOST)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """As Celery's: a time limit is over. After a soft one, the task tells by itself how it ends."""
        if not soft:
            TASKS.failed(self.name, OVERDUE)
        return super().on_timeout(soft, timeout)


def _exception_in(info: Any) -> object:
    """What was raised; from another process it comes wrapped, with its traceback."""
    raised = info.exception
    return raised.exc if isinstance(raised, ExceptionWithTraceback) else raised
