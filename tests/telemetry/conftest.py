import threading
import uuid
from datetime import timedelta

import orjson
import pytest
import redis
from django.conf import settings

from controlplane.telemetry.management.commands.ingest import Ingest
from controlplane.telemetry.stream import ReportStream
from tests.worker_reports import NOON


class Clock:
    """Wall and monotonic time that move when told to."""

    def __init__(self):
        self.now = NOON
        self.seconds = 1000.0

    def advance(self, seconds):
        self.now += timedelta(seconds=seconds)
        self.seconds += seconds


@pytest.fixture
def clock():
    return Clock()


class Line:
    """A reports stream of its own, and the consumers of it."""

    def __init__(self, clock):
        self.name = f"test:reports:{uuid.uuid4().hex}"
        self.redis = redis.Redis.from_url(settings.REDIS_URL)
        self.clock = clock
        self.told = []
        self.streams = []

    def add(self, *reports):
        """XADD them, as a worker does."""
        return [self.redis.xadd(self.name, {"batch": orjson.dumps(report)}).decode() for report in reports]

    def stream(self, consumer="one"):
        stream = ReportStream(settings.REDIS_URL, stream=self.name, consumer=consumer)
        self.streams.append(stream)
        return stream

    def ingest(self, consumer="one", *, stop=None, notify=None):
        """A consumer whose messages land in `told`."""

        def tell(topic, data):
            self.told.append((topic, data))
            return True

        return Ingest(
            self.stream(consumer),
            notify=notify or tell,
            stop=stop or threading.Event(),
            now=lambda: self.clock.now,
            monotonic=lambda: self.clock.seconds,
        )

    def messages(self, topic):
        return [data for name, data in self.told if name == topic]

    @property
    def length(self):
        return self.redis.xlen(self.name)

    def close(self):
        for stream in self.streams:
            stream.close()
        self.redis.delete(self.name)
        self.redis.close()


@pytest.fixture
def line(clock, monkeypatch):
    # A Redis that pauses is not one that is away.
    monkeypatch.setattr("controlplane.telemetry.stream.TIMEOUT_SECONDS", 60.0)
    line = Line(clock)
    yield line
    line.close()
