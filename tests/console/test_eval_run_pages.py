"""The pages of eval runs: beginning, watching, cancelling and reading them, and what a change waits for."""

import pytest
from django.utils import timezone

from controlplane.approvals.operations import withdraw_change
from controlplane.evals.gate import run_change
from controlplane.evals.runs import EvalRun
from tests.console.conftest import said, words
from tests.eval_runs import FakeGateway, answer, make_calibrated_judge, make_standard, messages_row, refusal, run_pieces
from tests.eval_sets import QUESTION, import_into, make_judge_version, make_set_version, row
from tests.evals.test_gate import BAD, CANDIDATE, GOOD, golden, with_candidate
from tests.evals.test_runs import LANE, MAIL, begin, make_rows, saying
from tests.factories import NOW, crew
from tests.validator_tables import propose

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def of(run, act=""):
    return f"/evals/runs/{run.pk}/{act}"


def review(change, act=""):
    return f"/reviews/{change.pk}/{act}"


# --- beginning -------------------------------------------------------------------------------------------------------
def test_a_version_of_a_prompt_is_asked_from_the_page_of_a_set(signed_in):
    """By the standard, of the version of the set that was chosen; exactly the same is not begun twice."""
    version = make_set_version("golden", *make_rows(3))
    make_standard(version)
    browser = signed_in(crew.owner)
    asked = {"subject": "support-answer@1", "number": "1"}

    begun = browser.post("/evals/sets/golden/run/", asked)
    again = browser.post("/evals/sets/golden/run/", asked)

    run = EvalRun.objects.get()
    assert begun.url == of(run)
    assert said(begun) == ["support-answer v1 is being asked 3 rows of golden v1"]
    assert (run.thresholds, run.actor) == ({"grounded": 0.9}, "owner")
    assert again.status_code == 400
    assert f"run {run.pk} asks support-answer v1 exactly this already" in words(again)


def test_a_lane_is_asked_by_the_prompt_of_the_standard(signed_in):
    """Rows that give variables; with chosen judges nothing hangs on it, and it may cost what was said."""
    version = make_set_version("golden", *make_rows(2))
    make_standard(version, prompt="support-answer")

    signed_in(crew.admin).post(
        "/evals/sets/golden/run/",
        {"subject": LANE, "number": "1", "judges": ["grounded@1"], "max_cost": "0.5"},
    )

    run = EvalRun.objects.get()
    assert (run.subject_name, run.subject["prompt"], run.total) == (LANE, "support-answer", 2)
    assert (run.thresholds, run.max_cost_micros) == ({}, 500_000)


def test_what_cannot_be_begun_says_why_in_the_form(signed_in):
    """Nobody said what answers are held to, or no row is for the subject."""
    make_set_version("bare", messages_row())
    make_calibrated_judge()
    browser = signed_in(crew.owner)
    asked = {"subject": "support-answer@1", "number": "1"}

    loose = browser.post("/evals/sets/bare/run/", asked)
    nothing = browser.post("/evals/sets/bare/run/", asked | {"judges": ["grounded@1"]})
    strange = browser.post("/evals/sets/bare/run/", asked | {"subject": "support-answer@99"})

    assert "nobody has said what answers to 'bare' are held to" in words(loose)
    assert "no row of bare v1 can be asked of support-answer v1" in words(nothing)
    assert strange.status_code == 400
    assert "say which version of prompt 'support-answer': support-answer@1 is the newest" in words(strange)
    assert not EvalRun.objects.exists()


# --- watching --------------------------------------------------------------------------------------------------------
def test_a_run_shows_how_far_it_is_and_listens(signed_in):
    """Rows, rate, what is left, cost and limit; live by its topic, with polling as the floor."""
    run = begin(make_set_version("golden", *make_rows(45)))
    now = timezone.now()
    EvalRun.objects.filter(pk=run.pk).update(
        state="running", asked=20, cost_micros=12_000, started_at=now - timezone.timedelta(seconds=10), moved_at=now
    )

    browser = signed_in(crew.approver_one)
    page, room, runs = (browser.get(url) for url in (of(run), "/evals/", "/evals/runs/"))

    told = "20 of 45 rows · 2.0 a second · about 12 s left · $0.01 of $10.00"
    for one in (page, room, runs):
        assert told in words(one)
        assert f"eval.{run.pk}" in one.content.decode()
        assert "ballast:refresh, every " in one.content.decode()
    assert "Cancel" not in words(page)


def test_a_run_whose_worker_is_gone_says_so(signed_in):
    """Instead of a rate that nobody keeps."""
    run = begin(make_set_version("golden", *make_rows(3)))

    page = words(signed_in(crew.owner).get(of(run)))

    assert "Nobody has moved it for minutes, after 0 of 3 rows." in page
    assert "left" not in page.partition("Scores")[0]


