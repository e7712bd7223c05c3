"""What a promise says that depends on the queue, and on the day: its place, its ETA, and whether it is kept at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dataplane.errors.jobs import JobQueueFull, JobsUnavailable
from dataplane.job_queue import JobQueue
from dataplane.jobs import Figures, Job, State
from dataplane.ladder.promises import Promises
from dataplane.last_words import LastWords
from dataplane.timers import TimerWheel
from tests.dataplane.bench import WALL

from .steps_world import QUESTION

AT = datetime.fromtimestamp(WALL, UTC)


class Store:
    """Keeps what is submitted, at the seventh place of a queue of which ten jobs end in a minute."""

    def __init__(self, *, refuses=None, forgets_place=False):
        self.submitted = []
        self._refuses = refuses
        self._forgets_place = forgets_place

    async def submit(self, submission, *, limit):
        if self._refuses is not None:
            raise self._refuses
        self.submitted.append(submission)
        job = Job(
            id=submission.id,
            tenant=submission.scope.tenant,
            endpoint=submission.endpoint,
            state=State.QUEUED,
            tag=1,
            created_at=AT,
            expires_at=AT + timedelta(hours=24),
            attempts=0,
            cancel_asked=False,
            ended_at=None,
            status=0,
            headers=(),
            response=None,
            error=None,
            usage=None,
            forgotten_at=None,
        )
        return job, True

    async def place(self, job):
        if self._forgets_place:
            raise JobsUnavailable("it went away")
        return 7

    async def figures(self):
        return Figures(queued=9, running=1, ended={State.COMPLETED: 10}, span_seconds=60.0)


class Later:
    """Promises over a store, made once the pipeline that they are for is there."""

    def __init__(self, store):
        self.store = store
        self.bench = None

    async def answer(self, journey, reply, chat, stand):
        words = LastWords(copy_desk=None, timers=TimerWheel(), wall=self.bench.wall)
        queue = JobQueue(self.store, limit=3, clock=lambda: 0.0, wall=self.bench.wall)
        promises = Promises(queue, desk=self.bench.ladder, last_words=words, public_url="https://gw.example")
        await promises.answer(journey, reply, chat, stand)


@pytest.fixture
def promising(stand):
    """Makes pipelines that put answers off."""

    def make(store):
        later = Later(store)
        later.bench = stand(4, later=later)
        return later.bench

    return make


async def test_place_and_eta_stand_in_the_words_and_beside_them(promising):
    """As the queue has them: what ended lately says how long the seventh takes."""
    bench = promising(Store())

    await bench.start(messages=[{"role": "user", "content": QUESTION}])

    said = bench.body["ballast"]
    assert (bench.reply.status, bench.header["retry-after"]) == (202, "42")
    assert bench.body["choices"][0]["message"]["content"] == "We are very busy. Request req_1, position 7."
    assert said["banner"] == "Web chat answers more briefly; back to normal in about 1 min."
    assert (said["eta_seconds"], said["job"]["position"], said["job"]["eta_seconds"]) == (42, 7, 42.0)
    assert bench.transport.calls == []


async def test_promise_holds_where_nobody_can_say_where_it_stands(promising):
    """The job is kept; the ETA is the policy's, and the place is a dash."""
    store = Store(forgets_place=True)
    bench = promising(store)

    await bench.start()

    said = bench.body["ballast"]
    assert (bench.reply.status, bench.header["retry-after"], len(store.submitted)) == (202, "900", 1)
    assert bench.body["choices"][0]["message"]["content"] == "We are very busy. Request req_1, position -."
    assert (said["job"]["position"], said["job"]["eta_seconds"]) == (None, None)


async def test_tenant_whose_queue_is_full_is_told_so(promising):
    """As where it hands jobs in; nothing is promised."""
    bench = promising(Store(refuses=JobQueueFull(limit=3)))

    await bench.start()

    assert (bench.reply.status, bench.body["error"]["code"]) == (429, "job_queue_full")
    assert bench.holds == (0, 0)
