"""Imports at the same moment as other people's acts: real connections, real threads."""

import pytest

from controlplane.evals.models import EvalSetVersion, LeakFinding
from tests.eval_sets import QUESTION, import_into, make_set, row
from tests.factories import make_prompt, make_version
from tests.rollouts.test_at_the_same_time import at_once

pytestmark = pytest.mark.django_db(transaction=True)


def test_imports_of_one_set_take_turns():
    """Other rows are another version, and the same rows at the same moment are one."""
    eval_set = make_set("golden")
    acts = [lambda name=name: import_into(eval_set, row(name)) for name in ("a", "b", "a", "b")]

    found = at_once(*acts)

    assert sorted(version.number for version in found) == [1, 1, 2, 2]
    assert sorted(EvalSetVersion.objects.values_list("number", flat=True)) == [1, 2]


def test_whichever_of_set_and_prompt_comes_second_finds_the_other():
    """Neither slips through between the other's look and its commit, and it is told once."""
    prompt, eval_set = make_prompt("leaky"), make_set("held-out", purpose="held_out")
    make_version(prompt, "Be brief.")
    acts = [
        lambda: import_into(eval_set, row("curtains", variables={"question": QUESTION})),
        *(lambda text=text: make_version(prompt, f"{text} {QUESTION}") for text in ("One:", "Two:", "Three:")),
    ]

    found = at_once(*acts)

    assert [one for one in found if isinstance(one, Exception)] == []
    assert sorted(LeakFinding.objects.values_list("prompt_version__number", flat=True)) == [2, 3, 4]
