"""How the control plane's processes are traced: pages and API calls, tasks, durable work, and each release on its way.

On in a process that was told where traces go and that has called `begin`; elsewhere everything here is next to nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from celery.signals import worker_process_init, worker_process_shutdown
from django.conf import settings

from dataplane.process_metrics import Family
from dataplane.settings import TracingSettings
from dataplane.span_metrics import span_families
from dataplane.tracing import Facts

if TYPE_CHECKING:
    from dataplane.otel.process import ProcessTracing

CONSOLE: Final = "ballast-console"
WORKER: Final = "ballast-worker"
# Probes, scrapes and agents that ask what is new come every few seconds, and nobody asks what became of one.
UNTRACED: Final = "livez,readyz,startupz,metrics,api/v1/releases/current"

_tracing: "ProcessTracing | None" = None


def begin(service: str) -> None:
    """Trace this process from now on, if it was told where to; before Django's middleware is loaded, so that it is in
    it.
    """
    global _tracing
    told: TracingSettings | None = settings.TRACING
    if told is None or _tracing is not None:
        return
    # What only who traces is to load.
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

    from dataplane.otel.process import ProcessTracing
    from dataplane.otel.tasks import TaskTracing

    worker = f"{told.worker}/{service.removeprefix('ballast-')}-{os.getpid()}"
    _tracing = ProcessTracing(
        TracingSettings(
            endpoint=told.endpoint,
            service=told.service or service,
            worker=worker,
            ratio=told.ratio,
            follows_callers=told.follows_callers,
            most_waiting=told.most_waiting,
        )
    )
    TaskTracing(_tracing).connect()
    # Statements come without their parameters.
    PsycopgInstrumentor().instrument(tracer_provider=_tracing.provider)
    if service == CONSOLE:
        DjangoInstrumentor().instrument(tracer_provider=_tracing.provider, excluded_urls=UNTRACED)


def end() -> None:
    """Send what is left, within a few seconds."""
    global _tracing
    if _tracing is not None:
        _tracing.close()
        _tracing = None


def families() -> Iterator[Family]:
    """What /metrics shows of this process' spans."""
    if _tracing is not None:
        yield from span_families(_tracing.outbox)


def current() -> str:
    """The traceparent of what is done now; empty where that is not traced."""
    return "" if _tracing is None else _tracing.current


@contextmanager
def span(name: str, *, parent: str = "", facts: Facts | None = None) -> Iterator[None]:
    """As `Tracing.span`, where this process is traced."""
    if _tracing is None:
        yield
        return
    with _tracing.span(name, parent=parent, facts=facts):
        yield


@contextmanager
def continued(name: str, *, parent: str, facts: Facts | None = None) -> Iterator[None]:
    """Part of the trace that `parent` is in; nothing is traced where that is empty."""
    if _tracing is None or not parent:
        yield
        return
    with _tracing.span(name, parent=parent, facts=facts, is_entry=True):
        yield


def trace_workers() -> None:
    """Have Celery's workers traced: the processes that do the work, each by itself."""

    def begin_worker(**_: object) -> None:
        begin(WORKER)

    def end_worker(**_: object) -> None:
        end()

    worker_process_init.connect(begin_worker, weak=False)
    worker_process_shutdown.connect(end_worker, weak=False)
