"""Measures of claims that need no training, against closed forms, the paper's numbers and plain loops."""

import math

import pytest
import yaml

from novobench.places import ROOT
from novobench.suite import measures
from novobench.suite.measures import MEASURES


@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("transformer_big_parameters", 185, 0.5),  # §4.5
        ("transformer_xl_parameters", 191, 1),  # §4.6
        ("adafactor_numbers_over_sides", 1 + 1 / 5000, 1e-9),  # sums of rows and of columns, and the step
        ("beta2_0_difference", 0, 1e-12),
        ("novograd_scale_difference", 0, 1e-6),
        ("sngd_scale_difference", 0, 1e-12),
        ("averaged_moment_difference", 0, 1e-12),
        ("averaged_moment_first_step", 10, 1e-9),
        ("rising_rates_amsgrad", 0, 0),
    ],
)
def test_what_theory_and_the_paper_say(name, expected, tolerance):
    assert MEASURES[name]() == pytest.approx(expected, abs=tolerance)


def test_states_of_the_optimizers():
    """4 and 8 bytes per parameter of ResNet-50v2, and one number per tensor for NovoGrad."""
    assert MEASURES["novograd_state_over_adam"]() == pytest.approx(0.5, abs=1e-4)
    assert MEASURES["adam_state_over_sgd"]() == pytest.approx(2.0, abs=1e-4)
    assert measures._state_bytes("sgd") == pytest.approx(4 * 25.5e6, rel=0.01)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_counterexample_as_a_loop(amsgrad):
    x, v, largest, regret = 1.0, None, 0.0, 0.0
    for t in range(1, 9001):
        slope = 3.0 if t % 3 == 1 else -1.0
        regret += slope * x - slope * -1.0
        v = slope**2 if v is None else 0.1 * v + 0.9 * slope**2
        largest = max(largest, v) if amsgrad else v
        x = min(max(x - slope / math.sqrt(t) / math.sqrt(largest), -1.0), 1.0)
    name = "counterexample_regret_amsgrad" if amsgrad else "counterexample_regret"
    assert MEASURES[name]() == pytest.approx(regret / 9000, abs=1e-6)
    assert regret / 9000 == pytest.approx(0.0 if amsgrad else 2 / 3, abs=0.02)


def test_rates_rise_without_amsgrad():
    assert 0.1 < MEASURES["rising_rates"]() < 1


def test_ratios_of_rates():
    tuned = yaml.safe_load((ROOT / "configs" / "speech" / "tuned-laptop.yaml").read_text())
    ratio = tuned["sgd"]["optimizer.lr"] / tuned["novograd"]["optimizer.lr"]
    assert MEASURES["rate_sgd_over_novograd_speech"]() == ratio


def test_early_gradients():
    """In the first update of a network without any training: as many norms per update as it has tensors."""
    norms = measures._early_norms()
    assert len(norms) % 50 == 0
    assert min(norms) > 0
    assert MEASURES["early_norms_below_1"]() == sum(norm < 1 for norm in norms) / len(norms)
    assert min(norms) < MEASURES["early_median_norm"]() < max(norms)
