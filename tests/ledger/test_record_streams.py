"""Streams and their deliveries: each told once or often, early or late, and counted into their days all the same."""

from datetime import date, timedelta
from io import StringIO
from threading import Barrier, Thread

import pytest
from django.core.management import CommandError, call_command
from django.db import InternalError, ProgrammingError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.audit.models import AuditEvent
from controlplane.celery import app
from controlplane.ledger import refunds
from controlplane.ledger.stream_rows import (
    DAY_KEY,
    DAY_SUMS,
    StreamCredit,
    StreamDay,
    StreamDelivery,
    StreamRow,
    StreamStanding,
    StreamTranscript,
)
from controlplane.ledger.streams import decide_credits, rebuild_stream_days, record_streams
from controlplane.ledger.tasks import forget_transcripts
from tests.worker_reports import FRAMES, NOON, delivery, stream_row

DAY = date(2026, 3, 4)
HOUR = timedelta(hours=1)
CUT = {"outcome": "interrupted", "code": "upstream_interrupted", "delivered_tokens": 40, "delivered": 16, "acked": 8}
TABLES = ", ".join(
    model._meta.db_table
    for model in (StreamRow, StreamTranscript, StreamDelivery, StreamCredit, StreamStanding, StreamDay)
)
STANDING = ("delivered", "acked", "delivered_tokens", "acked_tokens", "resumed", "in_order", "credit_micros")


def take(*streams, deliveries=()):
    record_streams(streams=list(streams), deliveries=list(deliveries))


def days():
    """The whole table, by its key."""
    return {
        row[:4]: dict(zip(DAY_SUMS, row[4:], strict=True)) for row in StreamDay.objects.values_list(*DAY_KEY, *DAY_SUMS)
    }


def standings():
    return {row[0]: row[1:] for row in StreamStanding.objects.values_list("pk", *STANDING)}


@pytest.mark.django_db
def test_stream_is_as_it_was_first_told_and_reaches_as_far_as_anybody_says():
    """Its row stands; of what was delivered the most counts, and each fact once, however often it is told."""
    take(stream_row(**CUT, key_id="7", resumed=True), stream_row(billed_tokens=999))
    first = delivery("d1", delivered_tokens=70, acked_tokens=60, delivered=28)
    take(stream_row(cost_micros=999), deliveries=[first])
    take(deliveries=[first, delivery("d2", delivered_tokens=30, acked_tokens=10)])

    row = StreamRow.objects.select_related("standing").get()
    assert (row.billed_tokens, row.cost_micros, row.key, row.size_bytes) == (100, 1000, "7", 4000)
    assert (row.delivered_tokens, row.delivered, row.written_by) == (40, 16, ("gpt-4o",))
    standing = row.standing
    assert (standing.delivered_tokens, standing.acked_tokens, standing.delivered, standing.acked) == (70, 60, 40, 40)
    assert StreamDelivery.objects.count() == 2
    assert days() == {
        (DAY, "acme", "chat", "interrupted"): {
            "streams": 1,
            "resumed": 1,
            "drifted": 0,
            "billed_tokens": 100,
            "generated_tokens": 100,
            "buffered_tokens": 100,
            "delivered_tokens": 70,
            "acked_tokens": 60,
            "cost_micros": 1000,
            "refund_micros": 300,
        }
    }


@pytest.mark.django_db
def test_credit_is_taken_back_as_far_as_its_tokens_arrive_after_all():
    """Each change is a row with the figures that it was decided on; the last sum is what is given back."""
    take(stream_row(**CUT))
    take(deliveries=[delivery(delivered_tokens=90)])
    take(deliveries=[delivery("d2", delivered_tokens=90)])

    changes = StreamCredit.objects.values_list("change_micros", "delivered_tokens", "rule")
    assert list(changes) == [(600, 40, "undelivered"), (-500, 90, "undelivered")]
    assert list(standings().values()) == [(40, 40, 90, 100, True, False, 100)]


