"""The config of a cell: what is refused, the arithmetic of its budget and batch, and its id."""

import ast
import dataclasses
import inspect
import re
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import pytest

from novobench.config import CellConfig, cell_id, data_root, to_yaml
from novobench.config_loading import load_tree
from novobench.errors import ConfigError
from novobench.optim import registry
from novobench.optim.schedules import ScheduleSpec
from novobench.tasks.catalog import resolve, task_config, task_names
from tests.cells import small_config

# ------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer__lrr", 1.0, "there is no key 'optimizer.lrr'. Did you mean 'lr'?"),
        ("optimizer__lr", "fast", "'optimizer.lr': Value 'fast' of type 'str'"),
        ("optimizer__lr", ".nan", "'optimizer.lr': Value '.nan' of type 'str'"),
        ("optimizer__lr", "nan", "'optimizer.lr' must be 0 or more and finite, not nan."),
        ("optimizer__lr", -0.1, "'optimizer.lr' must be 0 or more and finite, not -0.1."),
        (
            "optimizer__name",
            "novogard",
            "'optimizer.name': optimizer 'novogard' is not registered. Did you mean 'novograd'?",
        ),
        ("optimizer__options__betas", 3, "'optimizer.options.betas' must be a list, not 3."),
        ("optimizer__options__beta3", 3, "there is no key 'optimizer.options.beta3'. Did you mean 'betas'?"),
        (
            "optimizer__options__betas",
            [0.95, 1.5],
            "'optimizer.options.betas[1]' must be 0 or more and below 1, not 1.5.",
        ),
        ("optimizer__preset", "os2", "'optimizer.preset': novograd has no preset 'os2'. Did you mean 'os2s'?"),
        ("optimizer__preset", [1], "'optimizer.preset': novograd has no preset '[1]'."),
        ("optimizer__decay_factors", [1], "'optimizer.decay_factors' must be a mapping, not [1]."),
        ("optimizer__clip_norm", 0, "'optimizer.clip_norm' must be above 0 and finite, not 0.0."),
        ("schedule__name", "cosinus", "'schedule.name': Invalid value 'cosinus', expected one of ['constant',"),
        ("schedule__warmup_fraction", 1.5, "'schedule.warmup_fraction' must be 0 or more and below 1, not 1.5."),
        ("model__width", [3], "there is no key 'model.width'."),
        ("model", None, "'model' must be a mapping, not null."),
        ("data__crop", "center", "'data.crop': Invalid value 'center', expected one of ['random_resized',"),
        ("data", 5, "'data' must be a mapping, not 5."),
        ("budget", "10epochs", "budget '10epochs' is not a number with a unit: write e.g. 100ep,"),
        ("budget", "10step", "12e9tokens. Did you mean 'steps'?"),
        ("budget", "1e999ep", "budget '1e999ep' is not a number with a unit:"),
        ("budget", "0.001ep", "budget '0.001ep' is less than one update of 32 samples."),
        ("budget", "1e6tokens", "budget '1e6tokens': task 'image' does not count tokens;"),
        ("batch", {"size": 100, "micro": 16}, "batch.size 100 is not batch.micro 16 × 1 device(s)"),
        ("batch", {"size": 0, "micro": 16}, "'batch.size' must be 1 or more, not 0."),
        ("runtime__precision", "8-bit", "'runtime.precision': Invalid value '8-bit', expected one of ['32-true',"),
        ("runtime__devices", 0, "'runtime.devices' must be 1 or more, not 0."),
        ("task", "imag", "there is no task 'imag'. Did you mean 'image'?"),
        ("seed", None, "'seed': Incompatible value 'None'"),
        ("seed", -1, "'seed' must be 0 or more, not -1."),
        ("a." * 600 + "b", 1, "nested too deeply"),
    ],
)
def test_invalid_values_are_named_in_one_line(key, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        small_config(**{key: value})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("test: ")
    assert caught.value.exit_code == 2


def test_explicit_options_win_over_a_preset():
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
        ("model__expansion", 4),  # the default, said aloud
        ("optimizer__clip_norm", None),
        ("optimizer__preset", "printed"),
    ],
)
def test_what_changes_no_result_is_not_in_the_id(key, value):
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
def test_what_changes_a_result_is_in_the_id(key, value):
    assert cell_id(small_config(**{key: value})) != cell_id(small_config())


def test_an_id_names_task_optimizer_and_seed():
    assert cell_id(small_config(seed=12)).startswith("image-novograd-s12-")
    first, second = (cell_id(small_config(seed=seed)).rsplit("-", 1)[1] for seed in (0, 1))
    assert first == second


def test_a_config_survives_its_own_yaml(tmp_path):
    config = small_config(optimizer__decay_factors={"@norm": 0.0})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert resolve(load_tree(tmp_path / "config.yaml"), "again") == config


def config_classes() -> list[type]:
    """`CellConfig`, the tasks' configs, the optimizers' options, and all dataclasses inside them."""
    to_visit: list[Any] = [CellConfig, ScheduleSpec, *(entry.options for entry in registry.entries())]
    for task in task_names():
        to_visit += [task_config(task).MODEL, task_config(task).DATA]
    classes: list[type] = []
    while to_visit:
        kind = to_visit.pop()
        to_visit += get_args(kind)
        if dataclasses.is_dataclass(kind) and kind not in classes:
            classes.append(kind)
            to_visit += get_type_hints(kind).values()
    return [kind for kind in classes if kind.__module__.startswith("novobench.")]


@pytest.mark.parametrize("kind", config_classes(), ids=lambda kind: kind.__name__)
def test_every_field_is_explained(kind):
    """A text follows each field where it is declared, in the class or in its base."""
    declarations = [ast.parse(inspect.getsource(cls)).body[0] for cls in kind.__mro__ if dataclasses.is_dataclass(cls)]
    explained = {
        node.target.id
        for declaration in declarations
        for node, text in pairwise(declaration.body)
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    assert {field.name for field in dataclasses.fields(kind)} - explained == set()


def test_a_config_cannot_be_changed():
    config = small_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optimizer.lr = 3.0


def test_the_data_root_is_an_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    assert data_root(small_config()) == tmp_path
