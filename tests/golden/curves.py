"""The small trainings whose losses are kept as golden curves: one CSV file per task, one column per optimizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from novobench.files import read_csv, write_csv
from novobench.training import cell
from tests.cells import small_cell
from tests.tasks.translation.small import small_cell as small_translation_cell

UPDATES = 20
RELATIVE_TOLERANCE = 1e-3
"""How far a loss may be from the golden one.

Other processors and versions of torch sum in another order, and each update amplifies the rounding error. Measured over
20 updates of every curve, two threads instead of one, AVX2 or no vector instructions instead of AVX-512
(ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA) change a loss by at most 3e-5, and so does float64, except in translation,
where attention draws another dropout mask for it. The changes in `test_a_changed_recipe_is_noticed` move it by more
than the tolerance.
"""

RATES: dict[str, dict[str, float]] = {  # all with decay: alone, rounding noise as a gradient makes Adam take full steps
    "sgd": {"optimizer__lr": 0.02, "optimizer__weight_decay": 1e-3},
    "adam": {"optimizer__lr": 0.005, "optimizer__weight_decay": 1e-3},
    "adamw": {"optimizer__lr": 0.005, "optimizer__weight_decay": 0.1},
    "lars": {"optimizer__lr": 5.0, "optimizer__weight_decay": 1e-3},
    "novograd": {"optimizer__lr": 0.02, "optimizer__weight_decay": 1e-3},
}
TASKS: dict[str, dict[str, Any]] = {
    "image": {},
    "language": {"batch": {"size": 2048, "micro": 1024}},  # 16 updates per epoch: the streams begin again in the curve
    "speech": {},
    "translation": {},
}
CURVES = [
    (task, optimizer)
    for task, optimizers in {
        "image": ("sgd", "adamw", "lars", "novograd"),
        "language": ("adam", "adamw", "novograd"),
        "speech": ("sgd", "adam", "novograd"),
        "translation": ("adam", "adamw", "novograd"),
    }.items()
    for optimizer in optimizers
]
"""Each task with the optimizers that the experiments train it with."""


def train(task: str, optimizer: str, path: Path, **changes: Any) -> list[float]:
    """Train a small cell (one training run) in the folder `path` and return the training loss of each update.

    It has all that a recipe may have: warm-up, decay, accumulation, clipping, weight decay, dropout and augmentation.
    `changes` override its config: dotted keys with `__` for the dot.
    """
    settings = {
        "budget": f"{UPDATES}steps",
        "purpose": "search",  # evaluates no test set
        "optimizer__name": optimizer,
        "optimizer__clip_norm": 2.0,
        "schedule__warmup": "4steps",
        "runtime__curve_points": 0,
        "runtime__checkpoint_every": UPDATES,
        **RATES[optimizer],
        **TASKS[task],
        **changes,
    }
    folder = small_translation_cell(path, **settings) if task == "translation" else small_cell(path, task, **settings)
    cell.run(folder.path)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


def golden_file(task: str) -> Path:
    return Path(__file__).parent / f"{task}.csv"


def read(task: str, optimizer: str) -> list[float]:
    """The golden losses."""
    return [float(row[optimizer]) for row in read_csv(golden_file(task))]


def write(task: str, curves: dict[str, list[float]]) -> None:
    """Replace a task's golden losses; `curves` has those of each optimizer."""
    rows = [
        {"update": update, **{optimizer: f"{loss:.8g}" for optimizer, loss in zip(curves, losses, strict=True)}}
        for update, losses in enumerate(zip(*curves.values(), strict=True), start=1)
    ]
    write_csv(golden_file(task), ["update", *curves], rows)


def first_difference(losses: list[float], golden: list[float]) -> str:
    """The first update whose loss is outside the tolerance, in words; empty if there is none."""
    if len(losses) != len(golden):
        return f"{len(losses)} updates instead of {len(golden)}"
    for update, (loss, expected) in enumerate(zip(losses, golden, strict=True), start=1):
        if not abs(loss - expected) <= RELATIVE_TOLERANCE * abs(expected):  # also for NaN
            return f"update {update}: loss {loss:.8g} instead of {expected:.8g}"
    return ""
