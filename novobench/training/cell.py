"""One cell: from a resolved config in a run folder to the record beside it. Safe to kill and start again.

`python -m novobench.training.cell FOLDER` does what `run` does; with `--process` it is one of the processes that
torchrun starts for a training on several devices. Nothing else makes a process one of several: a RANK or a SLURM job
that it happens to run in does not.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from novobench import hardware
from novobench.config import CellConfig, cell_id, load_tree
from novobench.device_limits import check_device
from novobench.errors import NovobenchError, TrainingError
from novobench.files import lock, readable_os_errors, remove_leftovers, write_json, write_text
from novobench.processes import describe_exit, end_at_signals, end_with_parent
from novobench.tasks import base
from novobench.tasks.catalog import resolve
from novobench.training import checkpoints, environment, failures, graphs
from novobench.training.guard import GradScaler
from novobench.training.loop import UpdateLoop
from novobench.training.metrics_log import MetricsLog
from novobench.training.run_folder import RunFolder

log = logging.getLogger(__name__)

RECORD_SCHEMA = 1
_OTHERS_SECONDS = 3.0
"""In which torchrun has seen that a process ended, and has ended the others."""
_CHECKPOINT_KEYS = {
    "update", "cell", "log", "best", "model", "optimizer", "precision", "streams", "fingerprint", "counters",
    "nonfinite_in_a_row", "search",
}  # fmt: skip


def run(path: Path, *, process: bool = False) -> None:
    """Train the cell whose `config.yaml` lies in `path`, unless its record is there. Holds the cell's lock.

    `process`: torchrun has started this process as one of several, and the one that started torchrun holds the lock.
    Raises `NovobenchError` with one clear line when the cell cannot be finished; the folder then also
    holds it in `failure.json`.
    """
    folder = RunFolder(path)
    config = resolve(load_tree(folder.config), str(folder.config))
    with nullcontext() if process else _held_lock(folder):
        if folder.finished:
            return
        rank = int(os.environ["RANK"]) if process else None
        if not process:
            with readable_os_errors(folder.failure, "remove"):
                folder.failure.unlink(missing_ok=True)
        if not rank:
            folder.beat(0, config.total_updates, setting_up=True)
        try:
            if config.runtime.devices * config.runtime.nodes > 1 and not process:
                _launch_processes(config, folder)
            else:
                train(config, folder, rank)
        except (Exception, SystemExit) as error:
            told = failures.reason(error)
            _leave_word(folder, told, wait=process and not isinstance(error, NovobenchError))
            if isinstance(error, NovobenchError | SystemExit):
                raise (type(error) if isinstance(error, NovobenchError) else TrainingError)(told) from error
            raise


def _leave_word(folder: RunFolder, told: str, *, wait: bool) -> None:
    """Leave the reason of a failure in the folder, if none is there: of several processes the first one counts.

    `wait`: this process may have failed because another one ended. torchrun then ends it while it waits, and what is
    told is how the other one did.
    """
    if wait:
        time.sleep(_OTHERS_SECONDS)
    if not folder.failure_reason() and folder.path.exists():  # a folder that was removed stays so
        with suppress(NovobenchError):  # on a full disk it can only be raised
            folder.fail(told)


def train(config: CellConfig, folder: RunFolder, rank: int | None = None) -> None:
    """Train and evaluate in this process and write the record. `rank`: of this process under torchrun."""
    if config.runtime.accelerator == "auto":
        check_device(config, hardware.accelerator())
    _set_up_torch(config)
    _quiet_lightning()
    try:
        _train(config, folder, rank)
    except RuntimeError as error:
        strict = (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        if not (strict and "deterministic" in str(error)):
            raise
        log.warning("Training again, with results to rounding: %s", str(error).partition("\n")[0])
        _train(config, folder, rank, to_rounding=True)


def _set_up_torch(config: CellConfig) -> None:
    torch.set_num_threads(config.runtime.threads)
    # With deterministic kernels torch would also write NaN into every new tensor first: a kernel for each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # It builds a graph for every new shape, some 30 ms each, and translation has a hundred.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Loader workers come from a forkserver of this process; without this each would import torch anew, for seconds.
    multiprocessing.set_forkserver_preload(["novobench.training.worker"])


def _train(config: CellConfig, folder: RunFolder, rank: int | None, *, to_rounding: bool = False) -> None:
    """`to_rounding`: do without the deterministic kernels that a task's operations turned out not to have."""
    first = not rank
    module, data = base.build(config)
    data.setup("fit")
    metrics = MetricsLog(folder.metrics, _trackers(config, folder) if first else ())
    state = _checkpoint_state(config, folder, data, metrics)
    if first:
        metrics.cut_back(state["log"] if state else None)
        write_json(folder.environment, environment.describe())
        write_text(folder.changes, environment.changes())
    loop = UpdateLoop(config, data, folder, metrics, state)
    if state is not None:
        loop.results = {
            split: {name: base.Metric(*values) for name, values in found.items()}
            for split, found in state["search"].items()
        }
    trainer = _trainer(config, loop, alone=rank is None)
    determinism = _determinism(config, module, trainer) if not to_rounding else "to rounding"
    if config.runtime.cuda_graphs:
        graphs.check(config, module, trainer)
    world = trainer.world_size
    trainer.fit(module, train_dataloaders=data.train_batches(loop.update, loop.total, trainer.global_rank, world))
    if trainer.interrupted:
        raise KeyboardInterrupt
    if first:
        _write_record(config, folder, module, data, loop, determinism)
    if world > 1:  # leave together: gloo aborts a process that ends while its connections are open
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _trainer(config: CellConfig, loop: UpdateLoop, *, alone: bool) -> pl.Trainer:
    """`alone`: this process is the whole training, whatever launcher's variables it has inherited."""
    runtime = config.runtime
    if alone:  # Lightning took it from RANK or SLURM_PROCID when it was imported, and loggers believe it
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    trainer = pl.Trainer(
        accelerator=runtime.accelerator,
        devices=runtime.devices,
        num_nodes=runtime.nodes,
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
    """`strict`: the same bits every time; `to rounding`; or `off`. Makes torch refuse what breaks strictness."""
    if not config.runtime.deterministic:
        return "off"
    if trainer.strategy.root_device.type != "cuda":
        return "strict"
    if module.determinism_on_cuda == "strict":
        torch.use_deterministic_algorithms(True)  # the trainer's "warn" lets attention take atomic additions
    return module.determinism_on_cuda


def _checkpoint_state(
    config: CellConfig, folder: RunFolder, data: base.TaskData, metrics: MetricsLog
) -> dict[str, Any] | None:
    """The newest checkpoint of this cell whose log of metrics is whole. Other data than its are refused."""

    def unusable(state: dict[str, Any]) -> str:
        if missing := _CHECKPOINT_KEYS - state.keys():
            return f"it has no {', '.join(sorted(missing))}: another version wrote it"
        if state["cell"] != cell_id(config):
            return f"it belongs to the cell {state['cell']}"
        return metrics.damage(state["log"])

    state = checkpoints.load_newest(folder.checkpoints, unusable)
    if state is not None and state["fingerprint"] != data.fingerprint:
        raise TrainingError(
            f"The data of {cell_id(config)} changed since its checkpoint at update {state['update']}: fingerprint "
            f"{data.fingerprint}, was {state['fingerprint']}. Restore the data, or remove {folder.path} to begin again."
        )
    return state


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
            f"{damage}, though this training alone writes to it. Look at the disk of {folder.path}, then run the same "
            "command again: it goes on from an earlier checkpoint."
        )
    seen = config.total_updates * config.batch.size
    if loop.counters["skipped_samples"] >= seen:
        raise TrainingError(
            f"None of the {seen} samples trained on could be used, so nothing was learnt; {folder.log} names them. "
            "Mend the data."
        )
    described = environment.describe()
    with readable_os_errors(folder.path, "read"):
        files = folder.digests()
    record = {
        "schema": RECORD_SCHEMA,
        "cell": cell_id(config),
        "task": config.task,
        "optimizer": config.optimizer.name,
        "seed": config.seed,
        "scale": config.scale,
        "purpose": config.purpose,
        "updates": config.total_updates,
        "epochs": config.epochs,
        "metrics": {
            split: {name: metric._asdict() for name, metric in found.items()} for split, found in loop.results.items()
        },
        "baselines": {
            split: {name: metric._asdict() for name, metric in found.items()}
            for split, found in data.baselines.items()
            if split in loop.results
        },
        "scoring": dict(module.scoring),
        "search_split": next((split.name for split in data.evaluation_sets if split.role == "search"), None),
        **loop.counters,
        "determinism": determinism,
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "weights_sha256": weights_digest(module),
        "fingerprint": data.fingerprint,
        "counts": data.counts,
        "files": files,
        **{key: described[key] for key in ("code", "dirty", "hardware")},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(folder.record, record)


def weights_digest(module: torch.nn.Module) -> str:
    """sha256 over all parameters and buffers: equal digests mean equal bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _held_lock(folder: RunFolder) -> Iterator[None]:
    """Hold the cell's lock. If another process has it: say who, and wait until it is done or gone."""

    def waiting() -> None:
        beat = folder.heartbeat() or {}
        who = f"process {beat.get('pid', 'unknown')} on {beat.get('host', 'this machine')}"
        log.warning("%s is being trained by %s; waiting for its record.", folder.path.name, who)

    with lock(folder.lock, waiting):
        for place in (folder.path, folder.checkpoints):
            remove_leftovers(place)
        yield


def _launch_processes(config: CellConfig, folder: RunFolder) -> None:
    """One training on several devices of this machine: torchrun starts this module once a device."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    processes = f"--nproc-per-node={config.runtime.devices}"
    try:
        torchrun(["--standalone", processes, "-m", "novobench.training.cell", str(folder.path), "--process"])
    except ChildFailedError as error:
        raise TrainingError(folder.failure_reason() or _first_to_end(error.failures, config, folder)) from None
    except SignalException as error:  # torchrun has ended the others
        signal.signal(error.sigval, signal.SIG_DFL)
        os.kill(os.getpid(), error.sigval)


def _first_to_end(failures: Mapping[int, Any], config: CellConfig, folder: RunFolder) -> str:
    """Which of the processes ended without a word, and how. torchrun then ends the others by SIGTERM; one that aborted
    may have done so because a connection to another broke."""
    ends = {rank: failure.exitcode for rank, failure in failures.items()}
    rank = min(ends, key=lambda rank: (ends[rank] == -signal.SIGTERM, ends[rank] == -signal.SIGABRT, rank))
    who = "one" if ends[rank] == -signal.SIGTERM else f"process {rank}"
    return (
        f"{who} of its {config.runtime.devices} processes {describe_exit(ends[rank])}, and so the others were stopped. "
        f"Run the same command again to go on from its checkpoint. See {folder.log}"
    )


def _trackers(config: CellConfig, folder: RunFolder) -> list[Any]:
    from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

    known = {
        "tensorboard": lambda: TensorBoardLogger(str(folder.path), name="tensorboard", version=""),
        "wandb": lambda: WandbLogger(project="novobench", name=cell_id(config), save_dir=str(folder.path)),
    }
    made = []
    for name in config.runtime.trackers:
        if name not in known:
            raise NovobenchError(f"runtime.trackers: no tracker '{name}'. Known: {', '.join(known)}.")
        try:
            made.append(known[name]())
        except ModuleNotFoundError:
            raise NovobenchError(
                f"runtime.trackers: '{name}' is not installed. Run: pip install 'novobench[{name}]'."
            ) from None
    return made


def _quiet_lightning() -> None:
    """Lightning's hints about its own loops do not apply: order, logging and checkpoints are ours."""
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
    if one_of_several:  # without torchrun's process nobody holds the cell's lock
        end_with_parent()
    run(Path(sys.argv[1]), process=one_of_several)
