"""The pages of dead letters over HTTP: groups, letters, redrives, retention, erasure; and whom they are shown to."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pgtrigger
import pytest
from django.utils import timezone

from controlplane.accounts.models import ApiKey
from controlplane.accounts.roles import Role
from controlplane.audit.models import AuditEvent
from controlplane.console.deadletter_content import burn_words
from controlplane.console.names import OFFERED
from controlplane.console.palette import entries
from controlplane.deadletters import burn, execution, operations, redrive, retention, subjects
from controlplane.deadletters.erasures import Erasure
from controlplane.deadletters.models import DeadLetter, RedrivePlan, RetentionRule
from controlplane.deadletters.payloads import ConfiguredStore
from controlplane.releases.models import Release
from controlplane.telemetry.models import WorkerEvent
from dataplane.deadletters import Category, Event
from dataplane.idempotency import full_user_hash
from tests.console.conftest import said, words
from tests.deadletters.letters import ADA, make_letter
from tests.deadletters.redrives import admit, fail_job, make_ground, plan_for
from tests.factories import crew, make_operator, make_tenant, sign

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ground")]
LIST = "/dead-letters/"


@pytest.fixture(scope="module")
def ground(lasting):
    """A deployment with the tenant acme, for all tests here."""
    with lasting():
        make_ground()


@pytest.fixture
def key():
    return ApiKey.objects.get(tenant__slug="acme")


@pytest.fixture
def store():
    """What the pages use; letters that are young need none."""
    return ConfiguredStore()


def told(response):
    """The latest message for the next page."""
    return said(response)[-1]


def young(key, **fields):
    """The letter of a job that failed a moment ago, so that its payload is kept."""
    return fail_job(key, at=timezone.now(), **fields)


def group_url(letter):
    return f"{LIST}groups/{letter.fingerprint}/"


def letter_url(letter):
    return f"{LIST}letters/{letter.pk}/"


# --- groups ----------------------------------------------------------------------------------------------------------
def test_groups_say_what_failed_whose_and_how_much_is_open(key, signed_in, queries):
    """Those with open letters, the latest first; as many queries for many as for few."""
    now = timezone.now()
    admit("globex")
    jobs = [fail_job(key, at=now - timedelta(minutes=number)) for number in range(3)]
    other = make_letter(tenant="globex", category=Category.BUG, at=now - timedelta(hours=5))
    operations.decide(letters=[jobs[0].pk], event=Event.RESOLVED, actor=crew.oncall, reason="r", now=now)
    browser = signed_in(crew.oncall)

    page = browser.get(LIST)

    rows = {row.group.pk: row for row in page.context["rows"]}
    assert list(rows) == [jobs[0].fingerprint, other.fingerprint]
    first = rows[jobs[0].fingerprint]
    assert (first.open, first.total, first.whose, first.category) == (2, 3, "acme", "dependency")
    assert "3 letters are open in 2 groups; the oldest failed 5 h ago." in words(page)
    assert [row.group.pk for row in browser.get(f"{LIST}?kind=errand").context["rows"]] == [other.fingerprint]
    few = queries(lambda: browser.get(LIST))
    for number in range(12):
        make_letter(message=f"{'x' * number} failed", category=Category.BUG, tenant="globex", at=now)
    assert queries(lambda: browser.get(LIST)) == few


def test_group_of_nobodys_letters_says_what_to_expect(signed_in):
    page = signed_in(crew.oncall).get(LIST)

    assert "No letter is open" in words(page)
    assert "Work that fails for good leaves a letter here" in words(page)


def test_reader_of_one_tenant_sees_its_part_alone(key, signed_in):
    """Counts, tenants, letters and plans of others are not there; nor are groups that none of its letters is in."""
    mine, theirs = fail_job(key), fail_job(admit("globex"))
    assert mine.fingerprint == theirs.fingerprint
    hidden = make_letter(tenant="globex")
    reader = make_operator("reader", Role.ON_CALL, on=key.tenant)
    browser = signed_in(reader)

    page = browser.get(LIST)

    [row] = page.context["rows"]
    assert (row.open, row.total, row.tenants) == (1, 1, ("acme",))
    assert "globex" not in words(page)
    assert [line["letter"].pk for line in browser.get(group_url(mine)).context["lines"]] == [mine.pk]
    for url in (letter_url(theirs), group_url(hidden), letter_url(hidden)):
        assert browser.get(url).status_code == 404, url
    browser.post(f"{group_url(mine)}decide/", {"event": "discarded", "reason": "mine alone"})
    theirs.refresh_from_db()
    assert theirs.state == "open"
    assert signed_in(crew.owner).get(LIST).status_code == 403


def test_what_happened_at_the_time_is_named_as_that(key, signed_in):
    """A release that had just gone out, a lane that opened; never as the cause."""
    newest = Release.objects.first()
    at = newest.clicked_at + timedelta(minutes=12)
    lane = "azure/eu-west/eu/gpt-4o"
    WorkerEvent.objects.create(
        at=at - timedelta(minutes=2),
        worker="w",
        kind="breaker.changed",
        data={"lane": lane, "before": "closed", "after": "open"},
        boot="b",
        seq=1,
        position=0,
    )
    letter = fail_job(key, at=at)
    late = make_letter(category=Category.BUG, at=at + timedelta(hours=3))
    elsewhere = make_letter(category=Category.POISON, at=at)
    with_lane(letter, lane)
    with_lane(elsewhere, "openai/us/main/gpt-4o")
    browser = signed_in(crew.oncall)

    rows = {row.group.pk: row.beside for row in browser.get(f"{LIST}?show=all").context["rows"]}

    said_of = rows[letter.fingerprint]
    assert said_of[0].startswith(f"r{newest.revision} went out 12 min before the first (")
    assert said_of[1].startswith(f"lane {lane} opened at ")
    assert [one for one in rows[elsewhere.fingerprint] if one.startswith("lane")] == []
    assert rows[late.fingerprint] == ()
    assert "does not make it the cause" in words(browser.get(group_url(letter)))


def with_lane(letter, lane):
    with pgtrigger.ignore("deadletters.DeadLetter:facts_are_fixed"):
        DeadLetter.objects.filter(pk=letter.pk).update(lane=lane)


def test_letters_that_come_too_fast_are_on_fire(key, signed_in, settings):
    """In both windows: many an hour ago are no fire any more, a few now are none yet."""
    now = timezone.now()
    settings.DEAD_LETTERS_PER_HOUR = 2
    for minutes in (50, 40, 30, 20):
        fail_job(key, at=now - timedelta(minutes=minutes))
    browser = signed_in(crew.oncall)
    [calm] = burn.burns(now=now)
    assert (calm.long, calm.short, calm.is_over) == (4, 0, False)
    assert "Dead letters" not in [fire.act for fire in browser.get("/").context["fires"]]

    fail_job(key, at=now - timedelta(minutes=1))

    [hot] = burn.burns(now=now)
    assert (hot.rate, hot.is_over, hot.is_bad) == (2.5, True, False)
    assert burn_words(hot).startswith("Letters of kind job come 2.5 times as fast as they may: 5 in the last hour")
    fire = next(fire for fire in browser.get("/").context["fires"] if fire.act == "Dead letters")
    assert (fire.tone, fire.url) == ("watch", LIST)
    assert "2.5 times as fast as they may" in words(browser.get(LIST))
    assert burn.burns(now=now, tenants=["globex"]) == []


def test_depth_is_drawn_with_its_releases(key, signed_in):
    """As JSON too, for a page that is open; a period that is none counts as the first."""
    fail_job(key, at=timezone.now() - timedelta(hours=2))
    browser = signed_in(crew.oncall)

    figure = browser.get(f"{LIST}depth.json?hours=1000").json()

    [line] = figure["data"]
    assert (line["y"][0], line["y"][-1]) == (0, 1)
    assert figure["layout"]["meta"]["unit"] == "letters"


# --- one group, one letter -------------------------------------------------------------------------------------------
def test_group_lists_letters_and_lets_people_decide(key, signed_in, queries):
    """All of them at once, with a reason that is kept; pages cost the same."""
    cause = {"at": "2026-03-04T12:00:00+00:00", "owner": "r1", "code": "upstream_error", "message": "m", "status": 500}
    letters = [fail_job(key, causes=[cause]) for _ in range(3)]
    browser = signed_in(crew.oncall)
    page = browser.get(group_url(letters[0]))
    assert "upstream_unavailable" in words(page)
    assert words(page).count("upstream_error (500): m") == 3
    assert "Plan a redrive" in words(page)
    few = queries(lambda: browser.get(group_url(letters[0])))
    for _ in range(5):
        fail_job(key)
    assert queries(lambda: browser.get(group_url(letters[0]))) == few

    url = f"{group_url(letters[0])}decide/"
    assert told(browser.post(url, {"event": "discarded", "reason": " "})).startswith("Say why")
    assert "not said what" in told(browser.post(url, {"event": "purged", "reason": "r"}))
    assert told(browser.post(url, {"event": "discarded", "reason": "the tenant left"})) == "8 letters are discarded"
    assert "no letter is open" in told(browser.post(url, {"event": "resolved", "reason": "r"}))

    event = AuditEvent.objects.filter(action="dead_letters.discarded").first()
    assert (event.actor, event.data["reason"], event.data["letters"]) == ("oncall", "the tenant left", 8)
    assert DeadLetter.objects.open().count() == 0
    assert len(browser.get(f"{group_url(letters[0])}?state=all").context["lines"]) == 8


def test_letter_shows_its_payload_without_what_must_not_be_seen(key, signed_in):
    """Until somebody who may says why; that it was read is on record."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "I am ada@example.org"}]}
    letter = fail_job(key, body=body)
    page = signed_in(crew.oncall).get(letter_url(letter))
    assert "ada@example.org" not in page.content.decode()
    assert "I am [" in words(page)
    assert "Read it in full" not in words(page)
    url = f"{letter_url(letter)}payload/"
    assert signed_in(crew.oncall).post(url, {"reason": "curious"}).status_code == 403
    auditor = signed_in(crew.auditor)
    assert auditor.get(url).status_code == 405
    assert auditor.post(url, {"reason": ""}).status_code == 302

    full = auditor.post(url, {"reason": "case 7"})

    assert "ada@example.org" in words(full)
    assert "no-store" in full.headers["Cache-Control"]
    event = AuditEvent.objects.filter(action="dead_letter.read").get()
    assert (event.actor, event.data["reason"], event.target) == ("auditor", "case 7", letter.audit_name)


