"""The config of one cell (one training run): its fields, the arithmetic of its budget, and its id.

`config_loading.py` reads YAML, `schema.py` checks it against these dataclasses. Fields with `metadata=PRACTICAL` do not
change a result, so they are not part of a cell's id. This module imports no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from novobench import places, yaml_text
from novobench.budget import parse_budget
from novobench.errors import ConfigError, suggestion
from novobench.ranges import FileName, Name, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

SCALES = ("laptop", "gpu", "full")
_SCALE_ALIASES = {"paper": "full"}

PRACTICAL: dict[str, Any] = {"scientific": False}
"""Metadata of a field that changes no result: it is not part of a cell's id."""


@dataclass(frozen=True)
class BatchConfig:
    """`size` = `micro` × devices × accumulation. The accumulation is derived, so devices never change the recipe."""

    size: PositiveInt
    """Effective batch: samples per weight update."""
    micro: PositiveInt
    """Samples per forward pass. Batch norm takes its statistics over these (ghost batch norm; paper §4.2 uses 128)."""


@dataclass(frozen=True)
class OthersConfig:
    """The optimizer of the parameters that `optimizer` does not take, because of their roles."""

    name: str = "adamw"
    """A name in the registry, `package.module:Class` or `./file.py:Class`."""
    code: str = ""
    """As `optimizer.code`, for this name."""
    lr_ratio: PositiveFloat = 1.0
    """Its learning rate as a share of the optimizer's, at every update if both follow the schedule."""
    weight_decay: NonNegativeFloat | None = None
    """Its decay coefficient, before `decay_factors` and the schedule. None: the optimizer's."""
    options: Any = field(default_factory=dict)
    """Its own options, checked against its registry entry."""


@dataclass(frozen=True)
class OptimizerConfig:
    name: str
    """A name in the registry (see `novobench list optimizers`), `package.module:Class` or `./file.py:Class`."""
    lr: NonNegativeFloat
    """Base learning rate, before the schedule."""
    code: str = ""
    """No config may set it. For an optimizer named by its path: 10 hex digits of the sha256 of the source file that
    defines the class, so that an edited class trains new cells. It does not cover what that file imports. Empty for
    names in the registry."""
    lr_factor: PositiveFloat = 1.0
    """Multiplies `lr`: linear scaling with the batch (Goyal et al., 2017) from a rate tuned for a smaller one."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay coefficient, before `decay_factors` and the schedule."""
    preset: str | None = field(default=None, metadata=PRACTICAL)
    """A named set of options, e.g. `os2s`; explicit options win. Not in the id, but the resulting options are."""
    options: Any = field(default_factory=dict)
    """The optimizer's own options, checked against its registry entry."""
    decay_factors: dict[str, NonNegativeFloat] = field(default_factory=dict)
    """Ordered pattern -> factor on `weight_decay`; the first match wins, no match means 1. E.g. `{'@norm': 0}`."""
    clip_norm: PositiveFloat | None = None
    """Clip the global gradient norm to this value; one policy for all rows of a table."""
    larc_trust: PositiveFloat | None = None
    """Layer-wise adaptive rate clipping with this trust coefficient (paper §4.3), of the gradient and its L2 decay."""
    larc_mode: Literal["clip", "scale"] = "clip"
    """`clip` can only shrink a gradient; `scale` gives each layer's gradient the norm trust × ‖w‖."""
    outlier_updates: list[NonNegativeInt] = field(default_factory=list)
    """Updates, from 0, whose gradients are multiplied by `outlier_factor` before guard, clipping and step: a test of
    robustness to outliers."""
    outlier_factor: PositiveFloat = 1000.0
    """Multiplies the gradients of `outlier_updates`."""
    roles: list[Name] | None = None
    """The roles of the parameters that the optimizer takes: `matrix`, `embedding`, `head`, `norm_bias`. None: those of
    its registry entry. `others` takes the rest."""
    role_patterns: dict[str, Name] = field(default_factory=dict)
    """Ordered pattern -> role, with the patterns of `decay_factors`; the first match wins over the task's own roles."""
    others: OthersConfig = field(default_factory=OthersConfig)
    """The optimizer of the parameters of other roles."""


