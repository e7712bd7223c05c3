"""What attempts come to by day: counted as they are recorded, each once, and the same as counting them anew."""

from datetime import date, timedelta
from importlib import import_module
from io import StringIO
from threading import Barrier, Thread

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.ledger.models import RangeTooLong, UsageDay, UsageRow
from controlplane.ledger.operations import rebuild_usage_days, record_usage
from controlplane.ledger.sums import SUM_COUNTS, SUM_KEY, UsageSum
from controlplane.ledger.totals import counted, totals_by_tenant
from tests.worker_reports import NOON, usage_row

DAY = date(2026, 3, 4)
HOUR = timedelta(hours=1)
KEY = ("day", "tenant", "lane", "route", "kind", "cause")
SUMS = ("attempts", "requests", "failed", "input_tokens", "output_tokens", "cost_micros", "failed_cost_micros")
TENANTS = ["acme", "globex"]

attempts = st.builds(
    lambda number, tenant, lane, kind, attempt, outcome, hours, cost: usage_row(
        f"a{number}",
        at=NOON + hours * HOUR,
        tenant=tenant,
        lane=lane,
        kind=kind,
        cause="" if attempt == 1 else "upstream_timeout",
        attempt=attempt,
        outcome=outcome,
        cost_micros=cost,
    ),
    number=st.integers(0, 30),
    tenant=st.sampled_from(TENANTS),
    lane=st.sampled_from(["eu/a", "us/b"]),
    kind=st.sampled_from(["primary", "retry", "fallback", "probe", "shadow", "eval"]),
    attempt=st.integers(1, 3),
    outcome=st.sampled_from(["ok", "cancelled", "upstream_timeout"]),
    hours=st.integers(-60, 60),
    cost=st.integers(0, 10**12),
)


def days():
    """The whole table, by its key."""
    return {row[: len(KEY)]: row[len(KEY) :] for row in UsageDay.objects.values_list(*KEY, *SUMS)}


def sums():
    """All of the coarser counts, by their key."""
    return {row[: len(SUM_KEY)]: row[len(SUM_KEY) :] for row in UsageSum.objects.values_list(*SUM_KEY, *SUM_COUNTS)}


@pytest.mark.django_db
def test_attempts_count_for_the_day_lane_kind_and_cause_under_which_they_ended():
    """A refused first attempt, its retry and its fallback are three rows; the request counts with the first."""
    lane = "openai/eu-west/main/gpt-4o"
    record_usage(
        [
            usage_row("a1", outcome="upstream_timeout", status=504),
            usage_row("a2", kind="retry", attempt=2, cause="upstream_timeout", outcome="upstream_error", cost_micros=0),
            usage_row("a3", kind="fallback", attempt=3, cause="upstream_error", lane="azure/x"),
            usage_row("a4", request_id="req-2", outcome="cancelled"),
            usage_row("a5", request_id="req-2", kind="shadow", lane="azure/x"),
            usage_row("a6", request_id="req-3", at=NOON + 12 * HOUR),
        ]
    )

    assert days() == {
        (DAY, "acme", lane, "chat", "primary", ""): (2, 2, 1, 20, 40, 600, 300),
        (DAY, "acme", lane, "chat", "retry", "upstream_timeout"): (1, 0, 1, 10, 20, 0, 0),
        (DAY, "acme", "azure/x", "chat", "fallback", "upstream_error"): (1, 0, 0, 10, 20, 300, 0),
        (DAY, "acme", "azure/x", "chat", "shadow", ""): (1, 0, 0, 10, 20, 300, 0),
        (DAY + timedelta(days=1), "acme", lane, "chat", "primary", ""): (1, 1, 0, 10, 20, 300, 0),
    }


