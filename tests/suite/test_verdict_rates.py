"""Rates of false verdicts and of decisions in simulated experiments with known differences.

`python -m tests.suite.test_verdict_rates` prints the rates of 10,000 experiments per scenario (ten minutes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from novobench.suite.power import more_pairs, power
from novobench.suite.significance import equivalence, sign_flips
from novobench.suite.verdicts import Pairs, Verdict, verdicts

SIZES = [*range(3, 13)] * 5 + [14, 16, 20]
"""Pairs of an experiment, drawn with equal weight. Large numbers take longer, so there are fewer."""
MARGIN = 0.5
"""In the scenarios with a margin: half of the usual deviation of a difference."""

Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
"""(generator, comparisons, pairs) -> differences (comparisons × pairs), and the true differences."""


def _normal(rng, k, n):
    return rng.normal(0, 1, (k, n)), np.zeros(k)


def _small_effects(rng, k, n):
    true = rng.choice([-0.4, 0.0, 0.4], k)
    return rng.normal(true[:, None], 1, (k, n)), true


def _heavy_tails(rng, k, n):
    """Student's t with two degrees of freedom has no variance."""
    true = rng.choice([-2.0, 0.0, 0.0], k)
    return true[:, None] + rng.standard_t(2, (k, n)), true


def _skewed_values(rng, k, n):
    """Both sides have the same lognormal distribution. Their difference is symmetric."""
    return rng.lognormal(0, 1, (k, n)) - rng.lognormal(0, 1, (k, n)), np.zeros(k)


def _unequal_variance(rng, k, n):
    """Of the two sides, and of the seeds."""
    size = rng.uniform(0.1, 3, n)
    return size * rng.normal(0, 1, (k, n)) - 4 * size * rng.normal(0, 1, (k, n)), np.zeros(k)


def _one_rival(rng, k, n):
    """All comparisons with one row share its values and so depend on each other."""
    return rng.normal(0, 1, (k, n)) - rng.normal(0, 1, n), np.zeros(k)


def _steps(rng, k, n):
    """Percentages of 200 samples: differences of 0 and ties are common."""
    return np.round(rng.normal(0, 0.4, (k, n)) / 0.5) * 0.5, np.zeros(k)


def _at_the_margin(rng, k, n):
    """Differences of 0, within the margin and just as large as it, known to any precision."""
    true = rng.choice([0.0, 0.25, MARGIN, -MARGIN, 2.0], k)
    sd = rng.choice([0.05, 0.3, 1.0], k)
    return rng.normal(true[:, None], sd[:, None], (k, n)), true


SCENARIOS: dict[str, tuple[Draw, float | None]] = {
    "no difference": (_normal, None),
    "small effects": (_small_effects, None),
    "heavy tails": (_heavy_tails, None),
    "skewed values": (_skewed_values, None),
    "unequal variance": (_unequal_variance, None),
    "one rival": (_one_rival, None),
    "steps": (_steps, None),
    "no difference, margin": (_normal, MARGIN),
    "at the margin": (_at_the_margin, MARGIN),
    "heavy tails, margin": (_heavy_tails, 2.0),
}
"""Name -> how to draw the differences, which are symmetric about the true ones, and the margin."""


def _skewed_differences(rng, k, n):
    return rng.lognormal(0, 1, (k, n)) - math.exp(0.5), np.zeros(k)


def _skewed_against_normal(rng, k, n):
    """Equal means, but unequal variances and skew."""
    return rng.lognormal(0, 1, (k, n)) - rng.normal(math.exp(0.5), 0.5, (k, n)), np.zeros(k)


def _mildly_skewed(rng, k, n):
    """A gamma distribution of shape 4 has a skewness of 1."""
    return rng.gamma(4, 1, (k, n)) - 4, np.zeros(k)


VIOLATIONS: dict[str, tuple[Draw, float]] = {
    "skewed differences": (_skewed_differences, 0.29),
    "skewed against normal": (_skewed_against_normal, 0.23),
    "mildly skewed": (_mildly_skewed, 0.08),
}
"""Differences with the mean 0 that are not symmetric about it, as the test assumes. Name -> how to draw them, and the
rate at 12 pairs that the documentation of `verdicts` states."""


def is_false(verdict: Verdict, true: float) -> bool:
    """For a metric of which more is better."""
    if verdict.kind == "equivalent":
        return abs(true) >= verdict.pairs.margin
    return (verdict.kind == "better" and true <= 0) or (verdict.kind == "worse" and true >= 0)


