"""What one training adds to Lightning's forward pass, backward pass and accumulation: seeds, learning rates, the guard
against non-finite gradients, logs, evaluations and checkpoints.

Lightning sees a single epoch that starts at the update of the checkpoint; data epochs are counted here. So none of
Lightning's loop state has to be restored, and a resumed run takes the same steps as an uninterrupted one.
"""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from novobench.config import CellConfig, cell_id
from novobench.errors import TrainingError, one_line
from novobench.optim.lars import larc_
from novobench.processes import end_at_signals
from novobench.tasks.base import EvaluationSet, TaskData, TaskModule
from novobench.tasks.metric import Metric
from novobench.training import checkpoints, graphs
from novobench.training.evaluation import average_batch_norm, evaluate
from novobench.training.evaluation_weights import EvaluationWeights
from novobench.training.guard import Guard, nonfinite_tensors
from novobench.training.metrics_log import MetricsLog
from novobench.training.random_numbers import seed_micro_batch
from novobench.training.rates import optimizer_parts, set_rates
from novobench.training.run_folder import RunFolder

_HEARTBEAT_SECONDS = 0.5
_STATE_KEYS = {
    "update", "cell", "log", "best", "model", "optimizer", "precision", "streams", "fingerprint", "counters",
    "nonfinite_in_a_row", "search",
}  # fmt: skip


