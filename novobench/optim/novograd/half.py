"""Tensors of half precision on a CPU, worked on block by block in fp32.

torch's operations on such tensors round after each of them, or make an fp32 copy of the whole tensor, whose fresh
memory costs more time than the step. torch's fused SGD kernel, which `cpu` calls, is wrong for half precision up to
torch 2.13: it leaves whole vectors of weights as they are and reads m beyond its end (pytorch/pytorch#191763).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16)

_BLOCK = 1 << 18
"""Elements of a block: small enough for three blocks to stay in the cache, large enough to pay for six calls."""

_of_thread = threading.local()


def _buffers() -> tuple[Tensor, ...]:
    """Three blocks of fp32, always the same ones of a thread: fresh memory would have to be mapped at each step."""
    if not hasattr(_of_thread, "buffers"):
        _of_thread.buffers = torch.empty(3, _BLOCK, dtype=torch.float32, device="cpu").unbind()
    buffers: tuple[Tensor, ...] = _of_thread.buffers
    return buffers


def blocks(x: Tensor) -> Iterator[Tensor]:
    """The elements of a dense tensor in fp32, in the order of memory. A block is overwritten by the next one."""
    buffer = _buffers()[0]
    for part in _split(x):
        yield _part(buffer, part).copy_(part)


def update_blocks(weight: Tensor, grad: Tensor, exp_avg: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of three tensors of one layout in fp32. What the caller makes of the weight's and exp_avg's is stored,
    rounded once, when it asks for the next."""
    for parts in zip(_split(weight), _split(grad), _split(exp_avg), strict=True):
        w, g, m = (_part(buffer, part) for buffer, part in zip(_buffers(), parts, strict=True))
        torch._foreach_copy_((w, g, m), parts)
        yield w, g, m
        torch._foreach_copy_((parts[0], parts[2]), (w, m))


def _split(x: Tensor) -> tuple[Tensor, ...]:
    flat = x if x.dim() == 1 else x.as_strided((x.numel(),), (1,))
    return (flat,) if x.numel() <= _BLOCK else flat.split(_BLOCK)


def _part(buffer: Tensor, like: Tensor) -> Tensor:
    return buffer if like.numel() == _BLOCK else buffer[: like.numel()]