def test_letter_is_resolved_reopened_held_and_released(key, signed_in):
    letter = fail_job(key)
    browser = signed_in(crew.oncall)
    url = letter_url(letter)

    assert told(browser.post(f"{url}decide/", {"event": "resolved", "reason": "by hand"})) == "The letter is resolved"
    assert told(browser.post(f"{url}decide/", {"event": "reopened", "reason": "not so"})) == "The letter is open again"
    assert "kept" in told(browser.post(f"{url}hold/", {"reason": "case 7"}))
    page = browser.get(url)
    assert "held beyond that by oncall: case 7" in words(page)
    assert "held by" in told(browser.post(f"{url}hold/", {"reason": "again"}))
    assert "Release the hold" in words(page)
    assert "released" in told(browser.post(f"{url}release/", {"reason": "closed"}))
    assert "for 30 days after the work failed, where no rule says otherwise" in words(browser.get(url))


def test_letter_names_what_it_was_redriven_as(key, signed_in, store):
    """And, when that failed again, the letter that has taken its place."""
    letter = fail_job(key)
    made = plan_for([letter], store)
    made.start()
    made.step()
    browser = signed_in(crew.admin)
    assert f"job_{made.jobs()[0].pk.hex}" in words(browser.get(letter_url(letter)))
    assert "redriven, handed in again" in words(browser.get(f"/usage/jobs/{letter.work_id}/"))
    made.end_jobs(is_done=False)
    made.step(5)

    again = DeadLetter.objects.get(redriven_from=letter.pk)
    assert letter_url(again) in browser.get(letter_url(letter)).content.decode()
    assert letter_url(letter) in browser.get(letter_url(again)).content.decode()


