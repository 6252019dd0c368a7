"""Roles of parameters, and the split of parameter groups by them."""

import pytest
import torch
from torch import nn

from novobench.optim import weight_decay_groups
from novobench.optim.roles import parameter_roles, split_groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.bag = nn.EmbeddingBag(3, 4)
        self.frozen = nn.Embedding(7, 4)
        self.frozen.weight.requires_grad_(False)
        self.convolution = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm([4, 4])  # its parameters are matrices
        self.batch_norm = nn.BatchNorm1d(4)
        self.inner = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.ones(()))
        self.offsets = nn.Parameter(torch.zeros(2, 4))
        self.tied = nn.Linear(4, 5)
        self.tied.weight = self.table.weight
        self.head = nn.Linear(4, 2)


ROLES = {
    "gain": "norm_bias",
    "offsets": "matrix",
    "table.weight": "embedding",
    "bag.weight": "embedding",
    "convolution.weight": "matrix",
    "convolution.bias": "norm_bias",
    "norm.weight": "norm_bias",
    "norm.bias": "norm_bias",
    "batch_norm.weight": "norm_bias",
    "batch_norm.bias": "norm_bias",
    "inner.weight": "matrix",
    "inner.bias": "norm_bias",
    "tied.bias": "norm_bias",
    "head.weight": "matrix",
    "head.bias": "norm_bias",
}


def test_types_and_shapes_decide():
    assert parameter_roles(Net()) == ROLES
    assert list(parameter_roles(Net())) == [name for name, p in Net().named_parameters() if p.requires_grad]


def test_the_network_names_the_rest_and_the_config_wins():
    patterns = {r"^head\.weight$": "head", "^offsets$": "norm_bias", "optional_part": "head"}
    overrides = {r"inner\.w": "embedding", "@bias": "matrix", "^head": "norm_bias"}
    named = ROLES | {"head.weight": "head", "offsets": "norm_bias"}
    assert parameter_roles(Net(), patterns) == named
    biases = {name: "matrix" for name in ROLES if name.endswith("bias")}
    chosen = biases | {"inner.weight": "embedding", "head.weight": "norm_bias"}
    assert parameter_roles(Net(), patterns, overrides) == named | chosen


def test_a_pattern_of_the_config_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"Role pattern 'inner\.wieght' matches no .* look like: inner\.weight"):
        parameter_roles(Net(), {}, {"inner.wieght": "head"})
    with pytest.raises(ValueError, match="Role pattern 'frozen' matches no trainable parameter"):
        parameter_roles(Net(), {}, {"frozen": "head"})
    with pytest.raises(ValueError, match=r"Role pattern '\(' is not a valid regular expression"):
        parameter_roles(Net(), {}, {"(": "head"})


def test_groups_are_split_in_order_and_keep_their_keys():
    net = Net()
    groups = weight_decay_groups(net, 0.5, {"^table": 0.0, "@bias": 0.1})
    taken, rest = split_groups(groups, parameter_roles(net), ["matrix", "embedding"])
    assert [(g["param_names"], g["weight_decay_factor"], g["role"]) for g in taken] == [
        (["table.weight"], 0.0, "embedding"),
        (["offsets", "convolution.weight", "inner.weight", "head.weight"], 1.0, "matrix"),
        (["bag.weight"], 1.0, "embedding"),
    ]
    assert [g["weight_decay"] for g in rest] == [0.05, 0.5]
    assert rest[1]["param_names"] == ["gain", "norm.weight", "batch_norm.weight"]
    for group in taken + rest:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            assert parameter is net.get_parameter(name)
