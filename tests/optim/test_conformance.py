"""What training relies on, for every registered optimizer: as novobench builds it, with AdamW for roles it leaves.

`tests/training/test_conformance.py` shows that each check can fail.
"""

import copy

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.training.conformance.checks import verdict_of
from novobench.training.conformance.differences import first_difference
from novobench.training.conformance.optimizer import CHECKS
from tests.optim.every_entry import ENTRIES, every_entry, subject

OPTIONS = {
    ("sgd", "resumes"): {"implementation": "foreach"},  # torch's fused SGD raises an error for a parameter whose first
    ("sgd", "skips_missing_gradients"): {"implementation": "foreach"},  # gradient comes late
}
REMARKS = {
    ("schedule_free_adamw", "leaves_gradients"): "it overwrites p.grad, e.g. of embedding.weight",
    ("prodigy", "decays"): "only where gradients are not zero",
}
SWITCHED = {"schedule_free_adamw"}


@every_entry
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_passes(name, check):
    verdict = verdict_of(check, subject(name, **OPTIONS.get((name, check.name), {})))
    if check.name == "switches_modes" and name not in SWITCHED:
        assert verdict.kind == "not applicable"
    else:
        assert (verdict.kind, verdict.text) == ("ok", REMARKS.get((name, check.name), ""))


@every_entry
def test_the_claimed_state_size_is_the_measured_one(name):
    parameter = nn.Parameter(torch.ones(256, 256))
    optimizer = registry.build(name, [parameter], lr=0.01, weight_decay=0.0)
    getattr(optimizer, "train", lambda: None)()
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = sum(tensor.numel() * tensor.element_size() for tensor in tensors(optimizer.state[parameter]))
    assert state / parameter.numel() == pytest.approx(ENTRIES[name].state_bytes_per_parameter, abs=0.05)


def tensors(state) -> list[torch.Tensor]:
    if torch.is_tensor(state):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for part in parts for tensor in tensors(part)]


GUARDED = [entry.name for entry in registry.entries() if entry.guards_on_device]


@pytest.mark.parametrize("name", GUARDED)
def test_found_inf_leaves_weights_and_state_as_they_are(name):
    """The promise of `guards_on_device`."""
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((40, 30), (30,), ())]
    optimizer = registry.build(name, parameters, lr=0.01, weight_decay=0.1)
    assert registry.guards_on_device(name, optimizer)
    for step in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.found_inf = torch.tensor(float(step == 1))
        before = copy.deepcopy((parameters, optimizer.state_dict()["state"]))
        optimizer.step()
        after = (parameters, optimizer.state_dict()["state"])
        assert bool(first_difference(after, before)) == (step != 1)
