import pytest

from controlplane.evals.agreement import Agreement, Share, wilson


def test_figures_of_a_known_table():
    """Both said good of 20 and bad of 15, and differed on 15 of 50: chance gives 25/50, so kappa is 0.2/0.5."""
    found = Agreement(good_passed=20, good_failed=5, bad_passed=10, bad_failed=15)

    assert found.n == 50
    assert found.kappa == pytest.approx(0.4)
    assert found.agreed.value == pytest.approx(0.7)
    assert found.sensitivity.value == pytest.approx(0.6)
    assert found.specificity.value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [
        ((25, 0, 0, 25), 1.0),
        ((0, 25, 25, 0), -1.0),
        ((45, 15, 25, 15), 0.1304),  # 60 of 100 agree, and chance gives 54
        ((25, 35, 5, 35), 0.2593),  # 60 of 100 agree as well, and chance gives 46
        ((10, 0, 0, 0), None),  # everybody says good, and chance would too
        ((0, 0, 0, 0), None),
    ],
)
def test_kappa_counts_what_chance_does_not_give(counts, kappa):
    """The same agreement is worth less where one answer is the usual one."""
    found = Agreement(*counts).kappa

    assert found == (None if kappa is None else pytest.approx(kappa, abs=1e-4))


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_intervals_are_wilson_s(hits, of, low, high):
    """They stay within 0 and 1, and are not a point where all agree."""
    found = wilson(hits, of)

    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_share_of_nothing_is_unknown():
    """It may be anything."""
    assert wilson(0, 0) == Share(None, 0.0, 1.0)
