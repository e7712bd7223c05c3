"""Where reports go: one stream of a real Redis, in order, bounded, and through its restarts."""

from __future__ import annotations

import json

import pytest
import redis.asyncio

from dataplane.report_sinks import STREAM, RedisSink, SinkUnavailable
from dataplane.reports import ReportShipper
from dataplane.settings import ReportSettings

# A server that is only slow is not away.
PATIENT_SECONDS = 60


@pytest.fixture
async def stream(redis_url):
    """The reports stream of a real Redis, empty."""
    client = redis.asyncio.Redis.from_url(redis_url)
    await client.delete(STREAM)
    yield client
    await client.delete(STREAM)
    await client.aclose()


async def test_batches_reach_the_redis_stream_in_order(redis_url, stream):
    """Each batch is one entry with one field."""
    sink = RedisSink(redis_url, stream_limit=10, timeout_seconds=PATIENT_SECONDS)
    await sink.send([b"1", b"2"])
    await sink.send([b"3"])
    await sink.close()

    entries = [fields for _, fields in await stream.xrange(STREAM)]
    assert entries == [{b"batch": b"1"}, {b"batch": b"2"}, {b"batch": b"3"}]


async def test_stream_that_nobody_empties_is_not_filled_further(redis_url, stream):
    """Beyond the limit workers spool; only acknowledgements, which are few, still go out. Nothing unread is trimmed."""
    sink = RedisSink(redis_url, stream_limit=2, timeout_seconds=PATIENT_SECONDS)
    await sink.send([b"1", b"2"])
    with pytest.raises(SinkUnavailable, match="2 batches that nobody has taken"):
        await sink.send([b"3"])
    await sink.send([b"ack"], urgent=True)
    await sink.close()

    assert await stream.xlen(STREAM) == 3


async def test_reports_survive_a_redis_that_stops_and_starts(tmp_path, clock, broker):
    """With a real server killed and started again, the rows of the outage arrive after those before it."""
    settings = ReportSettings(redis_url=broker.url, spool_dir=tmp_path / "spool", interval_seconds=3600)
    sink = RedisSink(broker.url, stream_limit=settings.stream_limit, timeout_seconds=PATIENT_SECONDS)
    shipper = ReportShipper(worker="h/gateway-0", kind="gateway", host="h", settings=settings, sink=sink, wall=clock)
    await shipper.start()
    await shipper.flush()
    broker.stop()
    for number in (1, 2):
        shipper.add_usage({"attempt_id": number})
        await shipper.flush()
    broker.start()
    shipper.add_usage({"attempt_id": 3})
    await shipper.flush()
    await shipper.stop()

    async with redis.asyncio.Redis.from_url(broker.url) as client:
        batches = [json.loads(fields[b"batch"]) for _, fields in await client.xrange(STREAM)]
    assert [row["attempt_id"] for batch in batches for row in batch["usage"]] == [1, 2, 3]
