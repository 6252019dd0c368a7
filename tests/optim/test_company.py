"""LARS, LARC, normalised SGD, the registry, schedules and weight-decay groups."""

import copy
import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from novobench.config import ROOT
from novobench.optim import LARS, DecayGroup, NormalizedSGD, larc_, registry
from novobench.optim.param_groups import param_groups
from novobench.optim.schedules import ScheduleSpec, learning_rate, validate, weight_decay

ENTRIES = {entry.name: entry for entry in registry.entries()}
every_entry = pytest.mark.parametrize("name", ENTRIES)


# ------------------------------------------------------------------------------------ every registered optimizer


def _rate(name):
    return {"adafactor": 0.1, "lars": 30.0, "normalized_sgd": 0.2}.get(name, 0.03)


@every_entry
def test_every_optimizer_descends(name):
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))
    inputs, targets = torch.randn(32, 6), torch.randn(32, 4)
    optimizer = registry.build(name, [matrix, bias], lr=_rate(name), weight_decay=1e-4)
    losses = []
    for step in range(150):
        optimizer.param_groups[0]["lr"] = _rate(name) * (1 - step / 150)
        optimizer.zero_grad()
        loss = ((inputs @ matrix + bias - targets) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    exact = torch.linalg.lstsq(torch.cat([inputs, torch.ones(32, 1)], 1), targets).solution
    best = ((torch.cat([inputs, torch.ones(32, 1)], 1) @ exact - targets) ** 2).mean().item()
    assert losses[-1] < best + 0.15 * (losses[0] - best)


@every_entry
def test_every_optimizer_resumes_from_its_state(name):
    def run(steps, break_at=None):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3))]
        optimizer = registry.build(name, parameters, lr=0.01, weight_decay=0.01)
        for step in range(steps):
            if step == break_at:
                state = optimizer.state_dict()
                optimizer = registry.build(name, parameters, lr=0.5, weight_decay=0.0)
                optimizer.load_state_dict(state)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        return parameters

    for whole, broken in zip(run(6), run(6, break_at=3), strict=True):
        assert torch.equal(whole, broken)


@every_entry
def test_the_claimed_state_size_is_the_measured_one(name):
    parameter = nn.Parameter(torch.zeros(256, 256))
    optimizer = registry.build(name, [parameter], lr=0.01, weight_decay=0.0)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = sum(v.numel() * v.element_size() for v in optimizer.state[parameter].values() if torch.is_tensor(v))
    assert state / parameter.numel() == pytest.approx(ENTRIES[name].state_bytes_per_parameter, abs=0.05)


