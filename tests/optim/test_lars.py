"""LARS, LARC and normalized SGD."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from novobench.optim import LARS, NormalizedSGD, larc_, registry, weight_decay_groups
from novobench.optim.schedules import learning_rate
from novobench.training.loop import UpdateLoop
from novobench.training.run_folder import RunFolder
from tests.cells import small_config


def test_lars_equals_its_formula():
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 3)), rng.normal(size=3)
    weight, bias = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(b))
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0, "weight_decay_factor": 0.0}]
    optimizer = LARS(groups, lr=2.0, momentum=0.9, weight_decay=0.01, trust=0.02)
    mw, mb = np.zeros_like(w), np.zeros_like(b)
    for _ in range(6):
        gw, gb = rng.normal(size=w.shape), rng.normal(size=b.shape)
        weight.grad, bias.grad = torch.tensor(gw), torch.tensor(gb)
        optimizer.step()
        rate = 0.02 * np.linalg.norm(w) / (np.linalg.norm(gw) + 0.01 * np.linalg.norm(w) + 1e-8)
        mw = 0.9 * mw + 2.0 * rate * (gw + 0.01 * w)
        mb = 0.9 * mb + 2.0 * gb
        w, b = w - mw, b - mb
    np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-10)
    np.testing.assert_allclose(bias.detach().numpy(), b, rtol=1e-10)


def test_lars_moves_a_zero_weight():
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    LARS([weight], lr=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), -0.1))


@pytest.mark.parametrize(("mode", "factor"), [("clip", 1.0), ("scale", 0.001 * 10 / 0.01)])
def test_larc_on_a_small_gradient(mode, factor):
    weight = nn.Parameter(torch.full((4,), 5.0))  # norm 10
    weight.grad = torch.full((4,), 0.005)  # norm 0.01
    larc_([{"params": [weight], "lr": 0.02}], trust=0.001, mode=mode)  # clips above 50 times this
    torch.testing.assert_close(weight.grad, torch.full((4,), 0.005 * factor), rtol=1e-4, atol=0)


def test_larc_of_many_tensors_is_larc_of_each():
    torch.manual_seed(0)
    shapes = [(40, 30), (30,), (), (5, 4, 3)]
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes] + [nn.Parameter(torch.randn(7).double())]
    gradients = [10 * torch.randn_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    without = nn.Parameter(torch.ones(2))
    larc_([{"params": [*parameters, without], "lr": 0.02}], trust=0.001)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        factor = 0.001 * parameter.detach().norm() / (0.02 * (gradient.norm() + 1e-7))
        torch.testing.assert_close(parameter.grad, gradient * factor.clamp(1e-7, 1.0), rtol=1e-6, atol=0)
    assert without.grad is None


def test_larc_shrinks_a_large_gradient():
    weight = nn.Parameter(torch.full((4,), 5.0))
    weight.grad = torch.full((4,), 5.0)
    larc_([{"params": [weight], "lr": 0.02}], trust=0.001)  # 0.001 · 10 / (0.02 · 10) = 0.05
    torch.testing.assert_close(weight.grad, torch.full((4,), 0.25), rtol=1e-4, atol=0)


def test_normalized_sgd_takes_steps_as_long_as_the_rate():
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    optimizer = NormalizedSGD(parameters, lr=0.5)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    assert math.sqrt(sum(float((p.detach() ** 2).sum()) for p in parameters)) == pytest.approx(0.5)


def test_layer_wise_normalized_sgd_is_novograd_without_beta2():
    mine, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    one = registry.build(
        "normalized_sgd", [mine], lr=0.1, weight_decay=0.01, options={"momentum": 0.9, "layer_wise": True}
    )
    two = registry.build("novograd", [theirs], lr=0.1, weight_decay=0.01, options={"betas": [0.9, 0.0]})
    for step in range(5):
        mine.grad = torch.randn(5, generator=torch.Generator().manual_seed(step))
        theirs.grad = mine.grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(mine, theirs)


class OpenSeq2SeqSGD:
    """OpenSeq2Seq's SGD with momentum, L2 decay and LARC, line by line in NumPy, float64 (revision 8681d381).

    open_seq2seq/models/model.py, `compile`: the regularisation loss is part of the loss, so scale · w, the gradient of
    `l2_regularizer`, is part of the gradient. optimizers/optimizers.py, `post_process_gradients`: LARC, of mode clip
    or scale. TensorFlow's MomentumOptimizer: accumulation = momentum · accumulation + gradient.
    """

    def __init__(self, v, decay, larc_mode, larc_eta=0.001, momentum=0.9, eps=1e-7, min_update=1e-7):
        self.v, self.accumulation = v, np.zeros_like(v)
        self.decay, self.larc_mode, self.larc_eta, self.momentum = decay, larc_mode, larc_eta, momentum
        self.eps, self.min_update = eps, min_update

    def step(self, gradient, lr):
        g = gradient + self.decay * self.v
        v_norm, g_norm = np.linalg.norm(self.v), np.linalg.norm(g)
        if self.larc_mode == "clip":
            update = max(self.larc_eta * v_norm / (lr * (g_norm + self.eps)), self.min_update)
            update = min(update, 1.0)
        else:
            update = max(self.larc_eta * v_norm / (g_norm + self.eps), self.min_update)
        self.accumulation = self.momentum * self.accumulation + update * g
        self.v = self.v - lr * self.accumulation


@pytest.mark.parametrize("mode", ["clip", "scale"])
def test_a_training_with_larc_takes_openseq2seqs_steps(mode, tmp_path):
    """Thirty updates as `UpdateLoop` drives them: large, small and no decay; gradients that LARC clips, and others."""
    config = small_config(
        budget="30steps",
        batch={"size": 32, "micro": 32},
        optimizer__name="sgd",
        optimizer__lr=0.05,
        optimizer__weight_decay=0.3,
        optimizer__decay_factors={"@bias": 0.0, "1": 0.1},
        optimizer__larc_trust=0.001,
        optimizer__larc_mode=mode,
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    decays = {"0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.03, "1.bias": 0.0}
    theirs = {name: OpenSeq2SeqSGD(p.detach().numpy().copy(), decays[name], mode) for name, p in net.named_parameters()}
    groups = weight_decay_groups(net, 0.3, config.optimizer.decay_factors)
    optimizer = registry.build("sgd", groups, lr=0.05, weight_decay=0.3)
    loop = UpdateLoop(config, None, RunFolder(tmp_path), None)
    net.streams = {}
    loop.guard.start(net, optimizer)
    for update in range(30):
        loop.update = update
        loop._set_rates(optimizer)
        for parameter in net.parameters():
            parameter.grad = 10.0 ** -(update % 6) * torch.randn_like(parameter)
        gradients = {name: p.grad.numpy().copy() for name, p in net.named_parameters()}
        loop.on_before_optimizer_step(None, net, optimizer)
        optimizer.step()
        lr = learning_rate(update, 30, 0.05, config.schedule)
        for name, parameter in net.named_parameters():
            theirs[name].step(gradients[name], lr)
            np.testing.assert_allclose(parameter.detach().numpy(), theirs[name].v, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries()])
def test_larc_adds_the_decay_only_for_sgd_and_adam(name):
    weight = nn.Parameter(torch.full((4,), 5.0))
    weight.grad = torch.zeros(4)
    group = {"params": [weight], "lr": 0.02, "weight_decay": 0.1}
    takes_over = registry.get(name).decays_gradient
    larc_([group], trust=1.0, decay_first=takes_over)
    assert takes_over == (name in ("sgd", "adam"))
    assert group["weight_decay"] == (0.0 if takes_over else 0.1)
    assert weight.grad.tolist() == [0.5 if takes_over else 0.0] * 4
