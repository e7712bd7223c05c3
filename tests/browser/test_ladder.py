"""The ladder as on-call uses it: a rung engaged in two taps on a phone, confirmed by all, stood down in one."""

import re

from playwright.sync_api import expect

from tests.browser.conftest import PHONE, SIZES, WIDE

SURFACE = "/ladder/surfaces/web-chat/"
BANNER = "We are very busy: a smaller assistant is answering."

# Names of pictures.
LOOKS = {f"{name}-{theme}": (size, theme) for name, size in SIZES.items() for theme in ("light", "dark")}


def test_rung_is_engaged_in_two_taps_and_stood_down_in_one(enter):
    """From the ladder's page on a phone, without a word typed; every worker says so, and the way back is offered."""
    oncall = enter("oncall", size=PHONE)
    oncall.go("/ladder/")

    oncall.press("Engage… rung 3")
    sheet = oncall.dialog(re.compile("Engage rung 3 for Web chat"))
    expect(sheet).to_contain_text("VIP served in full up to 40 at once")
    expect(sheet).to_contain_text(BANNER)
    expect(sheet.get_by_role("button", name="Engage rung 3")).to_be_in_viewport(ratio=1)
    sheet.get_by_role("button", name="Engage rung 3").click()

    oncall.is_told("Rung 3, Cheaper model, for everybody on Web chat, ends after 30 min")
    confirmation = oncall.page.locator("#confirmation")
    expect(confirmation).to_contain_text("Engaged on every worker")
    oncall.sees(BANNER)
    oncall.press("Stand down")
    oncall.is_told("Stood down web-chat, which was on rung 3")
    oncall.sees("No rung of Web chat is engaged")
    expect(oncall.act("Engage again")).to_be_visible()


def test_preview_follows_what_is_chosen(enter):
    """The sentence says for whom and until when before anything is sent; a scope of nobody is refused in words."""
    oncall = enter("oncall", size=WIDE)
    oncall.go("/ladder/")
    oncall.press("Engage… rung 1")
    sheet = oncall.dialog(re.compile("Engage rung 1 for Web chat"))
    preview = sheet.locator("#engage-preview")
    expect(preview).to_contain_text("VIP served in full")

    for tier in ("VIP", "Standard"):
        sheet.get_by_label(tier).uncheck()
    expect(preview).to_contain_text("nobody has reserved places")
    sheet.get_by_label("Free").uncheck()

    expect(preview).to_contain_text("choose at least one")
    sheet.get_by_role("button", name="Close").click()
    expect(sheet).to_be_hidden()


def test_sheet_is_a_page_where_no_script_runs(house, chromium):
    """The same two taps, each of them a page."""
    person = house.let_in("oncall", size=PHONE)
    cookies = person.context.storage_state()
    assert person.leave() == []
    context = chromium.new_context(
        base_url=house.stack.console_url, storage_state=cookies, java_script_enabled=False, viewport=None
    )
    page = context.new_page()
    page.goto("/ladder/")

    page.get_by_role("link", name="Engage… rung 2").click()
    page.get_by_role("button", name="Engage rung 2").click()

    expect(page.get_by_role("main")).to_contain_text("Web chat is on rung 2, No tools, engaged by oncall")
    page.get_by_role("button", name="Stand down").click()
    expect(page.get_by_role("main")).to_contain_text("No rung of Web chat is engaged")
    context.close()


def test_engaged_ladder_is_photographed(enter):
    """What on-call sees while a rung stands for some callers and another for the rest, in both themes and widths."""
    oncall = enter("oncall", size=WIDE)
    oncall.go(f"{SURFACE}rungs/1/")
    oncall.press("Engage rung 1")
    oncall.sees("Web chat is on rung 1")

    for name, path in (
        ("now", "/ladder/"),
        ("surface", SURFACE),
        ("engage", f"{SURFACE}rungs/4/"),
        ("policy", "/ladder/policy/"),
    ):
        oncall.go(path)
        for look, (size, theme) in LOOKS.items():
            oncall.turn(size, theme)
            oncall.photograph(f"ladder-{name}-{look}")
    oncall.go("/ladder/")
    oncall.press("Engage… rung 4")
    oncall.dialog(re.compile("Engage rung 4"))
    for look, (size, theme) in LOOKS.items():
        oncall.turn(size, theme)
        oncall.page.screenshot(path=oncall.house.photographs / f"ladder-sheet-{look}.png")
    oncall.go(SURFACE)
    oncall.press("Stand down")
    oncall.sees("No rung of Web chat is engaged")
