"""What novobench adds to the packages of its rivals: Muon's matrices, SCALE, constants, the error of a missing package.

`tests/training/test_rivals.py` compares whole trainings with the packages' own.
"""

import dataclasses
import importlib.util
import math

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.optim.muon import Muon
from novobench.optim.rivals import RIVALS
from novobench.optim.scale import SCALE

LR, DECAY, STEPS = 0.02, 0.3, 4


def gradients(shape, step) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def trained(optimizer, parameter: nn.Parameter) -> torch.Tensor:
    for step in range(STEPS):
        parameter.grad = gradients(parameter.shape, step).to(parameter.dtype)
        optimizer.step()
    return parameter.detach()


def start(*shape: int) -> nn.Parameter:
    return nn.Parameter(gradients(shape, 99))


# ------------------------------------------------------------------------------------ Muon


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2), (2, 3, 2, 4)], ids=str)
def test_muon_steps_a_convolution_as_torchs_steps_its_matrix(shape):
    ours, matrix = start(*shape), nn.Parameter(start(*shape).detach().flatten(1).clone())
    trained(Muon([ours], lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"), ours)
    torchs = torch.optim.Muon([matrix], lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    for step in range(STEPS):
        matrix.grad = gradients(shape, step).flatten(1)
        torchs.step()
    assert torch.equal(ours.detach().flatten(1), matrix.detach())


def test_muon_steps_channels_last_weights_to_rounding():
    """The columns of the matrix come in another order, which changes only the order of bf16 sums."""
    usual, last = (nn.Parameter(start(4, 3, 2, 2).detach().to(memory_format=f).clone(memory_format=f))
                   for f in (torch.contiguous_format, torch.channels_last))  # fmt: skip
    for parameter in (usual, last):
        trained(Muon([parameter], lr=LR, weight_decay=DECAY), parameter)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.detach(), usual.detach(), rtol=0, atol=0.05 * LR * STEPS)


@pytest.mark.parametrize("kind", [Muon, SCALE])
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_vectors_and_scalars_are_refused(kind, shape):
    with pytest.raises(ValueError, match=r"takes matrices, not a parameter of shape \(.*another optimizer"):
        kind([start(*shape)], lr=LR)


# ------------------------------------------------------------------------------------ SCALE


@pytest.mark.parametrize(
    ("role", "shape", "others"),
    [
        ("matrix", (4, 3), (1,)),
        ("matrix", (4, 3, 2, 2), (1, 2, 3)),
        ("embedding", (6, 3), (0,)),
        ("head", (6, 3), (1,)),
    ],
)
def test_scale_is_algorithm_1(role, shape, others):
    parameter = start(*shape)
    expected, momentum = parameter.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    for step in range(STEPS):
        gradient = gradients(shape, step)
        momentum = 0.9 * momentum + 0.1 * gradient
        used = momentum if role == "head" else gradient
        length = used.pow(2).sum(others, keepdim=True).sqrt()
        count = math.prod(shape[i] for i in others)
        expected = (1 - LR * DECAY) * expected - LR * used * math.sqrt(count) / length
    trained(SCALE([{"params": [parameter], "role": role}], lr=LR, weight_decay=DECAY), parameter)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("argument", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"eps": 0.0}])
def test_scale_names_an_invalid_argument(argument):
    with pytest.raises(ValueError, match="Invalid"):
        SCALE([start(2, 2)], **argument)


# ------------------------------------------------------------------------------------ constants and options


def test_lamb_is_version_3_of_the_paper():
    parameter = start(4, 3)
    w, m, v = parameter.detach().clone(), torch.zeros(4, 3).double(), torch.zeros(4, 3).double()
    for step in range(STEPS):
        g = gradients((4, 3), step)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        update = m / (v.sqrt() + 1e-6) + DECAY * w
        w = w - LR * (w.norm() / update.norm()) * update
    trained(registry.build("lamb", [parameter], lr=LR, weight_decay=DECAY), parameter)
    torch.testing.assert_close(parameter.detach(), w, rtol=1e-6, atol=1e-6)


def test_ademamix_decays_weights_not_gradients():
    """Equation (AdEMAMix) of the paper, without warm-ups of α and β₃."""
    parameter = start(4, 3)
    w = parameter.detach().clone()
    fast = slow = v = torch.zeros(4, 3).double()
    for step in range(STEPS):
        g = gradients((4, 3), step)
        fast, slow, v = 0.9 * fast + 0.1 * g, 0.9999 * slow + 0.0001 * g, 0.999 * v + 0.001 * g * g
        corrected = fast / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        w = w - LR * ((corrected[0] + 5 * slow) / (corrected[1].sqrt() + 1e-8) + DECAY * w)
    trained(registry.build("ademamix", [parameter], lr=LR, weight_decay=DECAY), parameter)
    torch.testing.assert_close(parameter.detach(), w, rtol=1e-9, atol=1e-9)


def test_schedule_free_evaluates_the_average():
    """Equations 3 to 5 of the paper with Adam's preconditioner: at a constant rate, iterates have equal weights."""
    parameter = start(4, 3)
    optimizer = registry.build("schedule_free_adamw", [parameter], lr=LR, weight_decay=DECAY)
    optimizer.train()
    x = z = parameter.detach().clone()
    v = torch.zeros(4, 3).double()
    for step in range(STEPS):
        y = 0.1 * z + 0.9 * x
        torch.testing.assert_close(parameter.detach(), y, rtol=1e-9, atol=1e-9)
        g = gradients((4, 3), step)
        v = 0.999 * v + 0.001 * g * g
        z = z - LR * (g / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8) + DECAY * y)
        x = x + (z - x) / (step + 1)
        parameter.grad = g.clone()
        optimizer.step()
    optimizer.eval()
    torch.testing.assert_close(parameter.detach(), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("entry", RIVALS, ids=lambda entry: entry.name)
def test_options_have_the_packages_defaults_unless_they_say_why(entry):
    changed = {"adjust_lr_fn", "max_precondition_dim", "safeguard_warmup", *entry.constants}
    optimizer = registry.build(entry.name, [start(3, 3)], lr=LR, weight_decay=0.0)
    package = type(optimizer)([start(3, 3)], lr=LR)
    assert {field.name for field in dataclasses.fields(entry.options)} <= package.defaults.keys()
    for key, value in package.defaults.items():
        if key not in {"weight_decay", *changed}:
            assert optimizer.defaults[key] == value, key


@pytest.mark.parametrize("entry", RIVALS, ids=lambda entry: entry.name)
def test_search_ranges_have_equal_widths(entry):
    assert entry.tunable.keys() == {"lr", "weight_decay"}
    for bounds in entry.tunable.values():
        assert bounds.high / bounds.low == pytest.approx(32)


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "schedulefree" else find(name))
    with pytest.raises(registry.MissingPackageError) as raised:
        registry.build("schedule_free_adamw", [start(2, 2)], lr=LR, weight_decay=0.0)
    assert str(raised.value) == (
        "optimizer 'schedule_free_adamw' needs the package schedulefree, which is not installed. "
        "Run: pip install 'novobench[rivals]', or make setup in a checkout."
    )
    assert isinstance(registry.build("muon", [start(2, 2)], lr=LR, weight_decay=0.0), Muon)