@dataclass(frozen=True)
class RuntimeConfig:
    """How a training runs. The fields of the first group change results and are part of the id; the others are not."""

    threads: PositiveInt = 1
    """CPU threads per process. Another number sums in another order, so it changes bits."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Lightning's name: full float32, mixed with bf16 or fp16 (GPUs only), or full float64."""
    channels_last: bool = False
    """Memory format of 4-D tensors: faster convolutions on GPUs, by other kernels, with other bits."""
    selection_points: NonNegativeInt = 0
    """Evaluations of the `search` split, evenly spaced over the run, from which the judged weights are selected: those
    of the lowest loss. 0: the last weights are judged."""

    accelerator: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=PRACTICAL)
    """`auto`: CUDA if the machine has it."""
    devices: PositiveInt = field(default=1, metadata=PRACTICAL)
    """Processes of one training on this machine, one per device. More than one means DDP through torchrun."""
    cells_per_gpu: PositiveInt = field(default=1, metadata=PRACTICAL)
    """Trainings that share one GPU, for networks too small to fill it. Each needs two CPU cores; `--jobs` wins. The
    config of a trained cell holds the actual number."""
    workers: NonNegativeInt = field(default=0, metadata=PRACTICAL)
    """Data-loader worker processes; 0 loads in the training process."""
    deterministic: bool = field(default=True, metadata=PRACTICAL)
    """Ask torch for deterministic kernels. The log names the operations that have none, and the record says so."""
    cuda_graphs: bool = field(default=False, metadata=PRACTICAL)
    """Launch forward and backward pass as CUDA graphs: less work for the host, the same bits. For tasks whose shapes
    never change (image, language)."""
    log_every: NonNegativeInt = field(default=0, metadata=PRACTICAL)
    """Updates between two lines of `metrics.jsonl`; 0 means 1/100 of the run."""
    curve_points: NonNegativeInt = field(default=8, metadata=PRACTICAL)
    """Evaluations of the `search` split, evenly spaced over the run."""
    checkpoint_every: PositiveInt = field(default=200, metadata=PRACTICAL)
    """Updates between checkpoints."""
    max_nonfinite: PositiveInt = field(default=20, metadata=PRACTICAL)
    """Skipped updates in a row after which the training fails."""
    stall_minutes: PositiveFloat = field(default=30.0, metadata=PRACTICAL)
    """A cell that makes no progress for this long is stopped and counts as failed."""
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list, metadata=PRACTICAL)
    """Trackers that also get the metrics (optional extras)."""


@dataclass(frozen=True)
class ForecastConfig:
    """Speed to assume before any cell has run, for the time that `plan` shows."""

    samples_per_second: PositiveFloat | None = None
    """Per device, of one training. With `runtime.cells_per_gpu`, of one of that many at a time."""
    source: str = ""
    """Where the speed was measured, e.g. the processor or card."""


