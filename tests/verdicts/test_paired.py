"""Harms of replayed pairs, and the bounds of their mean."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.rollouts.guardrails import RAILS, Scale
from controlplane.verdicts.paired import CLIP, PairedBound, Pairs, in_unit, margin_of, paired_harm
from controlplane.verdicts.sequences import bounded_reach

HARMS = st.lists(st.floats(-1, 1), min_size=1, max_size=30)
LEVELS = st.floats(1e-6, 0.4)


@given(HARMS, LEVELS)
def test_one_pair_after_the_other_gives_what_all_at_once_do(harms, alpha):
    """The three numbers that are kept say the same as all harms together."""
    guesses = [sum(harms[:index]) / (index + 1) for index in range(len(harms))]
    spread = sum((harm - guess) ** 2 for harm, guess in zip(harms, guesses, strict=True))
    mean = sum(harms) / len(harms)

    bound = PairedBound.of(harms)

    reach = 2 * float(bounded_reach(spread / 4, alpha=alpha)) / len(harms)
    assert bound.lower(alpha) == pytest.approx(max(-1, mean - reach))
    assert bound.upper(alpha) == pytest.approx(min(1, mean + reach))


@given(HARMS, LEVELS)
def test_interval_holds_the_mean_and_mirrors(harms, alpha):
    """The mean is inside, and what is harm to one side is gain to the other."""
    bound, mirrored = PairedBound.of(harms), PairedBound.of([-harm for harm in harms])

    assert bound.lower(alpha) <= bound.mean <= bound.upper(alpha)
    assert mirrored.lower(alpha) == pytest.approx(-bound.upper(alpha))


@given(HARMS, LEVELS, LEVELS)
def test_interval_is_monotone_in_alpha(harms, one, other):
    """Whoever risks less knows less."""
    bound = PairedBound.of(harms)

    assert bound.lower(min(one, other)) <= bound.lower(max(one, other))
    assert bound.upper(min(one, other)) >= bound.upper(max(one, other))


def test_nothing_is_known_without_a_pair():
    """The interval of no pair is all that there is."""
    assert (PairedBound().lower(0.01), PairedBound().upper(0.01)) == (-1.0, 1.0)
    assert (Pairs().candidate, Pairs().control) == (None, None)


@given(HARMS)
def test_a_bound_survives_storage(harms):
    """What comes back from JSON goes on as if it had never been away."""
    bound = PairedBound.of(harms)

    stored = PairedBound.from_json(json.loads(json.dumps(bound.to_json())))

    assert stored.with_pair(0.5) == bound.with_pair(0.5)


def test_pairs_survive_storage():
    """So do the sums of both sides."""
    pairs = Pairs().with_pair(RAILS["cost"], candidate=110.0, control=100.0)

    assert Pairs.from_json(json.loads(json.dumps(pairs.to_json()))) == pairs
    assert (pairs.n, pairs.candidate, pairs.control) == (1, 110.0, 100.0)


@pytest.mark.parametrize("harm", [1.01, -2.0, float("nan"), float("inf")])
def test_a_harm_outside_its_range_is_refused(harm):
    """The bound would be wrong, so nothing is counted."""
    with pytest.raises(ValueError, match=r"the harm of a pair is in \[-1, 1\]"):
        PairedBound().with_pair(harm)


@pytest.mark.parametrize(
    ("rail", "candidate", "control", "harm"),
    [
        ("grounding", 0.0, 1.0, 1.0),
        ("grounding", 1.0, 0.25, -0.75),
        ("safety", 1.0, 1.0, 0.0),
        ("refusals", 1.0, 0.0, 1.0),
        ("refusals", 0.0, 1.0, -1.0),
        ("cost", 200.0, 100.0, 0.5),
        ("latency", 50.0, 100.0, -0.5),
        ("cost", 10_000.0, 100.0, 1.0),
        ("cost", 0.0, 0.0, 0.0),
        ("cost", 5.0, 0.0, 1.0),
        ("latency", 0.0, 5.0, -1.0),
    ],
)
def test_harm_of_a_pair_is_positive_where_the_candidate_is_worse(rail, candidate, control, harm):
    """Less of what is good, more of what is bad; a ratio counts up to four, and one to nothing is none."""
    assert paired_harm(RAILS[rail], candidate=candidate, control=control) == pytest.approx(harm)


@pytest.mark.parametrize(
    ("rail", "value"), [("grounding", 1.2), ("cost", -1.0), ("latency", math.nan), ("cost", math.inf)]
)
def test_values_that_cannot_be_are_refused_by_name(rail, value):
    """A score above one, a negative cost, no number at all."""
    with pytest.raises(ValueError, match=f"control's {RAILS[rail].label} cannot be"):
        paired_harm(RAILS[rail], candidate=0.5, control=value)


@pytest.mark.parametrize("rail", RAILS.values(), ids=str)
def test_a_margin_comes_back_in_its_unit(rail):
    """The scale of harms and that of margins are the same, there and back."""
    assert in_unit(rail, margin_of(rail, rail.margin)) == pytest.approx(rail.margin)
    assert rail.scale is Scale.POINTS or in_unit(rail, 1.0) == pytest.approx(math.exp(CLIP) - 1)


@pytest.mark.parametrize("disagree", [0.02, 0.2])
def test_bounds_cover_where_both_sides_are_alike(disagree):
    """Of 300 replays of 600 pairs that are alike, looked at after every tenth, at most 30 are ever wrong at 5 % for
    both sides together (if the level were just kept, more would with a chance of 1 in 10,000).
    """
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(300):
        draws = rng.random(600)
        harms = (draws < disagree / 2).astype(float) - (draws > 1 - disagree / 2)
        totals = np.cumsum(harms)
        guesses = np.concatenate([[0.0], totals[:-1] / np.arange(2, 601)])
        reach = 2 * bounded_reach(np.cumsum((harms - guesses) ** 2)[9::10] / 4, alpha=0.025)
        wrong += bool((np.abs(totals[9::10]) > reach).any())

    assert wrong <= 30