# --- redrives --------------------------------------------------------------------------------------------------------
def run_steps(plan, clock=timezone.now):
    """Take the steps that are due, as the worker does."""
    for _ in range(4):
        plan.refresh_from_db()
        execution.take_step(plan.pk, plan.step, store=ConfiguredStore(), now=clock)
    plan.refresh_from_db()


FORM = {
    "most": "100",
    "canary_letters": "1",
    "per_minute": "60",
    "most_per_minute": "120",
    "failure_percent": "20",
    "reason": "they are back",
}


def test_redrive_goes_from_plan_to_report(key, signed_in, queries):
    """Planned with its dry run, opened, signed, started, paused, resumed, stopped; each by its button."""
    letters = [young(key, has_tools=True) for _ in range(3)]
    oncall, approver = signed_in(crew.oncall), signed_in(crew.approver_one)
    new = f"{group_url(letters[0])}redrive/"
    assert "3 open, of acme" in words(oncall.get(new))
    assert oncall.post(new, FORM | {"per_minute": "200"}).status_code == 400

    url = oncall.post(new, FORM).url
    plan = RedrivePlan.objects.get()
    assert url == f"{LIST}redrives/{plan.pk}/"
    assert "The dry run has looked at 0 of 3" in words(oncall.get(url))
    run_steps(plan)
    assert "3 of 3 would run; nothing is handed in yet." in words(oncall.get(url))
    assert "Missing" not in words(oncall.get(url))
    opened = told(oncall.post(f"{url}open/"))
    plan.refresh_from_db()
    assert opened == f"CR-{plan.change_id} waits in the approvers' inbox"
    assert "Missing: 1 more from approver" in words(oncall.get(url))
    assert "cannot pass" in told(oncall.post(f"{url}start/"))
    review = words(approver.get(f"/reviews/{plan.change_id}/"))
    assert "Their work brings tools: doing it again may have effects outside" in review
    sign(plan.change, crew.approver_one, now=timezone.now())
    assert "Every required sign-off is there" in words(oncall.get(url))
    assert told(oncall.post(f"{url}start/")) == "Started: the canary hands in 1, one at a time"
    run_steps(plan)
    page = oncall.get(url)
    assert "The canary hands in 1, one at a time: 0 done, 0 failed again, 0 skipped; 2 left and 1 under way." in words(
        page
    )
    assert told(oncall.post(f"{url}pause/", {"reason": "lunch"})).startswith("Paused")
    assert "Paused; nothing more is handed in" in words(oncall.get(url))
    assert told(oncall.post(f"{url}resume/", {"reason": "back"})).startswith("It goes on")
    assert told(oncall.post(f"{url}stop/", {"reason": ""})) == "Say why; the reason is kept in the audit record"
    assert told(oncall.post(f"{url}stop/", {"reason": "enough"})).startswith("Stopped")
    assert "Stopped by oncall: enough." in words(oncall.get(url))
    assert "cannot be paused" in told(oncall.post(f"{url}pause/", {"reason": "r"}))
    assert approver.post(f"{url}pause/", {"reason": "r"}).status_code == 403
    listed = words(oncall.get(f"{LIST}redrives/"))
    assert plan.title in listed
    few = queries(lambda: oncall.get(url))
    more = plan_for([young(key) for _ in range(9)], ConfiguredStore()).plan
    assert queries(lambda: oncall.get(f"{LIST}redrives/{more.pk}/")) <= few


