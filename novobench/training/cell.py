"""One cell (one training run): from the resolved config in its run folder to its record. Safe to kill and run again.

`python -m novobench.training.cell FOLDER` does what `run` does. With `--process` it is one of the processes that
torchrun starts for a training on several devices. Nothing else makes a process one of several: inherited variables such
as RANK, or a SLURM job around it, do not.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from novobench import hardware
from novobench.config import CellConfig, cell_id
from novobench.config_loading import load_tree
from novobench.device_limits import check_device
from novobench.errors import ConfigError, NovobenchError, TrainingError
from novobench.files import lock, readable_os_errors, remove_leftovers, write_json, write_text
from novobench.optim import registry
from novobench.processes import end_at_signals, end_with_parent
from novobench.tasks import base
from novobench.tasks.catalog import resolve
from novobench.training import checkpoints, environment, failures, graphs, torchrun
from novobench.training.guard import GradScaler
from novobench.training.loop import UpdateLoop
from novobench.training.metrics_log import MetricsLog
from novobench.training.record import Record
from novobench.training.run_folder import RunFolder
from novobench.training.trackers import make_trackers

log = logging.getLogger(__name__)

_TORCHRUN_SECONDS = 3.0
"""Within this time torchrun notices that a process has ended, and ends the others."""


def run(path: Path, *, process: bool = False) -> None:
    """Train the cell whose `config.yaml` lies in the folder `path`, unless it has its record. Holds the cell's lock.

    process: this is one of several processes that torchrun has started; the process that started torchrun holds the
    lock. Raises NovobenchError with one clear line if the cell cannot be finished; `failure.json` then holds the line,
    too.
    """
    folder = RunFolder(path)
    config = resolve(load_tree(folder.config), str(folder.config))
    with nullcontext() if process else _locked(folder):
        if folder.finished:
            return
        rank = int(os.environ["RANK"]) if process else None
        if not process:
            with readable_os_errors(folder.failure, "remove"):
                folder.failure.unlink(missing_ok=True)
        if not rank:
            folder.write_heartbeat(0, config.total_updates, setting_up=True)
        try:
            if config.runtime.devices > 1 and not process:
                torchrun.launch(config, folder)
            else:
                train(config, folder, rank)
        except (Exception, SystemExit) as error:
            reason = failures.reason(error)
            _write_failure(folder, reason, wait=process and not isinstance(error, NovobenchError))
            if isinstance(error, NovobenchError | SystemExit):
                raise (type(error) if isinstance(error, NovobenchError) else TrainingError)(reason) from error
            raise


def _write_failure(folder: RunFolder, reason: str, *, wait: bool) -> None:
    """Leave the reason of a failure in the folder, unless another process of the training has left one before.

    wait: this process may have failed because another one ended. torchrun then ends it during the wait, and how the
    other one ended is reported instead.
    """
    if wait:
        time.sleep(_TORCHRUN_SECONDS)
    if not folder.failure_reason() and folder.path.exists():  # do not bring back a folder that was removed
        with suppress(NovobenchError):  # on a full disk the reason can only be raised
            folder.write_failure(reason)


def train(config: CellConfig, folder: RunFolder, rank: int | None = None) -> None:
    """Train and evaluate in this process and write the record. rank: of this process, if torchrun has started it."""
    if config.runtime.accelerator == "auto":
        check_device(config, hardware.accelerator())
    try:
        for name in (config.optimizer.name, config.optimizer.others.name):
            registry.check_package(registry.get(name))
    except registry.MissingPackageError as error:
        raise ConfigError(str(error)) from None
    _set_up_torch(config)
    _silence_lightning()
    try:
        _train(config, folder, rank)
    except RuntimeError as error:
        is_strict = (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        if not (is_strict and "deterministic" in str(error)):
            raise
        log.warning("Training again, with results to rounding: %s", str(error).partition("\n")[0])
        _train(config, folder, rank, to_rounding=True)


def _set_up_torch(config: CellConfig) -> None:
    torch.set_num_threads(config.runtime.threads)
    # Deterministic kernels would also fill every new tensor with NaN first, one kernel for each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # cuDNN's attention builds a graph for every new shape, in about 30 ms; translation has a hundred shapes.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Loader workers are forked from a forkserver of this process. Without the preload each would import torch itself.
    multiprocessing.set_forkserver_preload(["novobench.training.preload"])


def _train(config: CellConfig, folder: RunFolder, rank: int | None, *, to_rounding: bool = False) -> None:
    """to_rounding: a task's operations turned out to have no deterministic kernels, so do without."""
    is_first = not rank
    module, data = base.build(config)
    data.setup("fit")
    metrics_log = MetricsLog(folder.metrics, make_trackers(config, folder) if is_first else ())
    loop = UpdateLoop(config, data, folder, metrics_log)
    state = checkpoints.load_newest(folder.checkpoints, loop.state_problem)
    if state is not None:
        loop.load_state_dict(state)
    if is_first:
        metrics_log.cut_back(state["log"] if state else None)
        write_json(folder.environment, environment.describe(config.optimizer))
        write_text(folder.changes, environment.changes())
    del state
    trainer = _trainer(config, loop, alone=rank is None)
    determinism = _determinism(config, module, trainer) if not to_rounding else "to rounding"
    if config.runtime.cuda_graphs:
        graphs.check(config, module, trainer)
    world = trainer.world_size
    trainer.fit(module, train_dataloaders=data.train_batches(loop.update, loop.total, trainer.global_rank, world))
    if trainer.interrupted:
        raise KeyboardInterrupt
    if is_first:
        _write_record(config, folder, module, data, loop, determinism)
    if world > 1:  # leave together: gloo aborts a process that ends while its connections are open
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _trainer(config: CellConfig, loop: UpdateLoop, *, alone: bool) -> pl.Trainer:
    """alone: this process is the whole training, whatever launcher's variables it has inherited."""
    runtime = config.runtime
    if alone:  # Lightning took the rank from RANK or SLURM_PROCID when it was imported, and loggers rely on it
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    trainer = pl.Trainer(
        accelerator=runtime.accelerator,
        devices=runtime.devices,
        strategy="auto" if alone else "ddp",
        plugins=[LightningEnvironment() if alone else TorchElasticEnvironment()],
        precision=runtime.precision,
        max_steps=loop.total - loop.update,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulation,
        callbacks=[loop],
        deterministic="warn" if runtime.deterministic else False,
        use_distributed_sampler=False,  # our sampler knows the ranks
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    plugin = trainer.precision_plugin
    if getattr(plugin, "scaler", None) is not None:
        plugin.scaler = GradScaler(plugin.device)  # type: ignore[attr-defined]
    return trainer


def _determinism(config: CellConfig, module: base.TaskModule, trainer: pl.Trainer) -> str:
    """`strict` (the same bits every time), `to rounding`, or `off`. With `strict`, torch refuses other operations."""
    if not config.runtime.deterministic:
        return "off"
    if trainer.strategy.root_device.type != "cuda":
        return "strict"
    if module.determinism_on_cuda == "strict":
        torch.use_deterministic_algorithms(True)  # the trainer's "warn" lets attention use atomic additions
    return module.determinism_on_cuda


def _write_record(
    config: CellConfig,
    folder: RunFolder,
    module: base.TaskModule,
    data: base.TaskData,
    loop: UpdateLoop,
    determinism: str,
) -> None:
    if damage := loop.metrics_log.damage(loop.metrics_log.state()):
        raise TrainingError(
            f"{damage}, although only this training writes to it. Check the disk of {folder.path}, then run the same "
            "command again: the training resumes from an earlier checkpoint."
        )
    counters = loop.counters
    samples = config.total_updates * config.batch.size
    if counters["skipped_samples"] >= samples:
        raise TrainingError(
            f"None of the {samples} samples trained on could be used, so nothing was learned; {folder.log} names them. "
            "Fix the data."
        )
    described = environment.describe(config.optimizer)
    with readable_os_errors(folder.path, "read"):
        files = folder.digests()
    record = Record(
        cell=cell_id(config),
        task=config.task,
        optimizer=config.optimizer.name,
        seed=config.seed,
        scale=config.scale,
        purpose=config.purpose,
        updates=config.total_updates,
        epochs=config.epochs,
        metrics=loop.results,
        baselines={split: metrics for split, metrics in data.baselines.items() if split in loop.results},
        scoring=dict(module.scoring),
        search_split=next((split.name for split in data.evaluation_sets if split.role == "search"), None),
        skipped_updates=int(counters["skipped_updates"]),
        skipped_samples=int(counters["skipped_samples"]),
        train_seconds=counters["train_seconds"],
        selected_update=int(counters["selected_update"]) if "selected_update" in counters else None,
        determinism=determinism,
        parameters=sum(p.numel() for p in module.parameters() if p.requires_grad),
        weights_sha256=weights_digest(module),
        fingerprint=data.fingerprint,
        counts=data.counts,
        files=files,
        claims=folder.read_claims(),
        code=described["code"],
        dirty=described["dirty"],
        hardware=described["hardware"],
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    record.write(folder.record)


def weights_digest(module: torch.nn.Module) -> str:
    """sha256 of all parameters and buffers: equal digests mean equal bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Hold the cell's lock. If another process has it: log which one, and wait until that process releases it."""

    def warn() -> None:
        heartbeat = folder.read_heartbeat() or {}
        owner = f"process {heartbeat.get('pid', 'unknown')} on {heartbeat.get('host', 'this machine')}"
        log.warning("%s is being trained by %s; waiting for its record.", folder.path.name, owner)

    with lock(folder.lock, warn):
        for path in (folder.path, folder.checkpoints):
            remove_leftovers(path)
        yield


def _silence_lightning() -> None:
    """Suppress Lightning's hints about its own loops: order, logging and checkpoints are ours."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*`max_epochs` was not set.*",
        ".*GPU available but not used.*",
        ".*have no `val_dataloader`.*",
        ".*across ranks is zero.*",  # a cell killed after its last update has nothing left to train
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning's own code
    ):
        warnings.filterwarnings("ignore", message=message)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    end_at_signals()
    one_of_several = sys.argv[2:] == ["--process"]
    if one_of_several:  # if torchrun's process is gone, nobody holds the cell's lock
        end_with_parent()
    run(Path(sys.argv[1]), process=one_of_several)