@pytest.mark.django_db
def test_evals_are_billed_and_are_nobodys_requests():
    """Their attempts and their cost are there; no request, no attempt beyond a first, no part of what is repeated."""
    record_usage(
        [
            usage_row("a1"),
            usage_row("a2", kind="retry", attempt=2, cause="upstream_timeout"),
            usage_row("e1", tenant="ballast", request_id="req-9", kind="eval", outcome="upstream_timeout", status=504),
            usage_row("e2", tenant="ballast", request_id="req-9", kind="eval", attempt=2, cause="upstream_timeout"),
        ]
    )

    ours, acme = totals_by_tenant(tenants=["acme", "ballast"], since=NOON - HOUR, until=NOON + HOUR)[::-1]
    (repeated,) = UsageDay.objects.repetition_by("day")

    assert [ours[name] for name in ("tenant", "attempts", "requests", "extra_attempts", "cost_micros")] == [
        "ballast",
        2,
        0,
        0,
        600,
    ]
    assert (acme["requests"], acme["extra_attempts"]) == (1, 1)
    assert totals_by_tenant(tenants=["ballast"], since=NOON - 24 * HOUR, until=NOON + 24 * HOUR) == [ours]
    assert (repeated["attempts"], repeated["requests"], repeated["retries"], repeated["failed"]) == (2, 1, 1, 0)
    assert [row["extra"] for row in UsageDay.objects.extra_by_cause()] == [1]


@pytest.mark.django_db
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(attempts, max_size=8), max_size=5))
def test_days_agree_with_the_rows_however_these_were_delivered(batches):
    """In any batches and again: counting the rows anew, or as the migration did, finds what was counted on the way;
    and totals over the days are those of the rows, from any hour to any other.
    """
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ledger_usagerow, ledger_usageday, ledger_usagesum")
    for batch in batches:
        record_usage(batch)
    by_day, coarser = days(), sums()

    for since, until in ((-61, 61), (-60, -13), (-36, 12), (-3, 3), (12, 36)):
        period = (NOON + since * HOUR, NOON + until * HOUR)
        assert totals_by_tenant(tenants=TENANTS, since=period[0], until=period[1]) == list(
            UsageRow.objects.totals_by_tenant(*period)
        )
    for number in range(-3, 4):
        rebuild_usage_days(DAY + timedelta(days=number))
    assert (days(), sums()) == (by_day, coarser)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ledger_usagesum")
        cursor.execute(import_module("controlplane.ledger.migrations.0016_usage_sums").BACKFILL)
    assert sums() == coarser


@pytest.mark.django_db
def test_days_that_were_there_before_they_were_counted_are_counted_by_the_migration():
    """Of attempts from before there were evals, which it does not know."""
    record_usage(
        [
            usage_row("a1", outcome="upstream_timeout"),
            usage_row("a2", kind="retry", attempt=2, cause="upstream_timeout"),
            usage_row("a3", kind="shadow", lane="azure/x", at=NOON + 12 * HOUR),
        ]
    )
    by_day = days()

    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ledger_usageday")
        cursor.execute(import_module("controlplane.ledger.migrations.0003_usage_days").BACKFILL)

    assert days() == by_day


