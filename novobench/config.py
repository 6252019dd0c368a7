"""What every training shares as configuration, and the loader that turns YAML into it.

A config is pure data: YAML files joined by `base:`, then dotted overrides, then a check against frozen
dataclasses. A wrong word ends in one line that names the file, the full key, the reason and the nearest
right word. Fields marked `scientific=False` do not change a result, so they stay out of a cell's id.

This module imports no torch.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novobench import places, yaml_text
from novobench.budget import parse_budget
from novobench.errors import ConfigError, suggestion
from novobench.places import display_path
from novobench.ranges import FileName, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

SCALES = ("laptop", "gpu", "full")
_SCALE_ALIASES = {"paper": "full"}

PRACTICAL: dict[str, Any] = {"scientific": False}
"""Metadata of a field that changes no result: it is not part of a cell's id."""


@dataclass(frozen=True)
class BatchConfig:
    """`size` = `micro` × devices × accumulation; the last is derived, so devices never change the recipe."""

    size: PositiveInt
    """Effective batch: samples per weight update."""
    micro: PositiveInt
    """Samples per forward pass. Batch norm sees these and no others (ghost batch norm; paper §4.2 uses 128)."""


@dataclass(frozen=True)
class OptimizerConfig:
    name: str
    """An entry of the registry, or `package.module:Class`. `novobench list optimizers` shows them."""
    lr: NonNegativeFloat
    """Base learning rate, before the schedule."""
    lr_factor: PositiveFloat = 1.0
    """Multiplies `lr`: linear scaling with the batch (Goyal et al., 2017) from a rate tuned at a smaller one."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay coefficient, before `decay_factors` and the schedule."""
    preset: str | None = field(default=None, metadata=PRACTICAL)
    """A named set of options, e.g. `os2s`; explicit options win. Not in the id: the options it gives are."""
    options: Any = field(default_factory=dict)
    """The optimizer's own options, checked against its entry."""
    decay_factors: dict[str, NonNegativeFloat] = field(default_factory=dict)
    """Ordered pattern -> factor on `weight_decay`; the first match wins, no match means 1. E.g. `{'@norm': 0}`."""
    clip_norm: PositiveFloat | None = None
    """Clip the global gradient norm to this value; one policy for all rows of a table."""
    larc_trust: PositiveFloat | None = None
    """Layer-wise adaptive rate clipping with this trust coefficient (paper §4.3), of the gradient and its L2 decay."""
    larc_mode: Literal["clip", "scale"] = "clip"
    """`clip` only ever shrinks a gradient; `scale` gives each layer's gradient the norm trust × ‖w‖."""


@dataclass(frozen=True)
class RuntimeConfig:
    """How a training runs. The first group changes results and is scientific; the second is not."""

    threads: PositiveInt = 1
    """CPU threads in one process. Another count sums in another order, so it changes bits."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    channels_last: bool = False
    """Memory format of 4-D tensors; faster convolutions on GPUs, other kernels, other bits."""
    selection_points: NonNegativeInt = 0
    """Evaluations of the `search` split, evenly spaced over the run, from which the judged weights are selected: those
    of the lowest loss. 0: the last weights are judged."""

    accelerator: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=PRACTICAL)
    devices: PositiveInt = field(default=1, metadata=PRACTICAL)
    """Processes of one training, one a device; more than one means DDP through torchrun."""
    nodes: PositiveInt = field(default=1, metadata=PRACTICAL)
    cells_per_gpu: PositiveInt = field(default=1, metadata=PRACTICAL)
    """Trainings that share one GPU, where there are two CPU cores for each and `--jobs` says nothing else; for nets
    too small to fill it. A trained cell's config says how many did."""
    workers: NonNegativeInt = field(default=0, metadata=PRACTICAL)
    """Data-loader worker processes; 0 loads in the training process."""
    deterministic: bool = field(default=True, metadata=PRACTICAL)
    """Ask torch for deterministic kernels; those it lacks are named in the log, and the record says so."""
    cuda_graphs: bool = field(default=False, metadata=PRACTICAL)
    """Launch forward and backward pass as CUDA graphs, for tasks whose shapes never change (image, language): less work
    for the host, the same bits."""
    log_every: NonNegativeInt = field(default=0, metadata=PRACTICAL)
    """Updates between two lines of `metrics.jsonl`; 0 means 1/100 of the run."""
    curve_points: NonNegativeInt = field(default=8, metadata=PRACTICAL)
    """Evaluations of the `search` split over the run, evenly spaced."""
    checkpoint_every: PositiveInt = field(default=200, metadata=PRACTICAL)
    """Updates between checkpoints."""
    max_nonfinite: PositiveInt = field(default=20, metadata=PRACTICAL)
    """Skipped updates in a row after which a training is given up."""
    stall_minutes: PositiveFloat = field(default=30.0, metadata=PRACTICAL)
    """A cell that shows no progress for this long is stopped and counts as failed."""
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list, metadata=PRACTICAL)
    """Also send the metrics there (optional extras)."""