def test_a_run_is_cancelled_once(signed_in):
    """By who looks after evals or began it; who came too late is told."""
    run = begin(make_set_version("golden", *make_rows(3)))
    browser = signed_in(crew.owner)
    asked = words(browser.get(of(run)))

    cancelled, again = (browser.post(of(run, "cancel/")) for _ in range(2))

    assert "Nothing more is asked; the answers so far stay, and the run passes nothing." in asked
    assert said(cancelled) == [f"Run {run.pk} is cancelled after 0 of 3 rows"]
    assert said(again)[-1] == f"run {run.pk} has ended: cancelled"
    page = browser.get(of(run))
    assert "Cancelled by owner after 0 of 3 rows." in words(page)
    assert "ballast:refresh" not in page.content.decode().partition("<main")[2]


# --- reading ---------------------------------------------------------------------------------------------------------
def test_what_failed_stands_first_with_its_reason(signed_in):
    """Then what got no answer, then the rest, each in the order of the rows."""
    run = begin(make_set_version("golden", *make_rows(4)))
    run_pieces(saying(r02=answer(MAIL), r01=refusal("unauthorized", 401)))
    browser = signed_in(crew.approver_one)

    page, bad = browser.get(of(run)), browser.get(of(run, "?show=bad"))

    assert [line.answer.row.key for line in page.context["answers"]] == ["r02", "r01", "r00", "r03"]
    assert [line.answer.row.key for line in bad.context["answers"]] == ["r02", "r01"]
    text = words(page)
    assert "Did not pass: grounded 2 of 4, 90 % have to pass; 1 of 4 rows got no answer." in text
    assert "grounded 2 of 4 50.0% 90 % at least" in text
    assert f"r02 failed Question r02 {MAIL} grounded@1 failed: no-mail" in text
    assert "r01 no answer Question r01 unauthorized : no" in text


def test_words_of_a_held_out_run_are_for_those_who_look_after_evals(signed_in):
    """Neither questions nor answers nor what a judge said of them."""
    version = make_set_version("held-out", row("curtains", variables={"question": QUESTION}), purpose="held_out")
    run = begin(version, judges=[_judge()])
    run_pieces(FakeGateway(says=lambda body: answer(MAIL)))

    owner, approver = (signed_in(one).get(of(run)) for one in (crew.owner, crew.approver_one))

    assert QUESTION in words(owner)
    assert "no-mail" in words(owner)
    assert "curtains failed grounded@1 failed" in words(approver)
    for word in (QUESTION, "ada@example.com", "no-mail"):
        assert word not in approver.content.decode()


def _judge():
    make_calibrated_judge()
    return "grounded@1"


def test_runs_of_a_set_are_compared_row_by_row(signed_in):
    """What got worse and what got better, by the ids of rows, also across versions of the set."""
    version = make_set_version("golden", *make_rows(3))
    make_standard(version)
    first = begin(version)
    run_pieces(saying(r00=answer(MAIL)))
    later = begin(import_into(version.set, *make_rows(3), row("new")))
    run_pieces(saying(r02=answer(MAIL)))
    other = begin(make_set_version("other", row("a")), judges=["grounded@1"])
    browser = signed_in(crew.auditor)

    page = words(browser.get(of(later, f"?beside={first.pk}")))
    strange = browser.get(of(later, f"?beside={other.pk}"))

    assert "of 3 rows 1 went from passed to failed and 1 from failed to passed." in page
    assert "Worse: r02 Better: r00" in page
    assert strange.status_code == 404


def test_pages_take_as_many_queries_however_much_there_is(signed_in, queries):
    """Runs, answers, scores and what stands beside them."""
    version = make_set_version("golden", *make_rows(2))
    make_standard(version)
    first, run = begin(version), None
    run_pieces()
    run = begin(version)
    run_pieces()
    browser = signed_in(crew.owner)
    pages = (of(run), of(run, f"?beside={first.pk}"), "/evals/runs/")

    def count():
        return [queries(lambda url=url: browser.get(url)) for url in pages]

    few = count()
    more = make_set_version("more", *make_rows(30))
    for _ in range(3):
        begin(version)
        begin(more, judges=["grounded@1"])
        run_pieces()

    assert count() == few


# --- what a change waits for -----------------------------------------------------------------------------------------
def test_the_review_of_a_lane_shows_what_it_waits_for(signed_in):
    """Its run with a bar; nobody can sign off meanwhile."""
    make_standard(golden())
    change = propose(with_candidate())
    run = EvalRun.objects.get()
    EvalRun.objects.update(moved_at=timezone.now())

    page = signed_in(crew.approver_one).get(review(change))

    text = words(page)
    assert f"lane '{CANDIDATE}' on golden set 'golden' Waits for a worker 0 of 2 rows" in text
    assert "Sign off: see “Asked before it enters a route”" in text
    assert f'data-live-refresh="eval.{run.pk} "' in page.content.decode()
    assert f"Run {run.pk}, answer by answer" in text


