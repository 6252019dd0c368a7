"""Verdicts on families of comparisons, against statsmodels' numbers, closed forms, and what no verdict may claim."""

import math
from dataclasses import replace

import numpy as np
import pytest

from novobench.suite.verdicts import Pairs, step_down, verdicts

NAN = math.nan


def pairs(*differences):
    """Pairs with these differences; None for a first that diverged."""
    first = [NAN if difference is None else 80.0 + difference for difference in differences]
    return Pairs(dict(enumerate(first)), dict.fromkeys(range(len(first)), 80.0), "larger")


def drawn(seed, n, mean, sd=1.0):
    return pairs(*np.random.default_rng(seed).normal(mean, sd, n))


def judged(family, better="larger", margin=None):
    """The verdicts on a family of one metric."""
    return verdicts([replace(each, better=better, margin=margin) for each in family])


def verdict(*differences, better="larger", margin=None):
    (only,) = judged([pairs(*differences)], better, margin)
    return only


def test_the_adjustment_is_that_of_holm():
    """`statsmodels.stats.multitest.multipletests(p, method="holm")` of version 0.15."""
    adjusted, _ = step_down([[0.01], [0.04], [0.03], [0.005]], 0.05)
    assert [p for (p,) in adjusted] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted, divisors = step_down([[0.02], [0.02], [0.3], [0.011], [0.9]], 0.06)
    assert [p for (p,) in adjusted] == pytest.approx([0.08, 0.08, 0.6, 0.055, 0.9])
    assert divisors == [[4], [4], [4], [5], [4]]  # the method stops at the second smallest, of four that are left


def test_two_hypotheses_that_exclude_each_other_count_once():
    """Both of the first comparison are rejected with 0.05 / 2, which leaves one comparison for the other."""
    adjusted, divisors = step_down([[0.001, 0.02], [0.04, 0.9]], 0.05)
    assert adjusted == [[0.002, 0.04], [0.04, 0.9]]
    assert divisors == [[2, 2], [1, 1]]
    adjusted, _ = step_down([[0.001, 0.6], [0.04, 0.9]], 0.05)
    assert adjusted == [[0.002, 1.0], [0.08, 1.0]]


@pytest.mark.parametrize(("better", "sign", "kind"), [("larger", 1, "better"), ("larger", -1, "worse"),
    ("smaller", 1, "worse"), ("smaller", -1, "better")])  # fmt: skip
def test_six_equal_signs_decide_one_comparison(better, sign, kind):
    differences = [sign * size for size in (0.1, 2.0, 0.3, 0.2, 0.7, 1.0)]
    made = verdict(*differences, better=better)
    assert (made.kind, str(made), made.p, made.p_adjusted) == (kind, kind, 2 / 64, 2 / 64)
    assert (made.low, made.high) == pytest.approx((min(differences), max(differences)))
    assert made.level == 0.95
    assert (made.more_seeds, made.left_out, made.note()) == (None, 0, "")
    assert made.bca_low < made.estimate.mean < made.bca_high
    assert verdict(*differences[:5], better=better).kind == "undecided"


@pytest.mark.parametrize(
    ("n", "family", "text"),
    [
        (5, 1, "undecided (at least 1 more seed; 5 pairs cannot decide 1 comparison)"),
        (5, 12, "undecided (at least 4 more seeds; 5 pairs cannot decide 12 comparisons)"),
        (1, 2, "undecided (at least 6 more seeds; 1 pair cannot decide 2 comparisons)"),
    ],
)
def test_too_few_pairs_decide_nothing_whatever_the_difference(n, family, text):
    for made in judged([drawn(seed, n, 1000.0) for seed in range(family)]):
        assert str(made) == text
        assert (made.low, made.high) == (-math.inf, math.inf)
        assert made.p == 2 / 2**n
    more = int(text.split()[3])
    assert {made.kind for made in judged([drawn(seed, n + more, 1000.0) for seed in range(family)])} == {"better"}
    fewer = judged([drawn(seed, n + more - 1, 1000.0) for seed in range(family)])
    assert {made.kind for made in fewer} == {"undecided"}


def test_forecasts():
    assert str(drawn_verdict(3, 10, 0.0)) == "undecided (more than 1,000 more seeds)"
    some = drawn_verdict(0, 10, 0.4)
    assert str(some) == f"undecided (about {some.more_seeds} more seeds)"
    assert 1 < some.more_seeds < 1000
    few = verdict(0.1, -0.2, 0.3)
    assert str(few) == f"undecided (about {few.more_seeds} more seeds; 3 pairs cannot decide 1 comparison)"


def drawn_verdict(seed, n, mean):
    """On differences with exactly this mean, and a deviation of 1."""
    values = np.random.default_rng(seed).normal(0, 1, n)
    return verdict(*(mean + (values - values.mean()) / values.std(ddof=1)))


