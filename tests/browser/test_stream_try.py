"""A reader whose connection drops in the middle of an answer, and who continues where they were."""

from playwright.sync_api import expect

from tests.browser.conftest import PHONE

# The hand that drops the connection is the page's own: however slow the machine, it is there before the answer ends.
DROP = """() => {
    const frames = document.querySelector("[data-live-key=try_frames]");
    new MutationObserver((_, watch) => {
        if (Number(frames.textContent) < 3) return;
        watch.disconnect();
        document.querySelector("[data-try-drop]").click();
    }).observe(frames, { childList: true });
}"""


def test_a_dropped_answer_is_continued_without_a_word_missing(enter):
    """Drop it after three frames, continue, and acknowledge: every frame came once, over two connections."""
    reader = enter("oncall", size=PHONE)
    reader.go("/usage/streams/try/")
    page = reader.page
    standing, frames = page.locator("[data-try-standing]"), page.locator("[data-live-key=try_frames]")

    expect(page.get_by_role("button", name="Drop the connection")).to_be_visible()
    page.evaluate(DROP)

    reader.press("Ask")
    expect(standing).to_contain_text("Connection dropped after frame")
    reader.press("Connection dropped: tap to continue")
    expect(standing).to_contain_text("Complete: every frame is here.")
    reader.press("Acknowledge what is here")

    expect(page.locator("[data-live-key=try_acked]")).to_have_text(frames.inner_text())
    expect(page.locator("[data-live-key=try_wrong]")).to_have_text("0")
    expect(page.locator("[data-live-key=try_connections]")).to_have_text("2")
    said = page.locator("[data-try-log]")
    expect(said).to_contain_text("and the words so far are the same")
    expect(said).not_to_contain_text("DIFFER")
