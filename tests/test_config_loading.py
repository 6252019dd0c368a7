"""Loading of configs: files merged over their `base:`, overrides by dotted keys, and the errors of both."""

import pytest
from omegaconf import OmegaConf

from novobench import places
from novobench.config import to_yaml
from novobench.config_loading import load_tree, override, parse_overrides, read_yaml
from novobench.errors import ConfigError
from novobench.tasks.catalog import load_task, resolve
from tests.cells import SHARED

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


@pytest.mark.parametrize("content", ["base: ground.yaml\ndata: []\n", "data: [1]\n"])
def test_a_list_instead_of_a_mapping_is_named(content, tmp_path):
    (tmp_path / "ground.yaml").write_text("data: {mean: [0.5]}\n")
    (tmp_path / "top.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"top.yaml: 'data' must be a mapping, not a list"):
        load_task("image", tmp_path / "top.yaml")


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
