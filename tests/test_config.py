"""The config of a cell: what is refused, the arithmetic of its budget and batch, and its id."""

import ast
import dataclasses
from pathlib import Path

import pytest

from novobench import config as config_module
from novobench.config import cell_id, data_root, to_yaml
from novobench.config_loading import load_tree
from novobench.errors import ConfigError
from novobench.tasks.catalog import resolve
from tests.cells import small_config

# ------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("optimizer__lrr", 1.0, "lrr.*Did you mean 'lr'|lrr"),
        ("optimizer__lr", "fast", "'optimizer.lr'"),
        ("optimizer__name", "novogard", "Did you mean 'novograd'"),
        ("optimizer__options__betas", 3, "betas"),
        ("optimizer__options__beta3", 3, "beta3"),
        ("optimizer__options__betas", [0.95, 1.5], "1.5"),
        ("optimizer__preset", "os2", "Did you mean 'os2s'"),
        ("schedule__name", "cosinus", "schedule"),
        ("schedule__warmup_fraction", 1.5, "warmup"),
        ("model__width", [3], "width"),
        ("data__crop", "center", "crop"),
        ("budget", "10epochs", "write e.g. 100ep"),
        ("budget", "10step", "write e.g. 100ep.*Did you mean 'steps'"),
        ("budget", "0.001ep", "less than one update"),
        ("budget", "1e6tokens", "does not count tokens"),
        ("batch", {"size": 100, "micro": 16}, "batch.size 100 is not batch.micro 16"),
        ("runtime__precision", "8-bit", "precision"),
        ("task", "imag", "Did you mean 'image'"),
        ("seed", None, "seed"),
        ("seed", -1, "'seed' must be 0 or more"),
        ("model", None, "'model' must be a mapping, not null"),
        ("data", 5, "'data' must be a mapping, not 5"),
        ("optimizer__decay_factors", [1], "'optimizer.decay_factors' must be a mapping"),
        ("optimizer__preset", [1], "no preset"),
        ("optimizer__lr", ".nan", "optimizer.lr"),
        ("optimizer__lr", "nan", "'optimizer.lr' must be 0 or more and finite"),
        ("optimizer__lr", -0.1, "'optimizer.lr' must be 0 or more and finite, not -0.1"),
        ("optimizer__clip_norm", 0, "'optimizer.clip_norm' must be above 0"),
        ("runtime__devices", 0, "'runtime.devices' must be 1 or more"),
        ("batch", {"size": 0, "micro": 16}, "'batch.size' must be 1 or more"),
        ("budget", "1e999ep", "budget '1e999ep'"),
        ("a." * 600 + "b", 1, "nested too deeply"),
    ],
)
def test_an_error_is_one_line_that_names_key_and_reason(key, value, reason):
    with pytest.raises(ConfigError, match=reason) as raised:
        small_config(**{key: value})
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("test: ")
    assert raised.value.exit_code == 2


def test_a_preset_gives_options_and_explicit_ones_win():
    config = small_config(optimizer__preset="os2s")
    assert tuple(config.optimizer.options.betas) == (0.95, 0.0)
    assert config.optimizer.options.eps_inside_sqrt
    config = small_config(optimizer__preset="os2s", optimizer__options__betas=[0.9, 0.5])
    assert tuple(config.optimizer.options.betas) == (0.9, 0.5)


def test_updates_are_counted_from_the_config():
    config = small_config(budget="3ep", batch={"size": 64, "micro": 16})
    assert config.epoch_updates == 1040 // 64 == 16
    assert config.total_updates == 48
    assert config.epochs == 3.0
    wrapped = small_config(budget="3ep", batch={"size": 64, "micro": 16}, data__tail="wrap")
    assert wrapped.total_updates == 3 * 17


def test_devices_change_the_accumulation_and_nothing_else():
    one, two = (small_config(batch={"size": 64, "micro": 16}, runtime__devices=devices) for devices in (1, 2))
    assert (one.accumulation, two.accumulation) == (4, 2)
    assert cell_id(one) == cell_id(two)


# ------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("runtime__devices", 2),
        ("runtime__workers", 4),
        ("runtime__checkpoint_every", 7),
        ("runtime__log_every", 7),
        ("runtime__curve_points", 3),
        ("runtime__accelerator", "cuda"),
        ("data__path", "elsewhere"),
        ("data_root", "elsewhere"),
        ("scale", "gpu"),
        ("model__expansion", 4),  # the default, set explicitly
        ("optimizer__clip_norm", None),
        ("optimizer__preset", "printed"),
    ],
)
def test_a_practical_field_is_not_in_the_id(key, value):
    options = {"optimizer__options__betas": [0.95, 0.98]}
    assert cell_id(small_config(**options, **{key: value})) == cell_id(small_config(**options))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer__lr", 0.03),
        ("optimizer__lr_factor", 2.0),
        ("optimizer__options__betas", [0.95, 0.5]),
        ("optimizer__clip_norm", 1.0),
        ("schedule__name", "constant"),
        ("batch", {"size": 32, "micro": 32}),
        ("budget", "9steps"),
        ("model__depths", [1, 2]),
        ("data__name", "digits-plain"),
        ("data__flip", False),
        ("runtime__threads", 2),
        ("runtime__precision", "bf16-mixed"),
        ("purpose", "search"),
    ],
)
def test_a_scientific_field_is_in_the_id(key, value):
    assert cell_id(small_config(**{key: value})) != cell_id(small_config())


def test_an_id_names_task_optimizer_and_seed():
    assert cell_id(small_config(seed=12)).startswith("image-novograd-s12-")
    first, second = (cell_id(small_config(seed=seed)).rsplit("-", 1)[1] for seed in (0, 1))
    assert first == second


def test_a_config_survives_its_own_yaml(tmp_path):
    config = small_config(optimizer__decay_factors={"@norm": 0.0})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert resolve(load_tree(tmp_path / "config.yaml"), "again") == config


def test_every_field_has_a_docstring():
    """Readers of YAML look the fields up in config.py."""
    tree = ast.parse(Path(config_module.__file__).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {"BatchConfig", "OptimizerConfig", "RuntimeConfig", "CellConfig"} <= {node.name for node in classes}
    undocumented = [
        f"{node.name}.{field.target.id}"
        for node in classes
        for field, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True)
        if isinstance(field, ast.AnnAssign)
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]
    assert undocumented == []


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config().seed = 3


def test_the_data_root_is_an_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    assert data_root(small_config()) == tmp_path