@dataclass(frozen=True)
class ForecastConfig:
    """Speed before anything has run, so that `plan` can tell the time."""

    samples_per_second: PositiveFloat | None = None
    """Per device, of one training; with `runtime.cells_per_gpu`, of one among so many."""
    source: str = ""


@dataclass(frozen=True)
class CellConfig:
    """One training, complete. `model`, `data` and `schedule` are checked against dataclasses the task names."""

    task: str
    seed: NonNegativeInt
    budget: str
    """How long: `100ep`, `100000steps` or `12e9tokens`."""
    batch: BatchConfig
    optimizer: OptimizerConfig
    schedule: Any = field(default_factory=dict)
    model: Any = field(default_factory=dict)
    data: Any = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    purpose: Literal["table", "search"] = "table"
    """`search` trials are judged on the `search` split and never see a test set."""
    recipe_version: int = 1
    """Raised by the task when a default, or code that changes results, changes."""
    scale: FileName = field(default="laptop", metadata=PRACTICAL)
    data_root: str = field(default="data", metadata=PRACTICAL)
    """Folder of read-only data sets; the environment variable NOVOBENCH_DATA wins."""
    forecast: ForecastConfig = field(default_factory=ForecastConfig, metadata=PRACTICAL)

    @property
    def accumulation(self) -> int:
        """Micro-batches of one process before an update."""
        processes = self.runtime.devices * self.runtime.nodes
        per_pass = self.batch.micro * processes
        if self.batch.micro < 1 or self.batch.size % per_pass:
            raise ConfigError(
                f"batch.size {self.batch.size} is not batch.micro {self.batch.micro} × {processes} device(s) × a whole "
                f"accumulation: {self.batch.size} / {per_pass} = {self.batch.size / max(per_pass, 1):g}. "
                "Change batch.size, batch.micro or runtime.devices."
            )
        return self.batch.size // per_pass

    @property
    def epoch_updates(self) -> int:
        """Updates in one epoch of the training data, as `data` declares them."""
        return self.data.updates_per_epoch(self.batch.size)

    @property
    def total_updates(self) -> int:
        """All updates of the training: from the config alone, never from a trainer or a data loader."""
        amount, unit = parse_budget(self.budget)
        if unit == "ep":
            return round(amount * self.epoch_updates)
        if unit == "steps":
            return round(amount)
        tokens = getattr(self.data, "tokens_per_sample", None)
        if tokens is None:
            raise ConfigError(f"budget '{self.budget}': task '{self.task}' does not count tokens; use ep or steps.")
        return math.ceil(amount / (self.batch.size * tokens))

    @property
    def epochs(self) -> float:
        """The budget in epochs."""
        return self.total_updates / max(self.epoch_updates, 1)


# ---------------------------------------------------------------------------------------------- loading