@pytest.mark.django_db
def test_credit_that_nobody_can_decide_holds_up_nothing_and_is_decided_later(monkeypatch):
    """Its stream is stored and counted; once the rule is there, the command decides it."""
    monkeypatch.setattr(refunds, "_rules", dict(refunds._rules))
    refunds.register("breaks", lambda bill: 1 // 0)
    take(stream_row("a" * 32, refund="agreed", **CUT), stream_row("b" * 32, refund="breaks", **CUT))
    take(deliveries=[delivery(stream_id="c" * 32)])
    assert [row[-1] for row in standings().values()] == [None, None, None]
    refunds.register("agreed", lambda bill: 250)

    out = StringIO()
    call_command("decide_credits", stdout=out)

    assert out.getvalue() == "decided 1; 1 still open\n"
    assert {pk[0]: row[-1] for pk, row in standings().items()} == {"a": 250, "b": None, "c": None}
    (day,) = days().values()
    assert (day["streams"], day["refund_micros"], StreamCredit.objects.get().change_micros) == (2, 250, 250)
    assert (decide_credits(), decide_credits(after="b" * 32)) == ("b" * 32, "")


@pytest.mark.django_db
def test_figures_out_of_order_are_stored_counted_and_found_also_when_a_delivery_puts_them_right():
    """Nothing billed is hidden for not adding up: an acknowledgement may overtake what it acknowledges."""
    take(stream_row("a" * 32, generated_tokens=120), stream_row("b" * 32, **CUT | {"acked_tokens": 50}))
    assert list(StreamRow.objects.matching(in_order=False).newest().values_list("pk", flat=True)) == [
        "b" * 32,
        "a" * 32,
    ]
    assert sum(day["drifted"] for day in days().values()) == 2

    take(deliveries=[delivery(stream_id="b" * 32, acked_tokens=50)])

    assert [row.pk for row in StreamRow.objects.matching(in_order=False)] == ["a" * 32]
    assert sum(day["drifted"] for day in days().values()) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("table", ["streamrow", "streamdelivery", "streamcredit", "streamtranscript"])
def test_the_record_refuses_every_change(table):
    """Not even SQL edits or deletes what a stream was, what was told of it, or what was given back."""
    take(stream_row(transcript=FRAMES, **CUT), deliveries=[delivery(delivered_tokens=50)])

    for statement in ("UPDATE ledger_{} SET tenant = 'x'", "DELETE FROM ledger_{}"):
        with (
            pytest.raises((InternalError, ProgrammingError), match="Cannot update or delete"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement.format(table))


@pytest.mark.django_db
def test_transcripts_are_forgotten_by_one_command_which_says_so_in_the_audit_record():
    """The words of old streams go, of one tenant if told; the rows with their digests stay."""
    take(
        stream_row("a" * 32, transcript=FRAMES, at=NOON - 48 * HOUR),
        stream_row("b" * 32, transcript=FRAMES, at=NOON - 48 * HOUR, tenant="globex"),
        stream_row("c" * 32, at=NOON - 48 * HOUR),
        stream_row("d" * 32, transcript=FRAMES, at=NOON + 365_000 * HOUR),
    )
    out = StringIO()

    def forget(*options):
        call_command("forget_transcripts", "30", "--actor", "admin", "--reason", "Contract", *options, stdout=out)

    forget("--tenant", "globex")
    assert sorted(pk[0] for pk in StreamTranscript.objects.values_list("pk", flat=True)) == ["a", "d"]
    forget()
    forget()

    assert StreamTranscript.objects.get().frames == FRAMES
    assert StreamRow.objects.filter(kept_transcript=True).count() == 3
    said = AuditEvent.objects.filter(action="transcripts.forgotten").order_by("seq")
    assert [(event.actor, event.data["transcripts"], event.data["tenant"]) for event in said] == [
        ("admin", 1, "globex"),
        ("admin", 1, ""),
    ]
    assert out.getvalue() == "forgot 1 transcripts\nforgot 1 transcripts\nforgot 0 transcripts\n"


@pytest.mark.django_db
def test_transcripts_go_by_themselves_when_their_days_are_over(settings):
    """Those of a setting, which is what the audit record says; none go while nobody said how long they are kept."""
    now = timezone.now()
    take(
        stream_row("a" * 32, transcript=FRAMES, at=now - 31 * 24 * HOUR),
        stream_row("b" * 32, transcript=FRAMES, at=now - 29 * 24 * HOUR),
    )

    settings.TRANSCRIPT_DAYS = 0
    assert forget_transcripts() == 0
    settings.TRANSCRIPT_DAYS = 30
    assert [forget_transcripts(), forget_transcripts()] == [1, 0]

    assert [pk for (pk,) in StreamTranscript.objects.values_list("pk")] == ["b" * 32]
    [said] = AuditEvent.objects.filter(action="transcripts.forgotten")
    assert (said.actor, said.data["reason"]) == ("BALLAST_TRANSCRIPT_DAYS", "older than 30 days")


def test_every_scheduled_task_is_one_that_there_is(settings):
    """Beat sends names; a worker that knows none of them says so in its log only."""
    app.loader.import_default_modules()

    assert {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()} <= app.tasks.keys()


tokens = st.integers(0, 9)
facts = st.one_of(
    st.builds(
        lambda number, hours, tenant, outcome, figures, refund, resumed: (
            "stream",
            stream_row(
                f"{number:032x}",
                at=NOON + hours * HOUR,
                tenant=tenant,
                outcome=outcome,
                refund=refund,
                resumed=resumed,
                billed_tokens=figures[0],
                generated_tokens=figures[1],
                buffered_tokens=figures[2],
                delivered_tokens=figures[3],
                acked_tokens=figures[4],
            ),
        ),
        number=st.integers(0, 6),
        hours=st.integers(-30, 30),
        tenant=st.sampled_from(["acme", "globex"]),
        outcome=st.sampled_from(["completed", "interrupted"]),
        figures=st.tuples(tokens, tokens, tokens, tokens, tokens),
        refund=st.sampled_from(["none", "undelivered", "unacknowledged"]),
        resumed=st.booleans(),
    ),
    st.builds(
        lambda number, stream, reader, delivered, acked: (
            "delivery",
            delivery(
                f"d{number}",
                f"{stream:032x}",
                reader=reader,
                delivered_tokens=delivered,
                acked_tokens=acked,
                delivered=delivered,
                acked=acked,
            ),
        ),
        number=st.integers(0, 999),
        stream=st.integers(0, 6),
        reader=st.sampled_from(["caller", "resumed", "ack"]),
        delivered=tokens,
        acked=tokens,
    ),
)


@pytest.mark.django_db
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(facts, max_size=8), max_size=6))
def test_days_and_standings_agree_with_the_record_however_it_was_delivered(batches):
    """In any batches, deliveries before rows, and all of it again: counting anew finds what was counted on the way."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"TRUNCATE {TABLES}")
    # A delivery is told again as it was; only its first telling may differ.
    known: dict[str, dict] = {}
    for batch in batches:
        told = [known.setdefault(fact["delivery_id"], fact) for kind, fact in batch if kind == "delivery"]
        take(*(fact for kind, fact in batch if kind == "stream"), deliveries=told)
    counted, stood = days(), standings()

    for batch in batches:
        take(deliveries=[known[fact["delivery_id"]] for kind, fact in batch if kind == "delivery"])
    assert (days(), standings()) == (counted, stood)
    with_rows = set(StreamRow.objects.values_list("pk", flat=True))
    StreamStanding.objects.filter(pk__in=with_rows).update(delivered=77, in_order=True, resumed=False)
    for number in range(-2, 3):
        rebuild_stream_days(DAY + timedelta(days=number))
    assert {key: sums for key, sums in days().items() if any(sums.values())} == counted
    assert standings() == stood


@pytest.mark.django_db
def test_a_day_that_was_tampered_with_is_made_right_and_no_other_is_touched():
    """The days are derived: unlike the rows they may be changed, and the rows say what they must be."""
    take(stream_row("a" * 32, **CUT), stream_row("b" * 32, at=NOON - 24 * HOUR))
    counted = days()
    StreamDay.objects.update(refund_micros=1)
    StreamDay.objects.create(day=DAY, tenant="ghost", route="x", outcome="failed", **dict.fromkeys(DAY_SUMS, 1))

    out = StringIO()
    call_command("rebuild_stream_days", "2026-03-04", stdout=out)
    assert out.getvalue() == "2026-03-04: 1 rows\n"
    assert [row.refund_micros for row in StreamDay.objects.order_by("day")] == [1, 600]
    call_command("rebuild_stream_days", "2026-03-03", "2026-03-04", stdout=out)
    assert days() == counted
    with pytest.raises(CommandError, match="2026-03-03, is before the first, 2026-03-04"):
        call_command("rebuild_stream_days", "2026-03-04", "2026-03-03")


@pytest.mark.django_db
def test_a_batch_takes_as_many_statements_as_one_stream():
    """The lock, what is known, and one that writes."""
    counts = []
    for streams in (1, 300):
        rows = [stream_row(f"{streams}x{n:028}", transcript=FRAMES, **CUT) for n in range(streams)]
        with CaptureQueriesContext(connection) as queries:
            take(*rows, deliveries=[delivery(f"{streams}d{n}", rows[n]["stream_id"]) for n in range(streams)])
        counts.append(len([query for query in queries if "SAVEPOINT" not in query["sql"]]))

    assert counts == [4, 4]


@pytest.mark.django_db(transaction=True)
def test_rows_and_deliveries_that_arrive_at_once_in_two_processes_all_count():
    """Whether a delivery or its row commits first, and while the day is counted anew: nothing is lost or doubled."""
    rows = [stream_row(f"{n:032x}", at=NOON + (n % 2) * 24 * HOUR, **CUT) for n in range(40)]
    read = [delivery(f"d{n}", f"{n:032x}") for n in range(40)]
    begin = Barrier(3)
    failures: list[BaseException] = []

    def run(work):
        try:
            begin.wait(timeout=60)
            work()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test tells
            failures.append(exc)
        finally:
            connection.close()

    works = [
        lambda: [take(*rows[n : n + 10]) for n in range(0, 40, 5)],
        lambda: [take(*rows[n : n + 3], deliveries=read[n : n + 10]) for n in range(30, -1, -10)],
        lambda: [rebuild_stream_days(DAY) for _ in range(4)],
    ]
    threads = [Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)

    assert failures == []
    assert sum(day["streams"] for day in days().values()) == 40
    assert sum(day["delivered_tokens"] for day in days().values()) == 4000
    assert sum(day["refund_micros"] for day in days().values()) == 0
