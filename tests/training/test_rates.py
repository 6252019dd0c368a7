"""The rates of each update: one schedule for all parts, which each entry takes in its own way."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.optim.composite import Composite, Part
from novobench.training import cell
from novobench.training.rates import optimizer_parts, set_rates
from tests.cells import small_cell, small_config

TOTAL, WARMUP, LR, MIN_LR = 12, 4, 0.3, 0.02


def config(**changes):
    return small_config(
        optimizer__lr=0.1,
        optimizer__lr_factor=3.0,
        schedule={
            "name": "cosine",
            "min_lr": MIN_LR,
            "warmup_updates": WARMUP,
            "weight_decay_milestones": [0.5],
            "weight_decay_factors": [10.0],
        },
        **changes,
    )


def part(schedule, weight_decay=0.01, ratio=1.0):
    entry = dataclasses.replace(registry.get("sgd"), schedule=schedule)
    groups = [
        {"params": [nn.Parameter(torch.ones(2))], "weight_decay_factor": factor, "lr_ratio": ratio}
        for factor in (1.0, 0.0)
    ]
    return Part(entry, torch.optim.SGD(groups, lr=7.0), weight_decay)


def cosine(update):
    if update < WARMUP:
        return LR * (update + 1) / (WARMUP + 1)
    return MIN_LR + (LR - MIN_LR) * 0.5 * (1 + math.cos(math.pi * (update - WARMUP) / (TOTAL - WARMUP)))


def constant(update):
    return LR * min(1.0, (update + 1) / (WARMUP + 1))


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [("task", cosine), ("constant", constant), ("own", lambda update: 7.0)],
    ids=["task", "constant", "own"],
)
def test_each_kind_of_schedule(schedule, rate):
    """Milestones of weight decay apply with all of them."""
    one = part(schedule)
    for update in range(TOTAL):
        set_rates([one], update, TOTAL, config())
        decaying, not_decaying = one.optimizer.param_groups
        assert decaying["lr"] == not_decaying["lr"] == pytest.approx(rate(update), rel=1e-12)
        assert decaying["weight_decay"] == (0.01 if update < TOTAL / 2 else 0.1)
        assert not_decaying["weight_decay"] == 0.0


def test_the_parts_of_several_have_a_share_of_the_rate_and_a_decay_of_their_own():
    several = Composite([part("task"), part("constant", 0.5, 0.07), part("own", 0.2, 0.1)])
    for update in (0, 5, TOTAL - 1):
        set_rates(several.parts, update, TOTAL, config())
        rates = [group["lr"] for group in several.param_groups[::2]]
        assert rates == pytest.approx([cosine(update), constant(update) * 0.07, 7.0], rel=1e-12)
        factor = 1 if update < TOTAL / 2 else 10
        decays = [group["weight_decay"] for group in several.param_groups[::2]]
        assert decays == pytest.approx([0.01 * factor, 0.5 * factor, 0.2 * factor], rel=1e-12)


def test_one_optimizer_is_one_part():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    (only,) = optimizer_parts(optimizer, config(optimizer__weight_decay=0.25).optimizer)
    assert (only.entry.name, only.optimizer, only.weight_decay) == ("novograd", optimizer, 0.25)


def test_larc_adds_the_decay_for_the_parts_that_add_it_to_the_gradient(monkeypatch, tmp_path):
    seen = []

    def larc(groups, trust, mode, *, decay_first):
        seen.append((groups[0]["param_names"][0], decay_first))

    monkeypatch.setattr("novobench.training.loop.larc_", larc)
    others = {"name": "sgd", "lr_ratio": 0.5}
    changes = {"optimizer__name": "novograd_adamw", "optimizer__others": others, "optimizer__larc_trust": 0.01}
    cell.run(small_cell(tmp_path, budget="1steps", optimizer__decay_factors={}, **changes).path)
    assert seen == [("network.stem.weight", False), ("network.blocks.0.norm1.weight", True)]