@dataclass(frozen=True)
class CellConfig:
    """One cell, complete. `model`, `data` and `schedule` are checked against the dataclasses of the task."""

    task: str
    """`image`, `speech`, `translation` or `language`: a folder in `novobench/tasks/`."""
    seed: NonNegativeInt
    """Decides initial weights, order of samples, augmentation and dropout."""
    budget: str
    """Length of the training: `100ep`, `100000steps` or `12e9tokens`."""
    batch: BatchConfig
    """Effective batch and micro-batch."""
    optimizer: OptimizerConfig
    """Which optimizer, its rate, weight decay and options, and how gradients are clipped."""
    schedule: Any = field(default_factory=dict)
    """Learning rate and weight decay over the run, see `novobench.optim.schedules.ScheduleSpec`."""
    model: Any = field(default_factory=dict)
    """The task's `MODEL`, in `novobench/tasks/<task>/config.py`."""
    data: Any = field(default_factory=dict)
    """The task's `DATA`, in the same file."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """How the training runs: threads, precision, devices, logs, checkpoints."""
    purpose: Literal["table", "search"] = "table"
    """`search` trials are judged on the `search` split and never see a test set."""
    recipe_version: int = 1
    """Set by the task, which raises it when a default, or code that changes results, changes."""
    scale: FileName = field(default="laptop", metadata=PRACTICAL)
    """`laptop`, `gpu` or `full`: which config file of the task the cell started from. Not part of the id."""
    data_root: str = field(default="data", metadata=PRACTICAL)
    """Folder of read-only data sets; the environment variable NOVOBENCH_DATA wins."""
    forecast: ForecastConfig = field(default_factory=ForecastConfig, metadata=PRACTICAL)
    """A speed to forecast with."""

    @property
    def accumulation(self) -> int:
        """Micro-batches per update in each process. Raises ConfigError if the batch does not divide evenly."""
        per_pass = self.batch.micro * self.runtime.devices
        if self.batch.micro < 1 or self.batch.size % per_pass:
            raise ConfigError(
                f"batch.size {self.batch.size} is not batch.micro {self.batch.micro} × {self.runtime.devices} "
                f"device(s) × a whole accumulation: {self.batch.size} / {per_pass} = "
                f"{self.batch.size / max(per_pass, 1):g}. Change batch.size, batch.micro or runtime.devices."
            )
        return self.batch.size // per_pass

    @property
    def epoch_updates(self) -> int:
        """Updates per epoch of the training data, as `data` declares them."""
        return self.data.updates_per_epoch(self.batch.size)

    @property
    def total_updates(self) -> int:
        """Updates of the whole training. They follow from the config alone, never from a trainer or a data loader."""
        amount, unit = parse_budget(self.budget)
        if unit == "ep":
            return round(amount * self.epoch_updates)
        if unit == "steps":
            return round(amount)
        tokens = self.data.tokens_per_sample
        if tokens is None:
            raise ConfigError(f"budget '{self.budget}': task '{self.task}' does not count tokens; use ep or steps.")
        return math.ceil(amount / (self.batch.size * tokens))

    @property
    def epochs(self) -> float:
        """The budget in epochs."""
        return self.total_updates / max(self.epoch_updates, 1)


def scale_named(text: str) -> str:
    """The scale with this name; `paper` is another name of `full`. Raises ConfigError if there is no such scale."""
    scale = _SCALE_ALIASES.get(text, text)
    if scale not in SCALES:
        raise ConfigError(f"There is no scale '{text}'.{suggestion(text, list(SCALES))} Known: {', '.join(SCALES)}.")
    return scale


def data_root(config: CellConfig) -> Path:
    """The folder of read-only data sets: $NOVOBENCH_DATA, else `data_root`."""
    return places.data_root(config.data_root)


def to_yaml(config: Any) -> str:
    """A typed config as YAML text."""
    return yaml_text.dump(dataclasses.asdict(config))


# ---------------------------------------------------------------------------------------------- identity


def cell_id(config: CellConfig) -> str:
    """`<task>-<optimizer>-s<seed>-<10 hex>`: the same for all rows that ask for the same training."""
    return cell_ids(config, [config.seed])[0]


def cell_ids(config: CellConfig, seeds: Sequence[int]) -> list[str]:
    """The ids of a config's cells with `seeds` in place of its own seed."""
    content = scientific(config)
    del content["seed"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
    label = config.optimizer.name.rpartition(":")[2]  # of ./file.py:Class, whose path the digest covers
    optimizer = re.sub(r"[^A-Za-z0-9_]+", "_", label)
    return [f"{config.task}-{optimizer}-s{seed}-{digest}" for seed in seeds]


_SEED = re.compile(r"-s(\d+)-")


def without_seed(cell: str) -> str:
    """The part of a cell id that all seeds of a training have in common."""
    return _SEED.sub("-s-", cell, count=1)


def seed_of(cell: str) -> int:
    """The seed in a cell id."""
    match = _SEED.search(cell)
    return int(match[1]) if match else 0


def scientific(config: Any) -> dict[str, Any]:
    """The fields that decide the result, without those at their default: a cell's id is their hash."""
    content: dict[str, Any] = {}
    for spec in dataclasses.fields(config):
        if not spec.metadata.get("scientific", True):
            continue
        value = getattr(config, spec.name)
        if dataclasses.is_dataclass(value):
            inner = scientific(value)
            if inner:
                content[spec.name] = inner
        elif value != _unhashed_value(spec):
            content[spec.name] = _scientific_entries(value)
    return content


def _scientific_entries(value: Any) -> Any:
    """`scientific` for the dataclasses in a list or a mapping. Every entry counts, even one of defaults only."""
    if dataclasses.is_dataclass(value):
        return scientific(value)
    if isinstance(value, dict):
        return {key: _scientific_entries(entry) for key, entry in value.items()}
    return [_scientific_entries(entry) for entry in value] if isinstance(value, list) else value


def _unhashed_value(spec: dataclasses.Field) -> Any:
    """The value of a field that stays out of the hash: its default. A field whose default is computed from other fields
    declares the value as `hashed_as_default`."""
    if "hashed_as_default" in spec.metadata:
        return spec.metadata["hashed_as_default"]
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default
