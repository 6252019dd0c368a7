"""The contract between one training and its task: what `training` may ask of a task, and nothing more.

A task module `novobench.tasks.<name>.task` offers `build(config) -> tuple[TaskModule, TaskData]`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from novobench.config import CellConfig
from novobench.optim import registry
from novobench.optim.weight_decay import weight_decay_groups
from novobench.processes import end_with_parent
from novobench.tasks.metric import Metric
from novobench.tasks.sampling import MicroBatches, derive_seed, rank_share


@dataclass(frozen=True)
class EvaluationSet:
    """A split that a finished cell is judged on. Nothing of role `test` is evaluated before the cell's end."""

    name: str
    role: Literal["train", "search", "dev", "test"]
    """`search` is what rates are chosen by, one set a task; `train` is a part of the training data, evaluated with it
    for curves alone."""
    dataset: Dataset
    """Items by plain integer index, without augmentation."""


class TaskModule(pl.LightningModule):
    """Model, loss and corpus-level evaluation. Works under a plain `Trainer`; `training.cell` adds the rest.

    A subclass implements `training_step` (loss averaged over the micro-batch) and the three `evaluation_*`
    methods. Evaluation counts are summed over processes, so each sample is counted exactly once.
    """

    scoring: Mapping[str, str] = {}
    """Metric -> how it is computed, where that needs saying: sacreBLEU's signature. Goes into the record."""
    determinism_on_cuda: Literal["strict", "to rounding"] = "strict"
    """Whether all that a training uses has deterministic CUDA kernels: the same config then gives the same bits on one
    GPU type, also after a kill. `to rounding` where an operation has none: results differ as sums in another order."""
    skipped_samples: int | Tensor = 0
    """Training samples of this process that could not be used, since `training.loop` last asked (and set it to 0)."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.config = config
        self.streams: dict[int, Tensor] = {}
        """State that follows the data stream (Transformer-XL memory), by micro-batch number k: of those k that this
        process trains. `training_step` replaces a tensor and never changes one in place, so that a skipped update can
        put it back; a k without state begins with none. After an update that was skipped a tensor keeps the shape that
        the update gave it, and NaN in it means: not there. Checkpoints hold them."""

    @abstractmethod
    def evaluation_start(self) -> None:
        """Forget the counts of the last evaluation."""

    @abstractmethod
    def evaluation_step(self, batch: Any) -> list[dict[str, Any]]:
        """Count one batch; return a prediction for each of its samples (JSON data, with its `index`), or none."""

    @abstractmethod
    def evaluation_end(self) -> dict[str, Metric]:
        """The metrics of all that was counted, over all processes."""

    @abstractmethod
    def random_batch(self, size: int) -> Any:
        """A micro-batch of `size` random samples in the shape of real ones, on the CPU, to measure speed with."""

    @abstractmethod
    def counted(self, batch: Any) -> tuple[int, str]:
        """How many of what a `random_batch` holds, in the unit in which speeds of such models are published."""

    def graphable(self, batch: Any) -> tuple[torch.nn.Module, tuple[Tensor, ...]]:
        """For `runtime.cuda_graphs`: a module that `training_step` calls with tensors of the same shapes each time, and
        such inputs, which belong to the graph from then on. Tasks whose shapes differ have none."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The config's optimizer over its weight-decay groups. Rates of each update are set by `training.loop`."""
        wanted = self.config.optimizer
        optimizer = registry.build(
            wanted.name,
            weight_decay_groups(self, wanted.weight_decay, wanted.decay_factors),
            lr=wanted.lr * wanted.lr_factor,
            weight_decay=wanted.weight_decay,
            options=dataclasses.asdict(wanted.options),
        )
        ours = registry.get(wanted.name).factory.startswith(("novobench.", "torch.optim:"))
        return optimizer if ours else _closure_before_step(optimizer)

    # The same evaluation under Lightning's own `validate` and `test`.
    def on_validation_epoch_start(self) -> None:
        self.evaluation_start()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({name: metric.value for name, metric in self.evaluation_end().items()})

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def sum_over_processes(self, counts: Tensor) -> Tensor:
        """The sum of float64 `counts` over all processes of this training."""
        counts = counts.to(self.device, torch.float64)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        return counts


class TaskData(pl.LightningDataModule):
    """Training data in the order that (config, seed) fix, and the sets a cell is judged on.

    A subclass sets `train` (data set by `SampleKey`), `evaluation_sets`, `fingerprint` and `counts`.
    """

    train: Dataset
    evaluation_sets: list[EvaluationSet]
    fingerprint: str
    """Identity of the data as measured, by their content; a resumed training and a finished cell must find the same."""
    counts: dict[str, int]
    baselines: Mapping[str, dict[str, Metric]] = {}
    """Split -> what needs no training, to be read beside the results: majority class, word counts."""
    collate: Any = None
    packed = False
    """`train` holds whole micro-batches, the k-th of an epoch under `SampleKey(epoch, k)`, instead of samples."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.config = config

    def identify(self) -> str:
        """The fingerprint of the data that are there now; nothing else is to be asked of this object afterwards. A task
        overrides it where `setup` makes more than the fingerprint needs."""
        self.setup("fit")
        return self.fingerprint

    def train_batches(self, start: int, stop: int, rank: int, world: int) -> DataLoader:
        """Micro-batches of one rank from update `start` to `stop`."""
        config, batch = self.config, self.config.batch
        sampler = MicroBatches(
            len(self.train) if self.packed else config.data.train_size,  # type: ignore[arg-type]
            batch=batch.size // batch.micro if self.packed else batch.size,
            micro_batch=1 if self.packed else batch.micro,
            tail=config.data.tail,
            seed=config.seed,
            start=start,
            stop=stop,
            rank=rank,
            world=world,
        )
        return self._loader(self.train, sampler)

    def evaluation_batches(self, dataset: Dataset, rank: int, world: int) -> DataLoader:
        """One rank's share of an evaluation set, in order."""
        share = rank_share(len(dataset), rank, world)  # type: ignore[arg-type]
        return self._loader(dataset, _InOrder(share, self.config.data.evaluation_batch))

    def _loader(self, dataset: Dataset, batches: Any) -> DataLoader:
        workers = self.config.runtime.workers
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=end_with_parent,  # torch itself watches the forkserver, which outlives a killed training
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=False,
        )


class _InOrder:
    def __init__(self, share: range, batch: int) -> None:
        self.share, self.batch = share, batch

    def __len__(self) -> int:
        return -(-len(self.share) // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.share), self.batch):
            yield list(self.share[start : start + self.batch])


def build(config: CellConfig) -> tuple[TaskModule, TaskData]:
    """The task's module, with weights that depend on the seed alone, and its data (opened by its `setup`)."""
    task = importlib.import_module(f"novobench.tasks.{config.task}.task")
    torch.manual_seed(derive_seed(config.seed, "init"))
    return task.build(config)


def _closure_before_step(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Lightning computes gradients in the closure that it hands to `step`. Many people's optimizers take none, or never
    call it, so it is called for them, once; those that cannot do without one, as L-BFGS, are left as they are."""
    step = optimizer.step
    closure = inspect.signature(step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return optimizer

    def step_after(closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        step()
        return loss

    optimizer.step = step_after  # type: ignore[method-assign]
    return optimizer
