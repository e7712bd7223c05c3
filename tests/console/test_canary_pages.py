"""The canary pages over HTTP: the plan, the knob, what became of each canary, and who may steer it."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.prompts.models import Prompt
from controlplane.releases.operations import current_release
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from controlplane.telemetry.operations import merge_rollups
from tests.console.conftest import said, words
from tests.factories import (
    EVERYBODY,
    FIVE_PERCENT,
    INTERNAL,
    NOW,
    ONE_PERCENT,
    QUARTER,
    break_glass,
    built_in_rules,
    change_policy,
    crew,
    make_canary,
    make_live_version,
    make_operator,
    make_prompt,
    run_canary,
    sign,
)
from tests.worker_reports import report, rollup

pytestmark = pytest.mark.usefixtures("deployment")


def signed_canary(position=INTERNAL):
    """A running canary whose sign-offs count today."""
    canary = run_canary(INTERNAL)
    sign(canary.change, crew.approver_one, crew.approver_two, now=timezone.now())
    return rollouts.turn_knob(canary=canary, position=position, actor=crew.owner, now=timezone.now())


def stand(canary):
    """Where it is now: its state and its position."""
    return Canary.objects.values_list("state", "position").get(pk=canary.pk)


def stops(page):
    """What each stop of the knob says beside its share: why it is locked, or what opened it."""
    return [stop["why"] or stop["met"] or ("now" if stop["current"] else "") for stop in page.context["stops"]]


# --- the list --------------------------------------------------------------------------------------------------------
def test_list_has_the_running_ones_first_and_says_how_others_ended(db, signed_in):
    """Before the first one it leads to the prompts; then running, planned, ended, and by whose decision."""
    browser = signed_in(crew.legal)
    assert "No canary yet" in words(browser.get("/canaries/"))
    ended = run_canary()
    rollouts.roll_back_canary(canary=ended, reason="refusals doubled", actor=crew.oncall, now=NOW)
    run_canary(prompt=ended.prompt, text="Hello there")
    make_canary(ended.prompt, text="Good night")

    text = words(browser.get("/canaries/"))

    assert text.index("Running Canary") < text.index("Planned Canary") < text.index("Ended Canary")
    assert "support-answer-v3 running v3 tone v1 Internal only User" in text
    assert "support-answer-v4 planned v4 tone v1 – User" in text
    assert "oncall: refusals doubled" in text


def test_canary_of_another_prompt_is_not_there(db, signed_in):
    """Neither listed nor found, with no act on it; and the same for one that does not exist."""
    canary = run_canary()
    browser = signed_in(make_operator("newcomer", "prompt-owner", on=make_prompt("refund-policy")))

    assert canary.slug not in browser.get("/canaries/").content.decode()
    for slug in (canary.slug, "nothing"):
        assert browser.get(f"/canaries/{slug}/").status_code == 404
        assert browser.get(f"/canaries/{slug}/figures.json").status_code == 404
        assert browser.post(f"/canaries/{slug}/roll-back/").status_code == 404
    assert stand(canary) == ("running", INTERNAL)


def test_canary_pages_take_as_many_queries_for_many_as_for_few(db, signed_in, queries):
    """Neither per canary, nor per stage, nor per sign-off."""
    canary = run_canary()
    sign(canary.change, crew.approver_one, now=timezone.now())
    browser = signed_in(crew.owner)
    paths = ("/canaries/", canary.get_absolute_url())
    for path in paths:
        browser.get(path)
    few = [queries(lambda path=path: browser.get(path)) for path in paths]
    for slug in ("one", "two"):
        other = make_prompt(slug)
        make_live_version(other)
        run_canary(prompt=other)
        make_canary(other, text="Ahoy")
    sign(canary.change, crew.approver_two, crew.approver_three, now=timezone.now())

    assert [queries(lambda path=path: browser.get(path)) for path in paths] == few


# --- one canary in each of its states --------------------------------------------------------------------------------
def test_planned_canary_says_what_each_stage_waits_for(db, signed_in):
    """Nobody is served yet; its owner may start, edit or give it up, and a reader none of these."""
    canary = make_canary()
    path = canary.get_absolute_url()

    owner, reader = signed_in(crew.owner).get(path), signed_in(crew.auditor).get(path)

    assert "Give up Edit the plan Start at Internal only" in words(owner)
    assert words(owner).count("Missing: 2 more from approver") == len(DEFAULT_STAGES) - 1
    assert "Nobody is served yet. Its owner may start it." in words(reader)
    assert f"{path}start/" not in reader.content.decode()
    assert "Verdict" not in words(reader)


def test_running_canary_shows_both_arms(db, signed_in):
    """What workers measured in the range asked for, and never more certainty than there is."""
    canary = run_canary(FIVE_PERCENT)
    now = timezone.now()
    at = now.replace(second=now.second // 10 * 10, microsecond=0) - timedelta(seconds=20)
    tried = rollup(at, canary=canary.slug, cohort="canary", requests=4, errors=1)
    merge_rollups([report(tried, rollup(at, canary=canary.slug, requests=50))], now=now)
    browser = signed_in(crew.owner)

    page = browser.get(f"{canary.get_absolute_url()}?minutes=60")
    figures = browser.get(f"{canary.get_absolute_url()}figures.json").json()

    assert "Verdict: not enough evidence Nobody has looked at it yet." in words(page)
    assert "Error rate 25.00 0.00 +25.00 % 4 50" in words(page)
    assert [one["label"] for one in page.context["ranges"] if one["active"]] == ["1 h"]
    assert figures["topic"] == f"canary.{canary.slug}"
    assert figures["data"]["totals"]["canary"]["error_rate"] == {"value": 0.25, "n": 4}


def test_range_that_is_not_offered_is_the_first_one(db, signed_in):
    """Whatever stands in the address, the page is the page."""
    canary = run_canary()
    browser = signed_in(crew.legal)

    for minutes in ("7", "²"):
        page = browser.get(canary.get_absolute_url(), {"minutes": minutes})
        assert [one["label"] for one in page.context["ranges"] if one["active"]] == ["15 min"]


@pytest.mark.parametrize(
    ("act", "ended"), [("promote", "promoted"), ("roll-back", "rolled back"), ("withdraw", "withdrawn")]
)
def test_ended_canary_says_how_and_takes_no_more_orders(db, signed_in, act, ended):
    """No knob and no buttons; whoever clicks on an older page is told that it ended."""
    canary = make_canary() if act == "withdraw" else signed_canary(EVERYBODY)
    browser = signed_in(crew.owner)
    path = canary.get_absolute_url()

    browser.post(f"{path}{act}/", {"reason": "it is time"})

    page, refused = browser.get(path), browser.post(f"{path}{act}/", {"reason": "again"})
    assert f"{canary.slug} {ended} Review CR-{canary.change_id} v2 against v1" in words(page)
    assert "data-knob" not in page.content.decode()
    assert "data-dialog-open" not in page.content.decode()
    assert f"is {ended}" in said(refused)[-1]
    assert stand(canary)[0] == ended.replace(" ", "_")


# --- the knob --------------------------------------------------------------------------------------------------------
def test_locked_stops_say_what_is_missing(db, signed_in):
    """With no sign-off or with some, and never that somebody broke glass."""
    canary = run_canary()
    browser = signed_in(crew.owner)

    before = browser.get(canary.get_absolute_url())
    sign(canary.change, crew.approver_one, now=timezone.now())
    after = browser.get(canary.get_absolute_url())

    assert stops(before) == ["now", *["Missing: 2 more from approver"] * 5]
    assert stops(after) == ["now", *["Missing: 1 more from approver"] * 5]
    for page in (before, after):
        assert "glass broken" not in words(page)
        assert "signed off" not in words(page)


def test_open_stops_say_that_they_are_signed_off(db, signed_in):
    """Those ahead; where the knob is, and behind it, nothing needs to be opened."""
    canary = signed_canary(ONE_PERCENT)

    page = signed_in(crew.oncall).get(canary.get_absolute_url())

    assert stops(page) == ["", "now", *["signed off"] * 4]
    assert "glass broken" not in words(page)


def test_stops_behind_broken_glass_say_so_and_until_when(db, signed_in):
    """They open for a while; once the knob is turned the page says what happens when the time is over."""
    canary = run_canary()
    browser = signed_in(crew.oncall)
    break_glass(canary.change, now=timezone.now())

    page = browser.get(canary.get_absolute_url())
    browser.post(f"{canary.get_absolute_url()}knob/", {"stage": ONE_PERCENT})

    assert stops(page) == ["now", *["glass broken"] * 5]
    assert "On broken glass" not in words(page)
    turned = words(browser.get(canary.get_absolute_url()))
    assert "On broken glass Its sign-offs are missing. Workers stop serving it in 29 min" in turned


def test_knob_is_not_turned_up_from_an_older_page(db, signed_in):
    """The form says which stage its reader saw; somebody turned it down meanwhile, and down it stays."""
    canary = signed_canary(QUARTER)
    owner, oncall = signed_in(crew.owner), signed_in(crew.oncall)
    path = canary.get_absolute_url()
    page = owner.get(path).content.decode()

    turned = oncall.post(f"{path}knob/", {"stage": INTERNAL, "seen": QUARTER})
    refused = owner.post(f"{path}knob/", {"stage": EVERYBODY, "seen": QUARTER})

    assert f'<input type="hidden" name="seen" value="{QUARTER}">' in page
    assert "is at Internal only; the fleet page shows who serves it" in said(turned)[0]
    assert "is at Internal only by now; look again" in said(refused)[0]
    assert stand(canary) == ("running", INTERNAL)


def test_knob_that_cannot_be_turned_there_says_why(db, signed_in):
    """A message, and the canary stays where it is."""
    canary = run_canary()
    browser = signed_in(crew.owner)

    for chosen, told in (
        ("", "Choose a stage"),
        ("-1", "Choose a stage"),
        ("²", "Choose a stage"),
        ("9" * 5000, "Choose a stage"),
        ("99", "has stages 0 to 5, not 99"),
        (ONE_PERCENT, "cannot pass 'public' yet. Missing: 2 more from approver"),
    ):
        assert told in said(browser.post(f"{canary.get_absolute_url()}knob/", {"stage": chosen}))[-1]
    assert stand(canary) == ("running", INTERNAL)


# --- start, promote, roll back, give up ------------------------------------------------------------------------------
def test_canary_is_started_once_and_alone(db, signed_in):
    """A second click and a second canary of the prompt are refused in words."""
    canary = make_canary()
    other = make_canary(canary.prompt, text="Ahoy")
    browser = signed_in(crew.owner)

    slugs = (canary.slug, canary.slug, other.slug)
    started, again, beside = (browser.post(f"/canaries/{slug}/start/") for slug in slugs)

    assert said(started) == [f"Started {canary.slug} at Internal only"]
    assert "is running and cannot start" in said(again)[-1]
    assert f"{canary.slug!r} runs on 'support-answer'; end it first" in said(beside)[-1]
    assert (stand(canary), stand(other)) == (("running", INTERNAL), ("planned", -1))


def test_canary_is_promoted_signed_and_from_its_last_stage(db, signed_in):
    """Without sign-offs the button says what it waits for, before the last stage there is none; a click says why."""
    canary = run_canary(EVERYBODY)
    browser = signed_in(crew.owner)
    path = canary.get_absolute_url()

    expired = browser.get(path), browser.post(f"{path}promote/")
    browser.post(f"{path}knob/", {"stage": QUARTER})
    early = browser.get(path), browser.post(f"{path}promote/")
    sign(canary.change, crew.approver_one, crew.approver_two, now=timezone.now())
    browser.post(f"{path}knob/", {"stage": EVERYBODY})
    browser.post(f"{path}promote/")

    assert "Promote: missing: 2 more from approver" in words(expired[0])
    assert "Missing: 2 more from approver" in said(expired[1])[-1]
    assert "Promote" not in words(early[0])
    assert "is at 25 %; promote from the last stage" in said(early[1])[-1]
    assert stand(canary) == ("promoted", EVERYBODY)
    assert Prompt.objects.with_live().get().live_version == canary.candidate


def test_roll_back_is_one_click_and_needs_no_words(db, signed_in):
    """At night nobody is stopped by an empty field; the page says that no reason was given."""
    canary = run_canary(FIVE_PERCENT)
    browser = signed_in(crew.oncall)

    response = browser.post(f"{canary.get_absolute_url()}roll-back/")

    assert "Rolled back to v1; v2 is rejected" in said(response)
    assert stand(canary)[0] == "rolled_back"
    assert current_release().content["sections"]["canaries"] == {}
    assert ": no reason given" in words(browser.get(canary.get_absolute_url()))


def test_plan_is_given_up_with_a_reason(db, signed_in):
    """Without one it stays planned; with one its change request is closed without a verdict."""
    canary = make_canary()
    browser = signed_in(crew.owner)

    refused = browser.post(f"{canary.get_absolute_url()}withdraw/")
    assert stand(canary)[0] == "planned"
    browser.post(f"{canary.get_absolute_url()}withdraw/", {"reason": "not now"})

    assert "Say why" in said(refused)[0]
    assert stand(canary)[0] == ChangeRequest.objects.get(pk=canary.change_id).state == "withdrawn"


def test_steering_is_refused_by_name_of_the_role(db, signed_in):
    """Readers turn nothing; on-call turns and rolls back, but starts, promotes and edits nothing."""
    canary = run_canary()
    reader, oncall = signed_in(crew.approver_one), signed_in(crew.oncall)
    path = canary.get_absolute_url()

    page = words(reader.get(path))

    for browser, acts in (
        (reader, ("start", "knob", "promote", "roll-back", "withdraw", "edit")),
        (oncall, ("start", "promote", "withdraw", "edit")),
    ):
        for act in acts:
            refused = browser.post(f"{path}{act}/", {"reason": "x", "stage": "0"})
            assert refused.status_code == 403
            assert "Prompt owner" in refused.content.decode()
    assert "You may look, not turn" in page
    assert "Roll back to" not in page
    assert stand(canary) == ("running", INTERNAL)


def test_pages_stand_and_the_way_back_is_open_though_the_policy_fell_silent(db, signed_in):
    """A canary runs, and the policy in force has no rule for it: pages say so, nothing goes on, the knob goes back."""
    canary = signed_canary(FIVE_PERCENT)
    change_policy([rule for rule in built_in_rules() if rule["kind"] != "prompt.rollout"], now=timezone.now())
    owner, oncall = signed_in(crew.owner), signed_in(crew.oncall)

    pages = [owner.get(path) for path in ("/", "/reviews/", f"/reviews/{canary.change_id}/", canary.get_absolute_url())]
    forward = owner.post(f"{canary.get_absolute_url()}knob/", {"stage": QUARTER, "seen": FIVE_PERCENT})
    back = oncall.post(f"{canary.get_absolute_url()}roll-back/", {"reason": "no rule, no canary"})

    assert [page.status_code for page in pages] == [200] * 4
    assert "has no rule for this" in words(pages[3])
    assert "has no rule for this" in said(forward)[-1]
    assert "Rolled back to v1" in said(back)[-1]
    assert stand(canary) == ("rolled_back", FIVE_PERCENT)
