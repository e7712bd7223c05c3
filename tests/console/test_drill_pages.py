"""The drill pages over HTTP: what leaving would do, a drill while it runs, its result, and what is proposed from it."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.routing import drills
from controlplane.routing.models import Drill
from controlplane.telemetry.drills import measure
from controlplane.telemetry.operations import merge_rollups, record_lane_states
from tests.console.conftest import said, words
from tests.factories import crew, make_policy, make_routing, make_tenant, routing_document
from tests.worker_reports import STILL_HEARD, lane_state, report, rollup

OPENAI, AZURE, ANTHROPIC = routing_document()["routes"]["chat"]["lanes"]
NEW = "/routing/drills/new/"


@pytest.fixture
def table(db):
    make_policy()
    make_tenant("acme", residency=["eu"])
    return make_routing()


def asked(target="provider:openai", **fields):
    return {"target": target, "minutes": "10", "reason": "the quarterly one"} | fields


def over(provider="openai", *, requests=500, minutes_ago=15):
    """A drill of ten minutes that began a while ago, is over and is measured."""
    now = timezone.now()
    began = (now - timedelta(minutes=minutes_ago)).replace(second=0, microsecond=0)
    drill = drills.start_drill(provider=provider, minutes=10, reason="r", actor=crew.oncall, now=began)
    at = began + timedelta(minutes=3)
    busy = rollup(at, lane=AZURE, requests=requests, latencies=(800.0,) * requests, drains=(40.0,) * requests)
    merge_rollups([report(busy)], now=now)
    drills.record_result(drill=drill, figures=measure(drill, now=now), now=now)
    return Drill.objects.get(pk=drill.pk)


def test_drill_is_previewed_started_watched_and_ended_in_the_browser(table, signed_in):
    """The effect is said first; who would be left out has to be accepted; the page follows until all is final."""
    heard = timezone.now() + STILL_HEARD
    record_lane_states([report(sent_at=heard, lanes=(lane_state(ANTHROPIC, "open"),))], now=heard)
    browser = signed_in(crew.oncall)

    routing = words(browser.get("/routing/"))
    first = words(browser.get(NEW))
    chosen = browser.get(f"{NEW}?target=provider:azure&minutes=5")
    refused = browser.post(NEW, asked("provider:azure"))
    mistaken = browser.post(NEW, asked(minutes="7"))
    started = browser.post(NEW, asked("provider:azure", accept="on"))
    running = browser.get(started.url)
    second = browser.post(NEW, asked())
    listed = words(browser.get("/routing/drills/"))
    ended = browser.post(f"{started.url}end/")
    after = browser.get(started.url)

    assert "Drill leaving anthropic Drill leaving azure Drill leaving openai" in routing
    assert f"Route chat is served by {OPENAI}, then {AZURE}" in first
    assert "Somebody is left without a lane" in words(chosen)
    assert "Route embed: no lane is left for 1 tenant" in words(chosen)
    assert '<option value="provider:azure" selected>' in chosen.content.decode()
    assert (refused.status_code, mistaken.status_code, second.status_code) == (409, 400, 409)
    assert "Accept that, or give the route another lane first" in words(refused)
    assert 'hx-trigger="every 5s"' in running.content.decode()
    assert "End it now" in words(running)
    assert "0 requests in 0 ms; no conclusion under 100" in words(running) or "no conclusion under 100" in words(
        running
    )
    assert "runs until" in words(second)
    assert "A drill runs" in listed
    assert said(ended) == ["azure is used again; the figures are final within two minutes"]
    assert "being measured" in words(after)
    assert "End it now" not in words(after)
    assert drills.running_drill(timezone.now()) is None


def test_result_is_turned_into_proposals_with_the_share_of_guesses(table, signed_in):
    """Before and after stand in the dialog; both proposals are change requests; an auditor sees no button."""
    drill = over()
    browser = signed_in(crew.oncall)

    page = browser.get(drill.get_absolute_url())
    plain = signed_in(crew.auditor).get(drill.get_absolute_url())
    listed = words(browser.get("/routing/drills/"))
    nothing = browser.post(f"{drill.get_absolute_url()}propose/", {})
    values = browser.post(f"{drill.get_absolute_url()}propose/", {"reason": "measured"})
    leaving = browser.post(f"{drill.get_absolute_url()}leave/", {"reason": "for good"})

    text = words(page)
    assert "hx-trigger" not in page.content.decode().partition('id="drill"')[2].partition(">")[0]
    assert "500 requests in 10 min, 0 errors: with 95 % confidence fewer than 0.60 % fail" in text
    assert "Drain floor breaker hosted-chat 5 tokens/s" in text
    proposal = page.context["proposal"]
    assert (proposal.before.guesses - proposal.after.guesses, proposal.before.total) == (1, proposal.after.total)
    assert f"{proposal.before.sentence}. Once it is signed: {proposal.after.sentence}." in text
    assert f"{AZURE} served 500 before 0 100.0 % before –" in text
    assert "Propose" not in words(plain)
    assert "500 requests in 10 min" in listed
    assert said(nothing) == ["Say why; the reason is kept in the audit record"]
    changes = list(ChangeRequest.objects.order_by("pk"))
    assert [values.url, leaving.url] == [f"/reviews/{change.pk}/" for change in changes]
    assert "Measured drill" in words(browser.get(drill.get_absolute_url()))


def test_drill_that_cannot_be_left_for_good_says_why(table, signed_in):
    """And one that saw too little teaches nothing."""
    document = routing_document()
    document["routes"]["embed"]["lanes"] = [lane for lane in document["routes"]["embed"]["lanes"] if "openai" in lane]
    drill = over(requests=42)
    make_routing(document)
    browser = signed_in(crew.oncall)

    text = words(browser.get(drill.get_absolute_url()))

    assert "42 requests in 10 min; no conclusion under 100" in text
    assert "No guess of the table in force was measured" in text
    assert "without 'openai' route 'embed' has no lane; give them another one first" in text
    refused = browser.post(f"{drill.get_absolute_url()}leave/", {"reason": "for good"})
    assert "route 'embed' has no lane" in said(refused)[0]
    assert browser.get("/routing/drills/999/").status_code == 404


def test_drill_pages_take_as_many_queries_for_much_as_for_little(table, signed_in, queries):
    """However many drills, lanes and reports there are."""
    over(minutes_ago=60)
    over("anthropic", minutes_ago=45)
    browser = signed_in(crew.oncall)
    started = timezone.now()
    lane = drills.start_drill(lane=OPENAI, minutes=10, reason="r", actor=crew.oncall, now=started)
    pages = ("/routing/drills/", NEW)
    drill_page = lane.get_absolute_url()
    for page in (drill_page, *pages):
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in (drill_page, *pages)]
    drills.end_drill(drill=lane, reason="r", actor=crew.oncall, now=timezone.now())
    for at in range(5):
        when = started - timedelta(minutes=15 + 15 * at)
        Drill.objects.create(
            provider="openai",
            lanes=lane.lanes,
            table=lane.table,
            reason="r",
            actor="oncall",
            began_at=when,
            until=when + timedelta(minutes=5),
            revision=lane.revision,
            effects=[],
        )
    now = timezone.now().replace(microsecond=0)
    lanes = (OPENAI, AZURE, ANTHROPIC)
    rollups = [rollup(now - timedelta(seconds=10 * at), lane=lane) for at in range(30) for lane in lanes]
    merge_rollups([report(*rollups, seq=2)], now=now)
    whole = drills.start_drill(provider="openai", minutes=10, reason="r", actor=crew.oncall, now=timezone.now())

    many = [queries(lambda page=page: browser.get(page)) for page in (whole.get_absolute_url(), *pages)]
    assert all(now <= before for now, before in zip(many, few, strict=True)), (few, many)
