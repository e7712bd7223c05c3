"""The rows and judges that come with Ballast."""

from functools import cache

import pytest
import yaml
from django.conf import settings

from controlplane.evals.agreement import MIN_KAPPA, MIN_LABELLED, Agreement
from controlplane.evals.importing import ImportedRow, read_rows
from controlplane.evals.judges.kinds import Judging, judge_answer, read_judge
from controlplane.evals.judges.values import Answered
from controlplane.evals.shingles import match, protect, shingles_of
from dataplane.documents import Node
from dataplane.simulator import corpus
from dataplane.simulator.answers import find_topic

FOLDER = settings.BASE_DIR / "fixtures" / "evals"
SIZES = {"help-centre-golden": 40, "help-centre-held-out": 60, "safety": 40, "judge-labels": 100}


@cache
def built_in(name: str) -> list[ImportedRow]:
    with (FOLDER / f"{name}.jsonl").open("rb") as file:
        return read_rows(file)


@cache
def judge(name: str) -> Judging:
    described = yaml.safe_load((FOLDER / "judges.yaml").read_text())["judges"][name]
    return read_judge(described["kind"], Node(described["params"], "$"))


def simulated(question: str, *, sentences: int) -> str:
    """What the bundled simulator says: the first sentences of the topic that a question is about."""
    return " ".join(find_topic(question).sentences[:sentences])


@pytest.mark.parametrize("name", SIZES)
def test_rows_can_be_imported(name):
    """Each file as it is, and each has rows enough."""
    assert len(built_in(name)) >= SIZES[name]


def test_every_judge_can_be_asked():
    """Under the names that rows are labelled for."""
    named = yaml.safe_load((FOLDER / "judges.yaml").read_text())["judges"]
    labelled = {name for one in built_in("judge-labels") for name in one.row.labels}

    assert all(judge(name) for name in named)
    assert labelled == {"grounded", "safe"} <= set(named)


@pytest.mark.parametrize("name", ["grounded", "safe"])
def test_judges_agree_with_the_labels(name):
    """Well enough to count as calibrated, as docs/evals.md says, and not without mistakes."""
    counts = {"good_passed": 0, "good_failed": 0, "bad_passed": 0, "bad_failed": 0}
    for one in built_in("judge-labels"):
        if name in one.row.labels:
            score = judge_answer(judge(name), one.row, Answered(one.row.answer or ""))
            assert score.passed is not None, score.why
            counts[f"{'good' if one.row.labels[name] else 'bad'}_{'passed' if score.passed else 'failed'}"] += 1

    found = Agreement(**counts)

    assert found.n >= MIN_LABELLED
    assert found.kappa is not None
    assert found.kappa >= MIN_KAPPA
    assert found.agreed.value != 1  # labels that say what a rule says would measure nothing


@pytest.mark.parametrize("name", ["help-centre-golden", "help-centre-held-out"])
@pytest.mark.parametrize("sentences", [1, 3, 6])
def test_the_simulator_s_answers_pass(name, sentences):
    """Whatever the prompt asks for, brief or detailed: answers rest on the rows' sources and are what they expect."""
    for one in built_in(name):
        answer = Answered(simulated(one.row.question, sentences=sentences))

        scores = {wanted: judge_answer(judge(wanted), one.row, answer) for wanted in ("grounded", "safe", "correct")}

        assert [score.passed for score in scores.values()] == [True, True, True], (one.row.id, scores)


@pytest.mark.parametrize(
    "text",
    [
        "Returns take 45 days and cost 7.50 euros.",
        "You can see the status of every order in our Parcel Radar app for iPhone and Android.",
        "Everything is handled by our friendly partners whenever they have time for it, so be patient with them.",
    ],
)
def test_made_up_answers_do_not(text):
    """On no row of the held-out set."""
    passed = [one.row.id for one in built_in("help-centre-held-out") if _grounded(one, text)]

    assert passed == []


def _grounded(one: ImportedRow, text: str) -> bool | None:
    return judge_answer(judge("grounded"), one.row, Answered(text)).passed


def test_the_help_centre_may_be_quoted_in_prompts_and_held_out_questions_may_not():
    """Sources that all rows share are nobody's own, and every question is long enough to be found again."""
    rows = [one.row for one in built_in("help-centre-held-out")]
    protected = protect(rows)

    quoted = match(protected, shingles_of(sentence for topic in corpus.TOPICS for sentence in topic.sentences))
    asked = match(protected, shingles_of(row.question for row in rows))

    assert quoted == []
    assert {one.row_key for one in asked} == {row.id for row in rows}


def test_golden_and_held_out_rows_are_apart():
    """Who tunes on the one has seen nothing of the other."""
    golden = shingles_of(text for one in built_in("help-centre-golden") for _, text in one.row.own_texts())

    assert match(protect(one.row for one in built_in("help-centre-held-out")), golden) == []


def test_answers_of_the_help_centre_are_safe_and_refusals_are_too():
    """On every safety row: both are ways to say nothing that harms; only `declines` wants the refusal."""
    for one in built_in("safety"):
        for text in (simulated(one.row.question, sentences=6), *corpus.REFUSALS):
            assert judge_answer(judge("safe"), one.row, Answered(text)).passed, (one.row.id, text)
    refusing = [one.row for one in built_in("safety") if one.row.expected.refuses]

    assert len(refusing) >= 20
    assert all(judge_answer(judge("declines"), row, Answered(corpus.REFUSALS[0])).passed for row in refusing)
