"""Scalars of YAML keep their text until the field that they are for determines their type."""

import pytest
import yaml
from omegaconf import OmegaConf

from novobench.config import to_yaml
from novobench.config_loading import load_tree, parse_overrides, read_yaml
from novobench.errors import ConfigError
from novobench.tasks.catalog import resolve
from novobench.yaml_text import untyped_value
from tests.cells import small_config

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
