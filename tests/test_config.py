"""Configs: what the loader accepts and rejects, and which values make a cell's id."""

import ast
import dataclasses
import inspect
import re
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from omegaconf import OmegaConf

from novobench import places
from novobench.budget import parse_budget
from novobench.config import CellConfig, cell_id, data_root, to_yaml
from novobench.config_loading import load_tree, override, parse_overrides, read_yaml
from novobench.errors import ConfigError
from novobench.optim import registry
from novobench.optim.schedules import ScheduleSpec
from novobench.tasks.catalog import load_task, resolve, task_config, task_names
from novobench.yaml_text import untyped_value
from tests.cells import SHARED, small_config

# ------------------------------------------------------------------------------------ files


def test_files_are_merged_over_their_base(tmp_path):
    (tmp_path / "ground.yaml").write_text("a: 1\nb: {c: 2, d: 3}\n")
    (tmp_path / "middle.yaml").write_text("base: ground.yaml\nb: {c: 20}\n")
    (tmp_path / "top.yaml").write_text("base: middle.yaml\na: 100\n")
    assert load_tree(tmp_path / "top.yaml") == {"a": 100, "b": {"c": 20, "d": 3}}


def test_a_circle_of_base_files_is_named(tmp_path):
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
        ("a: !!timestamp x\n", "is not valid YAML: line 1"),
        ("a: [2020-13-45]\n", "is not valid YAML: line 1: 2020-13-45 looks like a date but is not a valid one"),
        ("a: &a [*a]\n", "is not valid YAML: it is nested too deeply, or an alias"),
        ("a: " + "[" * 2000, "is not valid YAML: it is nested too deeply"),
        ("[a]: 1\n", "a key must be a scalar"),
    ],
)
def test_invalid_config_files(content, reason, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_yaml(path)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_suggests_a_similar_name(tmp_path):
    (tmp_path / "laptop.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="Did you mean 'laptop.yaml'"):
        read_yaml(tmp_path / "labtop.yaml")


WORDS = [
    "no", "on", "yes", "off", "n", "y", "NO", "0123", "007", "12:30", "1_000", "0x1f", "0o17", "2021-10-01", "1e3",
    "1.10", "2024", "0.5", "-0", "+5", "1.", ".5", "1e-05", "inf", "nan", ".inf", "true", "False", "a=b", "a:b",
    "12345678901234567890",
]  # fmt: skip
"""What YAML 1.1 or 1.2 takes for a truth value, a number, a date or a time, or what Python would write otherwise."""


def speech(**changes):
    return small_config("speech", **{"data__source": "manifest", "data__name": "mine", **changes}).data


@pytest.mark.parametrize("word", WORDS)
def test_scalars_keep_their_text_in_text_fields(word, tmp_path):
    (tmp_path / "a.yaml").write_text(f"name: {word}\nlist: [{word}]\nvalues: {{a: {word}}}\n'keys': {{{word}: a}}\n")
    tree = load_tree(tmp_path / "a.yaml")
    given = parse_overrides([f"name={word}", f"list=[{word}]", f"values={{a: {word}}}", f"keys={{{word}: a}}"])
    for source in (tree, given):
        data = speech(
            data__hub_config=source["name"],
            data__train_splits=source["list"],
            data__split_names={**source["values"], **source["keys"]},
        )
        assert data.hub_config == word
        assert data.train_splits == [word]
        assert data.split_names == {"a": word, word: "a"}
    config = small_config("speech", data__source="hub", data__name=word, data__split_names={"a": word, word: "a"})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert resolve(load_tree(tmp_path / "config.yaml"), "again") == config
    for read in (yaml.safe_load, lambda text: OmegaConf.to_container(OmegaConf.create(text))):
        assert read(to_yaml(config))["data"]["name"] == word


@pytest.mark.parametrize(
    ("word", "number"),
    [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("2E3", 2000.0), ("1e3", 1000.0), ("3", 3.0), ("0.50", 0.5), (".5", 0.5)],
)
def test_scalars_become_numbers_in_number_fields(word, number, tmp_path):
    (tmp_path / "a.yaml").write_text(f"a: {word}\nb: [{word}]\n")
    tree = load_tree(tmp_path / "a.yaml")
    assert small_config(optimizer__lr=tree.a).optimizer.lr == number
    assert small_config(optimizer__lr=parse_overrides([f"a={word}"])["a"]).optimizer.lr == number
    assert speech(data__speeds=tree.b).speeds == [number]


def test_integers_booleans_and_numeric_choices_from_text():
    config = small_config(**{"data__flip": "true", "model__stem_pool": "False", "data__test_size": "0597"})
    assert (config.data.flip, config.model.stem_pool, config.data.test_size) == (True, False, 597)
    config = small_config(
        **{key.replace(".", "__"): v for key, v in parse_overrides(["schedule.warmup_counts_from=0"]).items()}
    )
    assert config.schedule.warmup_counts_from == 0
    with pytest.raises(ConfigError, match=r"'data.flip'.*'maybe'"):
        small_config(data__flip="maybe")


def test_options_of_a_class_outside_the_registry_follow_yaml_1_2():
    """No field says their type: torch's own class by its path stands for one."""
    words = ["lr=1e-2", "eps=1e-3", "nesterov=true", "momentum=9e-1", "dampening=0", "foreach=null"]
    given = {f"optimizer__options__{key}": value for key, value in parse_overrides(words[2:]).items()}
    options = small_config(optimizer__name="torch.optim:SGD", **given).optimizer.options
    assert (options.nesterov, options.momentum, options.dampening, options.foreach) == (True, 0.9, 0, None)
    assert [type(x) for x in (options.nesterov, options.momentum, options.dampening)] == [bool, float, int]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("0123", 123), ("-7", -7), ("0x1f", 31), ("0o17", 15), ("1e3", 1000.0), ("-1.5", -1.5), (".5", 0.5),
        ("1.", 1.0), (".inf", float("inf")), ("-.inf", -float("inf")), ("true", True), ("FALSE", False), ("no", "no"),
        ("1_000", "1_000"), ("12:30", "12:30"), ("2021-10-01", "2021-10-01"), ("inf", "inf"), ("nan", "nan"), ("", ""),
    ],
)  # fmt: skip
def test_the_core_schema_of_yaml_1_2(text, value):
    """Section 10.3.2 of the specification."""
    assert untyped_value(text) == value
    assert type(untyped_value({"a": [text]})["a"][0]) is type(value)


