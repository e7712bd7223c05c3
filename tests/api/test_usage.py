"""Usage over the API: attempts and days, filtered, by pages, and only those of tenants that the caller may see."""

from datetime import UTC, timedelta

import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.api.cursors import CursorField
from controlplane.ledger.models import UsageDay, UsageRow
from controlplane.ledger.operations import record_usage
from tests.factories import crew, make_operator, make_tenant
from tests.worker_reports import NOON, usage_row


@pytest.fixture
def attempts(db):
    """Three attempts just now, of two tenants and two lanes, and one of long ago."""
    acme, _ = make_tenant("acme"), make_tenant("globex")
    now = timezone.now()
    record_usage(
        [
            usage_row("a1", at=now - timedelta(minutes=3), request_id="r1", key_id="7", outcome="upstream_timeout"),
            usage_row(
                "a2",
                at=now - timedelta(minutes=2),
                request_id="r1",
                key_id="7",
                kind="fallback",
                cause="upstream_timeout",
                attempt=2,
                lane="azure/x",
            ),
            usage_row("a3", at=now - timedelta(minutes=1), request_id="r2", tenant="globex"),
            usage_row("a4", at=NOON, request_id="r3"),
        ]
    )
    return acme


def cursor(*key):
    """A cursor that somebody made up."""
    return CursorField().to_representation(list(key))


def collected(caller, path):
    """Every row of a list, page by page; no page is larger than what was asked for."""
    rows = []
    while path:
        page = caller.get(path).body
        rows += page["results"]
        path = page["next"] and page["next"].partition("/api/v1/")[2]
    return rows


def test_attempt_says_in_which_trace_it_is(attempts, as_operator):
    """Where one was kept; a row of a worker that tells nothing of traces has none."""
    record_usage([usage_row("t1", request_id="traced", trace_id="a1" * 16)])
    auditor = as_operator(crew.auditor)

    [traced] = auditor.get("usage?request=traced").body["results"]
    [other] = auditor.get("usage?request=r3").body["results"]

    assert (traced["trace_id"], other["trace_id"]) == ("a1" * 16, "")


def test_attempts_are_listed_newest_first_and_filtered(attempts, as_operator):
    """Of the last 24 h unless told; of one request however old it is."""
    auditor = as_operator(crew.auditor)

    def found(query):
        return [row["attempt_id"] for row in auditor.get(f"usage?{query}").body["results"]]

    assert found("") == ["a3", "a2", "a1"]
    assert found("request=r3") == ["a4"]
    assert found("request=r1&tenant=globex") == []
    assert found("tenant=globex") == ["a3"]
    assert found("key=7") == ["a2", "a1"]
    assert found("lane=azure/x") == ["a2"]
    assert found("since=2026-03-04T12:00:00Z&until=2026-03-04T12:00:01Z") == ["a4"]
    assert found("until=2026-03-05T00:00:00Z") == ["a4"]
    second = auditor.get("usage?request=r1").body["results"][0]
    assert (second["kind"], second["cause"], second["attempt"], second["cost_micros"]) == (
        "fallback",
        "upstream_timeout",
        2,
        300,
    )


def test_days_are_listed_newest_first_and_filtered(attempts, as_operator):
    """Of the last 30 days unless told."""
    auditor = as_operator(crew.auditor)
    days = auditor.get("usage/days").body["results"]
    first = next(row for row in days if row["tenant"] == "acme" and row["kind"] == "primary")

    assert first["day"] >= (timezone.now().astimezone(UTC) - timedelta(minutes=3)).date().isoformat()
    assert (first["attempts"], first["requests"], first["failed"], first["failed_cost_micros"]) == (1, 1, 1, 300)
    assert sum(row["attempts"] for row in days) == 3
    assert [row["kind"] for row in auditor.get("usage/days?lane=azure/x").body["results"]] == ["fallback"]
    assert auditor.get("usage/days?route=embed").body == {"next": None, "results": []}
    old = auditor.get("usage/days?since=2026-03-04&until=2026-03-05&tenant=acme").body["results"]
    assert [(row["day"], row["cost_micros"]) for row in old] == [("2026-03-04", 300)]


def test_pages_follow_each_other_without_a_gap_while_attempts_arrive(attempts, as_operator, queries):
    """Also where many share a moment or a day; what arrives after the first page shifts nothing."""
    auditor = as_operator(crew.auditor)
    record_usage([usage_row(f"b{n:02}", at=NOON, request_id=f"b{n}", lane=f"lane-{n}") for n in range(25)])
    attempts_of_noon = "usage?limit=4&since=2026-03-04T00:00:00Z&until=2026-03-05T00:00:00Z"
    days_of_noon = "usage/days?limit=4&since=2026-03-04&until=2026-03-05"

    page = auditor.get(attempts_of_noon).body
    record_usage([usage_row("new", at=NOON + timedelta(hours=1))])
    rest = collected(auditor, page["next"].partition("/api/v1/")[2])

    ids = [row["attempt_id"] for row in [*page["results"], *rest]]
    assert ids == [f"b{n:02}" for n in range(24, -1, -1)] + ["a4"]
    lanes = [row["lane"] for row in collected(auditor, days_of_noon)]
    assert sorted(lanes) == sorted(UsageDay.objects.filter(day=NOON.date()).values_list("lane", flat=True))
    assert len(auditor.get("usage?limit=1000000&request=b1").body["results"]) == 1
    assert queries(lambda: auditor.get(attempts_of_noon)) == queries(
        lambda: auditor.get(page["next"].partition("/api/v1/")[2])
    )


def test_next_page_asks_for_the_same_period_however_late_it_is_asked(attempts, as_operator):
    """The default period is relative to now; the address of the next page says what it was."""
    page = as_operator(crew.auditor).get("usage?limit=1").body

    assert "since=" in page["next"]
    assert "until=" in page["next"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("usage?since=yesterday", "since"),
        ("usage?since=2026-01-01T00:00:00Z&until=2026-03-01T00:00:00Z", "since"),
        ("usage?limit=0", "limit"),
        ("usage?cursor=x", "cursor"),
        (f"usage?cursor={cursor(1, 2)}", "cursor"),
        (f"usage?cursor={cursor('2026-03-04T12:00:00', 'a1')}", "cursor"),
        (f"usage?cursor={cursor('2026-03-04T12:00:00+00:00', chr(0))}", "cursor"),
        (f"usage/days?cursor={cursor('x', 1)}", "cursor"),
        (f"usage/days?cursor={cursor('2026-03-04', float('inf'))}", "cursor"),
        ("usage/days?until=soon", "until"),
        ("usage/days?key=7", "key"),
    ],
)
def test_question_that_cannot_be_read_is_refused_by_its_field(attempts, as_operator, path, field):
    """Ignored, it would get an answer that claims more than was asked."""
    answer = as_operator(crew.auditor).get(path)

    assert (answer.status, list(answer.body["error"]["fields"])) == (400, [field])


def test_caller_who_may_see_one_tenants_usage_gets_no_others(attempts, as_operator):
    """Not by filter, not by request; who may see nobody's is refused."""
    reader = as_operator(make_operator("reader", Role.AUDITOR, on=attempts))

    for path in ("usage?", "usage/days?", "usage?request=r2", "usage?tenant=globex&", "usage/days?tenant=globex"):
        assert {row["tenant"] for row in reader.get(path).body["results"]} <= {"acme"}, path
    assert UsageRow.objects.filter(tenant="globex").exists()
    owner = as_operator(crew.owner)
    assert [owner.get(path).status for path in ("usage", "usage/days")] == [403, 403]
