"""Whether a printed value is reproduced: fabricated values against intervals of SciPy, and the full-scale table."""

import math

import numpy as np
import pytest
from scipy import stats

from novobench.errors import ConfigError
from novobench.suite.experiment import load_experiment
from novobench.suite.reproduction import reproduction
from tests.suite.finished import collected, finished, written_table

AROUND = np.array([-0.1, 0.0, 0.1])
"""Three seeds with standard deviation 0.1: the half width of the 95 % interval is 0.248."""


def test_the_interval_of_the_examples():
    low, high = stats.t.interval(0.95, 2, loc=0, scale=AROUND.std(ddof=1) / math.sqrt(3))
    assert high == -low == pytest.approx(0.2484, abs=1e-4)


@pytest.mark.parametrize(
    ("offset", "margin", "outcome"),
    [
        (0.0, 0.25, "reproduced"),  # [-0.248, 0.248]
        (0.0, 0.245, "undecided"),
        (0.2, 0.45, "reproduced"),  # [-0.048, 0.448]
        (0.2, 0.44, "undecided"),
        (-0.2, 0.44, "undecided"),
        (1.0, 0.76, "undecided"),  # [0.752, 1.248]
        (1.0, 0.75, "not reproduced"),
        (-1.0, 0.75, "not reproduced"),
    ],
)
def test_the_interval_decides(offset, margin, outcome):
    assert reproduction(28.8 + offset + AROUND, 28.8, margin).outcome == outcome


@pytest.mark.parametrize("values", [[28.8], [35.0]])
def test_one_seed_decides_nothing(values):
    assert str(reproduction(values, 28.8, 0.3)) == "undecided (at least 1 more seed)"


def test_a_training_that_diverged_reproduces_nothing():
    outcome = reproduction([28.8, math.nan, 28.8, math.inf], 28.8, 0.3)
    assert str(outcome) == "not reproduced (2 of 4 trainings diverged)"


@pytest.mark.parametrize(("offset", "margin"), [(0.0, 0.2), (0.15, 0.25), (0.6, 0.4)])
def test_the_forecast_of_seeds_decides_four_times_in_five(offset, margin):
    """Simulated: with the forecast number of seeds at least 80 % are decided, with two fewer, fewer."""
    values = offset + AROUND * 2
    reason = reproduction(values, 0.0, margin).reason
    total = 3 + int(reason.split()[1])
    rng = np.random.default_rng(0)

    def decided(n):
        samples = rng.normal(offset, 0.2, (20_000, n))
        half = stats.t.isf(0.025, n - 1) * samples.std(axis=1, ddof=1) / math.sqrt(n)
        distance = np.abs(samples.mean(axis=1))
        return np.mean((distance + half <= margin) | (distance - half > margin))

    assert decided(total) > 0.79
    assert decided(total - 2) < 0.8


def test_seeds_cannot_decide_a_mean_at_the_edge():
    assert str(reproduction(0.5 + AROUND, 0.0, 0.5)) == "undecided (more than 1000 seeds)"


@pytest.mark.parametrize("number", range(1, 8))
def test_every_printed_value_has_a_margin(number):
    experiment = load_experiment(f"table{number}")
    assert {key for row in experiment.rows for key in row.paper} == experiment.reproduction.margins.keys()


@pytest.fixture
def experiment_file(workspace):
    path = workspace / "experiments" / "small.yaml"
    declared = (
        "full: {runtime.precision: 32-true}\nreproduction: {margins: {top1: 0.5}, reason: Two deviations of a seed.}\n"
    )
    text = path.read_text().replace("    laptop: {optimizer.name: sgd", "    full: {optimizer.name: sgd", 1)
    path.write_text(text + declared)
    return path


def test_the_table_at_full_scale_says_what_is_reproduced(experiment_file):
    for seed, top1 in enumerate((76.4, 76.5, 76.6)):
        collected(finished("small", "sgd", {"test": {"top1": top1}}, scale="full", seed=seed), scale="full")
    _, text = written_table("small", "full")
    [line] = [line for line in text.splitlines() if line.startswith("| SGD |")]
    assert line.split(" | ")[-1] == "76.50: reproduced |"
    assert "lies within a margin of it (top-1 ± 0.5), and not if it lies wholly outside. Two deviations" in text


def test_other_scales_reproduce_nothing(experiment_file, results):
    collected(finished("small", "sgd_again", {"test": {"top1": 12.5}}))
    _, text = written_table("small")
    assert "reproduced" not in text


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("{margins: {top5: 0.1}, reason: a}", "'reproduction.margins.top5' is not a column. Did you mean"),
        ("{margins: {top1: 0.1}}", "'reproduction' has margins, but no 'reason'"),
        ("{margins: {top1: 0}, reason: a}", "top1"),
    ],
)
def test_margins_are_checked(workspace, declared, message):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(f"{path.read_text()}reproduction: {declared}\n")
    with pytest.raises(ConfigError, match=message):
        load_experiment("small")
