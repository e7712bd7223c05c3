"""How spans leave a process: bounded, counted, without words of anybody's."""

from __future__ import annotations

import threading
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode

from dataplane.otel.exporting import Outbox


class Exporter(SpanExporter):
    """Takes spans, or does not; holds on to its caller while `gate` is closed."""

    def __init__(self) -> None:
        self.taken = []
        self.result = SpanExportResult.SUCCESS
        self.gate = threading.Event()
        self.gate.set()
        self.is_asked = threading.Event()

    def export(self, spans):
        self.is_asked.set()
        self.gate.wait(30)
        if self.result is SpanExportResult.SUCCESS:
            self.taken += spans
        return self.result

    def shutdown(self) -> None:
        """Nothing to let go of."""


@pytest.fixture
def exporter():
    return Exporter()


@pytest.fixture
def outbox(exporter):
    """Ten spans at most."""
    outbox = Outbox(exporter, most=10, every_seconds=0.01)
    yield outbox
    exporter.gate.set()
    outbox.close(seconds=30)


@pytest.fixture
def tracer(outbox):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(outbox)
    return provider.get_tracer("tests")


def test_whoever_collects_and_hangs_costs_spans_and_no_wait(exporter, outbox, tracer):
    """Ten wait, all others are dropped and counted; when it takes some again, there is room again."""
    exporter.gate.clear()
    for number in range(500):
        tracer.start_span(f"span {number}").end()
    assert exporter.is_asked.wait(30)
    assert (outbox.waiting, outbox.dropped, outbox.exported) == (10, 490, 0)

    exporter.gate.set()
    outbox.force_flush()

    assert outbox.close(seconds=30)
    assert (outbox.waiting, outbox.dropped, outbox.exported) == (0, 490, 10)


def test_spans_that_are_refused_are_counted_and_said_once(exporter, outbox, tracer, caplog):
    """A line when it begins and one when it ends, however many there are."""
    exporter.result = SpanExportResult.FAILURE
    with caplog.at_level("INFO", logger="ballast.traces"):
        for _ in range(3):
            tracer.start_span("lost").end()
            outbox.force_flush()
        exporter.result = SpanExportResult.SUCCESS
        tracer.start_span("found").end()
        outbox.force_flush()

    assert (outbox.failed, outbox.exported) == (3, 1)
    assert [record.message for record in caplog.records] == [
        "traces cannot be delivered; they are dropped and counted until they can",
        "traces are delivered again; 3 spans were lost",
    ]


def test_process_ends_in_time_whoever_collects(exporter, outbox, tracer):
    """One that hangs is waited for as long as was said, and what it did not take is counted."""
    exporter.gate.clear()
    tracer.start_span("last").end()
    assert exporter.is_asked.wait(30)
    began_at = time.monotonic()

    is_whole = outbox.close(seconds=0.05)

    assert not is_whole
    assert outbox.dropped == 1
    assert time.monotonic() - began_at < 20  # a hang would be the exporter's 30 s


def test_words_that_libraries_find_stay_here(exporter, outbox, tracer):
    """What an exception says, and what stands behind a question mark; everything else goes out as it is."""
    attributes = {"http.url": "https://console.test/callback?code=plum-4711", "url.query": "code=plum-4711", "kept": 1}
    span = tracer.start_span("GET callback", kind=SpanKind.SERVER, attributes=attributes)
    span.record_exception(ValueError("the word is plum-4711"))
    span.set_status(Status(StatusCode.ERROR, "the word is plum-4711"))
    span.add_event("harmless", {"number": 2})
    span.end()
    outbox.force_flush()

    [sent] = exporter.taken

    assert "plum-4711" not in sent.to_json()
    assert dict(sent.attributes) == {"http.url": "https://console.test/callback", "kept": 1}
    assert [(event.name, dict(event.attributes)) for event in sent.events] == [
        ("exception", {"exception.type": "ValueError", "exception.escaped": "False"}),
        ("harmless", {"number": 2}),
    ]
    assert (sent.status.status_code, sent.status.description) == (StatusCode.ERROR, None)
    assert (sent.name, sent.kind, sent.context) == (span.name, span.kind, span.get_span_context())
