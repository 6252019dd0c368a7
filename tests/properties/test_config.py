"""Overrides: what is set is what is read, later ones win, and a config survives its own YAML."""

import json
import string
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from novobench.config import cell_id, to_yaml
from novobench.config_loading import load_tree, override, parse_overrides
from novobench.tasks.catalog import resolve
from tests.cells import small_config
from tests.properties import bounded

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=3)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="$\ufeff"))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = NUMBERS | TEXTS
VALUES = LEAVES | st.lists(LEAVES, min_size=1, max_size=3)


def disjoint(keys: list[str]) -> list[str]:
    """Those keys that neither contain an earlier one nor lie in it."""
    chosen: list[str] = []
    for key in keys:
        if not any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in chosen):
            chosen.append(key)
    return chosen


@bounded
@given(st.lists(KEYS, min_size=1, max_size=5).map(disjoint), st.data())
def test_each_key_that_is_set_is_read_back(keys, data):
    changes = {key: data.draw(VALUES) for key in keys}
    tree = OmegaConf.create({"untouched key": {"a": 1}})
    changed = override(tree, changes, "here")
    for key, value in changes.items():
        assert OmegaConf.to_container(OmegaConf.create({"value": OmegaConf.select(changed, key)})) == {"value": value}
    assert changed["untouched key"] == {"a": 1}
    assert tree == {"untouched key": {"a": 1}}


@bounded
@given(st.lists(KEYS, min_size=1, max_size=5).map(disjoint), st.data())
def test_the_order_of_disjoint_keys_does_not_matter(keys, data):
    changes = {key: data.draw(VALUES) for key in keys}
    reversed_changes = dict(reversed(changes.items()))
    empty = OmegaConf.create({})
    assert override(empty, changes, "here") == override(empty, reversed_changes, "here")


@bounded
@given(KEYS, st.lists(VALUES, min_size=1, max_size=4))
def test_the_last_of_repeated_overrides_wins(key, values):
    arguments = [f"{key}={json.dumps(value, ensure_ascii=False)}" for value in values]
    assert parse_overrides(arguments) == {key: parse_overrides(arguments[-1:])[key]}


@bounded
@given(KEYS, TEXTS | st.integers(-(2**53), 2**53))
def test_quoted_text_and_integers_are_read_as_they_are(key, value):
    assert parse_overrides([f"{key}={json.dumps(value, ensure_ascii=False)}"]) == {key: value}


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31),
        "optimizer__lr": st.floats(0.0, 1e6),
        "optimizer__weight_decay": st.floats(0.0, 1.0),
        "optimizer__clip_norm": st.none() | st.floats(1e-9, 1e9),
        "optimizer__options__betas": st.lists(st.floats(0.0, 0.999), min_size=2, max_size=2),
        "optimizer__decay_factors": st.dictionaries(NAMES, st.floats(0.0, 10.0), max_size=2),
        "schedule__milestones": st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3).map(sorted),
        "model__widths": st.lists(st.integers(1, 64), min_size=2, max_size=2),
        "data__path": TEXTS,
        "runtime__deterministic": st.booleans(),
    },
)


@settings(bounded, max_examples=15)  # each one resolves two whole configs
@given(CHANGES)
def test_a_config_survives_its_own_yaml(tmp_path_factory, changes):
    config = small_config(**changes)
    path: Path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    again = resolve(load_tree(path), "again")
    assert again == config
    assert cell_id(again) == cell_id(config)
