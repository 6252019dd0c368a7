"""The hardware of this machine, as far as this process may use it."""

from __future__ import annotations

import os
import platform
import re
from functools import lru_cache
from pathlib import Path


def describe() -> str:
    """One phrase: the GPUs, else the CPU and its cores."""
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} × {torch.cuda.get_device_name(0)}"
    return f"{processor()}, {cores()} cores"


def processor_type(description: str) -> str:
    """The type of processor or GPU in what `describe` returned, without the number of cores or GPUs."""
    return re.sub(r"^\d+ × |, \d+ cores$", "", description)


def accelerator() -> str:
    """What `runtime.accelerator: auto` means here, in the order that Lightning prefers: `mps`, `cuda` or `cpu`."""
    import torch

    return "mps" if torch.backends.mps.is_available() else "cuda" if torch.cuda.is_available() else "cpu"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without starting CUDA.

    CUDA reads that variable as numbers, or as names that begin with GPU- or MIG-, all of one kind. The first invalid
    entry (-1, a word, a number that is too large) hides itself and all that follow; a duplicate hides all GPUs.
    """
    installed = _count_gpu_devices()
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [str(number) for number in range(installed)]
    words = [word.strip() for word in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    kind = next((kind for kind in ("GPU-", "MIG-") if words[0].startswith(kind)), "")
    gpus: list[str] = []
    for word in words:
        if kind:
            gpu = word if word.startswith(kind) else None
        else:
            digits = re.match(r"\+?(\d+)", word, re.ASCII)
            gpu = str(int(digits[1])) if digits and (not installed or int(digits[1]) < installed) else None
        if gpu is None:
            break
        if gpu in gpus:
            return []
        gpus.append(gpu)
    return gpus


def _count_gpu_devices() -> int:
    """The number of NVIDIA device files. WSL has none for its GPUs, so 0 does not mean that there is no GPU."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def mps_pipe_folder() -> Path | None:
    """The pipe folder of NVIDIA's Multi-Process Service; None if its daemon does not run.

    CUDA connects to the daemon by itself. Processes on one GPU then run at the same time instead of taking turns.
    """
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    return folder if (folder / "control").exists() else None


@lru_cache
def processor() -> str:
    """The type of the CPU: its name with family and model, because clouds give different processors the same name. Its
    architecture if the system does not say."""
    first = {}
    try:
        block = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
    except OSError:
        pass
    name = first.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key.removeprefix('cpu ')} {first[key]}" for key in ("cpu family", "model") if key in first]
    return f"{name} ({', '.join(numbers)})" if numbers else name