def test_small_redrive_needs_nobody_else(key, signed_in):
    letter = young(key)
    oncall = signed_in(crew.oncall)
    url = oncall.post(f"{letter_url(letter)}redrive/", FORM).url
    plan = RedrivePlan.objects.get()
    run_steps(plan)

    assert "needs no sign-off" in told(oncall.post(f"{url}open/"))
    assert "No sign-off is required" in words(oncall.get(url))
    oncall.post(f"{url}start/")

    plan.refresh_from_db()
    assert plan.state == "canary"


def test_edit_is_shown_to_reviewers_redacted(key, signed_in):
    """What it changes, from digest to digest; and the plan is given up by a click."""
    letter = young(key)
    oncall = signed_in(crew.oncall)
    bad = oncall.post(f"{letter_url(letter)}redrive/", FORM | {"edit": "{"})
    assert bad.status_code == 400
    assert "not JSON" in words(bad)
    typed = FORM | {"edit": '{"messages": [{"role": "user", "content": "Ask bob@example.org"}]}'}
    url = oncall.post(f"{letter_url(letter)}redrive/", typed).url
    plan = RedrivePlan.objects.get()
    run_steps(plan)
    change = redrive.propose_plan(plan=plan, actor=crew.oncall, now=timezone.now())

    review = signed_in(crew.approver_two).get(f"/reviews/{change.pk}/")

    assert "as it would be handed in" in words(review)
    assert "example.org" not in review.content.decode()
    assert "The edit asks for what the tenant wanted" in words(review)
    assert "waiting for its sign-offs" in told(oncall.post(f"{url}give-up/", {"reason": "r"}))


