"""The page of retries over HTTP: the multipliers per tenant, lane and day, the causes, and the file."""

import csv
import io
from datetime import UTC, timedelta

import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.console.palette import entries
from controlplane.ledger.operations import record_usage
from tests.console.conftest import words
from tests.factories import crew, make_operator, make_tenant
from tests.worker_reports import usage_row

EU, US = "openai/eu-west/main/gpt-4o", "azure/us/main/gpt-4o"


@pytest.fixture
def attempts(db):
    """Two requests of acme, one tried three times on two lanes, and one of globex; a week ago another of acme."""
    acme, _ = make_tenant("acme"), make_tenant("globex")
    now = timezone.now()
    record_usage(
        [
            usage_row("a1", at=now, request_id="r1", outcome="upstream_timeout"),
            usage_row("a2", at=now, request_id="r1", kind="retry", cause="upstream_timeout", attempt=2, outcome="x"),
            usage_row("a3", at=now, request_id="r1", kind="fallback", cause="x", attempt=3, lane=US, cost_micros=600),
            usage_row("a4", at=now, request_id="r2"),
            usage_row("a5", at=now, request_id="r2", kind="shadow", lane="shadow/lane", cost_micros=9_000_000),
            usage_row("a6", at=now, request_id="r3", tenant="globex"),
            usage_row("a7", at=now - timedelta(days=8), request_id="r4"),
        ]
    )
    return acme


def test_requests_that_were_tried_again_show_whose_where_and_why(attempts, signed_in):
    """Four attempts for two requests of acme; half of what was paid for them went to attempts that failed."""
    page = signed_in(crew.auditor).get("/usage/retries/?days=7")
    found, said = page.context["found"], words(page)

    tenants = {line.name: (line.multiplier, line.figures.cost_multiplier) for line in found.tenants}
    assert tenants == {"acme": (2, pytest.approx(1500 / 900)), "globex": (1, 1)}
    lanes = {line.name: (line.figures.requests, line.figures.caught, line.multiplier) for line in found.lanes}
    assert lanes == {EU: (3, 0, pytest.approx(4 / 3)), US: (0, 1, 1)}
    assert [(cause.name, cause.extra, cause.percent) for cause in found.causes] == [
        ("upstream_timeout", 1, 50),
        ("x", 1, 50),
    ]
    assert "40 % of all attempts were not the first of their request, 50 % of those because of upstream_timeout" in said
    assert "$0.000600 of $0.001800 was paid for attempts that failed" in said
    assert "÷ the cost of those that did not fail" in said


def test_each_day_has_its_place_on_the_chart_and_one_without_attempts_is_a_gap(attempts, signed_in):
    """30 days unless told, up to today, in UTC; a range that is not on offer is as none."""
    browser = signed_in(crew.auditor)
    today = timezone.now().astimezone(UTC).date()

    for query, count, known in (("", 30, 2), ("?days=7", 7, 1), ("?days=90", 90, 2), ("?days=3650", 30, 2)):
        tried, cost = browser.get(f"/usage/retries/{query}").context["found"].chart["data"]
        assert (len(tried["x"]), tried["x"][-1]) == (count, today.isoformat())
        assert sum(value is not None for value in tried["y"]) == known
        assert (tried["y"][-1], cost["y"][-1]) == (pytest.approx(5 / 3, abs=1e-4), pytest.approx(1.5))


def test_one_lane_is_held_against_how_often_requests_came_to_it(attempts, signed_in):
    """No request began on the one that caught: attempts per request would be a division by nothing."""
    page = signed_in(crew.auditor).get(f"/usage/retries/?tenant=acme&lane={US}")

    assert [line.name for line in page.context["found"].tenants] == ["acme"]
    assert [tile["value"] for tile in page.context["found"].tiles[:2]] == ["1.00", "1.00"]
    assert "Attempts per arrival" in words(page)
    assert "No attempts in this period" in words(signed_in(crew.auditor).get("/usage/retries/?lane=nowhere"))


def test_reader_of_one_tenant_sees_no_other_on_the_page_or_in_the_file(attempts, signed_in):
    """However they ask; and who may see nobody's bills is refused both."""
    browser = signed_in(make_operator("reader", Role.AUDITOR, on=attempts))

    for query in ("", "?tenant=globex", f"?lane={EU}"):
        assert {line.name for line in browser.get(f"/usage/retries/{query}").context["found"].tenants} <= {"acme"}
        assert "globex" not in browser.get(f"/usage/retries/export/{query}").getvalue().decode()
    stranger = signed_in(crew.owner)
    assert [stranger.get(f"/usage/retries/{path}").status_code for path in ("", "export/")] == [403, 403]
    assert "Retries and what they cost" in {entry.label for entry in entries(crew.auditor)}
    assert "Retries and what they cost" not in {entry.label for entry in entries(crew.owner)}


def test_file_holds_what_the_page_is_made_of(attempts, signed_in):
    """A line per day, tenant, lane, route, kind and cause, shadows included, with every sum; never a formula."""
    record_usage([usage_row("b1", at=timezone.now(), lane="=cmd|calc", request_id="r9")])

    answer = signed_in(crew.auditor).get("/usage/retries/export/?days=7")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))

    assert answer["Content-Disposition"].startswith('attachment; filename="retries-')
    assert sum(int(row["attempts"]) for row in rows) == 7
    assert sum(int(row["cost_micros"]) for row in rows if row["kind"] == "shadow") == 9_000_000
    assert {row["cause"] for row in rows} == {"", "upstream_timeout", "x"}
    assert "'=cmd|calc" in {row["lane"] for row in rows}


def test_page_takes_as_many_queries_for_many_lanes_and_days_as_for_few(attempts, signed_in, queries):
    """Four for the content, whatever there is."""
    browser = signed_in(crew.auditor)
    browser.get("/usage/retries/")
    few = queries(lambda: browser.get("/usage/retries/"))
    now = timezone.now()
    record_usage(
        [
            usage_row(f"b{n}", at=now - timedelta(days=n % 9), lane=f"l{n}", kind="retry", cause=f"c{n % 5}", attempt=2)
            for n in range(60)
        ]
    )

    assert queries(lambda: browser.get("/usage/retries/")) == few
