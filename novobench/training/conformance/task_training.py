"""Checks of a task: its module, its data and a short training, see `tasks/base.py`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch

from novobench.config import to_yaml
from novobench.errors import ConfigError
from novobench.files import write_text
from novobench.optim.entry import ROLES
from novobench.optim.roles import parameter_roles
from novobench.tasks import base
from novobench.tasks.metric import Metric
from novobench.training import cell
from novobench.training.conformance.checks import Check, Failed, NotApplicable, check
from novobench.training.conformance.differences import changed, first_difference, nonfinite
from novobench.training.conformance.task_subject import UPDATES, TaskSubject
from novobench.training.random_numbers import seed_micro_batch
from novobench.training.run_folder import RunFolder

TRAINING: list[Check] = []
_SET_ROLES = ("train", "search", "dev", "test")


@check(
    TRAINING,
    "task.py builds its module and its data",
    why="Training asks only for what novobench/tasks/base.py declares.",
    advice="Let build(config) return a TaskModule and a TaskData with every method that base.py marks as abstract.",
    essential=True,
)
def builds(subject: TaskSubject) -> None:
    module, data = base.build(subject.config())
    for made, kind in ((module, base.TaskModule), (data, base.TaskData)):
        if not isinstance(made, kind):
            raise Failed(f"build returns a {type(made).__name__}, not a {kind.__name__}")
        abstract = [name for name in vars(kind) if getattr(getattr(kind, name), "__isabstractmethod__", False)]
        abstract += ["training_step"] if kind is base.TaskModule else []
        if lacking := [name for name in abstract if getattr(type(made), name) is getattr(kind, name)]:
            raise Failed(f"{type(made).__name__} does not implement {', '.join(lacking)}")


@check(
    TRAINING,
    "first weights follow from the seed",
    why="Optimizers of one comparison start from the same weights at the same seed.",
    advice="Draw first weights from torch's default generator, which is seeded before build.",
)
def seeds_weights(subject: TaskSubject) -> None:
    weights = [base.build(subject.config(seed=seed))[0].state_dict() for seed in (0, 0, 1)]
    if place := first_difference(weights[1], weights[0]):
        raise Failed(f"built twice with seed 0, {place} differs")
    if not first_difference(weights[2], weights[0]):
        raise Failed("seeds 0 and 1 give the same weights")


@check(
    TRAINING,
    "setup opens the data",
    why="A training needs the splits, their sizes, and a fingerprint by which it knows the data again.",
    advice="Set train, evaluation_sets (one of them with the role search), fingerprint and counts in setup.",
    essential=True,
)
def opens_data(subject: TaskSubject) -> None:
    _, data = subject.built
    if lacking := [name for name in ("train", "evaluation_sets", "fingerprint", "counts") if not hasattr(data, name)]:
        raise Failed(f"setup does not set {', '.join(lacking)}")
    names = [split.name for split in data.evaluation_sets]
    if len(set(names)) < len(names):
        raise Failed(f"evaluation sets share a name: {', '.join(names)}")
    if odd_roles := [split.role for split in data.evaluation_sets if split.role not in _SET_ROLES]:
        raise Failed(f"there is no role {odd_roles[0]!r}; known: {', '.join(_SET_ROLES)}")
    if [split.role for split in data.evaluation_sets].count("search") != 1:
        raise Failed("not exactly one evaluation set has the role 'search'")
    if not isinstance(data.fingerprint, str) or not data.fingerprint:
        raise Failed(f"the fingerprint is {data.fingerprint!r}, not a text")
    if odd := [name for name, count in data.counts.items() if type(count) is not int or count < 0]:
        raise Failed(f"counts[{odd[0]!r}] is {data.counts[odd[0]]!r}, not a whole number")
    again = base.build(subject.config())[1].identify()
    if again != data.fingerprint:
        raise Failed(f"identify() is {again}, but the fingerprint is {data.fingerprint}")


@check(
    TRAINING,
    "batches follow from config, seed and update",
    why="A resumed training must see what an uninterrupted one would have seen, and a seed is one order.",
    advice="Derive order and augmentation from (seed, epoch, sample), as novobench/tasks/sampling.py does.",
)
def orders_batches(subject: TaskSubject) -> None:
    _, data = subject.built
    per_update = subject.config().accumulation
    batches = list(data.train_batches(0, 2, 0, 1))
    if len(batches) != 2 * per_update:
        raise Failed(f"two updates have {len(batches)} micro-batches, not {2 * per_update}")
    if place := first_difference(_plain(list(data.train_batches(0, 2, 0, 1))), _plain(batches)):
        raise Failed(f"asked twice for the same two updates, the batches differ {_at(place)}")
    if place := first_difference(_plain(list(data.train_batches(1, 2, 0, 1))), _plain(batches[per_update:])):
        raise Failed(f"from update 1 on, the batches are others than after update 0 {_at(place)}")


@check(
    TRAINING,
    "micro-batches are shared by the processes in turn",
    why="Micro-batch k belongs to process k mod the number of processes, so devices never change a result.",
    advice="Pass rank and world on to MicroBatches, or take every world-th micro-batch from number rank on.",
)
def shares_batches(subject: TaskSubject) -> None:
    batch = subject.config().batch
    try:
        config = subject.config(batch={"size": batch.size, "micro": batch.size // 2})
    except ConfigError as error:
        raise NotApplicable(f"an optimizer batch of {batch.size} cannot be halved: {error}") from None
    _, data = base.build(config)
    data.setup("fit")
    alone = list(data.train_batches(0, 2, 0, 1))
    for rank in (0, 1):
        if place := first_difference(_plain(list(data.train_batches(0, 2, rank, 2))), _plain(alone[rank::2])):
            raise Failed(f"of two processes, number {rank} does not get every second micro-batch {_at(place)}")


@check(
    TRAINING,
    "an update trains it",
    why="The loss of a micro-batch must be a finite number whose gradients reach the weights.",
    advice="Let training_step return the mean loss over the micro-batch, attached to the graph.",
    essential=True,
)
def trains(subject: TaskSubject) -> str | None:
    module, data = subject.built
    module.train()
    optimizer = module.configure_optimizers()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    batch = next(iter(data.train_batches(0, 1, 0, 1)))
    seed_micro_batch(0, 0, 0, torch.device("cpu"))
    loss = cast(Any, module.training_step(batch, 0))
    if not torch.is_tensor(loss) or loss.ndim or not loss.isfinite():
        raise Failed(f"training_step returns {loss}, not a finite 0-d tensor")
    loss.backward()
    idle = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    optimizer.step()
    after = {name: p.detach() for name, p in module.named_parameters()}
    if lost := nonfinite(after):
        raise Failed(f"{lost[0]} is not finite after a step of AdamW")
    if not changed(before, after):
        raise Failed("no weight moves in a step of AdamW")
    return f"but {len(idle)} parameters have no gradient, e.g. {idle[0]}" if idle else None


@check(
    TRAINING,
    "an evaluation gives its metrics",
    why="Rates are chosen, and weights selected, by the loss on the set of role search.",
    advice="Count in evaluation_step, and return a dict of Metric, with 'loss', from evaluation_end.",
)
def evaluates(subject: TaskSubject) -> None:
    module, data = subject.built
    split = next(split for split in data.evaluation_sets if split.role == "search")
    with _evaluating(module):
        predictions: list[dict[str, Any]] = []
        for batch in data.evaluation_batches(split.dataset, 0, 1):
            predictions += module.evaluation_step(batch)
        metrics = module.evaluation_end()
    if not isinstance(metrics, Mapping) or not all(isinstance(metric, Metric) for metric in metrics.values()):
        raise Failed(f"evaluation_end returns {metrics!r}, not a dict of Metric")
    if "loss" not in metrics:
        raise Failed(f"the metrics of {split.name} are {', '.join(metrics)}, without loss")
    if lost := [name for name, metric in metrics.items() if not math.isfinite(metric.value)]:
        raise Failed(f"{lost[0]} of {split.name} is {metrics[lost[0]].value}")
    if odd := [each for each in predictions if type(each.get("index")) is not int]:
        raise Failed(f"a prediction has no whole number 'index': {odd[0]}")
    try:
        json.dumps(predictions)
    except TypeError as error:
        raise Failed(f"predictions cannot be written as JSON: {error}") from None


@contextmanager
def _evaluating(module: base.TaskModule) -> Iterator[None]:
    module.eval()
    module.evaluation_start()
    with torch.no_grad():
        yield
    module.train()


@check(
    TRAINING,
    "a killed training resumes with the same bits",
    why="Cells are killed and resumed at any update, and their results must not show it.",
    advice="Keep all state of the training in parameters, buffers and streams, and draw random numbers from torch.",
)
def resumes(subject: TaskSubject) -> None:
    folder = RunFolder(subject.folder)
    write_text(folder.config, to_yaml(subject.config()))
    cell.run(folder.path)
    whole = folder.read_record()
    folder.record.unlink()  # go on from the checkpoint in the middle, as after a kill
    max(folder.checkpoints.glob("*.ckpt")).unlink()
    cell.run(folder.path)
    resumed = folder.read_record()
    if resumed.weights_sha256 != whole.weights_sha256:
        raise Failed(f"{UPDATES} updates and {UPDATES // 2} + {UPDATES // 2} updates give different weights")
    if place := first_difference(_untimed(resumed.metrics), _untimed(whole.metrics)):
        raise Failed(f"{place} differs")


@check(
    TRAINING,
    "benchmarks get random batches",
    why="novobench bench throughput trains on them, and plan forecasts by the units that they hold.",
    advice="Let random_batch(size) return what training_step takes, and counted(batch) a number and its unit.",
)
def makes_random_batches(subject: TaskSubject) -> None:
    config = subject.config()
    module, data = base.build(config)
    data.setup("fit")
    batch = module.random_batch(config.batch.micro)
    loss = cast(Any, module.training_step(batch, 0))
    if not torch.is_tensor(loss) or not loss.isfinite():
        raise Failed(f"training_step returns {loss} for a random batch")
    counted = module.counted(batch)
    if not (isinstance(counted, tuple) and len(counted) == 2 and counted[0] > 0 and isinstance(counted[1], str)):
        raise Failed(f"counted returns {counted!r}, not a number above 0 and a unit")


@check(
    TRAINING,
    "it names its output layer",
    why="Some optimizers leave the output layer to AdamW, and types do not tell it from other matrices.",
    advice="Set role_patterns of the TaskModule, e.g. {r'^network\\.classifier\\.weight$': 'head'}.",
)
def names_its_head(subject: TaskSubject) -> str | None:
    module, _ = base.build(subject.config())
    if odd := [role for role in module.role_patterns.values() if role not in ROLES]:
        raise Failed(f"role_patterns has the role {odd[0]!r}; known: {', '.join(ROLES)}")
    roles = parameter_roles(module, module.role_patterns)
    if "head" in roles.values():
        return None
    if module.role_patterns:
        raise Failed("no pattern of role_patterns matches a parameter of the output layer")
    return "no: an optimizer of matrices takes it too, unless an embedding shares it"


def _plain(batch: Any) -> Any:
    """A batch as tensors, numbers, lists and dicts."""
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {spec.name: _plain(getattr(batch, spec.name)) for spec in dataclasses.fields(batch)}
    if isinstance(batch, Mapping):
        return {key: _plain(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [_plain(value) for value in batch]
    return torch.from_numpy(batch) if type(batch).__module__ == "numpy" and batch.ndim else batch


def _at(place: str) -> str:
    return f"(at {place})"


def _untimed(metrics: Mapping[str, Mapping[str, Metric]]) -> dict[str, dict[str, Metric]]:
    return {
        split: {name: metric for name, metric in by_name.items() if "second" not in name}
        for split, by_name in metrics.items()
    }
