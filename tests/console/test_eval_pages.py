"""The pages of eval sets: who sees what of them, their versions and rows, imports, standards and leaks."""

import pytest

from controlplane.evals.models import EvalSet, EvalSetVersion
from controlplane.evals.runs import EvalStandard
from tests.console.conftest import said, words
from tests.eval_runs import make_calibrated_judge, make_standard, run_pieces
from tests.eval_sets import QUESTION, SENTENCE, import_into, lines, make_set, make_set_version, row
from tests.evals.test_runs import begin
from tests.factories import crew, make_version, make_prompt

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def test_smoke(signed_in):
    version = make_set_version("golden", *(row(f"r{place}") for place in range(3)))
    make_standard(version)
    run = begin(version)
    browser = signed_in(crew.owner)
    for url in (
        "/evals/", "/evals/new/", "/evals/sets/golden/", "/evals/sets/golden/import/", "/evals/sets/golden/standard/",
        "/evals/sets/golden/run/", "/evals/sets/golden/versions/1/", "/evals/judges/", "/evals/new-judge/",
        "/evals/judges/grounded/", "/evals/judges/grounded/submit/", "/evals/runs/", f"/evals/runs/{run.pk}/",
    ):
        page = browser.get(url)
        assert page.status_code == 200, url
        print(url, words(page)[:1500], "\n")
    run_pieces()
    print(words(browser.get(f"/evals/runs/{run.pk}/")))
    print(words(browser.get("/evals/")))
