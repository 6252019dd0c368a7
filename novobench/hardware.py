"""What this machine is."""

from __future__ import annotations

import os
import platform
import re
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


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without starting CUDA.

    What CUDA makes of that variable: numbers, or names that begin with GPU- or MIG-, all of one kind; the first that is
    none of them (-1, a word, a number too large) hides itself and all after it; one given twice hides all.
    """
    installed = _gpu_devices()
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [str(number) for number in range(installed)]
    words = [word.strip() for word in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    kind = next((kind for kind in ("GPU-", "MIG-") if words[0].startswith(kind)), "")
    seen: list[str] = []
    for word in words:
        if kind:
            found = word if word.startswith(kind) else None
        else:
            digits = re.match(r"\+?(\d+)", word, re.ASCII)
            found = str(int(digits[1])) if digits and (not installed or int(digits[1]) < installed) else None
        if found is None:
            break
        if found in seen:
            return []
        seen.append(found)
    return seen


def _gpu_devices() -> int:
    """How many NVIDIA GPUs the system shows; 0 also where it shows them in another way, as Windows' Linux does."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def mps_pipe_folder() -> Path | None:
    """The pipe folder of NVIDIA's Multi-Process Service, where its daemon has one: CUDA then joins it by itself, and
    processes on one GPU compute at once instead of taking turns."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    return folder if (folder / "control").exists() else None


@lru_cache
def processor() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
