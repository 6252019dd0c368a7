"""Numbers of seeds against published tables and SciPy's noncentral t distribution."""

import math

import numpy as np
import pytest
from scipy import stats

from novobench.suite.power import more_pairs, pairs_to_decide, seeds_per_row


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_per_row_are_those_of_published_tables(effect, seeds):
    """Cohen's small, medium and large effects at a power of 0.8 (G*Power prints the same numbers)."""
    assert seeds_per_row(effect) == seeds


@pytest.mark.parametrize(("comparisons", "pairs"), [(1, 6), (2, 7), (3, 7), (4, 8), (12, 9), (100, 12)])
def test_a_family_needs_pairs(comparisons, pairs):
    assert pairs_to_decide(comparisons) == pairs
    assert 2 / 2**pairs <= 0.05 / comparisons < 2 / 2 ** (pairs - 1)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34)])
def test_pairs_are_those_of_published_tables(effect, pairs):
    """With so many pairs the sign-flip test attains every level, and the forecast is that of the paired t test."""
    assert 5 + more_pairs(-3 * effect, 3.0, 5, 0.05) == pairs


@pytest.mark.parametrize("level", [0.05, 0.05 / 8])
def test_the_power_is_that_of_the_t_test_or_of_equal_signs(level):
    def power(n, effect):
        attained = 2 * math.floor(level / 2 * 2 ** min(n, 16)) / 2 ** min(n, 16)
        if attained == 0:
            return 0.0
        if attained == 2 / 2**n:
            return stats.norm.cdf(effect) ** n
        return stats.nct(n - 1, effect * math.sqrt(n)).sf(stats.t.isf(attained / 2, n - 1))

    for effect in (0.37, 0.9, 1.4, 2.0):
        n = 3 + more_pairs(effect, 1.0, 3, level)
        assert power(n, effect) >= 0.8
        assert all(power(fewer, effect) < 0.8 for fewer in range(4, n))


def test_a_margin_decides_with_fewer_pairs_where_there_is_no_difference():
    """True difference 0, margin of one deviation: against simulated t tests."""
    n = 3 + more_pairs(0.0, 1.0, 3, 0.05, margin=1.0)
    rng = np.random.default_rng(0)
    t = {size: stats.ttest_1samp(rng.normal(size=(20000, size)), 0, axis=1) for size in (n - 1, n)}
    shares = {}
    for size, test in t.items():
        attained = math.floor(0.05 * 2**size) / 2**size
        low, high = test.confidence_interval(1 - 2 * attained)
        shares[size] = np.mean((low > -1) & (high < 1))
    assert shares[n] > 0.78
    assert shares[n - 1] < 0.82
    assert more_pairs(0.0, 1.0, 3, 0.05) is None
    assert more_pairs(2.0, 1.0, 3, 0.05, margin=1.0) == more_pairs(2.0, 1.0, 3, 0.05)


def test_differences_without_a_scale():
    assert more_pairs(1.0, 0.0, 2, 0.05) == 4
    assert more_pairs(0.0, 0.0, 2, 0.05, margin=0.1) == 3
    assert more_pairs(1e6, 1e-6, 2, 0.05) == 4
    assert more_pairs(1e-4, 1.0, 2, 0.05) is None
