"""The routing pages over HTTP."""

import json
from datetime import timedelta

import pytest
import yaml
from django.utils import timezone

from controlplane.approvals import operations as approvals
from controlplane.approvals.models import ChangeRequest
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import routing_tables
from controlplane.telemetry.operations import merge_rollups
from tests.console.conftest import said
from tests.factories import NOW, crew, make_operator, make_policy, make_routing, make_tenant, routing_document, sign
from tests.worker_reports import report, rollup

OTHER = routing_document(deadline_ms=30_000)


@pytest.fixture
def table(db):
    make_policy()
    return make_routing()


def put_in_force(document):
    """Another table, through its sign-offs."""
    other = routing_tables.submit(document=document, rationale="r", actor=crew.oncall, now=NOW)
    change = routing_tables.propose(version=other, reason="r", actor=crew.oncall, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    return other


def test_routing_page_shows_lanes_in_order_with_what_they_do_now(table, signed_in):
    """Health comes from what workers measured; a lane that nobody tried says so."""
    now = timezone.now()
    at = now.replace(second=now.second // 10 * 10, microsecond=0) - timedelta(seconds=20)
    merge_rollups([report(rollup(at, lane="azure/eu-west/eu/gpt-4o", requests=100, errors=50))], now=now)

    page = signed_in(crew.legal).get("/routing/")

    chat = next(route for route in page.context["routes"] if route.slug == "chat")
    assert [(row.lane.id.split("/")[0], row.standing) for row in chat.lanes] == [
        ("openai", "idle"),
        ("azure", "failing"),
        ("anthropic", "idle"),
    ]
    assert chat.lanes[1].share == "100.0%"
    assert "env:DEMO_OPENAI_KEY" in page.content.decode()


def test_routing_page_says_which_lanes_a_pinned_tenant_may_reach(table, signed_in):
    """By the rule that workers apply; a route with nothing left says why."""
    make_tenant("acme", residency=["eu"])
    make_tenant("nobody", residency=["mars"])

    page = signed_in(crew.admin).get("/routing/")

    reach = {row["tenant"].slug: {one.route: one for one in row["reaches"]} for row in page.context["tenants"]}
    assert all("eu-west" in lane for one in reach["acme"].values() for lane in one.lanes)
    assert "outside the pin mars" in reach["nobody"]["chat"].refusal


def test_routing_page_shows_no_tenant_that_the_reader_may_not_see(table, signed_in):
    """An approver sees routes, and no customers."""
    make_tenant("acme", residency=["eu"])

    assert "acme" not in signed_in(crew.approver_one).get("/routing/").content.decode()


def test_table_is_proposed_in_yaml_and_waits_for_two_people(table, signed_in):
    """What was typed is stored once, whole, and its change request is open."""
    response = signed_in(crew.oncall).post(
        "/routing/new/", {"document": yaml.safe_dump(OTHER), "reason": "shorter deadline", "action": "submit"}
    )

    change = ChangeRequest.objects.get()
    assert response.url == f"/reviews/{change.pk}/"
    assert RoutingTable.objects.get(number=2).document == OTHER
    assert routing_tables.active() == table


def test_preview_compares_and_stores_nothing(table, signed_in):
    """JSON is YAML; no reason is needed to look."""
    page = signed_in(crew.oncall).post("/routing/new/", {"document": json.dumps(OTHER), "action": "preview"})

    assert page.status_code == 200
    assert "30000" in page.content.decode()
    assert RoutingTable.objects.count() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("routes: [", "line 1"),
        ("a: 1\na: 2\n", "given twice"),
        ("a: &x [1]\nb: *x\n", "aliases are not taken"),
        ("providers: {}\naccounts: {}\nlanes: {}\nroutes: {chat: {lanes: [gone], deadline_ms: 5}}", "$.routes.chat"),
        ("just words", "$"),
        ("", "required"),
    ],
)
def test_mistake_in_a_table_is_shown_with_its_place(table, signed_in, text, words):
    """Nothing is stored, and what was typed stays in the editor."""
    page = signed_in(crew.oncall).post("/routing/new/", {"document": text, "reason": "r", "action": "submit"})

    assert page.status_code == 400
    assert words in page.context["form"].errors["document"][0]
    assert RoutingTable.objects.count() == 1


