"""The usage page over HTTP: found by request, tenant, key, prompt, lane and period."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.accounts.roles import Role
from controlplane.ledger.operations import record_usage
from tests.factories import NOW, crew, make_operator, make_tenant
from tests.worker_reports import usage_row


@pytest.fixture
def attempts(db):
    """Four attempts of two tenants: a retry, another prompt and lane, and one of two days ago."""
    acme, globex = make_tenant("acme"), make_tenant("globex")
    key = accounts.issue_key(tenant=acme, name="shop", actor="setup", now=NOW, secret="bk-acme-shop-1").row
    recently = timezone.now() - timedelta(minutes=5)
    record_usage(
        [
            usage_row("a1", at=recently, request_id="req-1", key_id=str(key.pk)),
            usage_row(
                "a2",
                at=recently,
                request_id="req-1",
                kind="retry",
                cause="upstream_timeout",
                attempt=2,
                key_id=str(key.pk),
            ),
            usage_row("a3", at=recently, request_id="req-2", tenant="globex", prompt="refund-policy", lane="azure/x"),
            usage_row("a4", at=recently - timedelta(days=2), request_id="req-3"),
        ]
    )
    return acme, globex


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["a3", "a2", "a1"]),
        ("hours=168", ["a3", "a2", "a1", "a4"]),
        ("request=req-3", ["a4"]),
        ("tenant=globex", ["a3"]),
        ("key=bk-acme-sho", ["a2", "a1"]),
        ("key=bk-nobody", []),
        ("prompt=refund-policy", ["a3"]),
        ("lane=azure/x", ["a3"]),
        ("tenant=acme&prompt=refund-policy", []),
    ],
)
def test_attempts_are_found_by_what_people_know_of_them(attempts, signed_in, query, ids):
    """Newest first; everything given must fit."""
    page = signed_in(crew.auditor).get(f"/usage/?{query}")

    assert sorted(row.attempt_id for row in page.context["rows"]) == sorted(ids)


def test_totals_show_what_each_tenant_used_and_how_often_requests_were_tried_and_why(attempts, signed_in):
    """Two attempts of one request: a multiplier of two."""
    page = signed_in(crew.admin).get("/usage/")
    totals = {row["tenant"]: row for row in page.context["totals"]}

    assert totals["acme"]["multiplier"] == 2
    assert totals["globex"]["cost_micros"] == 300
    assert "retry 2 after upstream_timeout" in page.content.decode()


def test_reader_of_one_tenant_sees_no_other_however_they_ask(attempts, signed_in):
    """Not in the list, not in the totals, not by request id."""
    acme, _ = attempts
    browser = signed_in(make_operator("reader", Role.AUDITOR, on=acme))

    for query in ("", "tenant=globex", "request=req-2", "prompt=refund-policy"):
        page = browser.get(f"/usage/?{query}")
        assert "refund-policy v" not in page.content.decode(), query
        assert {row.tenant for row in page.context["rows"]} <= {"acme"}, query
        assert {row["tenant"] for row in page.context["totals"]} <= {"acme"}, query


def test_usage_is_refused_to_who_may_see_no_tenants_bills(attempts, signed_in):
    """And the rail does not offer it to them."""
    browser = signed_in(crew.owner)

    assert browser.get("/usage/").status_code == 403
    assert 'data-room="usage"' not in browser.get("/").content.decode()


def test_usage_page_takes_as_many_queries_for_many_attempts_as_for_few(attempts, signed_in, queries):
    """And a page of older ones costs no more than the first."""
    browser = signed_in(crew.auditor)
    browser.get("/usage/")
    few = queries(lambda: browser.get("/usage/"))
    at = timezone.now() - timedelta(minutes=1)
    record_usage([usage_row(f"b{number}", at=at, request_id=f"r{number}") for number in range(60)])

    assert queries(lambda: browser.get("/usage/")) == few
    older = browser.get("/usage/").context["older"]
    assert queries(lambda: browser.get(f"/usage/{older}")) == few
