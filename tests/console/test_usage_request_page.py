"""The page of one request over HTTP: its attempts in order, on one line of time."""

from datetime import timedelta

import pytest

from controlplane.accounts.roles import Role
from controlplane.console.waterfall import WIDTH, waterfall
from controlplane.ledger.models import UsageRow
from controlplane.ledger.operations import record_usage
from tests.console.conftest import words
from tests.factories import crew, make_operator, make_tenant
from tests.worker_reports import NOON, usage_row

SECOND = timedelta(seconds=1)
PAGE = "/usage/requests/req-1/"


@pytest.fixture
def tried_twice(db):
    """A request that timed out on one lane after 2 s and was answered by another 1 s after that, in 1 s."""
    acme, _ = make_tenant("acme"), make_tenant("globex")
    slow = {"outcome": "upstream_timeout", "status": 504, "latency_ms": 2000.0}
    quick = {"kind": "fallback", "cause": "upstream_timeout", "attempt": 2, "lane": "azure/x", "latency_ms": 1000.0}
    record_usage(
        [
            usage_row("a1", at=NOON + 2 * SECOND, **slow),
            usage_row("a2", at=NOON + 4 * SECOND, ttft_ms=500.0, stream=True, **quick),
        ]
    )
    return acme


def test_attempts_stand_in_order_on_one_line_of_time(tried_twice, signed_in):
    """Half of the line for the first, a gap while nothing was tried, and the last quarter for the second."""
    page = signed_in(crew.auditor).get(PAGE)
    first, second = page.context["found"].bars

    assert (first.left, first.width, first.first_token, first.tone) == (0, WIDTH / 2, None, "bad")
    assert (second.left, second.width, second.first_token) == (750, 250, 875)
    assert (second.after_ms, second.tone, page.context["found"].span_ms) == (3000, "good", 4000)
    said = words(page)
    assert "2 attempts at 2 lanes in 4,000 ms, $0.000600, of which $0.000300 for attempts that failed" in said
    assert "fallback after upstream_timeout" in said
    assert "style=" not in page.content.decode().partition("<main")[2]


def test_attempt_that_a_process_took_with_it_says_that_it_is_an_estimate(tried_twice, signed_in):
    """Its provider bills at least what it was sent; nobody knows what it answered."""
    record_usage([usage_row("d1", request_id="req-4", outcome="process_lost", status=0, output_tokens=0)])
    auditor = signed_in(crew.auditor)

    assert "at least; its process was killed" in words(auditor.get("/usage/requests/req-4/"))
    assert "at least" not in words(auditor.get(PAGE))


def test_request_leads_to_its_traces(tried_twice, signed_in, settings):
    """To each once, wherever traces are looked at; their names alone where nobody said where that is."""
    own, shadow = "a1" * 16, "b2" * 16
    traced = {"request_id": "req-3", "trace_id": own}
    record_usage([usage_row("c1", **traced), usage_row("c2", attempt=2, **traced)])
    record_usage([usage_row("c-s", at=NOON + SECOND, kind="shadow", request_id="req-3", trace_id=shadow)])
    auditor = signed_in(crew.auditor)

    unlinked = auditor.get("/usage/requests/req-3/")
    settings.TRACE_URL = "https://traces.example/trace/{trace_id}"
    linked = auditor.get("/usage/requests/req-3/").content.decode()

    assert unlinked.context["found"].trace_ids == (own, shadow)
    assert own in words(unlinked)
    assert "traces.example" not in unlinked.content.decode()
    assert [linked.count(f'href="https://traces.example/trace/{one}"') for one in (own, shadow)] == [1, 1]
    assert "none was kept" in words(auditor.get(PAGE))
    assert f"trace {own[:8]}" in words(auditor.get("/usage/?request=req-3"))


def test_the_list_of_attempts_leads_to_their_request(tried_twice, signed_in):
    """From every row; found by its id, however long ago."""
    assert f'href="{PAGE}"' in signed_in(crew.auditor).get("/usage/?request=req-1").content.decode()


def test_request_of_a_tenant_that_is_not_ones_own_does_not_exist(tried_twice, signed_in):
    """Nor does one that nobody made, or whose id no database could hold."""
    own = signed_in(make_operator("reader", Role.AUDITOR, on=tried_twice))
    record_usage([usage_row("b1", tenant="globex", request_id="req-2")])

    assert own.get(PAGE).status_code == 200
    for path in ("/usage/requests/req-2/", "/usage/requests/req-9/", "/usage/requests/%00/"):
        assert own.get(path).status_code == 404, path
    assert signed_in(crew.owner).get(PAGE).status_code == 404


def test_page_takes_as_many_queries_for_many_attempts_as_for_two(tried_twice, signed_in, queries):
    """All attempts of a request are one query."""
    browser = signed_in(crew.auditor)
    browser.get(PAGE)
    few = queries(lambda: browser.get(PAGE))
    record_usage([usage_row(f"c{n}", at=NOON + n * SECOND, attempt=n, kind="retry") for n in range(3, 20)])

    assert queries(lambda: browser.get(PAGE)) == few


def test_every_bar_can_be_seen_and_none_leaves_the_picture():
    """An attempt of no time at all, also at the very end of a long one, is still a bar."""
    made = [
        UsageRow(at=NOON + n * SECOND, latency_ms=latency, outcome="cancelled", cost_micros=1, ttft_ms=latency)
        for n, latency in ((0, 0.0), (60, 60_000.0), (60, 0.0))
    ]

    found = waterfall(made)

    assert all(bar.left >= 0 and bar.width > 0 and bar.left + bar.width <= WIDTH for bar in found.bars)
    assert {bar.tone for bar in found.bars} == {"off"}
    assert waterfall(made[:1]).bars[0].width > 0
