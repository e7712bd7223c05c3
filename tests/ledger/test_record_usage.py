from datetime import timedelta

import pytest
from django.db import InternalError, ProgrammingError, connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.ledger.models import RangeTooLong, UsageRow
from controlplane.ledger.operations import record_usage
from tests.worker_reports import NOON, usage_row

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


def test_an_attempt_is_recorded_once():
    """The same attempt delivered again, even within one batch, is one row, as it was first told."""
    record_usage([usage_row("a1"), usage_row("a1", outcome="other")])
    record_usage([usage_row("a1", cost_micros=999)])

    row = UsageRow.objects.get()

    assert (row.cost_micros, row.cost_usd, row.outcome, row.cause) == (300, 0.0003, "ok", "")


def test_later_attempts_say_what_they_were_made_for():
    """The cause is how the attempt before ended; a worker that does not tell it yet leaves it empty."""
    older = usage_row("a1")
    del older["cause"]
    record_usage([older, usage_row("a2", kind="fallback", attempt=2, cause="upstream_timeout")])

    assert [row.cause for row in UsageRow.objects.order_by("attempt_id")] == ["", "upstream_timeout"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6))
def test_every_attempt_that_came_is_there_exactly_once(batches):
    """However attempts are batched and repeated, the record is the set of them."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ledger_usagerow")

    for batch in batches:
        record_usage([usage_row(f"a{n}") for n in batch])

    assert set(UsageRow.objects.values_list("attempt_id", flat=True)) == {f"a{n}" for batch in batches for n in batch}


@pytest.mark.parametrize("statement", ["UPDATE ledger_usagerow SET cost_micros = 0", "DELETE FROM ledger_usagerow"])
def test_the_record_refuses_every_change(statement):
    """Not even SQL edits or deletes what was billed."""
    record_usage([usage_row()])

    with (
        pytest.raises((InternalError, ProgrammingError), match="Cannot update or delete"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)

    assert UsageRow.objects.get().cost_micros == 300


def test_a_batch_is_one_statement():
    """Five hundred attempts cost what one costs."""
    with CaptureQueriesContext(connection) as queries:
        record_usage([usage_row(f"a{n}") for n in range(500)])

    assert len([query for query in queries if "INSERT" in query["sql"]]) == 1


def test_rows_are_found_by_request_tenant_key_and_period():
    """The usage page narrows by everything that a caller can name."""
    record_usage(
        [
            usage_row("a1", request_id="r1", key_id="7"),
            usage_row("a2", request_id="r1", kind="retry", attempt=2, at=NOON + SECOND),
            usage_row("a3", request_id="r2", tenant="globex", at=NOON + 2 * SECOND),
        ]
    )
    rows = UsageRow.objects

    def ids(found):
        return [row.attempt_id for row in found]

    assert ids(rows.of_request("r1")) == ["a1", "a2"]
    assert ids(rows.matching(tenants=["acme"]).newest()) == ["a2", "a1"]
    assert ids(rows.matching(tenants=[])) == []
    assert ids(rows.matching(key="7")) == ["a1"]
    assert ids(rows.between(NOON + SECOND, NOON + 2 * SECOND)) == ["a2"]


def test_pages_follow_each_other_without_a_gap():
    """Going on from the last row seen gives the next ones, also where several share a moment."""
    record_usage([usage_row(f"a{n}", at=NOON + (n // 3) * SECOND) for n in range(10)])
    seen, page = [], list(UsageRow.objects.newest()[:3])
    while page:
        seen += [row.attempt_id for row in page]
        page = list(UsageRow.objects.before(page[-1].at, page[-1].attempt_id).newest()[:3])

    assert seen == [f"a{n}" for n in range(9, -1, -1)]


def test_totals_tell_attempts_from_requests():
    """A retry is billed and belongs to the request that it repeats; a first attempt is none, also when it probes."""
    record_usage(
        [
            usage_row("a1"),
            usage_row("a2", kind="retry", attempt=2),
            usage_row("a3", tenant="globex", request_id="r9", kind="probe"),
        ]
    )

    acme, globex = UsageRow.objects.totals_by_tenant(NOON, NOON + SECOND)

    assert acme == {
        "tenant": "acme",
        "attempts": 2,
        "requests": 1,
        "extra_attempts": 1,
        "input_tokens": 20,
        "output_tokens": 40,
        "cost_micros": 600,
    }
    assert (globex["requests"], globex["extra_attempts"]) == (1, 0)


def test_totals_over_too_long_a_range_are_refused():
    """One page load does not read a year."""
    with pytest.raises(RangeTooLong, match="40 days"):
        UsageRow.objects.totals_by_tenant(NOON, NOON + timedelta(days=40))