def test_plan_that_is_not_proposed_is_given_up(key, signed_in):
    oncall = signed_in(crew.oncall)
    url = oncall.post(f"{letter_url(young(key))}redrive/", FORM).url

    assert "given up" in told(oncall.post(f"{url}give-up/", {"reason": "not needed"}))
    assert "Given up by oncall: not needed. Nothing was handed in." in words(oncall.get(url))
    assert oncall.get(f"{LIST}redrives/{uuid.uuid4()}/").status_code == 404


# --- retention and erasure -------------------------------------------------------------------------------------------
def test_rules_of_retention_are_set_and_removed(key, signed_in):
    """By whoever may, with a reason; on-call looks."""
    admin, oncall = signed_in(crew.admin), signed_in(crew.oncall)
    url = f"{LIST}retention/"
    assert "every payload is kept for 30 days" in words(oncall.get(url))
    assert oncall.post(url, {}).status_code == 403
    assert admin.post(url, {"tenant": "acme", "days": "7"}).status_code == 400
    unknown = admin.post(url, {"tenant": "acmee", "days": "7", "reason": "r"})
    assert (unknown.status_code, RetentionRule.objects.count()) == (400, 0)
    assert "there is no tenant 'acmee'" in words(unknown)

    admin.post(url, {"tenant": "acme", "category": "", "days": "7", "reason": "the contract says so"})

    assert RetentionRule.objects.get().days == 7
    letter = young(key)
    assert "for 7 days after the work failed, by the rule acme, every category" in words(admin.get(letter_url(letter)))
    assert "the contract says so" in words(oncall.get(url))
    assert admin.post(f"{url}remove/", {"tenant": "globex", "reason": "r"}).status_code == 404
    admin.post(f"{url}remove/", {"tenant": "acme", "category": "", "reason": "it ended"})
    assert RetentionRule.objects.count() == 0


