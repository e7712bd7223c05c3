"""What people do when things go wrong, and how they get about: glass, roll-back, keys, sign-in, keyboard, theme."""

import re

import httpx
import openai
from playwright.sync_api import Page, Route, expect

from tests.accounts.door import code_of
from tests.browser.caller import Caller
from tests.browser.conftest import PHONE, WIDE
from tests.end_to_end.stack import DEMO_PASSWORD, Stack

INCIDENT = "INC-2041"
FAILED_TRIES = 10


def test_broken_glass_opens_the_knob_and_leaves_a_debt(house, enter, size):
    """On-call passes a gate without sign-offs; its debt stands on the front page until somebody else reviews it."""
    owner, oncall, approver = (enter(username, size=size) for username in ("owner", "oncall", "approver-one"))
    slug, change = _started_legal_canary(house.stack)

    oncall.go(f"/reviews/{change}/")
    oncall.press("Break glass")
    dialog = oncall.dialog(f"Break the glass on CR-{change}")
    expect(dialog).to_contain_text("somebody else must review it within 24 h")
    dialog.get_by_label("Incident id").fill(INCIDENT)
    dialog.get_by_label("Minutes").fill("30")
    dialog.get_by_label("Reason").fill("The old wording promises too much")
    dialog.get_by_role("button", name="Break the glass").click()
    oncall.is_told(re.compile("somebody else must review it"))

    oncall.go(f"/canaries/{slug}/")
    oncall.page.locator(".stop").filter(has=oncall.page.get_by_text("1 %", exact=True)).click()
    oncall.press("Turn the knob to 1 %")
    oncall.is_told("is at 1 %")
    oncall.sees("On broken glass")

    owner.go("/")
    owner.sees(re.compile(INCIDENT))

    approver.go(f"/reviews/{change}/")
    approver.press("Review the bypass")
    approver.dialog("Review the bypass").get_by_label("Reason").fill("Right call; the wording was wrong in law")
    approver.dialog("Review the bypass").get_by_role("button", name="Record the review").click()
    approver.is_told(f"The bypass of CR-{change} is reviewed")
    owner.go("/")
    expect(owner.page.get_by_role("main").get_by_text(INCIDENT)).to_have_count(0)

    with house.stack.api("oncall") as api:
        api.post(f"/canaries/{slug}/roll-back", json={"reason": "end of the walk"}).raise_for_status()


def test_oncall_rolls_the_last_change_back(house, enter, size):
    """From the front page to the dialog that names what will change, and one click from there."""
    oncall = enter("oncall", size=size)
    _change_something(house.stack)
    before = _latest_revision(house.stack)
    oncall.go("/")

    oncall.press("Roll back the last change")

    dialog = oncall.dialog(re.compile(r"^Roll back to r\d+$"))
    expect(dialog).to_contain_text("What changes now")
    dialog.get_by_role("button", name=re.compile("^Roll back to r")).click()
    oncall.is_told(re.compile("it serves what r"))
    assert _latest_revision(house.stack) == before + 1
    expect(oncall.page.locator("#release-now a.metric-value")).to_have_text(f"r{before + 1}")


def test_revoked_key_is_refused_at_the_gateway(house, enter):
    """A minute ago it was an application's; after the admin's click every gateway answers 401."""
    with house.stack.api("admin") as api:
        issued = api.post("/tenants/initech/keys", json={"name": "to be revoked"}).raise_for_status().json()
    caller = Caller(house.stack, issued["secret"])
    admin = enter("admin")
    admin.until(lambda: _status(caller) == httpx.codes.OK, "the gateways know the new key")
    admin.go("/access/tenants/initech/")

    admin.press(f"Revoke {issued['prefix']}")
    admin.page.get_by_role("dialog").get_by_role("button", name="Revoke the key").click()

    admin.is_told("is revoked; gateways refuse it within a second")
    admin.until(
        lambda: [_status(caller) for _ in range(4)] == [httpx.codes.UNAUTHORIZED] * 4, "every gateway refuses it"
    )
    caller.close()


