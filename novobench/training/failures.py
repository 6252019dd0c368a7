"""Why a training failed, as one line for the user, whatever the error."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch

from novobench.errors import NovobenchError, kind_and_message, one_line

_MEMORY = re.compile(r"out of memory|can.t allocate memory|not enough memory|cannot allocate memory|ALLOC_FAILED", re.I)
"""Messages of torch and of CUDA libraries about memory, in errors without a type of their own."""

_PEER = re.compile(r"(closed|reset) by (remote )?peer|broken pipe|remote process exited", re.I)
"""Messages of gloo and NCCL when another process of the training has ended."""


def reason(error: BaseException) -> str:
    """One line for the user. An unforeseen error is named with its type and the line that raised it."""
    if isinstance(error, NovobenchError):
        return one_line(without_traceback(str(error)))
    if isinstance(error, SystemExit):
        return (
            f"sys.exit({one_line(repr(error.code))}) was called{_place(error)}, which ends a process without a result. "
            "Modules that a training loads, such as an optimizer's, must not call it."
        )
    message = _kind_and_message(error)
    if problem := loader_problem(message):
        return problem
    if _is_out_of_memory(error, message):
        return (
            f"Out of memory: {message}{_place(error)}. Lower batch.micro (batch.size stays: more are accumulated), or "
            "train fewer cells at a time (--jobs)."
        )
    if isinstance(error, RuntimeError) and _PEER.search(message):
        return f"Another process of the training has ended before this one ({message}). Its output is in log.txt"
    return f"{message}{_place(error)}. Its traceback is in log.txt"


def loader_problem(message: str) -> str:
    """What an error of torch's data loader says about the machine of its workers, for the user; empty if nothing."""
    if "shared memory" in message or "bus error" in message or "</torch_" in message:
        return (
            "Data-loader workers pass their batches through /dev/shm, which is full. Enlarge it (docker run "
            "--shm-size), or set runtime.workers=0, then run the same command again: finished work is kept."
        )
    if "DataLoader worker" in message and ("exited unexpectedly" in message or "killed by signal" in message):
        return (
            f"A data-loader worker was ended from outside ({message.strip().rstrip('.')}): memory may have run out. "
            "Free memory or lower runtime.workers, then run the same command again: finished work is kept."
        )
    return ""


def without_traceback(message: str) -> str:
    """The message itself, if a data-loader worker has wrapped it in the text of its traceback."""
    _, wrapped, original = message.partition("Original Traceback")
    lines = original.strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith(" ")]
    if not wrapped or not frames:
        return message
    return "\n".join(lines[frames[-1] + 1 :]).partition(": ")[2]


def _kind_and_message(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        message = str(error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error)
    except Exception as second:  # the error's own __str__ failed
        return f"{kind}, whose message cannot be read ({type(second).__name__})"
    if "Original Traceback" in message:
        return f"{kind}: {one_line(without_traceback(message)) or 'no message'}".rstrip(". ")
    return kind_and_message(error) if message else f"{kind} without a message"


def _is_out_of_memory(error: BaseException, message: str) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and _MEMORY.search(message) is not None


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" (in {frames[-1].name}, {Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
