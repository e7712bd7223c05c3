"""Eval runs over the API."""

from urllib.parse import urlsplit

import pytest

from controlplane.evals.models import EvalSet
from controlplane.evals.runs import EvalRun
from tests.eval_runs import FakeGateway, answer, make_standard, messages_row, run_pieces
from tests.eval_sets import make_judge_version, make_set_version, row
from tests.factories import crew, routing_document
from tests.validator_tables import propose

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LANE = "openai/us-east/main/gpt-4o"
PROMPT = {"set": "golden", "prompt": "support-answer", "number": 1}


def make_rows(how_many):
    return [row(f"r{place}") for place in range(how_many)]


@pytest.fixture
def version():
    made = make_set_version("golden", *make_rows(5))
    make_standard(made)
    return made


def test_a_script_begins_a_run_and_waits_for_what_it_found(version, as_operator):
    """Progress as numbers while it asks; then scores with their bounds, a verdict, and what it cost."""
    owner = as_operator(crew.owner)

    begun = owner.post("evals/runs", PROMPT)
    run_pieces()
    done = owner.get(f"evals/runs/{begun.body['id']}").body

    assert (begun.status, begun.body["state"], begun.body["progress"]["total"]) == (202, "queued", 5)
    assert (done["state"], done["passed"], done["cost_micros"], done["subject"]) == (
        "done",
        True,
        500,
        "support-answer v1",
    )
    assert done["progress"] == {"asked": 5, "total": 5, "per_second": None, "eta_seconds": None}
    (score,) = done["scores"]
    assert (score["name"], score["passed"], score["n"], score["share"], score["threshold"]) == (
        "grounded",
        5,
        5,
        1.0,
        0.9,
    )
    assert 0.6 < score["lower"] < 0.7


def test_a_lane_is_asked_as_it_is_in_force(version, as_operator):
    """By a prompt where the rows give variables."""
    owner = as_operator(crew.owner)

    begun = owner.post("evals/runs", {"set": "golden", "lane": LANE, "prompt": "support-answer"})
    without = owner.post("evals/runs", {"set": "golden", "lane": LANE})

    assert (begun.status, begun.body["subject"]) == (202, LANE)
    assert (without.status, without.body["error"]["code"]) == (409, "nothing_to_ask")


def test_what_cannot_be_begun_is_refused(version, as_operator):
    """Twice at a time, of no such subject or set, without a standard, and with half a subject."""
    owner = as_operator(crew.owner)
    make_set_version("bare", *make_rows(1))

    owner.post("evals/runs", PROMPT)
    refused = [
        owner.post("evals/runs", body)
        for body in (
            PROMPT,
            PROMPT | {"set": "bare"},
            PROMPT | {"number": 9},
            {"set": "golden", "lane": "x"},
            PROMPT | {"set": "strange"},
            PROMPT | {"set_number": 7},
            PROMPT | {"judges": ["strange@1"]},
            {"set": "golden", "prompt": "support-answer"},
            PROMPT | {"lane": LANE},
        )
    ]

    assert [(one.status, one.body["error"]["code"]) for one in refused] == [
        (409, "already_running"),
        (409, "no_standard"),
        (404, "unknown_subject"),
        (404, "unknown_subject"),
        (404, "not_found"),
        (404, "not_found"),
        (400, "invalid_standard"),
        (400, "invalid"),
        (400, "invalid"),
    ]


def test_answers_are_read_page_by_page(version, as_operator, queries):
    """In the order of the rows; however many there are, a page takes as many queries."""
    owner = as_operator(crew.owner)
    run = owner.post("evals/runs", PROMPT).body["id"]
    run_pieces()

    first = owner.get(f"evals/runs/{run}/answers?limit=3").body
    following = urlsplit(first["next"])
    second = owner.get(f"{following.path.removeprefix('/api/v1/')}?{following.query}").body
    few = queries(lambda: owner.get(f"evals/runs/{run}/answers?limit=1"))
    many = queries(lambda: owner.get(f"evals/runs/{run}/answers?limit=5"))

    assert [one["row"] for one in first["results"] + second["results"]] == ["r0", "r1", "r2", "r3", "r4"]
    assert (second["next"], few == many) == (None, True)
    assert (first["results"][0]["text"], first["results"][0]["scores"][0]["passed"]) == ("Within 30 days", True)
    assert owner.get(f"evals/runs/{run}/answers?cursor=x").status == 400


