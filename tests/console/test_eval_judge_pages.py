"""The pages of judges: what each asks of an answer, how far it agrees with people, and holding it against them."""

import pytest
from django.utils import timezone

from controlplane.evals.models import Calibration, Judge, JudgeVersion
from tests.console.conftest import said, words
from tests.eval_runs import make_calibrated_judge
from tests.eval_sets import make_judge, make_judge_version, make_set_version, row, run_calibrations
from tests.factories import crew

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

PAGE = "/evals/judges/grounded/"


def labels(count=4):
    rows = [
        row(f"l{place}", answer="Write to ada@example.com" if place % 2 else "Fine", labels={"grounded": not place % 2})
        for place in range(count)
    ]
    return make_set_version("labels", *rows)


def test_judges_say_in_the_list_whether_their_word_counts(signed_in):
    """Calibrated, uncalibrated, or without a version."""
    make_calibrated_judge()
    make_judge_version("loose", params={"expected": ["contains"]})
    make_judge("empty")

    page = words(signed_in(crew.oncall).get("/evals/judges/"))

    assert "grounded grounded grounded rules and expectations v1 calibrated: kappa 1.00 on 50 answers" in page
    assert "loose loose grounded rules and expectations v1 uncalibrated: nobody held it against people" in page
    assert "empty empty grounded – – no version yet" in page


@pytest.mark.parametrize(
    ("kind", "params", "sentence"),
    [
        ("deterministic", {"expected": ["refuses"]}, "It refuses what it has to refuse, and nothing else"),
        ("embedding", {"route": "vectors", "threshold": 0.8}, "Its cosine to the expected text is at least 0.8"),
        ("model", {"route": "judges", "question": "Is it kind?"}, "A model on route judges says yes to: Is it kind?"),
    ],
)
def test_what_a_judge_asks_is_said_in_words(signed_in, kind, params, sentence):
    """Whatever its kind."""
    make_judge_version("grounded", kind, params)

    assert sentence in words(signed_in(crew.auditor).get(PAGE))


def test_a_calibration_is_shown_with_intervals_and_its_table(signed_in):
    """Kappa, agreement, sensitivity, specificity, n, and the four counts; too few answers do not count."""
    make_judge_version("grounded")
    labels()
    browser = signed_in(crew.owner)

    begun = browser.post(f"{PAGE}versions/1/calibrate/", {"labels": "labels@1"})
    run_calibrations()
    page = words(browser.get(PAGE))

    assert said(begun) == ["grounded v1 is being held against 4 labelled answers of labels v1"]
    assert "uncalibrated: kappa 1.00 on 4 answers; needs 0.6 on 50" in page
    assert "Agreement 100% 95 % [51% – 100%] 4 of 4 answers" in page
    assert "Sensitivity 100% 95 % [34% – 100%] failed 2 of 2 bad answers" in page
    assert "good 2 0 bad 0 2" in page
    assert "Calibrate v1 again" in page


def test_a_calibration_shows_how_far_it_is(signed_in):
    """With a bar and by itself, until its worker was not heard of for minutes."""
    make_judge_version("grounded")
    labels()
    browser = signed_in(crew.owner)
    browser.post(f"{PAGE}versions/1/calibrate/", {"labels": "labels@1"})
    Calibration.objects.update(judged=2, moved_at=timezone.now())
    running = browser.get(PAGE)
    again = browser.post(f"{PAGE}versions/1/calibrate/", {"labels": "labels@1"})
    Calibration.objects.update(moved_at="2026-01-01T00:00:00Z")
    stalled = browser.get(PAGE)

    assert "Being held against people 2 of 4 labelled answers judged so far" in words(running)
    assert 'hx-trigger="every 2s"' in running.content.decode()
    assert "is being calibrated on labels v1 already" in said(again)[-1]
    assert "Its calibration has not moved for minutes; begin it again." in words(stalled)
    assert 'hx-trigger="every 2s"' not in stalled.content.decode()


def test_without_labels_the_page_says_what_is_missing(signed_in):
    """And a set that has none cannot be chosen."""
    make_judge_version("grounded")
    make_set_version("golden")
    browser = signed_in(crew.owner)

    refused = browser.post(f"{PAGE}versions/1/calibrate/", {"labels": "golden@1"})

    assert "import rows that bring an answer and a label for grounded" in words(browser.get(PAGE))
    assert said(refused) == ["Choose a set with answers that people labelled for grounded"]


def test_a_judge_is_made_and_decides_once_it_has_a_version(signed_in):
    """Parameters in YAML; what is wrong in them is named by its path, and the same twice is refused."""
    browser = signed_in(crew.admin)
    asked = {"kind": "deterministic", "params": "expected: [contains]", "reason": "r"}

    made = browser.post("/evals/new-judge/", {"slug": "exact", "name": "Exact", "score": "correct"})
    wrong = browser.post(made.url, asked | {"params": "expected: [nonsense]"})
    submitted = browser.post(made.url, asked)
    same = browser.post(made.url, asked)

    assert made.url == "/evals/judges/exact/submit/"
    assert wrong.status_code == same.status_code == 400
    assert "expected[0]" in words(wrong)
    assert "use it instead of a copy" in words(same)
    assert said(submitted)[-1] == "exact v1 is there; it counts for nothing until it is calibrated"
    assert (Judge.objects.get().slug, JudgeVersion.objects.count()) == ("exact", 1)
    assert "expected:\n- contains" in browser.get(made.url).content.decode()


def test_pages_take_as_many_queries_however_many_there_are(signed_in, queries):
    """Judges, versions and calibrations."""
    make_calibrated_judge()
    browser = signed_in(crew.owner)

    def count():
        return [queries(lambda url=url: browser.get(url)) for url in ("/evals/judges/", PAGE)]

    few = count()
    for number in range(3):
        make_calibrated_judge(f"more-{number}")
        make_judge_version("grounded", params={"expected": [["contains"], ["json"], ["tool"]][number]})

    assert count() == few
