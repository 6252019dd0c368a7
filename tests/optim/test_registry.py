"""The registry. `test_conformance.py` has the properties of every registered optimizer."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.places import ROOT

ENTRIES = {entry.name: entry for entry in registry.entries()}


# ------------------------------------------------------------------------------------ implementations


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torchs_optimizers_run_fused_on_a_cpu(name):
    assert registry.build(name, [nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.0).param_groups[0]["fused"]


def test_without_a_fused_kernel_torchs_optimizers_run_foreach():
    optimizer = registry.build("adam", [nn.Parameter(torch.ones(2, device="meta"))], lr=0.1, weight_decay=0.0)
    assert optimizer.param_groups[0]["foreach"] is True
    assert not registry.guards_on_device("adam", optimizer)


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