def test_second_factor_is_set_up_and_asked_for(house):
    """Password again, a code of the app, recovery codes; from then on the password alone lets nobody in."""
    person = house.open_door(size=PHONE)
    person.sign_in("exec")
    person.go("/accounts/2fa/totp/activate/")
    if person.page.get_by_label("Password").is_visible():
        person.page.get_by_label("Password").fill(DEMO_PASSWORD)
        person.page.get_by_role("button", name=re.compile("^(Confirm|Continue)")).click()
    secret = person.page.locator("code").first.inner_text().strip()
    person.page.get_by_label(re.compile("code", re.IGNORECASE)).fill(code_of(secret))
    person.page.get_by_role("button", name="Turn on two-factor sign-in").click()
    expect(person.page.get_by_role("heading", name="Recovery codes", level=1)).to_be_visible()
    recovery = re.findall(r"\b\d{8}\b", person.page.get_by_role("main").inner_text())
    assert recovery

    again = house.open_door(size=PHONE)
    again.go("/accounts/login/")
    _fill_in(again.page, "exec", DEMO_PASSWORD)
    expect(again.page).to_have_url(re.compile("/accounts/2fa/authenticate/"))
    again.page.get_by_label(re.compile("code", re.IGNORECASE)).fill(recovery[0])
    again.page.get_by_role("button", name=re.compile("^(Sign in|Continue|Confirm)")).first.click()

    expect(again.page.get_by_role("heading", name="Overview")).to_be_visible()
    assert person.leave() + again.leave() == []
    house.let_in_again("exec")


def test_door_closes_after_too_many_wrong_passwords(house):
    """The tenth failure gets the page that says why and until when, and the right password does not help then, unless
    somebody at the server opens it again.
    """
    stranger = house.open_door(size=WIDE)
    stranger.expects("status of 429")
    heading = stranger.page.get_by_role("heading", level=1)
    for _ in range(FAILED_TRIES - 1):
        stranger.page.goto("/accounts/login/")
        _fill_in(stranger.page, "legal", "not the password")
        expect(stranger.page.get_by_role("alert")).to_contain_text("do not go together")
    _fill_in(stranger.page, "legal", "not the password")
    expect(heading).to_contain_text("Too many tries")

    stranger.page.goto("/accounts/login/")
    with stranger.page.expect_response(lambda answer: answer.request.method == "POST") as answered:
        _fill_in(stranger.page, "legal", DEMO_PASSWORD)

    assert answered.value.status == httpx.codes.TOO_MANY_REQUESTS
    expect(heading).to_contain_text("Too many tries")
    house.let_in_again("legal")
    stranger.sign_in("legal")
    assert stranger.leave() == []


def test_palette_leads_by_keyboard_alone(enter):
    """Ctrl-K opens it, letters filter it, arrows choose, Enter goes; Escape leaves everything as it was."""
    owner = enter("owner")
    owner.go("/")
    keyboard, palette = owner.page.keyboard, owner.page.get_by_role("dialog", name="Command palette")

    keyboard.press("Control+k")
    expect(palette).to_be_visible()
    keyboard.press("Escape")
    expect(palette).to_be_hidden()
    keyboard.press("Control+k")
    options = palette.get_by_role("option")
    expect(options.nth(2)).to_be_visible()
    keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    keyboard.press("ArrowUp")
    expect(options.first).to_have_attribute("aria-selected", "true")
    keyboard.type("canaries")
    expect(options.first).to_contain_text("Canaries")
    keyboard.press("Enter")

    expect(owner.page).to_have_url(re.compile("/canaries/$"))


def test_palette_keeps_the_choice_when_its_list_comes_late(enter):
    """It opens with what it knew; the fresh list replaces that under the hand without moving what is chosen."""
    owner = enter("owner")
    asked: list[Route] = []
    # Before the page is there: a page that is hears of a route a little later, and what it asks for until then passes.
    owner.page.route("**/palette.json", lambda route: asked.append(route))
    owner.go("/")
    keyboard, palette = owner.page.keyboard, owner.page.get_by_role("dialog", name="Command palette")
    options = palette.get_by_role("option")

    def is_asked(times: int) -> bool:
        owner.page.title()  # a browser is heard only while it is asked for something
        return len(asked) == times

    keyboard.press("Control+k")
    owner.until(lambda: is_asked(1), "the list is asked for")
    asked[0].continue_()
    expect(options.nth(2)).to_be_visible()
    keyboard.press("Escape")
    expect(palette).to_be_hidden()
    keyboard.press("Control+k")
    expect(options.nth(2)).to_be_visible()
    owner.until(lambda: is_asked(2), "the list is asked for again")
    keyboard.press("ArrowDown")
    keyboard.press("ArrowDown")
    expect(options.nth(2)).to_have_attribute("aria-selected", "true")
    options.nth(2).evaluate("option => { option.dataset.old = 'yes'; }")

    asked[1].continue_()

    expect(options.nth(2)).not_to_have_attribute("data-old", "yes")
    expect(options.nth(2)).to_have_attribute("aria-selected", "true")