def test_a_margin_decides_that_a_difference_does_not_matter():
    """Also of a difference that is surely there. The interval is that of the two one-sided tests."""
    small, certain, large = drawn(0, 10, 0.0, 0.1), drawn(1, 10, 0.5, 0.1), drawn(2, 10, 3.0, 0.1)
    made = judged([small, certain, large], "smaller", margin=1.0)
    assert [str(each) for each in made] == ["equivalent within 1", "equivalent within 1", "worse"]
    assert all(-1 < each.low < each.high < 1 for each in made[:2])
    assert made[1].low > 0
    assert made[1].p_adjusted <= 0.05
    assert [str(each) for each in judged([certain], "smaller")] == ["worse"]
    assert str(verdict(*[0.0] * 5, margin=0.25)) == "equivalent within 0.25"
    assert str(verdict(*[0.0] * 4, margin=0.25)) == (
        "undecided (about 1 more seed; 4 pairs cannot decide 1 comparison)"
    )


@pytest.mark.parametrize("margin", [None, 0.5])
@pytest.mark.parametrize("n", [4, 6, 9, 20])
def test_intervals_never_contradict_judged(n, margin):
    """0 is outside exactly if a difference is decided, and the margin's ends exactly if it is equivalent."""
    rng = np.random.default_rng(n)
    seen = set()
    for _ in range(15):
        means, sds = rng.choice([0.0, 0.05, 0.6, 2.0], 6), rng.choice([0.1, 1.0], 6)
        family = [pairs(*np.round(rng.normal(mean, sd, n), 2)) for mean, sd in zip(means, sds, strict=True)]
        for made in judged(family, margin=margin):
            seen.add(made.kind)
            assert made.low <= made.high
            if made.kind == "equivalent":
                assert -margin < made.low <= made.high < margin
                continue
            assert (made.low > 0) == (made.kind == "better")
            assert (made.high < 0) == (made.kind == "worse")
            assert margin is None or not (-margin < made.low and made.high < margin)
    assert seen >= ({"undecided", "better"} if n > 6 else {"undecided"})
    assert ("equivalent" in seen) == (margin is not None and n > 6)


def test_a_training_that_diverged_is_worse_than_any():
    """Six that diverged are as many equal signs. One that did keeps its side from being called better."""
    assert str(verdict(*[None] * 6)) == "worse"
    assert str(verdict(*[None] * 6, better="smaller")) == "worse"
    one = verdict(None, *range(1, 12))
    assert str(one) == "undecided (a training diverged in 1 of 12 pairs)"
    assert (one.low, one.estimate.n, one.left_out, one.more_seeds) == (-math.inf, 11, 1, None)
    assert one.note("NovoGrad", "SGD") == "NovoGrad diverged in 1 of 12 pairs"
    assert str(verdict(*range(1, 13))) == "better"
    assert str(verdict(None, *[0.0] * 11, margin=1.0)).startswith("undecided")


def test_pairs_in_which_both_diverged_are_left_out():
    first = {0: NAN, 1: NAN, 2: math.inf, 3: 1.0, 9: 1.0} | dict.fromkeys(range(10, 18), 2.0)
    second = {0: 1.0, 1: NAN, 2: 3.0, 3: NAN, 8: 1.0} | dict.fromkeys(range(10, 18), 1.0)
    (made,) = judged([Pairs(first, second, "larger")])
    assert (made.n, made.estimate.n, made.left_out) == (11, 8, 4)
    assert made.note("A", "B") == "A diverged in 2 of 12 pairs, B in 1, both in 1"
    assert made.kind == "undecided"


def test_no_pairs_and_no_differences():
    """They are no members of the family: the other comparison is alone, and six pairs decide it."""
    none, other = judged([Pairs({0: 1.0}, {1: 1.0}, "larger"), pairs(1, 2, 1, 1, 1, 1)])
    assert (str(none), none.p, none.more_seeds) == ("undecided (no pair of seeds)", 1.0, None)
    assert math.isnan(none.estimate.mean)
    assert str(other) == "better"
    assert str(verdict(*[0.0] * 10)) == "undecided (no difference in any pair)"
    assert judged([]) == []


def test_members_of_a_family_may_differ_in_metric_and_margin():
    """One margin is in points of accuracy, the other in perplexity, of which less is better."""
    accuracy = replace(drawn(0, 10, 0.0, 0.1), margin=1.0)
    perplexity = replace(drawn(1, 10, 3.0, 0.1), better="smaller", margin=2.0)
    without = replace(drawn(2, 10, 3.0, 0.1), better="larger")
    made = verdicts([accuracy, perplexity, without])
    assert [str(each) for each in made] == ["equivalent within 1", "worse", "better"]


def test_not_worse_by_the_margin():
    """The one-sided test of differences + margin: 1 of 2^6 flips is as extreme, times two comparisons."""
    half = replace(pairs(-0.5, 3.0, -0.4, 2.0, -0.3, 2.5), margin=1.0)
    made, _ = judged([half, half], margin=1.0)
    assert (made.kind, made.p_not_worse, made.is_not_worse) == ("undecided", 2 / 64, True)
    worse = judged([pairs(*(-3.0 for _ in range(6)))], margin=1.0)[0]
    assert (worse.kind, worse.is_not_worse, worse.p_not_worse) == ("worse", False, 1.0)
    assert judged([half], better="smaller", margin=1.0)[0].p_not_worse > 0.05
    assert verdict(1.0, 2.0).p_not_worse is None


def test_a_margin_must_be_positive():
    with pytest.raises(ValueError, match="margin is 0"):
        judged([pairs(1.0)], margin=0)
