"""The registry, and properties of every registered optimizer."""

import copy
import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.places import ROOT
from novobench.training.guard import GradScaler, Guard
from tests.cells import small_config

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
def test_every_optimizer_skips_parameters_without_gradient(name):
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    optimizer = registry.build(name, parameters, lr=0.1, weight_decay=0.1)
    parameters[0].grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(parameters[1].detach(), torch.ones(3))
    assert not torch.equal(parameters[0].detach(), torch.ones(3))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torchs_optimizers_run_fused_on_a_cpu(name):
    assert registry.build(name, [nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.0).param_groups[0]["fused"]


def test_without_a_fused_kernel_torchs_optimizers_run_foreach():
    optimizer = registry.build("adam", [nn.Parameter(torch.ones(2, device="meta"))], lr=0.1, weight_decay=0.0)
    assert optimizer.param_groups[0]["foreach"] is True
    assert not registry.guards_on_device("adam", optimizer)


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
        if step == 1:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        else:
            assert not torch.equal(after[0][0], before[0][0])


@every_entry
@pytest.mark.parametrize("overflows", [(0,), (2,), (0, 1, 4)], ids=str)
def test_an_update_that_overflows_in_half_precision_leaves_no_trace(name, overflows):
    """Driven as Lightning does: scaled loss, unscaled gradients, guard, step. The bits are as without those updates."""

    def train(skipped, taken):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
        optimizer = registry.build(name, net.parameters(), lr=0.01, weight_decay=0.01)
        scaler, guard = GradScaler("cpu", init_scale=2.0**8, growth_interval=100), Guard(small_config(), 6)
        guard.config = dataclasses.replace(
            guard.config, optimizer=dataclasses.replace(guard.config.optimizer, name=name)
        )
        net.streams = {}
        guard.start(net, optimizer)
        for update in taken:
            optimizer.zero_grad()
            guard.begin_update()
            inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(update))
            with torch.autocast("cpu", torch.float16):
                loss = net(inputs).float().square().mean()
            scaler.scale(loss * (1e38 if update in skipped else 1.0)).backward()
            before = copy.deepcopy((net.state_dict(), optimizer.state_dict()["state"]))
            scaler.unscale_(optimizer)
            guard.before_step(optimizer)
            scaler.step(optimizer)
            scaler.update()
            if update in skipped:
                after = (net.state_dict(), optimizer.state_dict()["state"])
                torch.testing.assert_close(after, before, rtol=0, atol=0)
        guard.read(len(taken))
        assert guard.skipped == len(skipped)
        return net.state_dict(), optimizer.state_dict()["state"]

    usual = [update for update in range(6) if update not in overflows]
    torch.testing.assert_close(train(overflows, range(6)), train((), usual), rtol=0, atol=0)


def test_without_the_fused_kernel_torchs_optimizers_wait():
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
def test_an_invalid_class_path_is_named(path):
    with pytest.raises(registry.UnknownOptimizerError, match=path.split(":")[1] if "torch" in path else "no.such"):
        registry.get(path)


def test_another_package_offers_an_entry(tmp_path):
    """Through the entry point of an installed distribution; a config then names it, and it is built."""
    (tmp_path / "their_package.py").write_text(
        "from novobench.optim.built_in import SGDOptions\n"
        "from novobench.optim.registry import OptimizerEntry\n"
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


def test_a_name_can_be_registered_only_once():
    with pytest.raises(ValueError, match="'sgd' is already registered"):
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
