"""The demo's evals: what a stranger finds to look at, and what canaries can be judged by."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.console.management.commands.seed_demo import read_demo
from controlplane.console.management.demo_evals import walk_evals
from controlplane.evals.models import JudgeVersion
from controlplane.evals.runs import EvalRun
from controlplane.prompts.models import Prompt
from controlplane.verdicts.references import suggested_guardrails
from tests.factories import crew, make_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def test_the_demo_has_calibrated_judges_standards_and_runs_that_are_over():
    """Its canaries name them, and its runs passed without a gateway."""
    now = timezone.now()
    make_version(Prompt.objects.get(slug="support-answer"), "Be brief")
    entry = read_demo(now.date(), simulator="http://127.0.0.1:1", embedder="http://127.0.0.1:1")["evals"]

    for _ in walk_evals(entry, {"owner": crew.owner}, now - timedelta(days=2), now - timedelta(days=1)):
        pass

    judges = JudgeVersion.objects.with_calibration()
    assert {one.judge.slug for one in judges if one.is_calibrated} == {"grounded", "safe"}
    runs = EvalRun.objects.with_set().order_by("id")
    assert [(run.set_version.set.slug, run.passed) for run in runs] == [("help-centre-golden", True), ("safety", True)]
    suggested = suggested_guardrails()
    assert suggested["held_out"] == "help-centre-held-out@1"
    assert suggested["judges"] == {"grounding": "grounded@1", "safety": "safe@1"}
