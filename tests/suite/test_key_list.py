"""`novobench config KEYS`: every key that a config has, each with a meaning."""

import dataclasses
from typing import Annotated, Literal

import pytest

from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.suite.key_list import field_docstrings, keys, type_text
from novobench.tasks.catalog import task_names
from tests.cells import small_config

TOPICS = ["", "optimizer", *task_names()]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_key_has_a_type_and_a_meaning(topic):
    for key in keys(topic):
        assert key.kind, key.name
        assert len(key.meaning) > 5, f"{key.name} has no docstring"


def dotted(value, prefix=""):
    """The keys of a resolved config, without entries of lists and mappings."""
    for spec in dataclasses.fields(value):
        entry = getattr(value, spec.name)
        if dataclasses.is_dataclass(entry):
            yield from dotted(entry, f"{prefix}{spec.name}.")
        else:
            yield prefix + spec.name


@pytest.mark.parametrize("task", ["image", "language", "speech"])
def test_the_lists_together_hold_every_key_of_a_config(task):
    listed = {key.name for topic in ("", "optimizer", task) for key in keys(topic)}
    parts = ("optimizer.options.", "optimizer.others.options.")
    assert {key for key in dotted(small_config(task)) if not key.startswith(parts)} <= listed


def test_types_are_readable():
    assert type_text(Annotated[int, "[1, inf)"]) == "int [1, inf)"
    assert type_text(Annotated[float, "(0, inf)"] | None) == "float (0, inf) or null"
    assert type_text(Literal["clip", "scale"]) == "clip | scale"
    assert type_text(list[str]) == "list of text"
    assert type_text(dict[str, Annotated[int, "[1, inf)"]]) == "mapping to int [1, inf)"


@dataclasses.dataclass(frozen=True)
class Example:
    first: int
    """A docstring
    of two lines."""
    second: int = 1
    third: int = 2
    """Of the third."""


@dataclasses.dataclass(frozen=True)
class Derived(Example):
    fourth: int = 3
    """Of the fourth."""


def test_the_docstring_of_a_field_is_the_string_below_it():
    own = {"first": "A docstring of two lines.", "second": "", "third": "Of the third."}
    assert field_docstrings(Example) == own
    assert field_docstrings(Derived) == own | {"fourth": "Of the fourth."}
    assert set(field_docstrings(CellConfig)) == {spec.name for spec in dataclasses.fields(CellConfig)}


def test_the_command(novobench):
    code, out, _ = novobench("config", "keys", "speech")
    assert code == 0
    assert "data.features.sample_rate  (int [100, inf); default 16000; at laptop scale 22050)\n    Of the r" in out
    assert "data.train_size  (int [1, inf); default 281241; at laptop scale 3000)" in out
    assert "model.blocks[].kernel  (int [1, inf); must be set)\n    Frames; odd" in out
    code, out, _ = novobench("config", "KEYS", "optimizer", "--scale", "gpu")
    assert code == 0
    assert "optimizer.options of novograd:" in out
    assert "batch.size  (int [1, inf); must be set)" in novobench("config", "KEYS")[1]
    with pytest.raises(ConfigError, match="KEYS: there is no topic 'speach'. Did you mean 'speech'"):
        keys("speach")