class UpdateLoop(pl.Callback):
    """Drives one cell from update `update` to update `total`, then evaluates what the record needs.

    `load_state_dict` before the fit resumes a training. After the fit, `results` (split -> name -> metric) and
    `counters` hold what the record is made of.
    """

    trainer: pl.Trainer
    module: TaskModule
    weights: EvaluationWeights

    def __init__(self, config: CellConfig, data: TaskData, folder: RunFolder, metrics_log: MetricsLog) -> None:
        self.config, self.data, self.folder, self.metrics_log = config, data, folder, metrics_log
        self.total = config.total_updates
        self.update = 0
        self.counters: dict[str, float] = {"skipped_updates": 0, "skipped_samples": 0, "train_seconds": 0.0}
        self.results: dict[str, dict[str, Metric]] = {}
        self.best: dict[str, Any] | None = None
        """The selected weights so far: their `update`, `loss` and `model` (on the CPU)."""
        self.guard = Guard(config, self.total)
        runtime = config.runtime
        self.log_every = runtime.log_every or max(1, self.total // 100)
        self.selection_updates = _evenly_spaced(self.total, runtime.selection_points)
        self.curve_updates = _evenly_spaced(self.total, runtime.curve_points) | self.selection_updates | {self.total}
        self._checkpoint_state: dict[str, Any] | None = None
        """What `load_state_dict` got, until the module is ready to take its part."""
        self._loss_sum: torch.Tensor | float = 0.0
        self._losses = 0
        self._last_heartbeat = 0.0
        self._folder_identity = folder.identity()
        self._clock_start = 0.0
        self._needs_capture = runtime.cuda_graphs

    # ------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint holds. Every process of the training must call this: it gathers their streams."""
        own_streams = {k: stream.cpu() for k, stream in self.module.streams.items()}
        all_streams: list[Any] = [own_streams]
        if self.trainer.world_size > 1:
            all_streams = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(all_streams, own_streams)
        return {
            "update": self.update,
            "cell": cell_id(self.config),
            "log": self.metrics_log.state(),
            "model": self.module.state_dict(),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "precision": self.trainer.precision_plugin.state_dict(),
            "streams": {k: stream for streams in all_streams for k, stream in streams.items()},
            "fingerprint": self.data.fingerprint,
            "counters": dict(self.counters),
            "nonfinite_in_a_row": self.guard.in_a_row,
            "best": self.best,
            "search": {
                split: {name: tuple(metric) for name, metric in metrics.items()}
                for split, metrics in self.results.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned. The module, the optimizer and the streams take their part when the
        fit starts: only then does the module have the precision and the device that it trains with.

        Raises TrainingError if the data have changed since then.
        """
        if state["fingerprint"] != self.data.fingerprint:
            raise TrainingError(
                f"The data of {cell_id(self.config)} changed since its checkpoint at update {state['update']}: "
                f"fingerprint {self.data.fingerprint}, was {state['fingerprint']}. Restore the data, or remove "
                f"{self.folder.path} to start over."
            )
        self.update = state["update"]
        self.counters = dict(state["counters"])
        self.results = {
            split: {name: Metric(*values) for name, values in metrics.items()}
            for split, metrics in state["search"].items()
        }
        self.best = state["best"]
        self.guard.skipped = int(self.counters["skipped_updates"])
        self.guard.in_a_row = state["nonfinite_in_a_row"]
        self._checkpoint_state = state

    def state_problem(self, state: dict[str, Any]) -> str:
        """Why a checkpoint's state cannot be loaded here, in words; empty if it can."""
        if missing := _STATE_KEYS - state.keys():
            return f"it has no {', '.join(sorted(missing))}: another version wrote it"
        if state["cell"] != cell_id(self.config):
            return f"it belongs to the cell {state['cell']}"
        return self.metrics_log.damage(state["log"])

    def _load_module_state(self, state: dict[str, Any]) -> None:
        trainer, module = self.trainer, self.module
        try:
            module.load_state_dict(state["model"])
            trainer.optimizers[0].load_state_dict(state["optimizer"])
            trainer.precision_plugin.load_state_dict(state["precision"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"The checkpoint at update {state['update']} does not fit this code: {one_line(error)}. "
                f"Train with the code that wrote it, or remove {self.folder.path} to train again."
            ) from error
        module.streams = {
            k: stream.to(module.device)
            for k, stream in state["streams"].items()
            if k % trainer.world_size == trainer.global_rank
        }

    # ------------------------------------------------------------------------------------ start

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.trainer, self.module = trainer, cast(TaskModule, module)
        if self._checkpoint_state is not None:
            self._load_module_state(self._checkpoint_state)
            self._checkpoint_state = None
        self.guard.start(self.module, trainer.optimizers[0])
        self.weights = EvaluationWeights(self.config, trainer, self.module, self.data, self._write_heartbeat)
        self._clock_start = time.perf_counter()
        self._write_heartbeat()
        if self.update >= self.total:  # killed between the last checkpoint and the record
            self.finish()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        end_at_signals()  # Lightning's handler waits for the end of the update, and for other processes
        if trainer.received_sigterm:
            os.kill(os.getpid(), signal.SIGTERM)

    # ------------------------------------------------------------------------------------ one micro-batch

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._needs_capture:
            graphs.capture(self.module, batch, trainer)
            self._needs_capture = False
        position = batch_idx % self.config.accumulation
        k = position * trainer.world_size + trainer.global_rank
        seed_micro_batch(self.config.seed, self.update, k, module.device)
        if position == 0:
            self._set_rates(trainer.optimizers[0])
            self.guard.begin_update()

    def _set_rates(self, optimizer: Optimizer) -> None:
        set_rates(optimizer_parts(optimizer, self.config.optimizer), self.update, self.total, self.config)

    # ------------------------------------------------------------------------------------ before the step

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Outliers, guard, clipping and LARC, alike for every optimizer. Gradients are unscaled and reduced by now."""
        if self.update in self.config.optimizer.outlier_updates:
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.config.optimizer.outlier_factor)
        guarded = self.guard.before_step(optimizer)
        if guarded is None:
            return
        parameters, norm = guarded
        config = self.config.optimizer
        if config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
        if config.larc_trust is not None:
            for part in optimizer_parts(optimizer, config):
                decay_first = part.entry.decays_gradient
                larc_(part.optimizer.param_groups, config.larc_trust, config.larc_mode, decay_first=decay_first)

    # ------------------------------------------------------------------------------------ after the step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss_sum = self._loss_sum + outputs["loss"].detach()  # already divided by the accumulation
        self._write_heartbeat()
        if (batch_idx + 1) % self.config.accumulation:
            if self.config.runtime.cuda_graphs and batch_idx % self.config.accumulation == 0:
                graphs.own_gradients(self.module)
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
            self._log_training()
        if evaluates:
            self._evaluate_curves()
        if saves:
            self._save_checkpoint()

    def _write_heartbeat(self) -> None:
        """After each batch of training or evaluation: the process that watches this one takes silence for a stall."""
        if self.trainer.is_global_zero and time.monotonic() - self._last_heartbeat > _HEARTBEAT_SECONDS:
            self._last_heartbeat = time.monotonic()
            if self.folder.identity() != self._folder_identity:
                raise TrainingError(
                    f"{self.folder.path} was removed or replaced while this cell trained (update {self.update} of "
                    f"{self.total}), so the training was stopped. Run the same command again to train the cell."
                )
            self.folder.write_heartbeat(self.update, self.total)

    def _log_training(self) -> None:
        loss = torch.as_tensor(self._loss_sum, dtype=torch.float64) / self._losses
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(loss)
            loss /= self.trainer.world_size
        self._loss_sum, self._losses = 0.0, 0
        self._stop_clock()
        if self.trainer.is_global_zero:
            values = {
                "loss": float(loss),
                "lr": self.trainer.optimizers[0].param_groups[0].get("lr", math.nan),
                "gradient_norm": self.guard.norm,
                "epoch": self.update / self.config.epoch_updates,
                "seconds": self.counters["train_seconds"],
            }
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            self.metrics_log.append(self.update, "train", finite)

    def _stop_clock(self) -> None:
        """Add the time since the clock was started to the training time, and start it again."""
        now = time.perf_counter()
        self.counters["train_seconds"] += now - self._clock_start
        self._clock_start = now

    def _evaluate_curves(self) -> None:
        self._stop_clock()
        average_batch_norm(self.module, self.trainer.world_size)
        with self.weights.used():
            for split in self.data.evaluation_sets:
                if split.role == "search" or (split.role == "train" and self.config.purpose == "table"):
                    self._evaluate(split)
                if split.role == "search" and self.update in self.selection_updates:
                    self._select(self.results[split.name]["loss"].value)
        self._clock_start = time.perf_counter()  # evaluation is not training time

    def _select(self, loss: float) -> None:
        """Keep the current weights if their loss is the lowest so far. They are part of the checkpoint, so a kill at
        any time leaves both or neither."""
        if math.isfinite(loss) and (self.best is None or loss < self.best["loss"]):
            weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.module.state_dict().items()}
            self.best = {"update": self.update, "loss": loss, "model": weights}

    def _evaluate(self, split: EvaluationSet, *, log: bool = True) -> None:
        metrics, predictions = evaluate(self.trainer, self.module, self.data, split, self._write_heartbeat)
        self.results[split.name] = metrics
        if self.trainer.is_global_zero:
            values = {name: metric.value for name, metric in metrics.items()}
            values |= {"epoch": self.update / self.config.epoch_updates, "seconds": self.counters["train_seconds"]}
            if log:
                self.metrics_log.append(self.update, split.name, values)
            if self.update == self.total:
                self.folder.write_predictions(split.name, predictions)

    def _save_checkpoint(self) -> None:
        self._stop_clock()
        skipped = torch.as_tensor(self.module.skipped_samples, dtype=torch.float64)
        self.counters["skipped_samples"] += int(self.module.sum_over_processes(skipped))
        self.module.skipped_samples = 0
        average_batch_norm(self.module, self.trainer.world_size)
        state = self.state_dict()
        if self.trainer.is_global_zero:
            checkpoints.save(self.folder.checkpoints, self.update, state)
            self._write_heartbeat()
        self._clock_start = time.perf_counter()  # saving is not training time

    # ------------------------------------------------------------------------------------ end

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.update >= self.total:
            self.finish()

    def finish(self) -> None:
        """Evaluate what this cell is judged on, with the evaluation weights, which the module keeps; `search` trials
        never see anything of role `test`.

        Selected weights of an earlier update are not logged: the log belongs to the last update. Raises TrainingError
        if weights, statistics or metrics are not finite: such a training has no result.
        """
        self._check_finite(nonfinite_tensors(self.module))
        average_batch_norm(self.module, self.trainer.world_size)
        self.weights.use()
        earlier_weights = self.best is not None and self.best["update"] < self.update
        if self.best is not None:
            self.counters["selected_update"] = self.best["update"]
            self.module.load_state_dict(self.best["model"])
        for split in self.data.evaluation_sets:
            is_evaluated = split.name in self.results and self.update in self.curve_updates
            is_judged = split.role == "search" or self.config.purpose == "table"
            if is_judged and (earlier_weights or not is_evaluated):
                self._evaluate(split, log=not earlier_weights)
        self._check_finite(
            [
                f"{name} of {split}"
                for split, metrics in self.results.items()
                for name, metric in metrics.items()
                if not math.isfinite(metric.value)
            ]
        )

    def _check_finite(self, nonfinite_names: list[str]) -> None:
        if not nonfinite_names:
            return
        more = f" and {len(nonfinite_names) - 1} more" if len(nonfinite_names) > 1 else ""
        raise TrainingError(
            f"The training has diverged: after update {self.update} of {self.total} not all numbers are finite "
            f"({nonfinite_names[0]}{more}; optimizer {self.config.optimizer.name}, lr {self.config.optimizer.lr:g}). "
            "Lower optimizer.lr, or clip gradients with optimizer.clip_norm."
        )


def _evenly_spaced(total: int, points: int) -> set[int]:
    """At most `points` updates that divide a run of `total` updates evenly."""
    points = min(points, total)
    return {round(total * (i + 1) / points) for i in range(points)}
