"""What this machine is."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path


def describe() -> str:
    """One phrase: its GPUs, else its processor and the cores this process may use."""
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} × {torch.cuda.get_device_name(0)}"
    return f"{processor()}, {cores()} cores"


def accelerator() -> str:
    """What `runtime.accelerator: auto` means here, as Lightning has it: `mps`, `cuda` or `cpu`."""
    import torch

    return "mps" if torch.backends.mps.is_available() else "cuda" if torch.cuda.is_available() else "cpu"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mps_daemon() -> Path | None:
    """The pipe folder of NVIDIA's Multi-Process Service, where its daemon has one: CUDA then joins it by itself, and
    processes on one GPU compute at once instead of taking turns."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    return folder if (folder / "control").exists() else None


@lru_cache
def processor() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
