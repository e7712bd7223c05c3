import pytest

from controlplane.audit.models import AuditEvent
from controlplane.evals.errors import InvalidStandard
from controlplane.evals.runs import EvalStandard, ScoreCount
from controlplane.evals.standards import set_standard
from tests.eval_runs import make_standard
from tests.eval_sets import make_judge_version, make_set_version
from tests.factories import NOW, crew, make_prompt

pytestmark = pytest.mark.django_db


def test_the_newest_standard_of_a_set_counts_and_the_others_stay():
    """Who lowered what, when and why is on record."""
    version = make_set_version()
    make_judge_version()
    first = make_standard(version, thresholds={"grounded": 0.95})

    second = set_standard(
        eval_set=version.set,
        judges=["grounded@1"],
        thresholds={"grounded": 0.9},
        routes=["summaries", "chat"],
        reason=" Too strict on dates ",
        actor=crew.admin,
        now=NOW,
    )

    assert list(EvalStandard.objects.newest()) == [second]
    assert EvalStandard.objects.count() == 2
    event = AuditEvent.objects.filter(action="evals.standard_set").latest("seq")
    assert (event.actor, event.target) == (crew.admin.audit_name, "eval-set:golden")
    assert event.data == {**second.facts(), "reason": "Too strict on dates"}
    assert event.data["routes"] == ["chat", "summaries"]
    assert first.is_for("anything")
    assert second.is_for("chat")
    assert not second.is_for("embed")


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"reason": " "}, "reason: say why"),
        ({"judges": []}, "judges: 0 of them"),
        ({"judges": ["grounded"]}, "'grounded' names no version of a judge"),
        ({"judges": ["grounded@2"]}, "there is no version grounded@2"),
        ({"thresholds": {}}, "nothing hangs on any score"),
        ({"thresholds": {"safe": 1.0}}, r"thresholds.safe: none of the judges scores it; they score \['grounded'\]"),
        ({"thresholds": {"grounded": 0}}, "0 is no share"),
        ({"thresholds": {"grounded": 1.01}}, "1.01 is no share"),
        ({"thresholds": {"grounded": True}}, "True is no share"),
        ({"prompt": "strange"}, "prompt: there is none called 'strange'"),
        ({"max_cost_micros": 0}, "max_cost_micros: 0 is not"),
    ],
)
def test_a_standard_that_cannot_be_held_is_refused(fields, fact):
    """The place is named, and nothing is stored."""
    version = make_set_version()
    make_judge_version()

    with pytest.raises(InvalidStandard, match=fact):
        make_standard(version, **({"judges": ["grounded@1"]} | fields))

    assert not EvalStandard.objects.exists()


def test_a_standard_may_name_the_prompt_that_lanes_are_asked_by():
    """Whether it has a live version is asked when a lane is."""
    make_prompt()
    make_judge_version()

    assert make_standard(make_set_version(), judges=["grounded@1"], prompt="support-answer").prompt == "support-answer"


@pytest.mark.parametrize(
    ("passed", "n", "threshold", "is_met"),
    [
        (19, 20, 0.95, True),
        (18, 20, 0.95, False),
        (40, 40, 1.0, True),
        (39, 40, 1.0, False),
        (57, 60, 0.95, True),
        (0, 0, 0.5, False),
        (0, 10, None, True),
    ],
)
def test_a_share_is_met_by_whole_rows(passed, n, threshold, is_met):
    """Exactly the threshold is enough; a score that no row is for is not."""
    assert ScoreCount("s", passed, n, 0, threshold).is_met is is_met


@pytest.mark.parametrize(("passed", "n", "lower"), [(40, 40, 0.9367), (19, 20, 0.8040), (0, 10, 0.0), (0, 0, 0.0)])
def test_the_bound_says_what_so_many_rows_can_show(passed, n, lower):
    """Wilson's, one-sided at 95 %: by hand, n / (n + 2.7055) of n in n."""
    assert ScoreCount("s", passed, n, 0, None).lower == pytest.approx(lower, abs=2e-4)
