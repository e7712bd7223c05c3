import threading
from datetime import timedelta

import pytest
import redis
from django.db import OperationalError, connection

from controlplane.accounts.models import ApiKey, Tenant
from controlplane.ledger.models import UsageRow
from controlplane.ledger.stream_rows import StreamDay, StreamDelivery, StreamRow, StreamTranscript
from controlplane.releases.models import Ack, Release, Worker
from controlplane.telemetry.evidence import exposure_of, live_sums
from controlplane.telemetry.models import Rollup, WorkerEvent
from controlplane.telemetry.samples import AnswerSample
from controlplane.telemetry.stream import GROUP
from controlplane.telemetry.surface_rows import SurfaceReading, SurfaceRollup
from tests.canaries import running_canary
from tests.factories import make_tenant
from tests.worker_reports import (
    DIGEST,
    FRAMES,
    NOON,
    ack,
    cell,
    cells,
    delivery,
    exposure,
    ladder_state,
    report,
    rollup,
    sample,
    stream_row,
    surface_load,
    surface_row,
    usage_row,
)

pytestmark = pytest.mark.django_db(transaction=True)


def requests():
    return sum(Rollup.objects.values_list("requests", flat=True))


def test_a_report_is_stored_and_then_leaves_the_stream(line):
    """Its rollups, usage, streams, events, samples, evidence and state are in the tables, and none of it in Redis."""
    make_tenant("acme", log_content=True)
    line.add(
        report(
            rollup(requests=4),
            usage=(usage_row(),),
            events=({"at": NOON.timestamp(), "kind": "reports.caught_up", "data": {"batches": 1}},),
            streams=(stream_row(transcript=FRAMES),),
            samples=(sample(),),
            evidence=(cells(cell(3, 40)),),
            exposures=(exposure(1),),
        )
    )

    assert line.ingest().round() == 1

    assert requests() == 4
    assert UsageRow.objects.get().tenant == "acme"
    assert WorkerEvent.objects.get().kind == "reports.caught_up"
    assert StreamTranscript.objects.get().frames == FRAMES
    assert AnswerSample.objects.get().text == "Within 14 days [1]."
    assert live_sums("support-answer-v13")["canary"] == {3: tuple(cell(3, 40)[1:])}
    assert exposure_of("support-answer-v13").canary_units == 1
    assert Worker.objects.get().in_flight == 3
    assert line.length == 0


def test_the_same_reports_again_change_nothing(line):
    """A spool that is replayed after everything had arrived leaves the tables as they were."""
    event = {"at": NOON.timestamp(), "kind": "reports.delayed", "data": {}}
    reports = [
        report(
            rollup(requests=n),
            usage=(usage_row(f"a{n}"),),
            events=(event,),
            acks=(ack(),),
            seq=n,
            # Deliveries of the stream whose row is in the report after them.
            streams=(stream_row(str(n), delivered_tokens=10),),
            deliveries=(delivery(f"d{n}", str(n + 1)),),
        )
        for n in (1, 2, 3)
    ]
    ingest = line.ingest()
    line.add(*reports)
    ingest.round()
    line.add(*reports)
    ingest.round()

    assert requests() == 3
    assert (UsageRow.objects.count(), WorkerEvent.objects.count(), Ack.objects.count()) == (3, 3, 1)
    assert (StreamRow.objects.count(), StreamDelivery.objects.count()) == (3, 3)
    assert (StreamDay.objects.get().streams, StreamDay.objects.get().delivered_tokens) == (3, 210)


@pytest.mark.parametrize("poison", [b"{not json", b"[]", b'{"worker": "x"}', b"\xff\xfe"])
def test_an_entry_that_is_no_report_is_noted_and_skipped(line, poison):
    """One malformed entry stops nobody: its neighbours are stored, and a timeline shows that it was refused."""
    line.add(report(rollup(requests=1), worker="a"))
    entry = line.redis.xadd(line.name, {"batch": poison}).decode()
    line.redis.xadd(line.name, {"other": "field"})
    line.add(report(rollup(requests=1), worker="b"))

    line.ingest().round()

    assert requests() == 2
    assert line.length == 0
    refused = WorkerEvent.objects.filter(kind="ingest.refused")
    assert refused.count() == 2
    assert refused.get(data__entry=entry).data["bytes"] == len(poison)


def test_a_report_that_the_database_will_not_have_is_skipped_alone(line):
    """What validation cannot foresee is found by halving the batch; every other report of it is stored."""

    def fail_on_the_bad_one(execute, sql, params, many, context):
        if "telemetry_rollup" in sql and "poisoned" in str(params):
            raise ValueError("cannot be adapted")
        return execute(sql, params, many, context)

    line.add(*(report(rollup(), worker="poisoned" if n == 5 else f"w{n}") for n in range(9)))

    with connection.execute_wrapper(fail_on_the_bad_one):
        line.ingest().round()

    assert requests() == 8
    assert WorkerEvent.objects.get(kind="ingest.refused").data["problem"] == "cannot be stored: cannot be adapted"
    assert line.length == 0


