"""The main job end to end: a version goes from a form to real traffic and back, through the hands of four people."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.caller import PROMPT, Caller
from tests.browser.conftest import SIZES
from tests.browser.people import House, Person
from tests.end_to_end.stack import Stack

CAST = ("owner", "approver-one", "approver-two", "oncall")
TONE = "Answer warmly, name the next step, and say when it happens. Take {size} as the measure of brevity."
SECOND_STAGE = "A first few"
GATEWAYS = 2
USERS = [f"walker-{number:03d}" for number in range(60)]


@dataclass
class Story:
    """Everybody in it, and what has come of it so far: each test takes the next step. `number`: of the new version."""

    stack: Stack
    name: str
    people: dict[str, Person]
    caller: Caller
    number: int = 0
    control: int = 0
    slug: str = ""
    change: str = ""
    canary_users: list[str] = field(default_factory=list)

    @property
    def served(self) -> str:
        """The new version, as the header `ballast-prompt` names it."""
        return f"{PROMPT}@{self.number}"

    def __getitem__(self, username: str) -> Person:
        return self.people[username]


@pytest.fixture(scope="module", params=SIZES, ids=SIZES)
def story(request: pytest.FixtureRequest, house: House) -> Iterator[Story]:
    """The people at their desks (or phones), each signed in; whatever canary runs is ended by on-call first."""
    size = SIZES[request.param]
    people = {username: house.let_in(username, size=size) for username in CAST}
    caller = Caller(house.stack)
    _end_running_canary(house.stack, people["oncall"])
    yield Story(house.stack, request.param, people, caller)
    caller.close()
    complaints = [complaint for person in people.values() for complaint in person.leave()]
    assert complaints == []


def test_owner_reads_difference_and_preview_before_submitting(story):
    """The form shows word by word what would change, and how it reads, before anything is stored."""
    owner = story["owner"]
    owner.go(f"/prompts/{PROMPT}/")
    story.control = _number(owner.page.get_by_role("main").get_by_text(re.compile(r"^v\d+ live$")).inner_text())
    owner.press("Submit a version")
    before = owner.page.get_by_label("Text").first.input_value()
    owner.page.get_by_label("Text").first.fill(f"{before} {TONE.format(size=story.name)}")
    owner.page.get_by_label("Tone").check()
    owner.page.get_by_label("Why this version").fill(f"Customers ask for warmth ({story.name})")

    owner.press("Preview and compare")

    difference = owner.page.get_by_role("region", name=re.compile("^Messages: changes from v"))
    expect(difference.locator("ins").first).to_contain_text("Answer warmly")
    expect(difference.locator("del")).to_have_count(0)
    owner.sees("Where is my parcel?")
    owner.press("Submit the version")
    owner.is_told(re.compile(r"Submitted .*; it serves nobody yet"))
    story.number = _number(owner.page.get_by_role("heading", level=1).inner_text())


def test_submitted_version_cannot_be_edited(story):
    """Its page offers no field to change it, and its address takes nothing but a GET."""
    owner = story["owner"]
    path = f"/prompts/{PROMPT}/versions/{story.number}/"

    owner.expects(r"status of 40[35]")
    expect(owner.page.get_by_role("main").locator("form textarea:not([name=reason])")).to_have_count(0)
    with story.stack.api("owner") as api:
        answers = {
            method: api.request(method, f"/prompts/{PROMPT}/versions/{story.number}", json={}).status_code
            for method in ("PUT", "PATCH", "DELETE")
        }

    assert answers == dict.fromkeys(answers, httpx.codes.METHOD_NOT_ALLOWED)
    assert owner.page.evaluate("path => fetch(path, {method: 'PUT'}).then((answer) => answer.status)", path) in {
        403,
        405,
    }


def test_owner_plans_a_canary_with_stages_of_their_own(story):
    """The default stages are a start; one is renamed and widened before anything runs."""
    owner = story["owner"]
    owner.go(f"/prompts/{PROMPT}/versions/{story.number}/canary/")
    owner.page.get_by_label("Name of stage 2").fill(SECOND_STAGE)
    owner.page.get_by_label("Percent of stage 2").fill("2")
    for stage in range(1, 7):  # it ends within a minute, before there is evidence of anything
        owner.page.get_by_label(f"Without evidence of stage {stage}").select_option("People may go on")

    owner.press("Plan the canary")

    owner.is_told(re.compile("waits in the approvers' inbox"))
    story.slug = owner.page.get_by_role("heading", level=1).inner_text()
    story.change = _number_text(owner.act(re.compile(r"^Review CR-\d+$")).inner_text())
    owner.sees(SECOND_STAGE)


def test_editing_the_plan_voids_a_sign_off(story):
    """An approver signs; the owner then changes a stage, and the signature no longer counts."""
    owner, approver = story["owner"], story["approver-one"]
    _sign(approver, story)
    expect(approver.page.locator(".seat.is-signed")).to_have_count(1)

    owner.press("Edit the plan")
    owner.page.get_by_label("Percent of stage 2").fill("3")
    owner.press("Save the plan")

    owner.is_told(re.compile("needs its sign-offs anew"))
    approver.go(f"/reviews/{story.change}/")
    expect(approver.page.locator(".seat.is-void")).to_contain_text("approver-one")
    expect(approver.page.locator(".seat.is-signed")).to_have_count(0)


def test_author_cannot_sign(story):
    """The author sees why, and no button."""
    owner = story["owner"]

    owner.go(f"/reviews/{story.change}/")

    owner.sees("You wrote part of this change, so you cannot sign it.")
    expect(owner.act("Sign off")).to_have_count(0)


def test_unsigned_canary_stays_with_internal_users(story):
    """It starts; beyond the first stop the knob is locked and says what is missing."""
    owner = story["owner"]
    owner.go(f"/canaries/{story.slug}/")

    owner.press("Start at Internal only")

    owner.is_told("at Internal only")
    locked = owner.page.locator(".stop.is-locked")
    expect(locked).to_have_count(5)
    expect(locked.first).to_contain_text("Missing: 2 more from approver")
    expect(owner.page.locator(".stop-met")).to_have_count(0)
    expect(locked.first.locator("input")).to_be_disabled()


def test_two_approvers_open_the_gate(story):
    """Each finds it in the inbox as waiting for them, reads it and signs; then every stop is free."""
    for username in ("approver-one", "approver-two"):
        person = story[username]
        person.go("/reviews/")
        expect(person.page.get_by_role("row").filter(has_text=f"CR-{story.change}")).to_contain_text("waits for you")
        _sign(person, story)

    owner = story["owner"]
    owner.page.reload()
    expect(owner.page.locator(".stop.is-locked")).to_have_count(0)


def test_knob_moves_every_worker_before_the_eyes_of_the_fleet_page(story):
    """The turn to 25 % reaches every worker while on-call looks on, without a reload."""
    owner, oncall = story["owner"], story["oncall"]
    oncall.go("/releases/")
    expect(oncall.page.locator("[data-live-mark]")).to_have_attribute("data-state", "live")
    oncall.page.evaluate("() => { globalThis.notReloaded = true; }")
    revision = _number(oncall.page.locator("#release-now a.metric-value").inner_text())

    _turn(owner, "25 %")

    expect(oncall.page.locator("#release-now a.metric-value")).to_have_text(f"r{revision + 1}")
    rows = oncall.page.locator('[data-fleet="gateway"] tbody tr[data-worker]')
    expect(rows).to_have_count(GATEWAYS)
    for row in rows.all():
        expect(row.locator('[data-cell="revision"]')).to_have_text(f"r{revision + 1}")
        expect(row.locator('[data-cell="state"]')).to_have_text("in sync")
    assert oncall.page.evaluate("() => globalThis.notReloaded") is True


def test_users_in_the_canary_are_served_the_new_version(story):
    """The stock SDK gets the new version for a fixed share of users, and the old one for all the others."""
    answers = story.caller.ask_as_each(USERS)

    story.canary_users = [user for user, answer in answers.items() if answer.cohort == "canary"]

    share = len(story.canary_users) / len(USERS)
    print(f"{len(story.canary_users)} of {len(USERS)} users ({share:.0%}) are in the canary at 25 %")
    assert 0 < share < 0.5
    assert {answers[user].prompt for user in story.canary_users} == {story.served}
    assert {answer.prompt for answer in answers.values() if answer.cohort != "canary"} == {f"{PROMPT}@{story.control}"}
    again = story.caller.ask_as_each(story.canary_users[:5])
    assert {answer.cohort for answer in again.values()} == {"canary"}


def test_dashboard_moves_with_the_traffic(story):
    """Tiles, table and charts follow real requests over the WebSocket; the delay is printed."""
    owner = story["owner"]
    owner.go(f"/canaries/{story.slug}/")
    expect(owner.page.locator("[data-live-mark]")).to_have_attribute("data-state", "live")
    owner.page.wait_for_function('() => document.querySelector("#error-rate .main-svg")')
    requests = owner.page.locator('[data-measure="requests"] [data-arm="canary"]').last
    expect(requests).not_to_have_text("–")
    before = int(requests.inner_text().replace(",", ""))
    started = time.monotonic()

    story.caller.ask_as_each(story.canary_users[:5])
    answered = time.monotonic()

    owner.page.wait_for_function(
        """([before]) => {
            const cells = document.querySelectorAll('[data-measure="requests"] [data-arm="canary"]');
            return Number([...cells].at(-1).textContent.replaceAll(",", "")) >= before;
        }""",
        arg=[before + 5],
    )
    behind = time.monotonic() - answered
    print(f"5 requests took {answered - started:.2f} s; the page showed the last {behind:.2f} s later")
    expect(owner.page.locator('.metric[data-measure="latency_p95_ms"] [data-arm="canary"]')).not_to_have_text("–")
    expect(owner.page.locator(".verdict")).to_contain_text("not enough evidence")
    owner.until(lambda: _asked_and_drawn(story), "the latency chart has a line once it has points enough", seconds=120)


def test_oncall_rolls_back_and_every_worker_returns_to_control(story):
    """One click and one confirmation; the times to the last ACK and to the first answers from control are printed."""
    oncall = story["oncall"]
    oncall.go(f"/canaries/{story.slug}/")
    oncall.press(f"Roll back to v{story.control}")
    dialog = oncall.dialog(re.compile(f"Roll back {PROMPT} to v{story.control}"))
    expect(dialog).to_contain_text("Everybody is served the control again")
    dialog.get_by_label("Reason").fill("Too chatty")
    clicked = time.monotonic()

    dialog.get_by_role("button", name=f"Roll back to v{story.control}").click()

    oncall.is_told(re.compile(f"Rolled back to v{story.control}"))
    revision = _latest_revision(story.stack)
    oncall.until(lambda: _all_serve_control(story, revision), "every worker serves the control")
    answered = 1000 * (time.monotonic() - clicked)
    [[acked]] = story.stack.query("SELECT max(latency_ms) FROM releases_ack WHERE revision = %s", [revision])
    print(f"last ACK {acked:.0f} ms after the click; four calls answered by the control {answered:.0f} ms after it")
    oncall.sees("Too chatty")
    answers = story.caller.ask_as_each(story.canary_users)
    assert {answer.prompt for answer in answers.values()} == {f"{PROMPT}@{story.control}"}


def test_rejected_content_cannot_come_back(story):
    """The same words under a new number are refused with the reason of the roll-back."""
    owner = story["owner"]
    owner.go(f"/prompts/{PROMPT}/versions/{story.number}/")

    owner.sees("This content was rejected")
    owner.sees("Too chatty")
    expect(owner.act("Plan a canary")).to_have_count(0)


def _end_running_canary(stack: Stack, oncall: Person) -> None:
    with stack.api("oncall") as api:
        running = api.get("/canaries", params={"state": "running"}).json()["results"]
    for canary in running:
        oncall.go(f"/canaries/{canary['slug']}/")
        oncall.press(re.compile(r"^Roll back to v\d+$"))
        dialog = oncall.dialog(re.compile("^Roll back"))
        dialog.get_by_role("button", name=re.compile("^Roll back")).click()
        oncall.is_told(re.compile("Rolled back to"))


def _sign(person: Person, story: Story) -> None:
    person.go(f"/reviews/{story.change}/")
    person.press("Sign off")
    person.dialog(re.compile("^Canary of")).get_by_role("button", name="Sign off").click()
    person.is_told(f"You signed CR-{story.change}")


def _turn(owner: Person, stage: str) -> None:
    """Move the knob to the stop of that name; the stop itself is the label around the radio button."""
    owner.page.locator(".stop").filter(has=owner.page.get_by_text(stage, exact=True)).click()
    owner.press(f"Turn the knob to {stage}")
    owner.is_told(f"is at {stage}")


def _asked_and_drawn(story: Story) -> bool:
    """Go on asking, and see whether the chart has measured points in it."""
    story.caller.ask(story.canary_users[0])
    drawn: bool = story["owner"].page.evaluate(
        """() => (document.querySelector("#latency-p95-ms [data-chart-plot]").data ?? [])
            .some((line) => line.y.some((y) => y !== null))"""
    )
    return drawn


def _latest_revision(stack: Stack) -> int:
    return int(str(stack.query("SELECT max(revision) FROM releases_release")[0][0]))


def _all_serve_control(story: Story, revision: int) -> bool:
    """Whether each gateway process says so itself, and whoever was in the canary is no longer served it."""
    rows = story.stack.query("SELECT revision FROM releases_worker WHERE kind = 'gateway' AND status = 'serving'")
    converged = len(rows) == GATEWAYS and all(int(str(row[0])) >= revision for row in rows)
    return converged and all(
        answer.prompt != story.served for answer in story.caller.ask_as_each(story.canary_users[:4]).values()
    )


def _number_text(text: str) -> str:
    found = re.search(r"\d+", text[::-1])
    assert found is not None, text
    return found.group()[::-1]


def _number(text: str) -> int:
    """The last number in a text: 13 in 'support-answer v13'."""
    return int(_number_text(text))
