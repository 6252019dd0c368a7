"""The contract between a training and its task: everything that `training` may ask of a task.

A module `novobench.tasks.<name>.task` offers `build(config) -> tuple[TaskModule, TaskData]`. `base_config.py` has the
contract of the task's `config.py`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.optim import registry
from novobench.optim.composite import Composite, Part
from novobench.optim.entry import ROLES, Role
from novobench.optim.roles import parameter_roles, split_groups
from novobench.optim.weight_decay import weight_decay_groups
from novobench.processes import end_with_parent
from novobench.tasks.metric import Metric
from novobench.tasks.sampling import MicroBatches, SampleKey, derive_seed, rank_share


@dataclass(frozen=True)
class EvaluationSet:
    """A split that is evaluated. Nothing of role `test` is evaluated before the end of the training."""

    name: str
    role: Literal["train", "search", "dev", "test"]
    """`search`: rates are chosen by it, one set per task. `train`: a part of the training data, evaluated together with
    `search`, for curves only."""
    dataset: Dataset
    """Items by integer index, without augmentation."""


class TaskModule(pl.LightningModule):
    """Model, loss and corpus-level evaluation. Works under a plain `Trainer`; `training.cell` adds the rest.

    A subclass implements `training_step(batch, batch_idx)`, which returns the mean loss over the micro-batch, and the
    abstract methods. Only `graphable`, `role_patterns`, `scoring` and `determinism_on_cuda` are
    optional.
    """

    role_patterns: ClassVar[Mapping[str, Role]] = {}
    """Ordered pattern -> role of parameters whose role `parameter_roles` cannot tell from types: the output layer."""
    scoring: Mapping[str, str] = {}
    """Metric -> how it is computed, if that needs saying, e.g. sacreBLEU's signature. Goes into the record."""
    determinism_on_cuda: Literal["strict", "to rounding"] = "strict"
    """`strict`: all operations of a training have deterministic CUDA kernels, so the same config gives the same bits on
    one GPU type, also after a kill. `to rounding`: an operation has none, so results differ like sums in another order.
    """
    skipped_samples: int | Tensor = 0
    """Training samples of this process that could not be used. `training_step` adds to it; each checkpoint reads it and
    sets it to 0."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.config = config
        self.streams: dict[int, Tensor] = {}
        """State that follows the data stream (Transformer-XL memory): number k of the micro-batch in its optimizer
        batch -> state, for the micro-batches that this process trains. A k that is absent has no state yet.

        `training_step` replaces a tensor and never changes it in place, so that a skipped update can restore it. After
        a skipped update a tensor has the shape that the update gave it, and NaN means absent. Checkpoints hold them."""

    @abstractmethod
    def evaluation_start(self) -> None:
        """Reset the counts. Called before each evaluation of a split, in eval mode and without gradients."""

    @abstractmethod
    def evaluation_step(self, batch: Any) -> list[dict[str, Any]]:
        """Count one batch of `TaskData.evaluation_batches`, on the device. Returns a prediction for each sample (JSON
        data with the sample's `index`), or none."""

    @abstractmethod
    def evaluation_end(self) -> dict[str, Metric]:
        """The metrics of all that was counted, over all processes. Called after the last batch of a split. The metrics
        of the `search` split include `loss`, by which weights are selected."""

    @abstractmethod
    def random_batch(self, size: int) -> Any:
        """A micro-batch of `size` random samples in the shape of real ones, on the CPU. Called by benchmarks."""

    @abstractmethod
    def counted(self, batch: Any) -> tuple[int, str]:
        """How many units a `random_batch` holds, and the unit in which speeds of such models are published. Called by
        benchmarks."""

    def graphable(self, batch: Any) -> tuple[torch.nn.Module, tuple[Tensor, ...]]:
        """A module that `training_step` calls with tensors of the same shapes each time, and such inputs, which the
        graph owns from then on. Called before the first step, with its batch, if `runtime.cuda_graphs` is set.
        Optional: a task whose shapes vary does not implement it."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The config's optimizer over its weight-decay groups, or a `Composite` of it and the optimizer of other roles.
        `training.loop` sets the rates of each update.

        Raises ConfigError if no parameter has a role that the optimizer takes.
        """
        config = self.config.optimizer
        entry, lr = registry.get(config.name), config.lr * config.lr_factor
        groups = weight_decay_groups(self, config.weight_decay, config.decay_factors)
        roles = entry.roles if config.roles is None else config.roles
        if set(roles) == set(ROLES):
            optimizer = registry.build(
                config.name,
                groups,
                lr=lr,
                weight_decay=config.weight_decay,
                options=dataclasses.asdict(config.options),
            )
            is_ours = entry.factory.startswith(("novobench.", "torch.optim:"))
            return optimizer if is_ours else _with_closure_called_first(optimizer)
        overrides = cast(dict[str, Role], config.role_patterns)
        own, rest = split_groups(groups, parameter_roles(self, self.role_patterns, overrides), roles)
        if not own:
            raise ConfigError(
                f"No parameter has a role that optimizer '{config.name}' takes ({', '.join(roles)}). Choose another "
                "optimizer, or set optimizer.roles or optimizer.role_patterns."
            )
        others = config.others
        decays = (config.weight_decay, config.weight_decay if others.weight_decay is None else others.weight_decay)
        return Composite(
            [
                Part(
                    registry.get(name),
                    registry.build(
                        name,
                        [{**g, "weight_decay": decay * g["weight_decay_factor"], "lr_ratio": ratio} for g in part],
                        lr=lr * ratio,
                        weight_decay=decay,
                        options=dataclasses.asdict(options),
                    ),
                    decay,
                )
                for name, part, ratio, decay, options in (
                    (config.name, own, 1.0, decays[0], config.options),
                    (others.name, rest, others.lr_ratio, decays[1], others.options),
                )
                if part
            ]
        )

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
        """The float64 sum of `counts` over all processes of the training, for subclasses' `evaluation_end`."""
        counts = counts.to(self.device, torch.float64)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        return counts


class TaskData(pl.LightningDataModule):
    """Training data in the order that (config, seed) determine, and the sets that a cell is evaluated on.

    A subclass implements `setup`, which sets `train`, `evaluation_sets`, `fingerprint` and `counts`. The data config of
    a task that keeps `train_batches` and `evaluation_batches` is a `base_config.SampledDataConfig`.
    """

    train: Dataset
    """Training items by `SampleKey`."""
    evaluation_sets: list[EvaluationSet]
    fingerprint: str
    """Identity of the data, measured from their content. A resumed training and a finished cell must find the same."""
    counts: dict[str, int]
    """Split -> number of samples. Goes into the record."""
    baselines: Mapping[str, dict[str, Metric]] = {}
    """Split -> metrics that need no training, to be read next to the results. Optional."""
    collate: Callable[[list[Any]], Any] | None = None
    """Makes one batch of the items of a data set. Optional: torch's `default_collate`."""
    packed = False
    """True: an item of `train` is a whole micro-batch, the k-th of its epoch under `SampleKey(epoch, k)`, and is not
    collated. False: it is a sample."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Open the data and set the attributes above. Called once, before the training, with `stage` "fit". Raises
        DataError if data are missing, damaged, or not what the config says."""

    def identify(self) -> str:
        """The fingerprint of the current data. Called instead of `setup`, for finished cells. Optional: a task
        implements it if `setup` does more than the fingerprint needs."""
        self.setup("fit")
        return self.fingerprint

    def train_batches(self, start: int, stop: int, rank: int, world: int) -> DataLoader:
        """The micro-batches of process `rank` of `world`, from update `start` to update `stop`. Called once per
        training, and before evaluations with an optimizer whose evaluation weights are others (see
        `training.evaluation_weights`)."""
        config, batch = self.config, self.config.batch
        keys = MicroBatches(
            len(cast(Sized, self.train)) if self.packed else config.data.used_size,
            batch=batch.size // batch.micro if self.packed else batch.size,
            micro_batch=1 if self.packed else batch.micro,
            tail=config.data.tail,
            seed=config.seed,
            start=start,
            stop=stop,
            rank=rank,
            world=world,
        )
        if self.packed:
            return self._loader(self.train, sampler=_SingleKeys(keys), batch_size=None, collate_fn=_unchanged)
        return self._batch_loader(self.train, keys)

    def evaluation_batches(self, dataset: Dataset, rank: int, world: int) -> DataLoader:
        """The share of process `rank` of an evaluation set, in order. Called once per evaluation of the set."""
        share = rank_share(len(cast(Sized, dataset)), rank, world)
        return self._batch_loader(dataset, _InOrder(share, self.config.data.evaluation_batch))

    def _batch_loader(self, dataset: Dataset, batches: Any) -> DataLoader:
        """A loader of collated batches. batches: yields the list of keys of each batch."""
        return self._loader(dataset, batch_sampler=batches, collate_fn=self.collate)

    def _loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        workers = self.config.runtime.workers
        return DataLoader(
            dataset,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=end_with_parent,  # torch watches the forkserver only, which outlives a killed training
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=False,
            **options,
        )


class _InOrder:
    """A batch sampler: the indices of `share` in batches of `batch`."""

    def __init__(self, share: range, batch: int) -> None:
        self.share, self.batch = share, batch

    def __len__(self) -> int:
        return -(-len(self.share) // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.share), self.batch):
            yield list(self.share[start : start + self.batch])


class _SingleKeys:
    """A sampler: the keys of batches of one key each."""

    def __init__(self, batches: MicroBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[SampleKey]:
        for (key,) in self.batches:
            yield key


def _unchanged(batch: Any) -> Any:
    """For whole micro-batches. Without a function torch would convert their arrays."""
    return batch


def build(config: CellConfig) -> tuple[TaskModule, TaskData]:
    """The task's module, whose initial weights depend on the seed only, and its data, which `setup` opens."""
    task = importlib.import_module(f"novobench.tasks.{config.task}.task")
    torch.manual_seed(derive_seed(config.seed, "init"))
    return task.build(config)


def _with_closure_called_first(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Make `step` call Lightning's closure, which computes the gradients, once and before the step: many third-party
    optimizers take no closure or do not call it. One that requires a closure, such as L-BFGS, is left unchanged."""
    step = optimizer.step
    closure = inspect.signature(step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return optimizer

    def step_after_closure(closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        step()
        return loss

    optimizer.step = step_after_closure  # type: ignore[method-assign]
    return optimizer
