"""The held-out sets and judges that a plan may name."""

import pytest

from controlplane.rollouts.errors import InvalidPlan
from controlplane.rollouts.operations import check_guardrails
from controlplane.verdicts.references import held_out_sets, judges, suggested_guardrails
from tests.eval_runs import make_calibrated_judge
from tests.eval_sets import make_judge, make_judge_version, make_set_version, row
from tests.verdicts.evidence import guardrails

pytestmark = pytest.mark.django_db


def test_plan_starts_without_replays_where_there_is_nothing_to_replay():
    """And judges what live traffic tells of."""
    assert (held_out_sets(), judges()) == ([], {"grounding": [], "safety": []})
    plan = suggested_guardrails()
    assert (plan["held_out"], plan["judges"]) == (None, {})
    assert "safety" not in plan["margins"]


def test_plan_starts_from_the_newest_held_out_set_and_judges_that_people_agreed_with():
    """An uncalibrated judge is not on offer."""
    make_set_version("golden", row("g"))
    make_set_version("held", row("h"), purpose="held_out")
    make_calibrated_judge("grounded")
    make_judge("safe", "safe")
    make_judge_version("safe")

    plan = suggested_guardrails()

    assert (held_out_sets(), judges()) == (["held@1"], {"grounding": ["grounded@1"], "safety": []})
    assert (plan["held_out"], plan["judges"]) == ("held@1", {"grounding": "grounded@1"})
    assert check_guardrails(plan) == plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held_out": "nowhere@1"}, "there is no set 'nowhere@1'"),
        ({"held_out": "golden@1"}, "'golden@1' is no held-out set"),
        ({"held_out": "held@2"}, "there is no set 'held@2'"),
        ({"judges": {"grounding": "nobody@1"}}, "there is no judge 'nobody@1'"),
        ({"judges": {"grounding": "safe@1"}}, "judge 'safe@1' scores 'safe', which is not grounding"),
        ({"judges": {"safety": "safe@1"}}, "judge 'safe@1' is not calibrated"),
        ({"judges": {"cost": "safe@1"}}, "'cost' is judged by nobody"),
    ],
)
def test_plan_that_names_what_could_not_be_applied_is_refused(changes, words):
    """Before anybody signs it, and with the name of what is missing."""
    make_set_version("golden", row("g"))
    make_set_version("held", row("h"), purpose="held_out")
    make_judge("safe", "safe")
    make_judge_version("safe")

    with pytest.raises(InvalidPlan, match=words):
        check_guardrails(guardrails("cost") | {"held_out": "held@1"} | changes)