def test_a_database_that_is_away_costs_delay_and_nothing_else(line):
    """While PostgreSQL refuses, entries stay in the stream; when it is back, every one is stored, once."""
    failures = iter(range(3))
    waiting = []

    def away(execute, sql, params, many, context):
        if next(failures, None) is not None:
            waiting.append(line.length)
            raise OperationalError("the database system is shutting down")
        return execute(sql, params, many, context)

    line.add(*(report(rollup(), worker=f"w{n}", usage=(usage_row(f"a{n}"),)) for n in range(5)))

    with connection.execute_wrapper(away):
        done = line.ingest(stop=Immediately()).round()

    assert done == 5
    assert waiting == [5, 5, 5]
    assert requests() == 5
    assert UsageRow.objects.count() == 5


def test_stopping_during_an_outage_leaves_the_entries_to_others(line):
    """A process that is told to stop while the database is away loses nothing: another one takes its entries over."""
    stop = Immediately(after=2)

    def away(execute, sql, params, many, context):
        raise OperationalError("connection refused")

    line.add(report(rollup(requests=7)))
    with connection.execute_wrapper(away):
        assert line.ingest("first", stop=stop).round() == 0
    age(line)

    line.ingest("second").round()

    assert requests() == 7
    assert line.length == 0


def test_what_a_killed_process_had_taken_is_taken_over(line):
    """Entries belong to a consumer until they are stored; when it is gone, they go to the next one."""
    line.add(*(report(rollup(), worker=f"w{n}") for n in range(3)))
    dead = line.stream("dead")
    dead.open()
    assert len(dead.take(count=10, wait_ms=0)) == 3
    age(line)

    line.ingest("alive").round()

    assert requests() == 3
    assert line.redis.xpending(line.name, GROUP)["pending"] == 0


def test_a_redis_that_forgot_everything_is_met_with_a_new_group(line):
    """After a restart without its data, Redis knows no group; reports flow again without anybody's help."""
    ingest = line.ingest()
    line.add(report(rollup(requests=1), seq=1))
    ingest.round()
    line.redis.delete(line.name)
    line.add(report(rollup(requests=2), seq=2))

    ingest.round()

    assert requests() == 2


def test_a_redis_that_is_away_is_waited_for(line):
    """`run` goes on when Redis comes back: the outage ends no process."""
    stop = Immediately(after=3)
    ingest = line.ingest(stop=stop)
    calls = []

    def take(**_):
        calls.append(1)
        raise redis.ConnectionError("refused")

    ingest._stream.take_over = take

    ingest.run()

    assert len(calls) == 3


def test_two_processes_share_the_stream_without_doing_anything_twice(line):
    """Whichever process takes an entry, every report counts once, and neither waits for the other for ever."""
    line.add(
        *(
            report(
                rollup(NOON + timedelta(seconds=10 * (n % 6)), requests=n, tier=str(n % 3)),
                worker=f"w{n % 4}",
                seq=n,
                usage=(usage_row(f"a{n % 90}"),),
            )
            for n in range(1, 121)
        )
    )
    expected = {}
    for n in range(1, 121):
        expected[n % 6, n % 4, n % 3] = n
    errors = []

    def work(consumer):
        ingest = line.ingest(consumer)
        ingest._count = 7
        try:
            while line.length:
                ingest.round()
                ingest._count = 7
        except Exception as exc:  # noqa: BLE001 - the test shows it, whatever it is
            errors.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert errors == []
    assert requests() == sum(expected.values())
    assert UsageRow.objects.count() == 90


def test_a_key_shows_when_it_was_last_used(line):
    """Usage that names its key moves the key's last use, at most once a minute."""
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    key = ApiKey.objects.create(
        tenant=tenant, name="k", prefix="bk", secret_hash="h", created_by="admin", created_at=NOON
    )
    ingest = line.ingest()

    for n, seconds in enumerate((0, 30, 61), start=1):
        at = NOON + timedelta(seconds=seconds)
        line.add(report(usage=(usage_row(f"a{n}", at=at, key_id=str(key.pk)),), seq=n))
        ingest.round()
        key.refresh_from_db()
        assert key.last_used_at == (at if seconds != 30 else NOON)


def release():
    return Release.objects.create(
        revision=1,
        document="{}",
        digest=DIGEST,
        key_id="k",
        signature="s",
        reason="first",
        actor="owner",
        clicked_at=NOON,
    )


def test_a_verdict_is_told_at_once(line, clock):
    """An ACK does not wait for the second that heartbeats are held back for."""
    release()
    ingest = line.ingest()
    line.add(report(seq=1))
    ingest.round()
    clock.advance(0.1)
    line.add(report(seq=2, revision=1, digest=DIGEST, sent_at=clock.now, acks=(ack(at=clock.now),)))

    ingest.round()

    first, second = line.messages("fleet")
    assert first["counts"] == {"expected": 1, "in_sync": 0, "behind": 1, "refused": 0, "silent": 0}
    assert second["counts"]["in_sync"] == 1
    assert second["current"]["revision"] == 1
    worker = second["workers"][0]
    assert (worker["state"], worker["ack_ms"]) == ("in-sync", pytest.approx(100.0))