def rates(draw: Draw, margin: float | None, experiments: int, sizes: list[int], families: int = 8) -> dict[str, float]:
    """The share of experiments with any false verdict, and that of each kind among all verdicts."""
    rng = np.random.default_rng(7)
    wrong, kinds = 0, Counter()
    for _ in range(experiments):
        n, k = int(rng.choice(sizes)), int(rng.integers(1, families + 1))
        differences, true = draw(rng, k, n)
        zeros = dict.fromkeys(range(n), 0.0)
        made = verdicts([Pairs(dict(enumerate(each)), zeros, "larger", margin) for each in differences])
        kinds.update(verdict.kind for verdict in made)
        wrong += any(is_false(verdict, value) for verdict, value in zip(made, true, strict=True))
    return {"wrong": wrong / experiments} | {kind: count / kinds.total() for kind, count in kinds.items()}


def most(experiments: int, rate: float = 0.05) -> float:
    """What a rate of 5 % does not exceed in so many experiments, but once in 10,000 times."""
    return rate + 3.7 * math.sqrt(rate * (1 - rate) / experiments)


@pytest.mark.parametrize("name", SCENARIOS)
def test_false_verdicts_are_as_rare_as_stated(name):
    """In small; six to nine pairs reach the level best."""
    share = rates(*SCENARIOS[name], experiments=300, sizes=[3, 6, 7, 8, 9], families=4)
    assert share["wrong"] <= most(300)


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_false_verdicts_are_as_rare_as_stated_in_many_experiments(name):
    share = rates(*SCENARIOS[name], experiments=10_000, sizes=SIZES)
    assert share["wrong"] <= most(10_000)
    assert share["undecided"] < 1


@pytest.mark.long
@pytest.mark.parametrize("name", VIOLATIONS)
def test_skewed_differences_have_the_rates_that_are_documented(name):
    draw, documented = VIOLATIONS[name]
    share = rates(draw, None, experiments=10_000, sizes=[12])
    assert share["wrong"] == pytest.approx(documented, abs=0.01)


def decided(effect: float, n: int, comparisons: int, margin: float | None, experiments: int | None = None) -> float:
    """The share of experiments with normal differences in which this one of so many comparisons is decided."""
    experiments = experiments or (2000 if n <= 16 else 500)
    rng = np.random.default_rng(n)
    count = 0
    for _ in range(experiments):
        test = sign_flips(rng.normal(effect, 1, n))
        p = test.p() if margin is None else min(test.p(), equivalence(test, margin))
        count += p <= 0.05 / comparisons
    return count / experiments


FORECASTS = [(0.5, 1, None), (0.7, 1, None), (1.0, 1, None), (1.4, 1, None), (2.0, 1, None), (0.6, 4, None),
    (0.9, 4, None), (1.3, 4, None), (1.8, 4, None), (0.6, 8, None), (0.8, 8, None), (1.2, 8, None), (1.7, 8, None),
    (0.0, 1, 1.0), (0.3, 1, 1.5), (0.0, 4, 1.0), (0.5, 4, 2.0)]  # fmt: skip
"""True difference in deviations, comparisons, margin."""


def forecast(effect: float, comparisons: int, margin: float | None) -> tuple[int, float]:
    """The pairs that decide, and the power forecast with so many."""
    more = more_pairs(effect, 1.0, 3, 0.05 / comparisons, margin)
    assert more is not None
    return 3 + more, float(power(effect, 1.0, np.array([3 + more]), 0.05 / comparisons, margin)[0])


@pytest.mark.parametrize(("effect", "comparisons", "margin"), [(1.0, 1, None), (1.3, 4, None), (0.0, 1, 1.0)])
def test_forecasts_have_the_power_they_state(effect, comparisons, margin):
    """Within 10 points, and three deviations of 300 experiments."""
    n, expected = forecast(effect, comparisons, margin)
    assert decided(effect, n, comparisons, margin, 300) == pytest.approx(expected, abs=0.1 + 0.07)


@pytest.mark.long
@pytest.mark.parametrize(("effect", "comparisons", "margin"), FORECASTS)
def test_forecasts_have_the_power_they_state_in_many_experiments(effect, comparisons, margin):
    """Within 10 points. One pair less has not clearly more than 0.8."""
    n, expected = forecast(effect, comparisons, margin)
    assert decided(effect, n, comparisons, margin) == pytest.approx(expected, abs=0.1)
    assert decided(effect, n - 1, comparisons, margin) <= 0.85


if __name__ == "__main__":
    for name, (draw, margin) in SCENARIOS.items():
        print(f"{name:24}", rates(draw, margin, experiments=10_000, sizes=SIZES), flush=True)
    for name, (draw, _) in VIOLATIONS.items():
        print(f"{name:24}", rates(draw, None, experiments=10_000, sizes=[12]), flush=True)
    for each in FORECASTS:
        n, expected = forecast(*each)
        print(each, n, expected, decided(each[0], n, *each[1:]), flush=True)
