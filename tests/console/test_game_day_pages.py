"""The pages of game days over HTTP: what one would do, how far one is, who confirms it, and its signed report."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.corpora import operations
from controlplane.corpora.drill_reports import read_report, sign_report
from controlplane.corpora.dump_checks import trusted_keys
from controlplane.corpora.models import Corpus, RecoveryDrill
from controlplane.corpora.records import DrillState
from tests.console.conftest import said, words
from tests.corpora.kept_corpora import make_namespace, make_policy, policy_document
from tests.corpora_documents import SLUG
from tests.factories import crew

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("promised")]

NEW = f"/corpora/{SLUG}/drills/new/"
WORDS = f"drill {SLUG} live"


@pytest.fixture(scope="module")
def promised(deployment, lasting):
    """A corpus that is rebuilt where it is lost."""
    with lasting():
        make_policy(policy_document(recovery={"strategy": "rebuild"}))


@pytest.fixture
def corpus(db):
    """It, served from its first namespace."""
    found = Corpus.objects.get(slug=SLUG)
    namespace = make_namespace(found)
    operations.switch(namespace=namespace, actor=crew.oncall, reason="r", now=timezone.now())
    return Corpus.objects.get(slug=SLUG)


def make_drill(corpus, **facts):
    now = timezone.now()
    facts = {"state": DrillState.RUNNING, "began_at": now} | facts
    return RecoveryDrill.objects.create(
        corpus=corpus, scenario="wrong_model", reason="the quarter", actor="oncall", asked_at=now, **facts
    )


def step(name, *, ended=True, **facts):
    began = timezone.now() - timedelta(seconds=10)
    at = began.isoformat()
    told = {"name": name, "began_at": at, "ended_at": at if ended else None, "seconds": 1.5, "done": 0, "of": None}
    return told | {"words": f"{name} was done" if ended else ""} | facts


def test_new_one_says_what_will_happen_before_it_is_begun(corpus, signed_in):
    """The scenario that is chosen, in words: the loss, the check that sees it, the way back and what that costs."""
    page = words(signed_in(crew.oncall).get(f"{NEW}?scenario=vectors_corrupted"))

    assert "One vector in 10 is another than was written" in page
    assert "Its strategy is rebuild: every document is embedded again" in page
    assert "nobody measured yet; 15 min is promised" in page
    assert WORDS in page


def test_new_one_is_begun_in_a_sandbox_and_a_second_refused(corpus, signed_in):
    """The form begins it and leads to its page; while it has not ended, another is refused beside the fields."""
    browser = signed_in(crew.oncall)

    answer = browser.post(NEW, {"scenario": "index_dropped", "reason": "the quarter"})

    drill = RecoveryDrill.objects.get()
    assert answer.url == drill.get_absolute_url()
    assert (drill.state, drill.actor, drill.targets_live) == (DrillState.QUEUED, "oncall", False)
    again = browser.post(NEW, {"scenario": "index_dropped", "reason": "again"})
    assert again.status_code == 409
    assert f"drill {drill.pk} of {SLUG} has not ended" in words(again)


def test_scenario_without_dumps_says_why_it_cannot_be_run(corpus, signed_in):
    """Before anything is posted, and on posting it."""
    browser = signed_in(crew.oncall)

    page = words(browser.get(f"{NEW}?scenario=half_written_dump"))

    assert "needs 2 good dumps" in page
    assert browser.post(NEW, {"scenario": "half_written_dump", "reason": "r"}).status_code == 409


def test_one_on_what_serves_is_confirmed_by_somebody_else(corpus, signed_in):
    """It waits; who asked cannot confirm it, and somebody else does with the same words."""
    browser = signed_in(crew.oncall)
    asked = {"scenario": "index_dropped", "targets_live": "on", "reason": "r"}
    assert browser.post(NEW, asked | {"typed": "drill it"}).status_code == 409
    browser.post(NEW, asked | {"typed": WORDS})
    drill = RecoveryDrill.objects.get()
    url = f"{drill.get_absolute_url()}confirm/"

    assert browser.post(url, {"typed": WORDS}).status_code == 409
    other = signed_in(crew.admin)
    assert "Every query reads that one" in words(other.get(url))
    assert other.post(url, {"typed": "drill"}).status_code == 409
    assert other.post(url, {"typed": WORDS}).url == drill.get_absolute_url()

    drill.refresh_from_db()
    assert (drill.state, drill.confirmed_by) == (DrillState.QUEUED, "admin")


def test_running_one_shows_how_far_it_is(corpus, signed_in):
    """Each step with what it took and found; the one under way with how much is done and what is left."""
    steps = [step("prepare"), step("detect"), step("restore", ended=False, done=20, of=80)]
    drill = make_drill(corpus, steps=steps, seconds={"detect": 1.5})

    page = words(signed_in(crew.auditor).get(drill.get_absolute_url()))

    assert "detect was done" in page
    assert "20 of 80 · about" in page
    assert "It runs in a sandbox; what serves is not touched." in page


def test_one_is_called_off_with_a_reason(corpus, signed_in):
    """Without a reason nothing happens; with one it has ended, and says by whom and why."""
    drill = make_drill(corpus)
    browser, url = signed_in(crew.oncall), f"{drill.get_absolute_url()}cancel/"

    browser.post(url, {"reason": ""})
    drill.refresh_from_db()
    assert drill.state == DrillState.RUNNING
    answer = browser.post(url, {"reason": "not today"}, follow=True)

    assert "It is called off; what it made is dropped" in said(answer)
    assert "oncall called it off: not today." in words(answer)


def test_passed_one_stands_against_the_promise_with_its_signed_report(corpus, signed_in):
    """The outcome in one sentence, every check, the verdict on its signature, and the file that verifies offline."""
    report = {"drill": 1, "way": "restore"}
    drill = make_drill(
        corpus,
        state=DrillState.PASSED,
        ended_at=timezone.now(),
        rto_seconds=2.5,
        rpo_seconds=3600.0,
        predicted_seconds=2.0,
        acceptance={"checks": [{"name": "counts", "passed": True, "words": "4 of 4 chunks"}]},
        report=report,
        report_signature=sign_report(report).to_mapping(),
    )
    browser = signed_in(crew.auditor)

    page = words(browser.get(drill.get_absolute_url()))
    file = browser.get(f"{drill.get_absolute_url()}report/")

    assert "It came back, verified, in 2.50 s, predicted 2.00 s; 15 min is promised" in page
    assert "4 of 4 chunks" in page
    assert "Signature holds" in page
    assert read_report(file.content, trusted=trusted_keys())[0] == report


def test_report_that_was_changed_is_said_to_be(corpus, signed_in):
    """A report whose row was written to by hand is not what was signed."""
    drill = make_drill(
        corpus,
        state=DrillState.PASSED,
        ended_at=timezone.now(),
        report={"drill": 2},
        report_signature=sign_report({"drill": 1}).to_mapping(),
    )

    page = words(signed_in(crew.auditor).get(drill.get_absolute_url()))

    assert "The report that is kept is not the one that was signed" in page


def test_one_without_a_report_has_none_to_download(corpus, signed_in):
    """It runs still, so there is nothing to take."""
    drill = make_drill(corpus)

    assert signed_in(crew.auditor).get(f"{drill.get_absolute_url()}report/").status_code == 404


def test_corpus_page_leads_to_game_days_and_says_what_would_be_kept(corpus, signed_in):
    """Whoever may run one finds the way there; everybody reads that all of it is a guess so far."""
    page = signed_in(crew.oncall).get(f"/corpora/{SLUG}/")

    assert NEW in page.content.decode()
    assert "It never came back in a drill, so all of this is a guess" in words(page)
    assert NEW not in signed_in(crew.auditor).get(f"/corpora/{SLUG}/").content.decode()
