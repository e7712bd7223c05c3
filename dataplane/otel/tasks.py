"""Celery's tasks as parts of traces: whoever sends one says in its headers what it is part of, whoever runs it goes on.

Of ours, since OpenTelemetry's own instrumentation begins a span for each task that is sent by its name alone and never
ends it, and a release is pushed by name. A task that nobody's trace has sent, such as a chore of the beat, has none.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from celery.signals import before_task_publish, task_failure, task_postrun, task_prerun

from dataplane.tracing import Tracing, read_traceparent

HEADER = "traceparent"


class TaskTracing:
    """Follows the tasks that this process sends and runs."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._running: dict[str, AbstractContextManager[None]] = {}
        self._failures: dict[str, BaseException] = {}

    def connect(self) -> None:
        """Begin."""
        before_task_publish.connect(self._send, weak=False)
        task_prerun.connect(self._begin, weak=False)
        task_failure.connect(self._fail, weak=False)
        task_postrun.connect(self._end, weak=False)

    def disconnect(self) -> None:
        """Follow no more."""
        before_task_publish.disconnect(self._send)
        task_prerun.disconnect(self._begin)
        task_failure.disconnect(self._fail)
        task_postrun.disconnect(self._end)

    def _send(self, headers: dict[str, Any] | None = None, **_: object) -> None:
        if headers is not None and (current := self._tracing.current):
            headers.setdefault(HEADER, current)

    def _begin(self, task_id: str = "", task: Any = None, **_: object) -> None:
        parent = traceparent_in(task)
        if parent:
            facts = {"messaging.system": "celery", "messaging.message.id": task_id, "celery.task_name": str(task.name)}
            self._running[task_id] = span = self._tracing.span(
                f"run {task.name}", parent=parent, facts=facts, is_entry=True
            )
            span.__enter__()

    def _fail(self, task_id: str = "", exception: BaseException | None = None, **_: object) -> None:
        if exception is not None and task_id in self._running:
            self._failures[task_id] = exception

    def _end(self, task_id: str = "", **_: object) -> None:
        span, failure = self._running.pop(task_id, None), self._failures.pop(task_id, None)
        if span is None:
            return
        if failure is None:
            span.__exit__(None, None, None)
            return
        try:
            span.__exit__(type(failure), failure, None)
        except BaseException as exc:
            if exc is not failure:
                raise


def traceparent_in(task: Any) -> str:
    """What the message of a task says that it is part of; empty: nothing."""
    told = getattr(getattr(task, "request", None), HEADER, None)
    return read_traceparent(told if isinstance(told, str) else None)