def test_table_in_force_cannot_be_submitted_again(table, signed_in):
    """The operation's refusal stands beside the editor."""
    document = yaml.safe_dump(table.document)

    page = signed_in(crew.oncall).post("/routing/new/", {"document": document, "reason": "r", "action": "submit"})

    assert page.status_code == 409
    assert "is in force and has exactly this content" in page.content.decode()


def test_return_to_an_earlier_table_takes_one_click_and_a_reason(table, signed_in):
    """Without a reason nothing happens; with one the table is in force again."""
    put_in_force(OTHER)
    browser = signed_in(crew.oncall)

    refused = browser.post("/routing/tables/1/return/")
    assert routing_tables.active() != table
    browser.post("/routing/tables/1/return/", {"reason": "lanes fail"})

    assert "Say why" in said(refused)[0]
    assert routing_tables.active() == table


def test_table_that_was_never_in_force_is_not_returned_to_but_proposed(table, signed_in):
    """The refusal says so; proposing it twice gives two changes, each to be signed."""
    routing_tables.submit(document=OTHER, rationale="r", actor=crew.oncall, now=NOW)
    browser = signed_in(crew.oncall)

    refused = browser.post("/routing/tables/2/return/", {"reason": "x"})
    proposed = browser.post("/routing/tables/2/propose/", {"reason": "x"})

    assert "never in force" in said(refused)[0]
    assert proposed.url == f"/reviews/{ChangeRequest.objects.get().pk}/"


def test_table_page_offers_what_its_state_allows(table, signed_in):
    """In force: nothing; was in force: return; submitted: propose; proposed: its review."""
    browser = signed_in(crew.oncall)
    submitted = routing_tables.submit(document=OTHER, rationale="r", actor=crew.oncall, now=NOW)

    assert "data-dialog-open" not in browser.get("/routing/tables/1/").content.decode()
    assert 'data-dialog-open="propose"' in browser.get("/routing/tables/2/").content.decode()
    change = routing_tables.propose(version=submitted, reason="r", actor=crew.oncall, now=NOW)
    assert f"/reviews/{change.pk}/" in browser.get("/routing/tables/2/").content.decode()
    sign(change, crew.approver_one, crew.approver_two)
    approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    assert 'data-dialog-open="return"' in browser.get("/routing/tables/1/").content.decode()


def test_only_proposers_propose_and_return(table, signed_in):
    """Others read every table and are refused by name of the permission."""
    browser = signed_in(crew.owner)

    assert browser.get("/routing/").status_code == browser.get("/routing/tables/1/").status_code == 200
    for url in ("/routing/new/", "/routing/tables/1/return/", "/routing/tables/1/propose/"):
        refused = browser.post(url, {"reason": "x"})
        assert refused.status_code == 403
        assert "propose another routing table" in refused.content.decode()


def test_routing_is_hidden_from_who_may_not_see_it(table, signed_in):
    """No role on everything: no routing; a table that does not exist is not there for anybody."""
    stranger = signed_in(make_operator("newcomer"))

    assert stranger.get("/routing/").status_code == 403
    assert stranger.get("/routing/tables/1/").status_code == 404
    assert signed_in(crew.oncall).get("/routing/tables/99/").status_code == 404


def test_routing_page_before_the_first_table_says_what_to_do(db, signed_in):
    """An empty state names the first step to who may take it."""
    assert "Propose a table" in signed_in(crew.oncall).get("/routing/").content.decode()
    assert "On-call or Admin" in signed_in(crew.owner).get("/routing/").content.decode()


def test_routing_page_takes_as_many_queries_for_many_tables_as_for_few(table, signed_in, queries):
    """Neither per table, nor per tenant."""
    browser = signed_in(crew.admin)
    browser.get("/routing/")
    few = queries(lambda: browser.get("/routing/"))
    for deadline_ms in (10_000, 20_000, 30_000):
        put_in_force(routing_document(deadline_ms=deadline_ms))
        make_tenant(f"tenant-{deadline_ms}")

    assert queries(lambda: browser.get("/routing/")) == few
