"""What a canary's page says of its guardrails, and its replays, query by query."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.console.verdict_content import MAX_POINTS
from controlplane.verdicts import replay, watching
from controlplane.verdicts.models import ReplayPair, VerdictPoint
from tests.console.conftest import words
from tests.eval_runs import FakeGateway, answer, make_calibrated_judge
from tests.eval_sets import make_set_version, row
from tests.factories import FIVE_PERCENT, NOW, QUARTER, crew, make_canary, make_operator, sign
from tests.verdicts.evidence import guardrails, report_cells, run_judged

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]
COSTLIER = {"cost_micros": 33_000}


@pytest.fixture
def canary():
    """A canary at a quarter that is judged by cost and error rate."""
    return run_judged(QUARTER, rails=guardrails("cost", "error_rate"))


def test_page_says_that_nobody_has_looked_yet(canary, signed_in):
    """A canary that has just begun; each guardrail has its tile."""
    page = words(signed_in(crew.owner).get(canary.get_absolute_url()))

    assert "Verdict: not enough evidence Nobody has looked at it yet." in page
    assert "Cost per request not enough evidence at most 5 % above control" in page


def test_page_says_so_too_where_pairs_were_handed_out_first(signed_in):
    """What is kept of those is no verdict yet."""
    canary = run_judged(QUARTER, rails=guardrails("cost"))
    watching.watch_of(canary, now=timezone.now())

    page = words(signed_in(crew.owner).get(canary.get_absolute_url()))

    assert "Verdict: not enough evidence Nobody has looked at it yet." in page


def test_page_says_what_each_guardrail_lacks(canary, signed_in):
    """How many there are, below how many nothing is concluded, and what follows at this stage."""
    report_cells(canary.slug, requests=1)
    watching.look_at_all(now=timezone.now())

    page = words(signed_in(crew.auditor).get(canary.get_absolute_url()))

    assert "Not enough evidence: 0 of 2 guardrails are clear" in page
    assert "People may go on without it." in page
    assert "64 on canary, 64 on control · cannot conclude below 200" in page


def test_page_says_what_is_clear(canary, signed_in):
    """With the difference and its interval beside the margin."""
    report_cells(canary.slug, requests=1000)
    watching.look_at_all(now=timezone.now())

    page = words(signed_in(crew.auditor).get(canary.get_absolute_url()))

    assert "Verdict: not regressed Not regressed: all 2 guardrails are within the margin" in page
    assert "Cost per request not regressed at most 5 % above control Live traffic level with control" in page
    assert "between level with control" not in page


def test_page_of_what_was_rolled_back_says_why(canary, signed_in):
    """In words, with the number, and what became of everybody; what is open meanwhile is loaded anew, once."""
    report_cells(canary.slug, candidate=COSTLIER)
    watching.look_at_all(now=timezone.now())
    browser = signed_in(crew.owner)

    page = words(browser.get(canary.get_absolute_url()))
    part = browser.get(f"{canary.get_absolute_url()}verdict/")

    assert "Rolled back by itself" in page
    assert "Regressed: cost per request is 10 % above control, at least" in page
    assert "Everybody is served v1 again; the candidate's digest" in page
    assert "Turn the knob" not in page
    assert part.headers["HX-Refresh"] == "true"


def test_open_page_fetches_the_verdict_alone(canary, signed_in):
    """Every look is a small part, whatever the page shows beside it."""
    report_cells(canary.slug, requests=1000)
    watching.look_at_all(now=timezone.now())

    part = signed_in(crew.owner).get(f"{canary.get_absolute_url()}verdict/")

    text = part.content.decode()
    assert "Verdict: not regressed" in text
    assert 'id="rail-cost-words"' in text
    assert "<html" not in text


def test_open_page_is_told_what_the_verdict_opens(signed_in):
    """The stops of the knob come along with it, so that nobody has to load the page anew to go on."""
    canary = run_judged(FIVE_PERCENT, signed=False, rails=guardrails("cost"), unproven="wait")
    sign(canary.change, crew.approver_one, crew.approver_two, now=timezone.now())
    part = f"{canary.get_absolute_url()}verdict/"
    browser = signed_in(crew.owner)

    before = browser.get(part).content.decode()
    report_cells(canary.slug, requests=1000)
    watching.look_at_all(now=timezone.now())
    after = browser.get(part).content.decode()

    assert before.count("is-locked") == 3
    assert "Waits for evidence; the verdict says of what" in before
    assert "Waits for evidence" not in after
    assert "is-locked" not in after


def test_verdict_that_nobody_renews_is_marked(canary, signed_in):
    """The page does not pass an old word off as one of now."""
    report_cells(canary.slug, requests=1000)
    watching.look_at_all(now=timezone.now() - timedelta(minutes=5))

    page = words(signed_in(crew.owner).get(canary.get_absolute_url()))

    assert "Nobody has looked at it since" in page


def test_canary_from_before_guardrails_says_that_people_judge_it(signed_in):
    """And has no tiles of guardrails."""
    canary = make_canary()
    type(canary).objects.filter(pk=canary.pk).update(guardrails=None, state="running", position=0, started_at=NOW)

    page = words(signed_in(crew.owner).get(canary.get_absolute_url()))

    assert "Planned before there were guardrails: people judge it alone." in page
    assert "Replays, query by query" not in page


def test_overview_tells_of_what_was_rolled_back_by_itself(canary, signed_in):
    """For a day, with the reason; and nothing of a canary that is looked at."""
    report_cells(canary.slug, requests=1000)
    watching.look_at_all(now=timezone.now())
    browser = signed_in(crew.oncall)
    before = words(browser.get("/"))
    report_cells(canary.slug, requests=2000, seq=2, candidate={"cost_micros": 900_000})
    watching.look_at_all(now=timezone.now())

    after = words(browser.get("/"))

    assert "rolled back by itself" not in before
    assert "support-answer v2 was rolled back by itself just now Regressed: cost per request is 50 % above" in after


def test_overview_tells_of_a_canary_that_nobody_looks_at(canary, signed_in):
    """A regression would go unseen."""
    watching.look_at_all(now=timezone.now() - timedelta(minutes=5))

    page = words(signed_in(crew.oncall).get("/"))

    assert "Nobody looks at the canary of support-answer v2" in page


# --- charts ----------------------------------------------------------------------------------------------------------
def test_chart_of_a_guardrail_has_its_interval_and_its_margin(canary, signed_in):
    """In the unit of the rail, a band where there are bounds, and the line that it must not cross."""
    for minutes, seq in ((0, 1), (1, 2), (2, 3)):
        report_cells(canary.slug, requests=1 if seq == 1 else 1000 * seq, seq=seq)
        watching.look_at(canary, now=NOW + timedelta(minutes=minutes))

    figure = signed_in(crew.owner).get(f"{canary.get_absolute_url()}guardrails/cost.json").json()

    line = next(trace for trace in figure["data"] if trace["name"] == "live traffic")
    band = [trace for trace in figure["data"] if trace["meta"]["role"] == "band"]
    assert line["y"] == [pytest.approx(0.0, abs=1e-6)] * 3
    assert [len(trace["x"]) for trace in band] == [2, 2]
    assert figure["layout"]["yaxis"]["title"]["text"] == "% of control"
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["margin 5 %"]


def test_chart_of_a_long_canary_is_thinned_out(canary, signed_in, django_assert_max_num_queries):
    """At most so many points, the newest among them."""
    at = [NOW + timedelta(minutes=minute) for minute in range(1000)]
    usual = {"canary": canary, "rail": "cost", "stream": "live", "canary_n": 1, "control_n": 1, "ruling": "clear"}
    VerdictPoint.objects.bulk_create(
        VerdictPoint(at=moment, harm=0.01, lower=0.0, upper=0.02, **usual) for moment in at
    )
    browser = signed_in(crew.owner)

    with django_assert_max_num_queries(10):
        figure = browser.get(f"{canary.get_absolute_url()}guardrails/cost.json").json()

    line = next(trace for trace in figure["data"] if trace["name"] == "live traffic")
    assert len(line["x"]) <= MAX_POINTS + 1
    assert line["x"][-1] == at[-1].isoformat()


@pytest.mark.parametrize("rail", ["latency", "nothing"])
def test_guardrail_that_does_not_judge_has_no_chart(canary, signed_in, rail):
    """It is missing, and so is one that there is not."""
    assert signed_in(crew.owner).get(f"{canary.get_absolute_url()}guardrails/{rail}.json").status_code == 404


# --- replays ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def replayed():
    """A canary whose candidate gives addresses away in one query of two."""
    make_set_version("held-out", row("good"), row("bad", sources=[{"id": "s", "text": "What the source says"}]))
    version = make_set_version("held", row("good"), row("bad"), purpose="held_out")
    make_calibrated_judge()
    policy = {"held_out": f"held@{version.number}", "judges": {"grounding": "grounded@1"}}
    canary = run_judged(rails=guardrails("cost", "grounding", **policy))

    def says(body):
        is_bad = body["prompt"]["variables"]["question"] == "Question bad" and body["prompt"]["version"] == 2
        return answer("Write to ada@example.com") if is_bad else answer()

    replay.run_pairs(canary.pk, range(1, 9), open_asker=FakeGateway(says=says).open)
    return canary


def test_replays_are_listed_query_by_query(replayed, signed_in, django_assert_max_num_queries):
    """The newest first, with how the candidate did on each guardrail; one can ask for those in which it did worse."""
    browser = signed_in(crew.owner)

    with django_assert_max_num_queries(20):
        page = browser.get(f"{replayed.get_absolute_url()}replays/")
    worse = browser.get(f"{replayed.get_absolute_url()}replays/?worse=grounding")

    assert [one.pair.number for one in page.context["rows"]] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert "Queries of held@1 , each asked of v2 and v1 at the same time" in words(page)
    assert {one.pair.row_id for one in worse.context["rows"]} == {"bad"}
    assert "100 points below control" in words(worse)
    assert browser.get(f"{replayed.get_absolute_url()}replays/?worse=latency").status_code == 404


def test_pair_shows_both_answers_to_whoever_may_read_them(replayed, signed_in):
    """What was asked, how both scored, and how the answers differ."""
    number = replayed.pairs.filter(row_id="bad").first().number

    page = words(signed_in(crew.owner).get(f"{replayed.get_absolute_url()}replays/{number}/"))

    assert "Question bad" in page
    assert "ada@example.com" in page
    assert "Grounding no yes 100 points below control" in page


def test_pair_says_a_ratio_as_it_is(replayed, signed_in):
    """Though the verdict counts none beyond four, whoever reads both figures sees what they come to."""
    said = {"text": "Within 30 days", "tool_calls": []}
    scores = {"cost": {"candidate": 1443.0, "control": 288.0}}
    usual = {"canary": replayed, "row_id": "good", "at": NOW, "candidate": said, "control": said}
    ReplayPair.objects.create(number=9, scores=scores, **usual)

    page = words(signed_in(crew.owner).get(f"{replayed.get_absolute_url()}replays/9/"))

    assert "Cost per request 1,443 µ$ 288 µ$ 401 % above control" in page


def test_words_of_held_out_rows_are_not_for_whoever_writes_prompts_alone(replayed, signed_in):
    """They see how it scored, and neither the question nor the answers."""
    writer = make_operator("writer", Role.PROMPT_OWNER, on=replayed.prompt)
    number = replayed.pairs.first().number

    page = words(signed_in(writer).get(f"{replayed.get_absolute_url()}replays/{number}/"))

    assert "Questions and answers of held-out rows are for those who look after evals" in page
    assert "Question " not in page.replace("Questions", "")
    assert "Within 30 days" not in page


def test_replays_of_a_canary_without_a_set_say_so(canary, signed_in):
    """And what would be there."""
    page = words(signed_in(crew.owner).get(f"{canary.get_absolute_url()}replays/"))

    assert "The plan names no held-out set, so nothing is replayed." in page
    assert "Nothing replayed yet" in page