def load_tree(path: Path) -> DictConfig:
    """The YAML file with its `base:` files below it (nearest wins), unchecked.

    `base` is relative to the file. What a workspace lacks comes with novobench (`places.Workspace.find`).

    Mappings are joined key by key; an empty one, `{}`, takes away what the files below have there.
    """
    (_, lowest), *above = config_files(path)
    tree = OmegaConf.create(lowest)
    for file, content in above:
        tree = laid_over(tree, content, display_path(file))
    return tree


def config_files(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A YAML file and the `base:` files below it, each with its own content, the lowest first."""
    files: dict[Path, dict[str, Any]] = {}
    while path not in files:
        files[path] = read_yaml(path)
        if (base := files[path].pop("base", None)) is None:
            return list(files.items())[::-1]
        path = places.workspace().find((path.parent / str(base)).resolve())
    raise ConfigError(f"{display_path(path)}: `base:` goes round in a circle.")


def laid_over(below: DictConfig, above: Mapping[str, Any], where: str) -> DictConfig:
    """`above` on top of `below`, which is changed: mappings are joined, except that `{}` replaces what is below it.

    Raises ConfigError, naming `where`, if a list is to be joined to a mapping.
    """
    _make_room(below, above)
    try:
        return OmegaConf.merge(below, above)  # type: ignore[return-value]
    except (OmegaConfBaseException, TypeError):
        names = ", ".join(f"'{key}'" for key, value in above.items() if isinstance(value, list | ListConfig))
        raise ConfigError(f"{where}: {names or 'a list in it'} cannot be a list: there is a mapping.") from None


def _make_room(below: Any, above: Any) -> None:
    if isinstance(below, DictConfig) and isinstance(above, Mapping):
        for key, value in above.items():
            if value == {} and key in below:
                below[key] = {}
            else:
                _make_room(below.get(key), value)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, as plain data without interpolation."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = suggestion(path.name, [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else [])
        raise ConfigError(f"No such config: {display_path(path)}.{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {display_path(path)}: {error}.") from None
    try:
        content = yaml_text.parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{display_path(path)} is not valid YAML: {yaml_text.problem(error)}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{display_path(path)} must hold a mapping, not {type(content).__name__}.")
    if "${" in json.dumps(content, default=str):
        raise ConfigError(f"{display_path(path)} uses '${{…}}': configs are pure data; write the value itself.")
    return content


def override(tree: DictConfig, changes: Mapping[str, Any], where: str, *default: Any) -> DictConfig:
    """A copy of `tree` with dotted keys set in turn, as `set_keys` does."""
    tree = copy.deepcopy(tree)
    set_keys(tree, changes, where, *default)
    return tree


def set_keys(
    tree: DictConfig,
    changes: Mapping[str, Any],
    where: str,
    default: Callable[[DictConfig, str], Any] = lambda tree, key: None,
) -> None:
    """Set dotted keys of `tree` in turn, e.g. `{"optimizer.lr": 0.1, "model.widths[0]": 16}`.

    A mapping adds its keys to those that are there, and `{}` takes them all away. One alone is added or changed by its
    dotted key: `data.set_sizes.dev: 200`. Where the tree does not have the list of which an entry is set,
    `default(tree, key)` gives it.
    """
    for key, value in changes.items():
        try:
            if key.count(".") > _DEEPEST:
                raise ValueError("it is nested too deeply")
            whole = key.partition("[")[0]
            if whole != key and OmegaConf.select(tree, whole) is None and (given := default(tree, whole)) is not None:
                OmegaConf.update(tree, whole, given)
            _make_room(OmegaConf.select(tree, key), value)
            OmegaConf.update(tree, key, value, merge=value != {})
        except (OmegaConfBaseException, ValueError, IndexError, TypeError) as error:
            raise ConfigError(f"{where}: cannot set '{key}': {first_line(error)}") from None


_DEEPEST = 20


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """`["optimizer.lr=0.1"]` from the command line -> `{"optimizer.lr": 0.1}`. Of a key given twice the last counts.

    A value is YAML where it begins with a bracket, a brace or a quotation mark, else the words as they stand.
    """
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        word = " ".join(word.split())[:200]  # for a message of one line
        if not equals or not key:
            raise ConfigError(f"'{word}' is not an override: write key=value, e.g. optimizer.lr=0.1.")
        changes.pop(key, None)  # so that it takes its place behind those that came before
        try:
            changes[key] = yaml_text.parse_value(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"'{word}': the value is not valid YAML: {yaml_text.problem(error)}.") from None
        if "${" in json.dumps(changes[key], default=str):  # not before: YAML has escapes
            raise ConfigError(f"'{word}' uses '${{…}}': configs are pure data; write the value itself.")
    return changes


def first_line(error: Exception) -> str:
    """Of an error's message, as a sentence."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith((".", "?")) else line + "."


_DECIDED = {
    "seed": "--seeds N gives each row the seeds 0 to N-1",
    "scale": "--scale chooses it",
    "task": "the experiment's `task:` says it",
    "purpose": "`novobench search` sets it for its trials",
    "recipe_version": "it belongs to the task's code",
}
"""Fields of a cell that no override may set, and what decides them."""


def check_not_decided(changes: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if overrides set what a command or the code decides."""
    for key in changes:
        name = re.split(r"[.\[\]]+", key.lstrip(".["))[0]
        if name in _DECIDED:
            raise ConfigError(f"{where} cannot set '{key}': {_DECIDED[name]}.")


def scale_named(text: str) -> str:
    """The scale of that name; `paper` is another name of `full`. Raises ConfigError if there is no such scale."""
    scale = _SCALE_ALIASES.get(text, text)
    if scale not in SCALES:
        raise ConfigError(f"There is no scale '{text}'.{suggestion(text, list(SCALES))} Known: {', '.join(SCALES)}.")
    return scale


# ---------------------------------------------------------------------------------------------- identity


def scientific(config: Any) -> dict[str, Any]:
    """The fields that decide the result, without those at their default: what a cell's id is made from."""
    chosen: dict[str, Any] = {}
    for spec in dataclasses.fields(config):
        if not spec.metadata.get("scientific", True):
            continue
        value = getattr(config, spec.name)
        if dataclasses.is_dataclass(value):
            inner = scientific(value)
            if inner:
                chosen[spec.name] = inner
        elif value != _default(spec):
            chosen[spec.name] = _scientific_parts(value)
    return chosen


def _scientific_parts(value: Any) -> Any:
    """The same for dataclasses inside a list or a mapping, where each entry counts, defaults or not."""
    if dataclasses.is_dataclass(value):
        return scientific(value)
    if isinstance(value, dict):
        return {key: _scientific_parts(entry) for key, entry in value.items()}
    return [_scientific_parts(entry) for entry in value] if isinstance(value, list) else value


def _default(spec: dataclasses.Field) -> Any:
    """What stays out of the hash: the default, or what `hashed_as_default` says of a field whose default is worked out
    from other fields when the config is made."""
    if "hashed_as_default" in spec.metadata:
        return spec.metadata["hashed_as_default"]
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default


def cell_id(config: CellConfig) -> str:
    """`<task>-<optimizer>-s<seed>-<10 hex>`: the same for every row that asks for the same training."""
    return cell_ids(config, [config.seed])[0]


def cell_ids(config: CellConfig, seeds: Sequence[int]) -> list[str]:
    """The ids of a config's cells with these seeds in the place of its own."""
    content = scientific(config)
    del content["seed"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
    optimizer = re.sub(r"[^A-Za-z0-9_]+", "_", config.optimizer.name)
    return [f"{config.task}-{optimizer}-s{seed}-{digest}" for seed in seeds]


def data_root(config: CellConfig) -> Path:
    """Where read-only data sets lie: $NOVOBENCH_DATA, else `data_root` (relative to the checkout)."""
    return places.data_root(config.data_root)


def to_yaml(config: Any) -> str:
    """A typed config as YAML text."""
    return yaml_text.dump(dataclasses.asdict(config))
