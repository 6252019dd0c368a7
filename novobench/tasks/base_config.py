"""What a task's `config.py` declares: the module itself, and the fields of its data config that others read.

Imports no torch, as `config.py` must not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from novobench.config import CellConfig


class DataConfig(ABC):
    """The base of each task's data config, a frozen dataclass that declares these fields with defaults of its own."""

    source: str
    """Where the items come from: a built-in corpus, files, the hub."""
    name: str
    """Identity of the data: the same items from another source have the same name. Results are filed under it."""
    path: str
    """Folder under the data root, or hub id; empty: `name`."""

    @abstractmethod
    def updates_per_epoch(self, batch: int) -> int:
        """Updates in one epoch with optimizer batches of `batch` samples, from the config alone."""

    @property
    def tokens_per_sample(self) -> int | None:
        """Tokens in one sample, for budgets in tokens. None: the task does not count tokens."""
        return None


class SampledDataConfig(DataConfig):
    """For data of separate samples in shuffled order, which `TaskData.train_batches` and `evaluation_batches` serve."""

    train_size: int
    """Training samples."""
    limit: int | None
    """Train on this many of them; None: on all."""
    tail: Literal["drop", "wrap"]
    """What happens to samples that do not fill the last optimizer batch of an epoch, see `sampling.updates_per_epoch`.
    """
    evaluation_batch: int
    """Samples per batch of an evaluation."""

    @property
    def used_size(self) -> int:
        """Training samples that are trained on."""
        return self.train_size if self.limit is None else min(self.limit, self.train_size)


class TaskConfig(Protocol):
    """The module `novobench.tasks.<name>.config`."""

    RECIPE_VERSION: int
    """Part of every cell id of the task. Raise it when a default, or code that changes results, changes."""
    MODEL: type
    """Frozen dataclass of `CellConfig.model`."""
    DATA: type[DataConfig]
    """Frozen dataclass of `CellConfig.data`."""
    BUILT_IN: str
    """The `data.source` that needs no files."""
    SHIPPED: Mapping[str, tuple[str, ...]]
    """Name of each data set that shipped configs use -> the values that `data.path` may have; none if built in. Other
    data cannot have these names."""

    def validate(self, config: CellConfig) -> None:
        """Raise ConfigError, naming the key, if fields contradict each other. Called for every config, before any
        training."""

    def relative_cost(self, config: Any) -> float:
        """Multiply-accumulates of a forward pass per sample, up to a factor that all configs of the task share. Used
        to forecast a config from another one's measured speed. Optional: without it, such forecasts are unknown."""