def test_verdicts_that_follow_the_first_closely_are_told_together(line, clock):
    """A hundred workers that acknowledge within 50 ms are two messages: the first at once, the last within 50 ms."""
    release()
    ingest = line.ingest()
    for n in range(3):
        line.add(report(worker=f"w{n}", revision=1, digest=DIGEST, sent_at=clock.now, acks=(ack(at=clock.now),)))
        ingest.round()
        clock.advance(0.01)
    clock.advance(0.05)

    ingest.round()

    first, second = line.messages("fleet")
    assert [worker["name"] for worker in first["workers"]] == ["w0"]
    assert [worker["name"] for worker in second["workers"]] == ["w1", "w2"]
    assert second["counts"]["in_sync"] == 3


def test_a_refusal_is_told_with_its_reason(line):
    """The fleet page says who refused and why."""
    release()
    line.add(report(acks=(ack(verdict="nack", reason="the signature does not fit"),)))

    line.ingest().round()

    worker = line.messages("fleet")[0]["workers"][0]
    assert (worker["state"], worker["reason"]) == ("refused", "the signature does not fit")


def test_heartbeats_are_told_once_a_second(line, clock):
    """A fleet that beats a hundred times a second is one message a second, with everybody who was heard of."""
    ingest = line.ingest()
    for n in range(10):
        line.add(report(worker=f"w{n}", sent_at=clock.now))
        ingest.round()
        clock.advance(0.05)
    clock.advance(1)
    ingest.round()

    first, second = line.messages("fleet")
    assert [worker["name"] for worker in first["workers"]] == ["w0"]
    assert [worker["name"] for worker in second["workers"]] == [f"w{n}" for n in range(1, 10)]


def test_a_worker_that_falls_silent_is_told_of(line, clock):
    """Silence sends no report; the page hears of it all the same."""
    ingest = line.ingest()
    line.add(report())
    ingest.round()

    clock.advance(6)
    ingest.round()

    assert [message["workers"][0]["state"] for message in line.messages("fleet")] == ["in-sync", "silent"]


def test_a_running_canarys_page_gets_its_newest_points(line, clock):
    """Charts and tiles move; a burst within the interval is one message, and its last word is not lost."""
    running_canary()
    ingest = line.ingest()
    clock.advance(1)
    for n in (1, 2, 3):
        line.add(report(rollup(requests=n), seq=n))
        ingest.round()
        clock.advance(0.1)
    clock.advance(1)
    ingest.round()

    first, second = line.messages("canary.support-answer-v13")
    assert first["totals"]["control"]["requests"]["value"] == 1
    assert second["totals"]["control"]["requests"]["value"] == 3


def test_a_canary_that_does_not_run_is_not_computed(line):
    """Series of canaries that ended long ago, or that nobody knows here, cost nothing."""
    running_canary(state="rolled_back", ended_at=NOON - timedelta(minutes=5))
    line.add(report(rollup(), rollup(canary="unheard-of")))

    line.ingest().round()

    assert {topic for topic, _ in line.told} == {"fleet", "overview"}


def test_a_page_that_cannot_be_told_costs_no_report(line):
    """Telling fails, storing goes on."""

    def broken(execute, sql, params, many, context):
        if "rollouts_canary" in sql:
            raise OperationalError("gone")
        return execute(sql, params, many, context)

    line.add(report(rollup()))
    with connection.execute_wrapper(broken):
        assert line.ingest().round() == 1

    assert requests() == 1
    assert line.length == 0


class Immediately(threading.Event):
    """A stop event whose waits take no time, and which is set after so many of them."""

    def __init__(self, after=None):
        super().__init__()
        self.left = after

    def wait(self, timeout=None):
        if self.left is not None:
            self.left -= 1
            if not self.left:
                self.set()
        return self.is_set()


def age(line):
    """Make every entry that somebody holds look abandoned."""
    for pending in line.redis.xpending_range(line.name, GROUP, "-", "+", 100):
        line.redis.xclaim(line.name, GROUP, pending["consumer"], 0, [pending["message_id"]], idle=60_000)


def test_ladder_that_stands_differently_is_told_at_once(line, clock):
    """Whoever engaged a rung waits for every worker to say so; what is read meanwhile is no news."""
    ingest = line.ingest()
    line.add(report(ladders=(ladder_state(ids=["web-chat-7"]),)))
    ingest.round()
    clock.advance(1)
    line.add(report(ladders=(ladder_state(ids=["web-chat-7"], readings={"load": 99.0}),), seq=2, sent_at=clock.now))
    ingest.round()
    clock.advance(1)
    line.add(report(status="stopped", seq=3, sent_at=clock.now))
    ingest.round()

    first, second = line.messages("ladders")

    assert first["surfaces"]["web-chat"]["ids"] == {"web-chat-7": 1}
    assert second["surfaces"] == {"web-chat": None}


def test_what_surfaces_served_and_read_is_stored(line):
    """With the rest of the report."""
    line.add(report(surfaces=(surface_row(requests=3),), surface_readings=(surface_load(),)))

    line.ingest().round()

    assert (SurfaceRollup.objects.get().requests, SurfaceReading.objects.get().in_flight) == (3, 20.0)
