"""Small cells for the tests: the laptop recipe with a narrow net, few sentences and a few updates."""

from pathlib import Path

import pytest

from novobench import places
from novobench.config import CellConfig, to_yaml
from novobench.config_loading import load_tree, override, parse_overrides
from novobench.errors import DataError
from novobench.files import write_text
from novobench.tasks.catalog import resolve
from novobench.tasks.sampling import SampleKey
from novobench.tasks.translation.data import PackedPairs, TranslationBatch, open_pairs
from novobench.training.run_folder import RunFolder

SMALL = {
    "task": "translation",
    "seed": 0,
    "budget": "8steps",
    "batch": {"size": 1024, "micro": 512},
    "model.vocabulary": 200,
    "model.width": 16,
    "model.feed_forward": 32,
    "model.heads": 2,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.dropout": 0.1,
    "data.train_size": 600,
    "data.search_size": 12,
    "data.test_size": 12,
    "data.extra_output": 5,
    "data.max_output": 120,
    "data.neighbours": False,
    "optimizer.name": "novograd",
    "optimizer.lr": 0.01,
    "optimizer.weight_decay": 0.001,
    "schedule.name": "cosine",
    "runtime.curve_points": 2,
    "runtime.checkpoint_every": 3,
    "runtime.log_every": 1,
    "runtime.accelerator": "cpu",
}


def small_config(**changes: object) -> CellConfig:
    """A cell of eight updates; `changes` are dotted keys with `__` for the dot."""
    tree = load_tree(places.workspace().task_config("translation", "laptop"))
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve(override(tree, {**SMALL, **dotted}, "test"), "test")


def small_cell(path: Path, **changes: object) -> RunFolder:
    """A run folder with its config, ready to be trained."""
    folder = RunFolder(path)
    write_text(folder.config, to_yaml(small_config(**changes)))
    return folder


# ------------------------------------------------------------------------------------ sentences of the built-in corpus

TRAIN, SEARCH, TEST = 600, 40, 30


def corpus_config(**changes: object) -> CellConfig:
    """The built-in corpus; the fixture `root` has the same sentences as files and as a hub data set."""
    settings = {"data__train_size": TRAIN, "data__search_size": SEARCH, "data__test_size": TEST, "budget": "4steps"}
    return small_config(**{**settings, **changes})


def files(**changes: object) -> CellConfig:
    """The text files of the fixture `root`."""
    return corpus_config(**{"data__source": "files", "data__name": "text", "data__path": "text", **changes})


def hub(**changes: object) -> CellConfig:
    """The parquet files of the fixture `root`."""
    return corpus_config(
        **{"data__source": "hub", "data__name": "text", "data__path": "hub", "data__hub_config": "", **changes}
    )


def batches(packed: PackedPairs, epoch: int) -> list[TranslationBatch]:
    """All micro-batches of an epoch."""
    return [packed[SampleKey(epoch, i)] for i in range(len(packed))]


# ------------------------------------------------------------------------------------ 18 pairs

_NUMBERS, _THINGS = ("one", "two", "three"), ("birds", "fish", "trees")
_ZAHLEN, _DINGE = ("ein", "zwei", "drei"), ("Vögel", "Fische", "Bäume")
ENGLISH = [f"the {who} sees {n} {what}" for who in ("cat", "dog") for n in _NUMBERS for what in _THINGS]
GERMAN = [f"{who} sieht {n} {what}" for who in ("die Katze", "der Hund") for n in _ZAHLEN for what in _DINGE]
TINY_SIZES = {"train": len(ENGLISH), "validation": 3, "test": 2}


def write_pairs(root: Path, split: str, english: list[str], german: list[str]) -> None:
    for language, lines in (("en", english), ("de", german)):
        (root / "text" / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))


def tiny_files(**changes: object) -> CellConfig:
    """The text files of the fixture `tiny_root`."""
    settings = {"data__source": "files", "data__name": "text", "model__vocabulary": 60, "budget": "4steps"}
    settings |= {f"data__{name}_size": TINY_SIZES[split] for name, split in _SPLITS.items()}
    return small_config(**{**settings, "batch": {"size": 256, "micro": 256}, **changes})


_SPLITS = {"train": "train", "search": "validation", "test": "test"}


def error_message(config: CellConfig, root: Path) -> str:
    """The message of the DataError that opening the data raises: one line."""
    with pytest.raises(DataError) as caught:
        open_pairs(config, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def proposed_changes(message: str) -> dict:
    """The overrides that a message proposes, as keyword arguments of `tiny_files`."""
    options = parse_overrides(message.partition("--set ")[2].partition(" at least")[0].split())
    return {key.replace(".", "__"): value for key, value in options.items()}
