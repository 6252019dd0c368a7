"""The loader: what it accepts, what it refuses, and what makes a cell's identity."""

import dataclasses

import pytest
import yaml

from novobench.config import (
    BatchConfig,
    CellConfig,
    cell_id,
    data_root,
    load_tree,
    override,
    parse_budget,
    parse_overrides,
    read_yaml,
    to_yaml,
)
from novobench.errors import ConfigError
from novobench.tasks.catalog import epoch_updates, epochs, resolve, total_updates
from tests.cells import small_config

# ------------------------------------------------------------------------------------ files


def test_base_files_lie_below(tmp_path):
    (tmp_path / "ground.yaml").write_text("a: 1\nb: {c: 2, d: 3}\n")
    (tmp_path / "middle.yaml").write_text("base: ground.yaml\nb: {c: 20}\n")
    (tmp_path / "top.yaml").write_text("base: middle.yaml\na: 100\n")
    assert load_tree(tmp_path / "top.yaml") == {"a": 100, "b": {"c": 20, "d": 3}}


def test_a_circle_of_bases_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match="goes round in a circle"):
        load_tree(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [1, 2", "is not valid YAML"),
        ("- 1\n- 2\n", "must hold a mapping, not list"),
        ("a: ${b}\nb: 1\n", "configs are pure data"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_files_that_are_no_configs(content, reason, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=reason) as found:
        read_yaml(path)
    assert "bad.yaml" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "laptop.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="Did you mean 'laptop.yaml'"):
        read_yaml(tmp_path / "labtop.yaml")


def test_small_floats_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1e-4\nb: 1.0e-4\nc: 2E3\nd: 12e9tokens\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1e-4, "b": 1e-4, "c": 2000.0, "d": "12e9tokens"}


# ------------------------------------------------------------------------------------ overrides


def test_overrides_from_the_command_line():
    assert parse_overrides(["a.b=1e-3", "c=[1, 2]", "d=text", "e=null", "f="]) == {
        "a.b": 1e-3,
        "c": [1, 2],
        "d": "text",
        "e": None,
        "f": None,
    }


@pytest.mark.parametrize("word", ["optimizer.lr", "=1", "a=[1,", "a=${b}"])
def test_words_that_are_no_overrides(word):
    with pytest.raises(ConfigError):
        parse_overrides([word])


def test_an_override_leaves_its_tree_alone():
    from omegaconf import OmegaConf

    tree = OmegaConf.create({"a": {"b": [1, 2]}})
    assert override(tree, {"a.b[0]": 7}, "here") == {"a": {"b": [7, 2]}}
    assert tree == {"a": {"b": [1, 2]}}
    with pytest.raises(ConfigError, match=r"here: cannot set 'a.b\[5\]'"):
        override(tree, {"a.b[5]": 7}, "here")


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
    ],
)
def test_wrong_words_end_in_one_line_that_names_them(key, value, reason):
    with pytest.raises(ConfigError, match=reason) as found:
        small_config(**{key: value})
    assert "\n" not in str(found.value)
    assert str(found.value).startswith("test: ")
    assert found.value.exit_code == 2


def test_a_preset_gives_options_and_explicit_ones_win():
    config = small_config(optimizer__preset="os2s")
    assert tuple(config.optimizer.options.betas) == (0.95, 0.0)
    assert config.optimizer.options.eps_inside_sqrt
    config = small_config(optimizer__preset="os2s", optimizer__options__betas=[0.9, 0.5])
    assert tuple(config.optimizer.options.betas) == (0.9, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100ep", (100, "ep")), ("100000steps", (1e5, "steps")), ("12e9tokens", (12e9, "tokens")), ("1.5ep", (1.5, "ep"))],
)
def test_budgets(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["100", "ep", "-3ep", "1e3", "3 epochs", "nanep", ""])
def test_budgets_without_sense(text):
    with pytest.raises(ConfigError):
        parse_budget(text)


def test_updates_are_counted_from_the_config():
    config = small_config(budget="3ep", batch={"size": 64, "micro": 16})
    assert epoch_updates(config) == 1040 // 64 == 16
    assert total_updates(config) == 48
    assert epochs(config) == 3.0
    assert total_updates(small_config(budget="3ep", batch={"size": 64, "micro": 16}, data__tail="wrap")) == 3 * 17


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
        ("data__test_copies", 2),
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


def test_every_field_is_explained():
    """A docstring or a group comment for each field of the shared config is there for who reads the YAML."""
    assert {field.name for field in dataclasses.fields(BatchConfig)} == {"size", "micro"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config().seed = 3
    assert yaml.safe_load(to_yaml(small_config()))["batch"] == {"size": 32, "micro": 16}
    assert isinstance(small_config(), CellConfig)


def test_the_data_root_is_an_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    assert data_root(small_config()) == tmp_path
