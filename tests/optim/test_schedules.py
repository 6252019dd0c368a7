"""Schedules of the learning rate and of weight decay."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from novobench.optim.schedules import ScheduleSpec, learning_rate, validate, weight_decay


def test_quadratic_decay_with_a_floor():
    spec = ScheduleSpec(name="polynomial", power=2.0, min_lr=0.1)
    assert learning_rate(0, 10, 1.0, spec) == 1.0
    assert learning_rate(5, 10, 1.0, spec) == pytest.approx(0.9 * 0.25 + 0.1)
    assert learning_rate(10, 10, 1.0, spec) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["polynomial", "cosine"])
def test_a_floor_can_clip_the_decay_instead_of_shifting_it(name):
    """DeepLearningExamples' lr_policy: max(lr * ((N - step) / N) ** 2, min_lr)."""
    spec = ScheduleSpec(name=name, power=2.0, min_lr=1e-5, floor="max")
    for step in range(1001):
        left = ((1000 - step) / 1000) ** 2 if name == "polynomial" else (1 + math.cos(math.pi * step / 1000)) / 2
        assert learning_rate(step, 1000, 0.015, spec) == pytest.approx(max(0.015 * left, 1e-5), rel=1e-12)
    assert learning_rate(990, 1000, 0.015, spec) == 1e-5


def test_cosine_equals_torchs():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.01)
    spec = ScheduleSpec(name="cosine", min_lr=0.01)
    for update in range(20):
        assert learning_rate(update, 20, 0.3, spec) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("counts_from", "first"), [(0, 0.0), (1, 1 / 6)])
def test_both_warm_up_conventions(counts_from, first):
    spec = ScheduleSpec(name="cosine", warmup_updates=5, warmup_counts_from=counts_from)
    rates = [learning_rate(update, 20, 1.0, spec) for update in range(20)]
    assert rates[0] == pytest.approx(first)
    assert np.diff(rates[:5]) == pytest.approx(1 / (5 + counts_from))
    assert rates[5] == 1.0


def test_a_warm_up_may_be_a_fraction_and_start_above_zero():
    spec = ScheduleSpec(warmup_fraction=0.25, warmup_start_factor=0.5, warmup_counts_from=0)
    assert [learning_rate(u, 16, 2.0, spec) for u in range(5)] == pytest.approx([1.0, 1.25, 1.5, 1.75, 2.0])


def test_a_decay_over_the_whole_run_starts_before_the_warm_up_ends():
    spec = ScheduleSpec(name="cosine", warmup_updates=10, decay_spans="whole")
    assert learning_rate(10, 20, 1.0, spec) == pytest.approx(0.5)


def test_steps_at_shares_of_the_run():
    spec = ScheduleSpec(name="multistep", milestones=[0.5, 0.75], factor=0.1)
    rates = [learning_rate(update, 8, 1.0, spec) for update in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_weight_decay_in_steps():
    spec = ScheduleSpec(weight_decay_milestones=[0.25, 0.5], weight_decay_factors=[0.5, 0.0])
    assert [weight_decay(update, 8, 0.2, spec) for update in range(8)] == [0.2, 0.2, 0.1, 0.1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup_updates": 5, "warmup_fraction": 0.1}, "both given"),
        ({"name": "multistep"}, "milestones' is empty"),
        ({"name": "multistep", "milestones": [0.5, 0.2]}, "must be increasing"),
        ({"weight_decay_milestones": [0.5]}, "1 weight_decay_milestones need the same number"),
    ],
)
def test_contradictory_schedules_are_rejected(fields, message):
    with pytest.raises(ValueError, match=message):
        validate(ScheduleSpec(**fields))