def test_dialog_is_walked_by_keyboard(house, enter):
    """Enter opens it with the focus inside, Tab stays inside, Escape gives the focus back to what opened it."""
    _change_something(house.stack)
    oncall = enter("oncall")
    oncall.go("/releases/undo/")
    dialog = oncall.page.get_by_role("dialog", name=re.compile("^Roll back to r"))
    opener = oncall.act(re.compile(r"^Roll back to r\d+$"))
    expect(dialog).to_be_visible()
    oncall.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    opener.focus()

    oncall.page.keyboard.press("Enter")

    expect(dialog).to_be_visible()
    inside = "() => Boolean(document.activeElement.closest('dialog[open]')) || document.activeElement === document.body"
    for _ in range(6):
        assert oncall.page.evaluate(inside)
        oncall.page.keyboard.press("Tab")
    oncall.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()


def test_theme_stays_as_chosen(enter):
    """Dark stays dark on the next page and after a reload, from its first paint on."""
    owner = enter("owner")
    owner.go("/")
    owner.page.get_by_role("banner").locator("summary[aria-label=Theme]").click()
    owner.page.get_by_role("button", name="Dark").click()
    expect(owner.page.locator("html")).to_have_attribute("data-bs-theme", "dark")

    owner.go("/prompts/")

    assert owner.page.locator("html").get_attribute("data-bs-theme") == "dark"
    owner.page.reload()
    assert owner.page.locator("html").get_attribute("data-bs-theme") == "dark"
    assert owner.page.evaluate("() => getComputedStyle(document.body).backgroundColor") != "rgb(247, 247, 248)"


def test_phone_opens_the_whole_rail(enter):
    """What the bar at the bottom has no room for is under More."""
    owner = enter("owner", size=PHONE)
    owner.go("/")

    owner.page.get_by_role("button", name="More").click()

    rail = owner.page.get_by_role("navigation", name="Main", exact=True)
    expect(rail.get_by_role("link", name="Prompts")).to_be_in_viewport()
    rail.get_by_role("link", name="Prompts").click()
    expect(owner.page.get_by_role("heading", name="Prompts", level=1)).to_be_visible()


def _fill_in(page: Page, username: str, password: str) -> None:
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def _status(caller: Caller) -> int:
    try:
        caller.ask("walker")
    except openai.APIStatusError as exc:
        return exc.status_code
    return int(httpx.codes.OK)


def _latest_revision(stack: Stack) -> int:
    return int(str(stack.query("SELECT max(revision) FROM releases_release")[0][0]))


def _started_legal_canary(stack: Stack) -> tuple[str, int]:
    """A canary of a legal change that serves internal users and lacks its sign-offs; its slug and its change."""
    return _start_canary(stack, change_class="legal")


def _change_something(stack: Stack) -> None:
    """Start a canary, so that there is something to roll back."""
    _start_canary(stack, change_class="minor")


def _start_canary(stack: Stack, *, change_class: str) -> tuple[str, int]:
    """Start a canary of the refund policy in the place of the one that runs; its slug and its change."""
    with stack.api("oncall") as api:
        for running in api.get("/canaries", params={"state": "running"}).raise_for_status().json()["results"]:
            if running["prompt"] == "refund-policy":
                path = f"/canaries/{running['slug']}/roll-back"
                api.post(path, json={"reason": "makes room for the next"}).raise_for_status()
    with stack.api("owner") as api:
        fields = _refund_version(stack, change_class=change_class)
        version = api.post("/prompts/refund-policy/versions", json=fields).raise_for_status().json()
        path = f"/prompts/refund-policy/versions/{version['number']}/canaries"
        canary = api.post(path, json={"unit": "user", "reason": "Agreed with legal"}).raise_for_status().json()
        api.post(f"/canaries/{canary['slug']}/start").raise_for_status()
    return canary["slug"], canary["change"]


def _refund_version(stack: Stack, *, change_class: str) -> dict[str, object]:
    """The live version's facts under words that nobody has submitted before."""
    schema = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
    number = stack.query("SELECT count(*) FROM prompts_promptversion")[0][0]
    return {
        "messages": [{"role": "user", "content": f"Refund for order {{{{order}}}}? ({number})"}],
        "variables_schema": schema,
        "parameters": {"temperature": 0},
        "sample_variables": {"order": "A-1042"},
        "change_class": change_class,
        "rationale": "The withdrawal period was wrong",
    }
