"""Parameter groups that differ in weight decay."""

import math
import re

import pytest
import torch
from torch import nn

from novobench.optim import NovoGrad, weight_decay_groups


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))


class Block(nn.Module):
    """One parameter of each kind that patterns distinguish, with similar names."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight  # shared: `embedding.weight` is its first name
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4), nn.SyncBatchNorm(4)])
        self.instance_norm = nn.InstanceNorm1d(4, affine=True)
        self.bias_scale = nn.Parameter(torch.ones(4))  # not called `bias`
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)


def test_the_first_matching_pattern_decides():
    groups = weight_decay_groups(network(), 0.1, {"@norm": 0.0, "@bias": 0.5})
    assert [(g["weight_decay_factor"], g["weight_decay"], g["param_names"]) for g in groups] == [
        (0.0, 0.0, ["1.weight", "1.bias"]),
        (0.5, 0.05, ["0.bias", "2.bias"]),
        (1.0, 0.1, ["0.weight", "2.weight"]),
    ]


def test_another_order_of_the_same_patterns_is_another_split():
    groups = weight_decay_groups(network(), 0.1, {"@bias": 0.5, "@norm": 0.0})
    assert [g["param_names"] for g in groups] == [
        ["0.bias", "1.bias", "2.bias"],
        ["1.weight"],
        ["0.weight", "2.weight"],
    ]


def test_each_parameter_is_grouped_by_its_module():
    """Compared with a walk over the modules, without names and patterns."""
    model = Block()
    groups = weight_decay_groups(model, 0.2, {"@norm": 0.0, "@bias": 0.25, "^embedding": 2.0})
    norms = {id(p) for m in (*model.norms, model.instance_norm) for p in m.parameters()}
    biases = {id(m.bias) for m in model.layers}
    embedding = {id(model.embedding.weight)}
    others = {id(model.layers[0].weight), id(model.layers[1].weight), id(model.bias_scale)}
    assert [{id(p) for p in g["params"]} for g in groups] == [norms, biases, embedding, others]
    assert [g["weight_decay"] for g in groups] == [0.0, 0.05, 0.4, 0.2]
    names = dict(model.named_parameters())
    for group in groups:
        assert [id(names[name]) for name in group["param_names"]] == [id(p) for p in group["params"]]
    assert sum(len(g["params"]) for g in groups) == len([p for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("make", [torch.optim.AdamW, NovoGrad], ids=["AdamW", "NovoGrad"])
def test_every_optimizer_decays_by_group(make):
    """With zero gradients a first step of either multiplies a weight by 1 - λ·d."""
    model = network()
    nn.init.constant_(model[1].bias, 0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make(weight_decay_groups(model, 0.5, {"@norm": 0.0, r"^2\.": 0.4}), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        decay = {"0": 0.5, "1": 0.0, "2": 0.2}[name[0]]
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * decay), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("factors", [{}, None])
def test_without_patterns_all_parameters_decay(factors):
    (group,) = weight_decay_groups(network(), 0.1, factors)
    assert len(group["params"]) == 6
    assert group["weight_decay"] == 0.1


def test_regular_expressions_are_searched_in_full_names():
    groups = weight_decay_groups(network(), 0.1, {r"^2\.": 0.0})
    assert groups[0]["param_names"] == ["2.weight", "2.bias"]


def test_a_pattern_that_matches_no_parameter_makes_no_group():
    groups = weight_decay_groups(network(), 0.1, {"": 0.5, "@bias": 0.0})
    assert [len(group["params"]) for group in groups] == [6]


def test_frozen_parameters_are_omitted():
    model = network()
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in weight_decay_groups(model, 0.1)) == 4


@pytest.mark.parametrize(
    ("weight_decay", "factors", "message"),
    [
        (0.1, {"2.wieght": 0.0}, "'2.wieght' matches no trainable parameter. Names look like: 2.weight"),
        (0.1, {"@bias": 0.0, "@norn": 0.0}, "'@norn' matches no trainable parameter"),
        (0.1, {"(": 0.0}, "'(' is not a valid regular expression: missing ), unterminated subpattern"),
        (0.1, {"@bias": -1.0}, "Invalid factor of '@bias': -1.0"),
        (0.1, {"@bias": math.inf}, "Invalid factor of '@bias': inf"),
        (0.1, {"@bias": math.nan}, "Invalid factor of '@bias': nan"),
        (-0.1, {}, "Invalid weight_decay: -0.1"),
        (math.inf, {}, "Invalid weight_decay: inf"),
        (math.nan, {}, "Invalid weight_decay: nan"),
    ],
)
def test_invalid_arguments_are_named(weight_decay, factors, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        weight_decay_groups(network(), weight_decay, factors)
