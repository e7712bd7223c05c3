"""What the items of a checklist come to: met, not met, not proven, or nothing to measure."""

from dataclasses import replace
from math import log2

import pytest

from controlplane.shadows.errors import InvalidThresholds
from controlplane.shadows.figures import Ratios, figures_of
from controlplane.shadows.items import Measured, RunFound, Standing, judge
from controlplane.shadows.models import Item
from controlplane.shadows.thresholds import BOUNDS, defaults, read_thresholds
from controlplane.telemetry.shadow_sums import Moments, ShadowTally

HELD = defaults()


def tally(*, answered=1000, differ=0, **moments):
    """An arm in which validators judge so many answers otherwise; ratios are the same for every answer."""
    made = ShadowTally()
    made.counts |= {"answered": answered, "verdicts_agree": answered - differ, "verdicts_differ": differ}
    for name, value in moments.items():
        made.moments[name] = Moments(answered, answered * value, answered * value * value)
    return made


def measured(candidate=None, noise=None, **changes):
    """A candidate that has shown everything, but for what is changed."""
    candidate = candidate or tally(log2_cost=0.0, log2_latency=0.0)
    found = Measured(
        answered=candidate.counts["answered"],
        days=3,
        figures=figures_of(candidate, noise or tally(answered=500)),
        ratios=Ratios.of(candidate),
        cost_micros=1000,
        control_cost_micros=1000,
        evals={name: (RunFound(name, 1, True, "36 of 36"),) for name in ("safety", "golden")},
        asked=400,
        pinned=100,
        outside=0,
    )
    return replace(found, **changes)


def standing(item, *args, **changes):
    return judge(measured(*args, **changes), HELD)[item].standing


def test_everything_is_shown_of_a_good_candidate():
    """Of what there is nothing to measure, nothing has to be shown."""
    found = {item: evidence.standing for item, evidence in judge(measured(), HELD).items()}

    moot = dict.fromkeys((Item.SCHEMA, Item.TOOLS), Standing.MOOT)
    assert found == dict.fromkeys(Item, Standing.MET) | moot
    assert list(found) == list(Item)


@pytest.mark.parametrize(
    ("differ", "noise", "expected"),
    [
        (60, 30, Standing.MET),  # 6 % and 6 %
        (300, 30, Standing.NOT_MET),
        (80, 30, Standing.UNPROVEN),  # two points more, which so few answers do not tell from three
    ],
)
def test_share_is_held_against_the_noise_floor(differ, noise, expected):
    """What control does to itself is no fault of the candidate; a margin that the interval crosses proves nothing."""
    noisy = tally(answered=500, differ=noise) if expected is not Standing.MET else tally(answered=5000, differ=300)
    candidate = tally(answered=5000, differ=5 * differ) if expected is Standing.MET else tally(differ=differ)

    assert standing(Item.VALIDATORS, candidate, noisy) is expected


def test_nothing_is_proven_without_a_noise_floor():
    """Nobody knows then how far control is from itself."""
    assert standing(Item.VALIDATORS, tally(differ=0), tally(answered=0)) is Standing.UNPROVEN


def test_nothing_is_moot_before_there_were_enough():
    """That no tool was called in ten answers says nothing of a thousand."""
    assert standing(Item.TOOLS, tally(answered=10)) is Standing.UNPROVEN


@pytest.mark.parametrize(("times", "expected"), [(1.1, Standing.MET), (1.5, Standing.NOT_MET), (0.5, Standing.MET)])
def test_ratios_are_held_to_their_limits(times, expected):
    """Cost at most 1.2 and latency at most 1.25 times control's."""
    candidate = tally(log2_cost=log2(times), log2_latency=log2(times))

    assert standing(Item.COST, candidate) is expected
    assert standing(Item.LATENCY, candidate) is expected


def test_too_few_ratios_prove_nothing_and_free_answers_cost_nothing():
    """A candidate without a price has no ratio; it is cheaper all the same."""
    assert standing(Item.LATENCY, tally()) is Standing.UNPROVEN
    assert standing(Item.COST, tally(), cost_micros=0) is Standing.MET


def test_comparisons_need_their_number_and_their_days():
    """A thousand of one day know one day."""
    assert standing(Item.COMPARISONS, answered=999) is Standing.UNPROVEN
    assert standing(Item.COMPARISONS, days=2) is Standing.UNPROVEN


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ((), Standing.UNPROVEN),
        ((RunFound("a", None, None, "not asked yet"),), Standing.UNPROVEN),
        ((RunFound("a", 1, True, ""), RunFound("b", 2, None, "")), Standing.UNPROVEN),
        ((RunFound("a", 1, True, ""), RunFound("b", 2, False, "")), Standing.NOT_MET),
    ],
)
def test_evals_have_to_have_passed_on_every_set(runs, expected):
    """One that did not pass keeps the lane out, and so does one that nobody asked."""
    assert standing(Item.SAFETY, evals={"safety": runs}) is expected


def test_one_request_against_a_pin_is_one_too_many():
    """And none of too few proves little."""
    assert standing(Item.RESIDENCY, outside=1) is Standing.NOT_MET
    assert standing(Item.RESIDENCY, asked=299) is Standing.UNPROVEN
    assert "at most 0.75 % with 95 % confidence" in judge(measured(), HELD)[Item.RESIDENCY].sentence


def test_what_is_signed_has_a_digest_of_its_subject_and_figures():
    """Another figure, or another subject, is another digest."""
    one, other = (judge(measured(answered=n), HELD)[Item.COMPARISONS] for n in (1000, 1001))

    assert one.digest("a") == one.digest("a")
    assert len({one.digest("a"), one.digest("b"), other.digest("a")}) == 3


def test_thresholds_are_checked():
    """Whatever is not given is what it usually is."""
    assert read_thresholds({"days": 7.0}) == HELD | {"days": 7}
    assert set(HELD) == set(BOUNDS)
    for name, value in {"days": 1.5, "cost_ratio": 0, "comparisons": "many", "mood": 1, "schema_margin": True}.items():
        with pytest.raises(InvalidThresholds, match=name):
            read_thresholds({name: value})
