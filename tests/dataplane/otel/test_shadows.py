"""How a question that nobody waits for shows in traces: in one of its own, linked to the request that it repeats."""

from __future__ import annotations

import time

import pytest

from dataplane.otel.shadows import ShadowSpans
from dataplane.settings import TracingSettings
from dataplane.shadow.offers import Offer
from tests.dataplane.shadow.shadow_world import CANDIDATE, TWIN, ShadowWorld, shadow_policy, shadow_routing
from tests.otlp import Receiver

TRACE, SPAN = "a1" * 16, "b2" * 8


@pytest.fixture
def receiver():
    """Whoever collects."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def tracer(receiver):
    """Traces as a shadow process does that would keep nothing by itself."""
    tracer = ShadowSpans(
        TracingSettings(
            endpoint=f"{receiver.url}/v1/traces",
            service="ballast-shadow",
            worker="host/shadow",
            ratio=0.0,
            follows_callers=True,
            most_waiting=100,
        )
    )
    yield tracer
    tracer.close()


@pytest.fixture
def shadow(make_document, tracer):
    """A shadow worker that asks candidate and control again."""
    routing = shadow_routing(shadow_policy(noise_percent=100))
    return ShadowWorld(make_document(routing=routing), clock=time.monotonic, tracer=tracer)


async def test_each_call_is_a_trace_of_its_own_linked_to_its_request(shadow, tracer, receiver):
    """The caller's trace gets nothing longer or later; the providers go on with the shadow's, and so do the rows."""
    await shadow.take(shadow.offer(7, traceparent=f"00-{TRACE}-{SPAN}-01"))
    tracer.close()

    spans = {span.attributes["ballast.lane"]: span for span in receiver.spans}
    assert receiver.of_trace(TRACE) == []
    assert spans.keys() == {CANDIDATE, TWIN}
    assert len({span.trace_id for span in spans.values()}) == 2
    for span in spans.values():
        assert (span.kind, span.service, span.parent_id, span.links) == (
            "client",
            "ballast-shadow",
            "",
            [(TRACE, SPAN)],
        )
        said = span.attributes
        assert (said["ballast.attempt.kind"], said["ballast.shadow"], said["ballast.request_id"]) == (
            "shadow",
            shadow.policy.slug,
            "req_7",
        )
        assert (said["ballast.outcome"], said["gen_ai.usage.output_tokens"] > 0) == ("ok", True)
    assert {spans[lane].attributes["ballast.shadow.arm"] for lane in (CANDIDATE, TWIN)} == {"candidate", "noise"}
    assert {row["lane"]: row["trace_id"] for row in shadow.rows} == {
        lane: span.trace_id for lane, span in spans.items()
    }
    assert {row["attempt_id"] for row in shadow.rows} == {
        span.attributes["ballast.attempt.id"] for span in spans.values()
    }
    handed = {lane: call.traceparent for call, lane, _ in shadow.transport.calls}
    # 03: kept, and of a random id.
    assert handed == {lane: f"00-{span.trace_id}-{span.span_id}-03" for lane, span in spans.items()}


@pytest.mark.parametrize("traceparent", ["", f"00-{TRACE}-{SPAN}-00"])
async def test_request_that_is_not_kept_is_not_traced_again(shadow, tracer, receiver, traceparent):
    """Whether nobody traced it, or its caller does not keep it: it is asked and billed all the same."""
    await shadow.take(shadow.offer(7, traceparent=traceparent))
    tracer.close()

    assert receiver.spans == []
    assert len(shadow.rows) == 2
    assert all("trace_id" not in row for row in shadow.rows)
    assert {call.traceparent for call, _, _ in shadow.transport.calls} == {""}


async def test_offer_of_an_older_gateway_says_nothing_of_traces(shadow):
    """It is read, and asked."""
    written = shadow.offer(7).replace(b',"traceparent":""', b"")

    await shadow.take(written)

    assert b"traceparent" not in written
    assert Offer.from_bytes(written).traceparent == ""
    assert len(shadow.rows) == 2
