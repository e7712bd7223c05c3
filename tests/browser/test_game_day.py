"""A game day as on-call runs it: from the corpus' page to the signed report, and one on what serves by two people."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, WIDE
from tests.end_to_end.stack import Stack

CORPUS = "/corpora/help-centre/"
WORDS = "drill help-centre live"
LIVE = "SELECT count(*) FROM corpora_corpus WHERE slug = 'help-centre' AND live_namespace_id IS NOT NULL"


@pytest.fixture(scope="module", autouse=True)
def served(stack: Stack) -> Iterator[None]:
    """The demo's corpus is searchable, has a dump, and somebody does durable work."""
    for name in ("indexer", "work"):
        stack.begin(name)
    stack.wait_for(lambda: stack.query(LIVE)[0][0] == 1, "the corpus serves", needs="indexer", seconds=600)
    stack.manage("corpus_dump", "--corpus", "help-centre")
    yield
    for name in ("work", "indexer"):
        stack.stop(name)


def test_game_day_from_the_corpus_page_to_the_signed_report(enter, stack, tmp_path):
    """What will happen is said first; then it runs under one's eyes, passes every check, and its report verifies."""
    oncall = enter("oncall", size=WIDE)
    oncall.go(CORPUS)

    oncall.press("Run a game day")
    oncall.page.get_by_label("What is lost").select_option("vectors_corrupted")
    oncall.sees("One vector in 10 is another than was written")
    oncall.page.get_by_label("Reason").fill("the quarter")
    oncall.press("Run the game day")

    oncall.sees("Game day")
    expect(oncall.page.locator("#drill")).to_contain_text("It came back, verified, in", timeout=600_000)
    expect(oncall.page.locator("#acceptance")).to_contain_text("recall@10")
    expect(oncall.page.locator("#signature")).to_contain_text("Signature holds")
    oncall.photograph("game-day-passed")
    with oncall.page.expect_download() as taken:
        oncall.press("Download the signed report")
    report = Path(tmp_path / "report.json")
    taken.value.save_as(report)
    assert json.loads(json.loads(report.read_text())["document"])["state"] == "passed"
    stack.manage("corpus_drill_verify", str(report))
    oncall.go(CORPUS)
    oncall.sees("The last proven restore was")


def test_game_day_on_what_serves_takes_a_second_person(enter, stack):
    """On a phone: it waits until somebody else has typed the words; what served before serves afterwards."""
    before = stack.query("SELECT live_namespace_id FROM corpora_corpus WHERE slug = 'help-centre'")
    oncall = enter("oncall", size=PHONE)
    oncall.go(f"{CORPUS}drills/new/")
    oncall.page.get_by_label("Let what comes back serve for a moment").check()
    oncall.page.get_by_label("Words").fill(WORDS)
    oncall.page.get_by_label("Reason").fill("the year")
    oncall.press("Run the game day")
    oncall.sees("nothing happens until somebody else confirms it")
    oncall.photograph("game-day-waiting-phone")

    admin = enter("admin", size=WIDE)
    admin.go(oncall.page.url)
    admin.press("Confirm it")
    admin.page.get_by_label("Words").fill(WORDS)
    admin.press("Confirm and begin")

    expect(oncall.page.locator("#drill")).to_contain_text("It came back, verified, in", timeout=600_000)
    oncall.sees("What serves was switched in")
    assert stack.query("SELECT live_namespace_id FROM corpora_corpus WHERE slug = 'help-centre'") == before