def test_answers_to_held_out_rows_are_for_those_who_look_after_evals(as_operator):
    """Whoever writes or approves prompts must not tune on them: they see counts, and no words."""
    make_judge_version("grounded")
    make_set_version("held-out", *make_rows(1), purpose="held_out")
    run = as_operator(crew.admin).post("evals/runs", PROMPT | {"set": "held-out", "judges": ["grounded@1"]}).body["id"]
    run_pieces(FakeGateway(says=lambda body: answer("Secret words to ada@example.com")))

    (seen,) = as_operator(crew.approver_one).get(f"evals/runs/{run}/answers").body["results"]
    (whole,) = as_operator(crew.admin).get(f"evals/runs/{run}/answers").body["results"]

    assert (seen["text"], seen["tool_calls"], seen["scores"][0]["why"]) == (None, None, "")
    assert seen["scores"][0]["passed"] is False
    assert whole["text"].startswith("Secret words")


def test_a_run_is_cancelled_by_who_began_it_or_looks_after_evals(version, as_operator):
    """Nobody else; and once."""
    run = as_operator(crew.owner).post("evals/runs", PROMPT).body["id"]

    forbidden = as_operator(crew.approver_one).post(f"evals/runs/{run}/cancel")
    cancelled = as_operator(crew.admin).post(f"evals/runs/{run}/cancel")
    twice = as_operator(crew.admin).post(f"evals/runs/{run}/cancel")

    assert (forbidden.status, cancelled.status) == (403, 200)
    assert (cancelled.body["state"], cancelled.body["ended_by"]) == ("cancelled", crew.admin.audit_name)
    assert (twice.status, twice.body["error"]["code"]) == (409, "run_is_over")


def test_runs_are_listed_newest_first_for_the_price_of_a_page(version, as_operator, queries):
    """One run or many."""
    owner = as_operator(crew.owner)
    first = owner.post("evals/runs", PROMPT).body["id"]
    run_pieces()
    few = queries(lambda: owner.get("evals/runs"))
    second = owner.post("evals/runs", PROMPT).body["id"]

    many = queries(lambda: owner.get("evals/runs"))

    assert [one["id"] for one in owner.get("evals/runs").body["results"]] == [second, first]
    assert few == many


def test_a_standard_is_set_and_the_one_before_stays(version, as_operator):
    """By who looks after evals; what cannot be held is refused with its place."""
    owner = as_operator(crew.owner)
    body = {"judges": ["grounded@1"], "thresholds": {"grounded": 0.8}, "reason": "Too strict", "routes": ["chat"]}

    made = owner.post("evals/sets/golden/standards", body)
    refused = owner.post("evals/sets/golden/standards", body | {"thresholds": {"safe": 1}})
    listed = owner.get("evals/sets/golden/standards").body["results"]

    assert (made.status, made.body["thresholds"], made.body["routes"]) == (201, {"grounded": 0.8}, ["chat"])
    assert (refused.status, refused.body["error"]["code"]) == (400, "invalid_standard")
    assert [one["thresholds"]["grounded"] for one in listed] == [0.8, 0.9]


def test_what_a_change_waits_for_is_read_and_begun_again(as_operator):
    """Each lane with each set, the run that counts, and why nobody may approve yet."""
    make_standard(make_set_version("golden", messages_row()))
    document = routing_document()
    document["lanes"]["a/new/lane"] = document["lanes"][LANE] | {"model": "x", "upstream_model": "x"}
    document["routes"]["chat"]["lanes"].append("a/new/lane")
    change = propose(document)
    oncall = as_operator(crew.oncall)

    waiting = oncall.get(f"changes/{change.pk}/evals").body
    busy = oncall.post(f"changes/{change.pk}/evals")
    run_pieces(FakeGateway(says=lambda body: answer("Write to ada@example.com")))
    failed = oncall.get(f"changes/{change.pk}/evals").body
    again = oncall.post(f"changes/{change.pk}/evals")
    run_pieces()
    met = oncall.get(f"changes/{change.pk}/evals").body

    (demand,) = waiting["demands"]
    assert (demand["lane"], demand["routes"], demand["set"], demand["is_met"]) == (
        "a/new/lane",
        ["chat"],
        "golden",
        False,
    )
    assert "is being asked" in waiting["unmet"][0]
    assert (busy.status, busy.body["error"]["code"]) == (409, "nothing_to_run")
    assert "did not pass" in failed["unmet"][0]
    assert again.status == 202
    assert (met["unmet"], met["demands"][0]["run"]["passed"]) == ([], True)
    assert "passed only when it was asked again" in met["to_see"][0]
    assert EvalRun.objects.count() == 2
    assert EvalSet.objects.filter(purpose="golden").count() == 2
