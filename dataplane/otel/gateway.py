"""Tracing of one gateway process: its requests, and the releases that it takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from opentelemetry.trace import SpanKind

from dataplane.otel.process import ProcessTracing, context_of
from dataplane.otel.requests import RequestSpans
from dataplane.release import Release
from dataplane.release_trace import read_release_trace
from dataplane.settings import TracingSettings

ADOPT: Final = "adopt release"
# A process that starts later takes the release from disk, and is no part of how it came there.
FRESH_SECONDS: Final = 600.0


class GatewayTracing(ProcessTracing):
    """See the module. `requests` traces those."""

    def __init__(self, settings: TracingSettings) -> None:
        super().__init__(settings)
        self.requests = RequestSpans(self)

    def note_release(self, release: Release, release_file: Path) -> None:
        """This process serves `release` from now on: the last span of the trace that began with a click, from when the
        file was written. Nothing, if nobody traced its way here.
        """
        trace = read_release_trace(release_file, digest=release.digest)
        if trace is None or time.time_ns() - trace.written_at_ns > FRESH_SECONDS * 1e9:
            return
        span = self.tracer.start_span(
            ADOPT,
            context=context_of(trace.traceparent),
            kind=SpanKind.CONSUMER,
            start_time=trace.written_at_ns,
            attributes={"ballast.release": release.revision, "ballast.release.digest": release.digest},
        )
        span.end()