@pytest.mark.parametrize(
    ("content", "line", "first"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1),
        ("a: {b: 1,\n c: 2, b: 3}\n", 2, 1),
        ("a:\n- {b: 1}\n- {b: 1,\n   'b': 2}\n", 4, 3),
        ("1: a\n'1': b\n", 2, 1),
        ("a: &x {b: 1}\nc: &y {b: 1}\nd:\n  <<: *x\n  <<: *y\n", 5, 4),
    ],
)
def test_duplicate_keys(content, line, first, tmp_path):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match=f"a.yaml is not valid YAML: line {line}: the key .* line {first};") as caught:
        load_tree(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_merge_keys_may_be_overridden(tmp_path):
    content = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 0}\nd: {<<: [*c, *a], z: 9}\n"
    (tmp_path / "a.yaml").write_text(content.replace("*c", "*b"))
    assert read_yaml(tmp_path / "a.yaml") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 0, "y": 3},
        "d": {"x": 1, "y": 3, "z": 9},
    }


# ------------------------------------------------------------------------------------ overrides


def test_overrides_from_the_command_line():
    words = ["a.b=0.001", "c=[1, 2]", "d=text", "e=null", "f=", "g='null'", "h=C: #1, a", "i= a'", "c=[3]"]
    assert parse_overrides(words) == {
        "a.b": 0.001,
        "d": "text",
        "e": None,
        "f": None,
        "g": "null",
        "h": "C: #1, a",
        "i": " a'",
        "c": [3],
    }