@every_entry
def test_every_optimizer_leaves_parameters_without_gradient_alone(name):
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    optimizer = registry.build(name, parameters, lr=0.1, weight_decay=0.1)
    parameters[0].grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(parameters[1].detach(), torch.ones(3))
    assert not torch.equal(parameters[0].detach(), torch.ones(3))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torchs_own_run_fused_on_a_cpu_and_compute_what_their_loop_does(name):
    def run(**options):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape)) for shape in ((40, 30), (30,), ())]
        groups = [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:]}]
        optimizer = registry.build(name, groups, lr=0.01, weight_decay=0.0, options=options)
        for _ in range(20):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        return optimizer.param_groups[0]["fused"], parameters

    fused, parameters = run()
    looped, reference = run(implementation="loop")
    assert (fused, looped) == (True, False)
    for parameter, expected in zip(parameters, reference, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


def test_where_there_is_no_fused_kernel_torchs_own_run_foreach():
    optimizer = registry.build("adam", [nn.Parameter(torch.ones(2, device="meta"))], lr=0.1, weight_decay=0.0)
    assert optimizer.param_groups[0]["foreach"] is True
    assert not registry.guards_on_device("adam", optimizer)


GUARDED = [entry.name for entry in registry.entries() if entry.guards_on_device]


@pytest.mark.parametrize("name", GUARDED)
def test_found_inf_leaves_weights_and_state_as_they_are(name):
    """What an entry promises by `guards_on_device`."""
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
        if step == 1:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        else:
            assert not torch.equal(after[0][0], before[0][0])


def test_without_the_fused_kernel_torchs_own_wait():
    parameter = nn.Parameter(torch.ones(2))
    for implementation in ("loop", "foreach"):
        options = {"implementation": implementation}
        optimizer = registry.build("adam", [parameter], lr=0.1, weight_decay=0.0, options=options)
        assert not registry.guards_on_device("adam", optimizer)


# ------------------------------------------------------------------------------------ the registry


def test_a_misspelt_optimizer_gets_a_hint():
    with pytest.raises(registry.UnknownOptimizerError, match=r"'novgrad' is not registered. Did you mean 'novograd'"):
        registry.get("novgrad")


def test_a_class_path_is_an_optimizer_with_its_own_options():
    entry = registry.get("torch.optim:RMSprop")
    assert "alpha" in {field.name for field in dataclasses.fields(entry.options)}
    optimizer = registry.build(
        "torch.optim:RMSprop", [nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.2, options={"alpha": 0.5}
    )
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert optimizer.defaults["alpha"] == 0.5


@pytest.mark.parametrize("path", ["no.such.module:Class", "torch.optim:NoSuchClass"])
def test_a_class_path_that_leads_nowhere_is_named(path):
    with pytest.raises(registry.UnknownOptimizerError, match=path.split(":")[1] if "torch" in path else "no.such"):
        registry.get(path)


def test_another_package_offers_an_entry(tmp_path):
    """Through the entry point of an installed distribution; a config then names it, and it is built."""
    (tmp_path / "their_package.py").write_text(
        "from novobench.optim.registry import OptimizerEntry, SGDOptions\n"
        "entry = OptimizerEntry(name='theirs', factory='torch.optim:SGD', options=SGDOptions, description='d',\n"
        "    reference='r', state_bytes_per_parameter=4, presets={'fast': {'momentum': 0.5}})\n"
    )
    metadata = tmp_path / "their_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[novobench.optimizers]\ntheirs = their_package:entry\n")
    code = (
        "import torch; from novobench.optim import registry\n"
        "assert [e.name for e in registry.entries('their*')] == ['theirs']\n"
        "made = registry.build('theirs', [torch.nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.2)\n"
        "assert type(made) is torch.optim.SGD and made.defaults['weight_decay'] == 0.2\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_name_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="'sgd' is registered already"):
        registry.register(ENTRIES["sgd"])


def test_presets_hold_only_known_options():
    for entry in ENTRIES.values():
        for options in entry.presets.values():
            entry.options(**options)


def test_listing_needs_no_torch():
    code = "import sys; from novobench.optim import registry; registry.entries(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_novobench_optim_needs_torch_alone():
    code = (
        "import sys, novobench.optim; novobench.optim.NovoGrad;"
        "sys.exit(bool({'pytorch_lightning', 'omegaconf', 'scipy', 'novobench.config'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ------------------------------------------------------------------------------------ LARS, LARC, SNGD


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


@pytest.mark.parametrize(("mode", "factor"), [("clip", 1.0), ("scale", 50.0)])
def test_larc_on_a_small_gradient(mode, factor):
    weight = nn.Parameter(torch.full((4,), 5.0))  # norm 10
    weight.grad = torch.full((4,), 0.005)  # norm 0.01
    larc_([{"params": [weight], "lr": 0.02}], trust=0.001, mode=mode)  # 0.001 · 10 / (0.02 · 0.01) = 50
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


def test_normalised_sgd_takes_steps_of_the_rates_length():
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    optimizer = NormalizedSGD(parameters, lr=0.5)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    assert math.sqrt(sum(float((p.detach() ** 2).sum()) for p in parameters)) == pytest.approx(0.5)


def test_layer_wise_normalised_sgd_is_novograd_without_beta2():
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


# ------------------------------------------------------------------------------------ schedules


def test_quadratic_decay_with_a_floor():
    spec = ScheduleSpec(name="polynomial", power=2.0, min_lr=0.1)
    assert learning_rate(0, 10, 1.0, spec) == 1.0
    assert learning_rate(5, 10, 1.0, spec) == pytest.approx(0.9 * 0.25 + 0.1)
    assert learning_rate(10, 10, 1.0, spec) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["polynomial", "cosine"])
def test_a_floor_can_cut_the_decay_off_instead_of_lifting_it(name):
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
def test_both_conventions_of_warming_up(counts_from, first):
    spec = ScheduleSpec(name="cosine", warmup_updates=5, warmup_counts_from=counts_from)
    rates = [learning_rate(update, 20, 1.0, spec) for update in range(20)]
    assert rates[0] == pytest.approx(first)
    assert np.diff(rates[:5]) == pytest.approx(1 / (5 + counts_from))
    assert rates[5] == 1.0


def test_a_warm_up_may_be_a_fraction_and_start_above_zero():
    spec = ScheduleSpec(warmup_fraction=0.25, warmup_start_factor=0.5, warmup_counts_from=0)
    assert [learning_rate(u, 16, 2.0, spec) for u in range(5)] == pytest.approx([1.0, 1.25, 1.5, 1.75, 2.0])


def test_a_decay_over_the_whole_is_joined_in_its_middle():
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
        ({"warmup_fraction": 1.5}, r"warmup_fraction in \[0, 1\)"),
        ({"name": "multistep"}, "milestones' is empty"),
        ({"name": "multistep", "milestones": [0.5, 0.2]}, "must be rising"),
        ({"weight_decay_milestones": [0.5]}, "1 weight_decay_milestones need as many"),
    ],
)
def test_contradictory_schedules_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        validate(ScheduleSpec(**fields))


# ------------------------------------------------------------------------------------ weight-decay groups


def _network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))


def test_the_first_matching_pattern_wins():
    groups = param_groups(_network(), 0.1, [DecayGroup("@norm", 0.0), DecayGroup("@bias", 0.5)])
    by_factor = {group["weight_decay_factor"]: (group["param_names"], group["weight_decay"]) for group in groups}
    assert by_factor == {
        0.0: (["1.weight", "1.bias"], 0.0),
        0.5: (["0.bias", "2.bias"], 0.05),
        1.0: (["0.weight", "2.weight"], 0.1),
    }


def test_without_patterns_everything_decays():
    (group,) = param_groups(_network(), 0.1, [])
    assert len(group["params"]) == 6


def test_regular_expressions_match_full_names():
    groups = param_groups(_network(), 0.1, [DecayGroup(r"^2\.", 0.0)])
    assert groups[0]["param_names"] == ["2.weight", "2.bias"]


def test_frozen_parameters_are_left_out():
    network = _network()
    network[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in param_groups(network, 0.1, [])) == 4


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="'2.wieght' matches no trainable parameter. Names look like: .*2.weight"):
        param_groups(_network(), 0.1, [DecayGroup("2.wieght")])
