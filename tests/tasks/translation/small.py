"""Small cells for the tests: the laptop recipe with a narrow net, 600 sentences and a few updates."""

from pathlib import Path

from novobench import places
from novobench.config import CellConfig, to_yaml
from novobench.config_loading import load_tree, override
from novobench.files import write_text
from novobench.tasks.catalog import resolve
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