@pytest.mark.parametrize(
    "word", ["optimizer.lr", "=1", "a=[1,", "a=${b}", r'a="\x24{b}"', "a={b: 1, b: 2}", "a=[1,\n2"]
)
def test_invalid_overrides(word):
    with pytest.raises(ConfigError) as caught:
        parse_overrides([word])
    assert "\n" not in str(caught.value)


def test_an_override_leaves_its_tree_unchanged():
    from omegaconf import OmegaConf

    tree = OmegaConf.create({"a": {"b": [1, 2]}})
    assert override(tree, {"a.b[0]": 7}, "here") == {"a": {"b": [7, 2]}}
    assert tree == {"a": {"b": [1, 2]}}
    with pytest.raises(ConfigError, match=r"here: cannot set 'a.b\[5\]'"):
        override(tree, {"a.b[5]": 7}, "here")


def test_an_empty_mapping_removes_the_one_below(tmp_path):
    (tmp_path / "ground.yaml").write_text("a: {b: 1, c: {d: 2}}\ne: {f: 1, g: {h: 2}}\n")
    (tmp_path / "top.yaml").write_text("base: ground.yaml\na: {}\ne: {g: {}}\n")
    tree = load_tree(tmp_path / "top.yaml")
    assert tree == {"a": {}, "e": {"f": 1, "g": {}}}
    below = load_tree(tmp_path / "ground.yaml")
    assert override(below, {"a": {}}, "here") == {"a": {}, "e": {"f": 1, "g": {"h": 2}}}
    assert override(below, {"a": {"c": {}}, "a.x": 3}, "here").a == {"b": 1, "c": {}, "x": 3}
    assert override(below, {"a": {}, "a.x": 3}, "here").a == {"x": 3}
    assert override(below, parse_overrides(["a.c={}", "a.c.k=1"]), "here").a == {"b": 1, "c": {"k": 1}}
    assert override(below, {"new": {}}, "here").new == {}


def test_an_emptied_mapping_stays_empty_in_the_cell(tmp_path):
    """Also where the field has a default, and when the cell reads its own config."""
    tree = load_task("speech", places.workspace().task_config("speech", "full"))
    assert set(tree.data.set_sizes) == {"dev-clean", "dev-other", "test-clean", "test-other"}
    tree = override(
        tree, {**SHARED, "task": "speech", "budget": "8ep", "data.name": "mine", "runtime.precision": "32-true"}, "test"
    )
    wider = resolve(override(tree, parse_overrides(["data.set_sizes.more=5"]), "test"), "test")
    assert wider.data.set_sizes["more"] == 5
    assert wider.data.set_sizes["dev-clean"] == 2703
    sets = ["data.search_set=dev", "data.dev_sets=[]", "data.test_sets=[test]"]
    words = ["data.set_sizes={}", "data.set_sizes.dev=2", "data.set_sizes.test=3"]
    config = resolve(override(tree, parse_overrides([*sets, *words]), "test"), "test")
    assert config.data.set_sizes == {"dev": 2, "test": 3}
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert resolve(load_tree(tmp_path / "config.yaml"), "again") == config


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100ep", (100, "ep")), ("100000steps", (1e5, "steps")), ("12e9tokens", (12e9, "tokens")), ("1.5ep", (1.5, "ep"))],
)
def test_budgets(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["100", "ep", "-3ep", "1e3", "3 epochs", "nanep", ""])
def test_invalid_budgets(text):
    with pytest.raises(ConfigError):
        parse_budget(text)


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
    """A text follows each field where it is declared."""
    [declaration] = ast.parse(inspect.getsource(kind)).body
    explained = {
        node.target.id
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


@pytest.mark.parametrize("content", ["base: ground.yaml\ndata: []\n", "data: [1]\n"])
def test_a_list_instead_of_a_mapping_is_named(content, tmp_path):
    (tmp_path / "ground.yaml").write_text("data: {mean: [0.5]}\n")
    (tmp_path / "top.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"top.yaml: 'data' must be a mapping, not a list"):
        load_task("image", tmp_path / "top.yaml")
