"""The front page over HTTP, and what the frame of every page says."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.approvals.models import BreakGlass
from controlplane.console.fires import fires
from controlplane.prompts import operations as prompts
from controlplane.releases.fleet import fleet_page
from controlplane.releases.operations import current_release, record_reports
from controlplane.telemetry.operations import merge_rollups
from controlplane.telemetry.quotas import QuotaStanding
from controlplane.telemetry.traffic import lane_health
from tests.factories import (
    FIVE_PERCENT,
    INTERNAL,
    break_glass,
    crew,
    make_canary,
    make_deployment,
    make_live_version,
    make_operator,
    make_prompt,
    make_version,
    run_canary,
    sign,
)
from tests.permissions.visitor import Visitor
from tests.worker_reports import STILL_HEARD, report, rollup

pytestmark = pytest.mark.usefixtures("deployment")


def serve(*workers, digest=None):
    heard, release = timezone.now() + STILL_HEARD, current_release()
    record_reports(
        [
            report(worker=one, sent_at=heard, revision=release.revision, digest=digest or release.digest)
            for one in workers
        ],
        now=heard,
    )


def burning(**given):
    now = timezone.now()
    facts = {"fleet": None, "lanes": [], "opened": [], "quotas": [], "debts": [], "drifted": [], "now": now} | given
    return fires(**facts)


@pytest.fixture
def prompt(db):
    return make_deployment()


def test_front_page_of_a_healthy_house_says_that_nothing_burns(prompt, signed_in):
    """Good is a word and an icon, and the status sentence stands above it."""
    serve("a/gateway-0", "a/gateway-1")

    html = signed_in(crew.owner).get("/").content.decode()

    assert "Nothing is on fire" in html
    assert f"Serving r{current_release().revision} on 2 of 2 workers." in html


def test_front_page_shows_workers_that_lag_before_anything_else(prompt, signed_in):
    """A worker on another release is a fire, with the way to the fleet."""
    serve("a/gateway-0", digest="e" * 64)

    page = signed_in(crew.owner).get("/")

    assert [fire.title for fire in page.context["fires"]] == ["1 worker behind the current release"]
    assert page.context["status_tone"] == "bad"


def test_released_house_without_a_worker_is_on_fire(prompt):
    """Nobody serves what was decided."""
    (fire,) = burning(fleet=fleet_page(now=timezone.now()))

    assert (fire.tone, fire.title) == ("bad", "No gateway reports")


def test_failing_lane_burns_once_enough_attempts_were_made(db):
    """5 % of 20 attempts; of fewer, the share means nothing."""
    now = timezone.now()
    at = now.replace(second=now.second // 10 * 10, microsecond=0) - timedelta(seconds=10)
    merge_rollups(
        [
            report(
                rollup(at, lane="busy", requests=100, failures=5),
                rollup(at, lane="quiet", requests=10, failures=9),
                # A caller who got no answer is not yet a lane that fails: another may be to blame.
                rollup(at, lane="blameless", requests=100, errors=50, failures=0),
            ),
        ],
        now=now,
    )

    found = burning(lanes=lane_health(since=now - timedelta(minutes=5), until=now))

    assert [fire.title for fire in found] == ["Lane busy fails"]
    assert "5.0% of 100 attempts" in found[0].text


def test_unpaid_debt_burns_hotter_once_it_is_overdue(db):
    """Watch until the deadline, bad from there on."""
    debt = break_glass(make_canary().change)

    (before,) = burning(debts=[debt], now=debt.review_due_at - timedelta(minutes=1))
    (after,) = burning(debts=[debt], now=debt.review_due_at + timedelta(minutes=1))

    assert (before.tone, after.tone) == ("watch", "bad")
    assert "INC-7" in after.text


def test_drifted_change_is_shown_with_the_way_to_it(prompt, signed_in):
    """What people signed is no longer what would be applied."""
    version = make_version(prompt, "Good evening")
    change = prompts.propose_live(version=version, reason="r", actor=crew.owner, now=timezone.now())
    make_live_version(prompt, "Good night")

    page = signed_in(crew.owner).get("/")

    assert f"CR-{change.pk} drifted" in page.content.decode()
    assert f"/reviews/{change.pk}/" in page.content.decode()


def test_last_changes_name_who_approved_each(db, signed_in):
    """A knob that passed a gate shows the two who signed; a roll-back needed nobody."""
    canary = run_canary(FIVE_PERCENT)

    html = signed_in(crew.legal).get("/").content.decode()

    assert f"Turned canary {canary.slug}" in html
    assert "approved by approver-one, approver-two" in html


def test_what_waits_for_me_is_listed_and_counted_on_the_rail(db, signed_in):
    """An approver finds the change; its author does not, and after the signature nobody waits any more."""
    change = make_canary().change
    approver = signed_in(crew.approver_one)

    assert [one.pk for one in approver.get("/").context["waiting"]] == [change.pk]
    assert signed_in(crew.owner).get("/").context["waiting"] == []
    assert approver.get("/status.json").json()["data"]["badges"] == {"reviews": 1}
    sign(change, crew.approver_one, now=timezone.now())
    assert approver.get("/status.json").json()["data"]["badges"] == {}


def test_unpaid_debts_stand_on_the_front_page_and_on_the_rail(db, signed_in):
    """Rule 3: everybody sees them until somebody else has reviewed."""
    break_glass(make_canary().change)

    page = signed_in(crew.legal).get("/")

    assert BreakGlass.objects.unpaid().count() == 1
    assert "INC-7" in page.content.decode()
    assert {item["name"]: item["badge"] for item in page.context["rail"]}["overview"] == 1
    assert "1 break-glass debt is unpaid." in page.content.decode()


def test_operator_of_one_prompt_learns_nothing_of_another(prompt, signed_in):
    """Neither its canary, nor its changes, nor the fleet: not on the page and not in the frame around it."""
    run_canary(INTERNAL, prompt=prompt)
    other = make_prompt("refund-policy")
    browser = signed_in(make_operator("newcomer", "prompt-owner", on=other))

    for url in ("/", "/status.json", "/palette.json"):
        assert "support-answer" not in browser.get(url).content.decode(), url
    assert "refund-policy" in browser.get("/palette.json").content.decode()


def test_only_who_may_roll_back_gets_the_button(prompt, signed_in):
    """One act away for the on-call, absent for everybody else."""
    assert "Roll back the last change" in signed_in(crew.oncall).get("/").content.decode()
    assert "Roll back the last change" not in signed_in(crew.admin).get("/").content.decode()


def test_everything_asks_a_stranger_to_sign_in(db, client):
    """The front page, the sentence and the palette are for operators."""
    for url in ("/", "/status.json", "/palette.json"):
        assert client.get(url).url.startswith("/accounts/login/")


def test_palette_offers_pages_objects_and_acts_that_are_open_to_the_reader(prompt, signed_in):
    """An admin finds people and tenants; an exec does not."""
    admin = {entry["label"] for entry in signed_in(crew.admin).get("/palette.json").json()["entries"]}
    executive = {entry["label"] for entry in signed_in(crew.exec).get("/palette.json").json()["entries"]}

    assert {"Overview", "Audit", "Create a tenant", "support-answer", "Lane openai/us-east/main/gpt-4o"} <= admin
    assert {"Overview", "support-answer"} <= executive
    assert executive.isdisjoint({"Audit", "Usage", "Create a tenant", "Roll back the last change", "admin"})


def test_every_entry_of_the_palette_leads_somewhere(prompt, signed_in):
    """No entry is a dead end or a refusal for the one it is offered to."""
    for operator in (crew.owner, crew.oncall, crew.auditor, crew.admin):
        visitor = Visitor(operator)
        for entry in signed_in(operator).get("/palette.json").json()["entries"]:
            assert visitor.get(entry["url"]).status_code in {200, 302}, entry


@pytest.mark.parametrize(
    ("standing", "tone", "title", "text"),
    [
        (
            {"paused_seconds": 47.2, "waiting": {"interactive": 3, "batch": 1}, "alone": 2},
            "bad",
            "Account main is paused",
            "for 48 s more after a 429; 3 interactive and 1 batch requests wait",
        ),
        (
            {"waiting": {"interactive": 12, "batch": 0}, "eta_seconds": {"interactive": 4.2, "batch": None}},
            "watch",
            "Callers wait for account main",
            "12 interactive requests wait",
        ),
        ({"alone": 1}, "watch", "The quota of account main is not shared", "1 of 2 workers cannot ask the others"),
        ({"waiting": {"interactive": 2, "batch": 900}, "eta_seconds": {"interactive": 0.4, "batch": 60}}, "", "", ""),
    ],
)
def test_an_account_that_keeps_people_waiting_is_a_fire(standing, tone, title, text):
    """A pause, a queue of seconds, or workers that share no more; a moment in a queue, and batch work, are none."""
    calm = {
        "pool": "main/shared",
        "account": "main",
        "policy": "shared",
        "limits": {},
        "learned": {},
        "paused_seconds": 0.0,
        "ramp": 1.0,
        "waiting": {"interactive": 0, "batch": 0},
        "eta_seconds": {"interactive": None, "batch": None},
        "in_flight": 0,
        "used_share": 0.5,
        "workers": 2,
        "alone": 0,
    }

    found = burning(quotas=[QuotaStanding(**(calm | standing))])

    assert [(fire.tone, fire.title, fire.url) for fire in found] == (
        [(tone, title, "/routing/quotas/")] if tone else []
    )
    assert all(text in fire.text for fire in found)


def test_front_page_takes_as_many_queries_for_a_full_house_as_for_an_empty_one(prompt, signed_in, queries):
    """Not one more for each worker, change, prompt or canary."""
    run_canary(FIVE_PERCENT, prompt=prompt)
    browser = signed_in(crew.approver_three)
    browser.get("/")
    few = queries(lambda: browser.get("/"))
    for slug in ("one", "two", "three"):
        other = make_prompt(slug)
        make_live_version(other)
        make_canary(other)
    run_canary(FIVE_PERCENT, prompt=other, text="another")
    serve(*(f"a/gateway-{number}" for number in range(6)))

    assert queries(lambda: browser.get("/")) == few


def test_frame_of_a_page_costs_the_same_however_much_waits(prompt, signed_in, queries):
    """The rail, its badges and the sentence are on every page."""
    browser = signed_in(crew.approver_three)
    few = queries(lambda: browser.get("/status.json"))
    for slug in ("one", "two", "three"):
        other = make_prompt(slug)
        make_live_version(other)
        make_canary(other)
    serve(*(f"a/gateway-{number}" for number in range(6)))

    assert queries(lambda: browser.get("/status.json")) == few