@pytest.mark.django_db
@settings(max_examples=25, deadline=None)
@given(st.lists(attempts, max_size=12), st.sampled_from(["", "eu/a"]))
def test_coarser_counts_say_what_the_days_say(rows, lane):
    """By tenant, day, lane and cause; of everybody, of tenants by their names and of one; at any lane and at one."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ledger_usagerow, ledger_usageday, ledger_usagesum")
    record_usage(rows)
    first, until = DAY - timedelta(days=1), DAY + timedelta(days=2)

    for tenants in (None, TENANTS, ["acme"]):
        found = counted(first=first, until=until, tenants=tenants, lane=lane)
        said = UsageDay.objects.between(first, until).matching(tenants=tenants, lane=lane)
        for name, of in (("tenant", found.tenants), ("day", found.days), ("lane", found.lanes)):
            assert by(name, of) == by(name, said)
        assert list(found.lanes.extra_by_cause()) == list(said.extra_by_cause())


def by(name, counts):
    """What is repeated, by tenant, day or lane."""
    return {row[name]: row for row in counts.repetition_by(name)}


@pytest.mark.django_db
def test_what_a_tenant_that_is_gone_was_billed_is_seen_by_whoever_sees_everybody():
    """None is everybody; a list of names is no more than these."""
    record_usage([usage_row("a1"), usage_row("a2", tenant="gone", request_id="r2")])
    period = {"since": NOON - 30 * HOUR, "until": NOON + 30 * HOUR}

    everybody, named = totals_by_tenant(tenants=None, **period), totals_by_tenant(tenants=["acme"], **period)

    assert [row["tenant"] for row in everybody] == ["acme", "gone"]
    assert [row["tenant"] for row in named] == ["acme"]


@pytest.mark.django_db
def test_a_day_that_was_tampered_with_is_made_right_and_no_other_is_touched():
    """The days are derived: unlike the rows they may be changed, and the rows say what they must be."""
    record_usage([usage_row("a1"), usage_row("a2", at=NOON - 24 * HOUR, request_id="req-2")])
    by_day, coarser = days(), sums()
    UsageDay.objects.update(cost_micros=1)
    UsageSum.objects.update(cost_micros=1)
    UsageDay.objects.create(day=DAY, tenant="ghost", lane="x", route="x", kind="retry", **dict.fromkeys(SUMS, 1))

    out = StringIO()
    call_command("rebuild_usage_days", "2026-03-04", stdout=out)
    assert out.getvalue() == "2026-03-04: 1 rows\n"
    assert [row.cost_micros for row in UsageDay.objects.order_by("day")] == [1, 300]

    assert set(UsageSum.objects.filter(begins_at__lt=NOON - 12 * HOUR).values_list("cost_micros", flat=True)) == {1}

    call_command("rebuild_usage_days", "2026-03-03", "2026-03-04", stdout=out)
    assert (days(), sums()) == (by_day, coarser)
    with pytest.raises(CommandError, match="2026-03-03, is before the first, 2026-03-04"):
        call_command("rebuild_usage_days", "2026-03-04", "2026-03-03")
    with pytest.raises(CommandError, match="has not begun"):
        call_command("rebuild_usage_days", "2026-03-04", "2999-01-01")


@pytest.mark.django_db
def test_totals_of_a_long_period_read_its_days_and_hours_and_not_their_rows():
    """What whole days and hours say is believed, so they are not counted again; too long a period is refused."""
    ended = (NOON, NOON + 48 * HOUR, NOON + 50.25 * HOUR)  # in a whole day, a whole hour, and half an hour at the end
    record_usage([usage_row(f"a{number}", at=at, request_id=f"r{number}") for number, at in enumerate(ended)])
    UsageSum.objects.filter(of="tenant_day").update(cost_micros=7)
    UsageSum.objects.filter(of="tenant_hour").update(cost_micros=50)

    with CaptureQueriesContext(connection) as queries:
        (acme,) = totals_by_tenant(tenants=TENANTS, since=NOON - 50.5 * HOUR, until=NOON + 50.5 * HOUR)

    assert (acme["attempts"], acme["requests"], acme["cost_micros"]) == (3, 3, 7 + 50 + 300)
    assert len(queries) == 5
    with pytest.raises(RangeTooLong, match="40 days"):
        totals_by_tenant(tenants=TENANTS, since=NOON, until=NOON + timedelta(days=40))


@pytest.mark.django_db(transaction=True)
def test_processes_that_take_in_the_same_rows_at_once_count_each_once():
    """Also while a day is counted anew in between; nobody waits in a circle, and nothing is lost or counted twice."""
    rows = [
        usage_row(f"a{n}", request_id=f"r{n}", lane=f"lane-{n % 7}", at=NOON + (n % 3) * 12 * HOUR) for n in range(90)
    ]
    begin = Barrier(4)
    failures: list[BaseException] = []

    def run(work):
        try:
            begin.wait(timeout=60)
            work()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test tells
            failures.append(exc)
        finally:
            connection.close()

    def take(order):
        for start in range(0, 90, 15):
            record_usage(order[start : start + 30])

    works = [
        lambda: take(rows),
        lambda: take(rows[::-1]),
        lambda: take(rows[45:] + rows[:45]),
        lambda: [rebuild_usage_days(DAY) for _ in range(5)],
    ]
    threads = [Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)

    assert failures == []
    by_day, coarser = days(), sums()
    assert sum(row[0] for row in by_day.values()) == UsageRow.objects.count() == 90
    for number in range(2):
        rebuild_usage_days(DAY + timedelta(days=number))
    assert (days(), sums()) == (by_day, coarser)
