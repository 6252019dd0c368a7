"""One training on several devices of this machine: torchrun starts one process of `training.cell` per device."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from novobench.config import CellConfig
from novobench.errors import TrainingError
from novobench.processes import describe_exit
from novobench.training.run_folder import RunFolder


def launch(config: CellConfig, folder: RunFolder) -> None:
    """Train the cell in `config.runtime.devices` processes and wait for them. The caller holds the cell's lock.

    Raises TrainingError, with the reason in one line, if one of them fails.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    processes = f"--nproc-per-node={config.runtime.devices}"
    try:
        torchrun(["--standalone", processes, "-m", "novobench.training.cell", str(folder.path), "--process"])
    except ChildFailedError as error:
        raise TrainingError(folder.failure_reason() or _first_failure(error.failures, config, folder)) from None
    except SignalException as error:  # torchrun has ended the processes
        signal.signal(error.sigval, signal.SIG_DFL)
        os.kill(os.getpid(), error.sigval)


def _first_failure(failures: Mapping[int, Any], config: CellConfig, folder: RunFolder) -> str:
    """Which process failed first, and how, if none has left a reason.

    `failures`: rank -> its failure. When one process fails, torchrun ends the others by SIGTERM. A process that aborted
    may have lost its connection to the one that failed.
    """
    exit_codes = {rank: failure.exitcode for rank, failure in failures.items()}

    def likelihood(rank: int) -> tuple[bool, bool, int]:
        return exit_codes[rank] == -signal.SIGTERM, exit_codes[rank] == -signal.SIGABRT, rank

    rank = min(exit_codes, key=likelihood)
    name = "one" if exit_codes[rank] == -signal.SIGTERM else f"process {rank}"
    return (
        f"{name} of its {config.runtime.devices} processes {describe_exit(exit_codes[rank])}, so the others were "
        f"stopped. Run the same command again to resume from its checkpoint. See {folder.log}"
    )
