"""What one training does beside Lightning's forward, backward and accumulation: seeds, rates, guard, logs, checkpoints.

Lightning sees a single epoch that starts at the update where the checkpoint left off; data epochs are
counted here. So nothing of Lightning's loop state has to be restored, and a resumed run takes the very
steps that an uninterrupted one takes.
"""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from novobench.config import CellConfig, cell_id
from novobench.errors import TrainingError
from novobench.optim import registry, schedules
from novobench.optim.lars import larc_
from novobench.processes import end_at_signals
from novobench.tasks.base import TaskData, TaskModule
from novobench.tasks.metric import Metric
from novobench.tasks.sampling import derive_seed
from novobench.training import checkpoints, graphs
from novobench.training.evaluation import average_batch_norm, evaluate
from novobench.training.guard import Guard, not_finite
from novobench.training.metrics_log import MetricsLog
from novobench.training.run_folder import RunFolder

_BEAT_SECONDS = 0.5


class UpdateLoop(pl.Callback):
    """Drives one cell from update `start` to its last update, then evaluates what the record needs.

    `state` is the checkpoint to go on from, or None. Afterwards `results` and `counters` hold what the
    record is made of.
    """

    def __init__(
        self,
        config: CellConfig,
        data: TaskData,
        folder: RunFolder,
        log: MetricsLog,
        state: dict[str, Any] | None,
    ) -> None:
        self.config, self.data, self.folder, self.metrics_log, self.state = config, data, folder, log, state
        self.total = config.total_updates
        self.update = state["update"] if state else 0
        self.counters: dict[str, float] = (
            dict(state["counters"]) if state else {"skipped_updates": 0, "skipped_samples": 0, "train_seconds": 0.0}
        )
        self.results: dict[str, dict[str, Metric]] = {}
        self.guard = Guard(
            config,
            self.total,
            skipped=int(self.counters["skipped_updates"]),
            in_a_row=state["nonfinite_in_a_row"] if state else 0,
        )
        runtime = config.runtime
        self.log_every = runtime.log_every or max(1, self.total // 100)
        self.selection_updates = _evenly(self.total, runtime.selection_points)
        self.curve_updates = _evenly(self.total, runtime.curve_points) | self.selection_updates | {self.total}
        self.best: dict[str, Any] | None = state["best"] if state else None
        """Of the weights that are selected so far: their `update`, `loss` and `model`, on the CPU."""
        self._loss_sum: torch.Tensor | float = 0.0
        self._losses = 0
        self._last_beat = 0.0
        self._place = folder.place()
        self.rank = 0
        self._entered = 0.0
        self._to_capture = runtime.cuda_graphs

    # ------------------------------------------------------------------------------------ start

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.state is not None:
            self._load(trainer, module, self.state)  # type: ignore[arg-type]
        self.state = None
        self.guard.start(module, trainer.optimizers[0])  # type: ignore[arg-type]
        self._entered = time.perf_counter()
        self.rank = trainer.global_rank
        self._beat()
        if self.update >= self.total:  # killed between the last checkpoint and the record
            self.finish(trainer, module)  # type: ignore[arg-type]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        end_at_signals()  # Lightning's handler waits for the update's end, and for other processes
        if trainer.received_sigterm:
            os.kill(os.getpid(), signal.SIGTERM)

    def _load(self, trainer: pl.Trainer, module: TaskModule, state: dict[str, Any]) -> None:
        try:
            module.load_state_dict(state["model"])  # not before: only now has the net the precision it trains in
            trainer.optimizers[0].load_state_dict(state["optimizer"])
            trainer.precision_plugin.load_state_dict(state["precision"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"The checkpoint at update {state['update']} does not fit this code: {' '.join(str(error).split())}. "
                f"Train with the code that wrote it, or remove {self.folder.path} to train anew."
            ) from error
        mine = {k: stream for k, stream in state["streams"].items() if k % trainer.world_size == trainer.global_rank}
        module.streams = {k: stream.to(module.device) for k, stream in mine.items()}

    # ------------------------------------------------------------------------------------ one micro-batch

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._to_capture:
            graphs.capture(module, batch, trainer)  # type: ignore[arg-type]
            self._to_capture = False
        position = batch_idx % self.config.accumulation
        k = position * trainer.world_size + trainer.global_rank
        # The default generators alone, not torch.manual_seed, which costs a hundred times as much.
        seed = derive_seed(self.config.seed, "model", self.update, k)
        torch.default_generator.manual_seed(seed)
        if module.device.type == "cuda":
            torch.cuda.default_generators[module.device.index or 0].manual_seed(seed)
        if position == 0:
            self._set_rates(trainer.optimizers[0])
            self.guard.begin_update()

    def _set_rates(self, optimizer: Optimizer) -> None:
        config = self.config
        base_lr = config.optimizer.lr * config.optimizer.lr_factor
        lr = schedules.learning_rate(self.update, self.total, base_lr, config.schedule)
        decay = schedules.weight_decay(self.update, self.total, config.optimizer.weight_decay, config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay * group["weight_decay_factor"]

    # ------------------------------------------------------------------------------------ before the step

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Guard, clip and LARC, alike for every optimizer; gradients are unscaled and reduced by now."""
        guarded = self.guard.before_step(optimizer)
        if guarded is None:
            return
        parameters, norm = guarded
        if self.config.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optimizer.clip_norm, norm)
        wanted = self.config.optimizer
        if wanted.larc_trust is not None:
            decay_first = registry.get(wanted.name).decays_gradient
            larc_(optimizer.param_groups, wanted.larc_trust, wanted.larc_mode, decay_first=decay_first)

    # ------------------------------------------------------------------------------------ after the step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss_sum = self._loss_sum + outputs["loss"].detach()  # already divided by the accumulation
        self._beat()
        if (batch_idx + 1) % self.config.accumulation:
            if self.config.runtime.cuda_graphs and batch_idx % self.config.accumulation == 0:
                graphs.own_gradients(module)  # type: ignore[arg-type]
            return
        self.update += 1
        self._losses += 1
        logs = self.update % self.log_every == 0 or self.update == self.total
        evaluates = self.update in self.curve_updates
        saves = self.update % self.config.runtime.checkpoint_every == 0 or self.update == self.total
        if logs or evaluates or saves:
            self.guard.read(self.update)
            self.counters["skipped_updates"] = self.guard.skipped
        if logs:
            self._log_training(trainer)
        if evaluates:
            self._evaluate_curves(trainer, module)  # type: ignore[arg-type]
        if saves:
            self._checkpoint(trainer, module)  # type: ignore[arg-type]

    def _beat(self) -> None:
        """After each batch of training or evaluation: who watches this training takes silence for a stall."""
        if self.rank == 0 and time.monotonic() - self._last_beat > _BEAT_SECONDS:
            self._last_beat = time.monotonic()
            if self.folder.place() != self._place:
                raise TrainingError(
                    f"{self.folder.path} was removed or replaced while this cell trained (update {self.update} of "
                    f"{self.total}), so it was stopped. Run the same command again to train it anew."
                )
            self.folder.beat(self.update, self.total)

    def _log_training(self, trainer: pl.Trainer) -> None:
        loss = torch.as_tensor(self._loss_sum, dtype=torch.float64) / self._losses
        if trainer.world_size > 1:
            torch.distributed.all_reduce(loss)
            loss /= trainer.world_size
        self._loss_sum, self._losses = 0.0, 0
        self._stop_clock()
        if trainer.is_global_zero:
            values = {
                "loss": float(loss),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                "gradient_norm": self.guard.norm,
                "epoch": self.update / self.config.epoch_updates,
                "seconds": self.counters["train_seconds"],
            }
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            self.metrics_log.append(self.update, "train", finite)

    def _stop_clock(self) -> None:
        """Add the time since the clock was last looked at to the training time."""
        now = time.perf_counter()
        self.counters["train_seconds"] += now - self._entered
        self._entered = now

    def _evaluate_curves(self, trainer: pl.Trainer, module: TaskModule) -> None:
        self._stop_clock()
        average_batch_norm(module, trainer.world_size)
        for split in self.data.evaluation_sets:
            if split.role == "search" or (split.role == "train" and self.config.purpose == "table"):
                self._evaluate(trainer, module, split)
            if split.role == "search" and self.update in self.selection_updates:
                self._select(module, self.results[split.name]["loss"].value)
        self._entered = time.perf_counter()  # evaluation is not training time

    def _select(self, module: TaskModule, loss: float) -> None:
        """Keep these weights if none before had so low a loss. They lie in the checkpoint, so that a kill at any time
        leaves both or neither."""
        if math.isfinite(loss) and (self.best is None or loss < self.best["loss"]):
            weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}
            self.best = {"update": self.update, "loss": loss, "model": weights}

    def _evaluate(self, trainer: pl.Trainer, module: TaskModule, split: Any, *, log: bool = True) -> None:
        metrics, predictions = evaluate(trainer, module, self.data, split, self._beat)
        self.results[split.name] = metrics
        if trainer.is_global_zero:
            values = {name: metric.value for name, metric in metrics.items()}
            values |= {"epoch": self.update / self.config.epoch_updates, "seconds": self.counters["train_seconds"]}
            if log:
                self.metrics_log.append(self.update, split.name, values)
            if self.update == self.total:
                self.folder.write_predictions(split.name, predictions)

    def _checkpoint(self, trainer: pl.Trainer, module: TaskModule) -> None:
        self._stop_clock()
        skipped = torch.as_tensor(module.skipped_samples, dtype=torch.float64)
        self.counters["skipped_samples"] += int(module.sum_over_processes(skipped))
        module.skipped_samples = 0
        average_batch_norm(module, trainer.world_size)
        mine = {k: stream.cpu() for k, stream in module.streams.items()}
        streams: list[Any] = [mine]
        if trainer.world_size > 1:
            streams = [None] * trainer.world_size
            torch.distributed.all_gather_object(streams, mine)
        if trainer.is_global_zero:
            state = {
                "update": self.update,
                "cell": cell_id(self.config),
                "log": self.metrics_log.state(),
                "model": module.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "precision": trainer.precision_plugin.state_dict(),
                "streams": {key: value for share in streams for key, value in share.items()},
                "fingerprint": self.data.fingerprint,
                "counters": dict(self.counters),
                "nonfinite_in_a_row": self.guard.in_a_row,
                "best": self.best,
                "search": {
                    split: {name: tuple(m) for name, m in found.items()} for split, found in self.results.items()
                },
            }
            checkpoints.save(self.folder.checkpoints, self.update, state)
            self._beat()
        self._entered = time.perf_counter()

    # ------------------------------------------------------------------------------------ end

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.update >= self.total:
            self.finish(trainer, module)  # type: ignore[arg-type]

    def finish(self, trainer: pl.Trainer, module: TaskModule) -> None:
        """Evaluate what this cell is judged on; `search` trials never see anything of role `test`.

        Earlier weights that were selected are not what the log has at this update, so nothing of theirs enters it.
        Raises `TrainingError` if weights, statistics or metrics are not finite: such a training has no result.
        """
        self._refuse_diverged(not_finite(module))
        average_batch_norm(module, trainer.world_size)
        earlier = self.best is not None and self.best["update"] < self.update
        if self.best is not None:
            self.counters["selected_update"] = self.best["update"]
            module.load_state_dict(self.best["model"])
        for split in self.data.evaluation_sets:
            seen = split.name in self.results and self.update in self.curve_updates
            if (earlier or not seen) and (split.role == "search" or self.config.purpose == "table"):
                self._evaluate(trainer, module, split, log=not earlier)
        found = [(split, name, m.value) for split, metrics in self.results.items() for name, m in metrics.items()]
        self._refuse_diverged([f"{name} of {split}" for split, name, value in found if not math.isfinite(value)])

    def _refuse_diverged(self, names: list[str]) -> None:
        if not names:
            return
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise TrainingError(
            f"The training has diverged: after update {self.update} of {self.total} not all numbers are finite "
            f"({names[0]}{more}; optimizer {self.config.optimizer.name}, lr {self.config.optimizer.lr:g}). "
            "Lower optimizer.lr, or clip gradients with optimizer.clip_norm."
        )


def _evenly(total: int, points: int) -> set[int]:
    """The updates, at most `points` of them, that divide a run of `total` evenly."""
    points = min(points, total)
    return {round(total * (i + 1) / points) for i in range(points)}