def test_a_run_that_did_not_pass_is_begun_again_from_the_review(signed_in):
    """The figures stand there, also those of before; what passed only the second time is said to be so."""
    make_standard(golden())
    change = propose(with_candidate())
    run_pieces(BAD)
    browser = signed_in(crew.oncall)
    failed = words(browser.get(review(change)))

    begun = browser.post(review(change, "evals/"))
    run_pieces(GOOD)
    again = browser.post(review(change, "evals/"))
    page = words(browser.get(review(change)))

    assert "Did not pass: grounded 0 of 2, 90 % have to pass." in failed
    assert "Run what did not pass" in failed
    assert said(begun) == [f"1 eval run began for CR-{change.pk}"]
    assert "all are done or under way" in said(again)[-1]
    assert "Passed: grounded 2 of 2" in page
    assert "It had failed before" in page
    assert "Run what did not pass" not in page


def test_a_run_that_nobody_can_begin_says_what_is_missing(signed_in):
    """A judge that was not held against people, named; asking for the run anyway is refused in the same words."""
    make_judge_version("loose")
    make_standard(golden(), judges=["loose@1"], thresholds={"grounded": 0.9})
    change = propose(with_candidate())
    browser = signed_in(crew.oncall)

    page = words(browser.get(review(change)))
    refused = browser.post(review(change, "evals/"))

    assert "It was not asked yet, since loose@1 is uncalibrated." in page
    assert "loose@1 must be calibrated first" in said(refused)[-1]


def test_a_lane_that_nobody_asked_says_so_before_anybody_signs(signed_in):
    """What it means, what to do about it and where, in the section of evals; closed, it concerns nobody."""
    make_standard(golden(), routes=["summaries"])
    change = propose(with_candidate())
    browser = signed_in(crew.auditor)

    page = browser.get(review(change))
    for_exec = signed_in(crew.exec).get(review(change))
    withdraw_change(change=change, actor=crew.owner, reason="r", now=NOW)
    closed = browser.get(review(change))

    section = words(page).partition("Asked before it enters a route")[2].partition("Sets and what they are held to")[0]
    assert f"No golden set covers lane '{CANDIDATE}' on route chat: nobody asked it anything" in section
    assert "would send route chat to it without a single answer of its having been judged" in section
    assert "Set the standard of a golden set with rows" in section
    assert {
        "text": f"No golden set covers lane '{CANDIDATE}' on route chat: nobody asked it anything",
        "met": None,
    } in (page.context["content"]["checklist"])
    assert "Sets and what they are held to" not in words(for_exec)
    assert "No golden set covers" in words(for_exec)
    assert "No golden set covers" not in words(closed)


def test_rows_that_cannot_be_asked_of_a_lane_say_why_and_what_would_help(signed_in):
    """Beside the runs that can be made."""
    make_standard(golden())
    make_standard(golden(slug="european", residency=["eu"]))
    make_standard(golden(row("v"), slug="promptless"))
    change = propose(with_candidate())

    page = words(signed_in(crew.auditor).get(review(change)))

    assert f"Set 'european' may not leave eu, where '{CANDIDATE}' is not" in page
    assert "Import rows that may go to us into a set of their own" in page
    assert f"No row of set 'promptless' can be asked of lane '{CANDIDATE}'" in page
    assert "its standard names no prompt that is live" in page
    assert "No golden set covers" not in page


def test_who_may_not_look_at_evals_is_led_to_no_page_of_theirs(signed_in):
    """The exec reads the review and its figures."""
    make_standard(golden())
    change = propose(with_candidate())

    page = signed_in(crew.exec).get(review(change))

    assert "Asked before it enters a route" in words(page)
    assert "/evals/" not in page.content.decode()


def test_reviews_take_as_many_queries_however_many_runs_they_need(signed_in, queries):
    """A set more is a run more."""
    make_standard(golden())
    change = propose(with_candidate())
    browser = signed_in(crew.auditor)
    before = queries(lambda: browser.get(review(change)))
    for number in range(3):
        make_standard(golden(slug=f"more-{number}"))
    run_change(change=change, actor=crew.oncall, now=NOW)

    assert queries(lambda: browser.get(review(change))) == before


def test_reviews_take_as_many_queries_however_many_runs_cannot_begin(signed_in, queries):
    """Sets by the word of judges that were not held against people."""
    make_judge_version("loose")
    make_standard(golden(), judges=["loose@1"])
    change = propose(with_candidate())
    browser = signed_in(crew.auditor)
    before = queries(lambda: browser.get(review(change)))
    for number in range(3):
        make_standard(golden(slug=f"more-{number}"), judges=["loose@1"])

    assert queries(lambda: browser.get(review(change))) == before


def test_the_palette_leads_to_sets(signed_in):
    """For who may look at them."""
    make_set_version("golden")

    auditor, legal = (signed_in(one).get("/palette.json").json() for one in (crew.auditor, crew.legal))

    assert "golden" in [entry["label"] for entry in auditor["entries"]]
    assert "golden" not in [entry["label"] for entry in legal["entries"]]