def test_data_subject_is_erased_by_who_types_the_tenants_name(key, signed_in):
    """Their letters are purged; what is on hold stays and is counted."""
    mine, held = (young(key, user_hash=full_user_hash("ada")) for _ in range(2))
    other = make_letter(user_hash=ADA)
    retention.hold(letter=held, actor=crew.legal, reason="case 7", now=timezone.now())
    url = f"{LIST}erasure/"
    typed = {"tenant": "acme", "user": "ada", "reason": "ticket 9", "confirm": "acm"}
    assert signed_in(crew.oncall).get(url).status_code == 403
    admin = signed_in(crew.admin)
    assert admin.get(url).status_code == 200
    assert admin.post(url, typed).status_code == 400
    assert "there is no tenant 'acm'" in words(admin.post(url, typed | {"tenant": "acm"}))

    answer = admin.post(url, typed | {"confirm": "acme"})

    assert told(answer) == (
        "Erased: 1 dead letter, 1 summary of a letter; 1 stay, on legal hold; below you see when all of it is done"
    )
    states = dict(DeadLetter.objects.values_list("pk", "payload_state"))
    assert (states[mine.pk], states[held.pk], states[other.pk]) == ("purged", "pending", "pending")
    event = AuditEvent.objects.filter(action="subject.erased").get()
    assert (event.data["subject"], event.data["reason"]) == (full_user_hash("ada")[:8], "ticket 9")


def test_forms_of_retention_and_erasure_take_as_much_however_many_tenants_there_are(signed_in, queries):
    """A tenant is typed, with a few offered, as what there may be thousands of is everywhere."""
    for place in range(OFFERED):
        make_tenant(f"tenant-{place:02}")
    browser = signed_in(crew.admin)

    def costs():
        return [
            (queries(lambda url=url: browser.get(url)), browser.get(url).content.count(b"<option"))
            for url in (f"{LIST}retention/", f"{LIST}erasure/")
        ]

    before = costs()
    for place in range(3 * OFFERED):
        make_tenant(f"other-{place:02}")

    assert costs() == before
    page = browser.get(f"{LIST}erasure/").content.decode()
    assert 'data-names="/names/tenants.json"' in page
    assert page.count("<option") == OFFERED


def test_page_of_erasures_says_what_went_and_what_is_left_to_do(key, signed_in):
    """Under way until it is done, with the reason why it is not; nobody's hash in full."""
    young(key, user_hash=full_user_hash("ada"))
    asked = {"tenant": "acme", "user_hash": full_user_hash("ada"), "reason": "ticket 9", "actor": crew.admin}
    erasure = subjects.erase_subject(**asked, now=timezone.now())
    Erasure.objects.update(objects_left=["dead-letters/1"])
    admin, url = signed_in(crew.admin), f"{LIST}erasure/"

    waiting = admin.get(url).content.decode()
    Erasure.objects.update(problem="the payload store is away: no")
    hindered = admin.get(url).content.decode()
    Erasure.objects.update(problem="", objects_left=[])
    late = admin.get(url).content.decode()
    Erasure.objects.update(state="done", user_hash="", finished_at=timezone.now())
    done = admin.get(url).content.decode()

    assert "1 object of the payload store to be deleted" in waiting
    assert "the payload store is away: no; 1 object not deleted yet; it is tried again every minute" in hindered
    assert f"gone over once more at {erasure.again_at:%H:%M} UTC" in late
    for page in (waiting, hindered, late):
        assert "under way" in page
    assert "1 dead letter, 1 summary of a letter" in done
    assert "under way" not in done
    assert full_user_hash("ada")[:8] in done
    assert full_user_hash("ada") not in done


def test_palette_and_rail_lead_there(key, signed_in):
    """Those who have something to see there."""
    labels = {entry.label for entry in entries(crew.admin)}

    assert {"Dead letters", "Redrives and how they go", "Erase a data subject"} <= labels
    assert "Dead letters" not in {entry.label for entry in entries(crew.owner)}
