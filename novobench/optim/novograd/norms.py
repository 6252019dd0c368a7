"""Gradient norms: precise on a CPU, and of whole tensors where those are sharded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from novobench.optim.novograd import sharding
from novobench.optim.novograd.backend import ParamState
from novobench.optim.novograd.layout import is_dense

_ROW = 1 << 14
"""Elements of a row; see `norm_on_cpu`."""


def grad_norms(tensors: Sequence[ParamState]) -> list[Tensor]:
    """‖g‖ of each tensor, 0-d, in v's precision; of sharded tensors over all processes, which takes one collective per
    mesh dimension."""
    norms = [_norm(t.grad, t.exp_avg_sq.dtype) for t in tensors]
    sharded = [i for i, t in enumerate(tensors) if t.dtensor is not None]
    if sharded:
        squares = torch.stack([norms[i].double().square() for i in sharded])
        sharding.sum_over_shards(squares, [tensors[i].dtensor for i in sharded])  # type: ignore[misc]
        for i, total in zip(sharded, squares.sqrt(), strict=True):
            norms[i] = total.to(norms[i].dtype)
    return norms


def square_norm(norms: Sequence[Tensor]) -> Tensor:
    """The square of the norm of all gradients together, 0-d float64."""
    return torch.stack([norm.double().square().to(norms[0].device) for norm in norms]).sum()


def norm_of(t: ParamState, x: Tensor) -> Tensor:
    """‖x‖ of a weight or moment of `t`, 0-d; of a sharded one over all processes."""
    norm: Tensor = torch.linalg.vector_norm(x)
    if t.dtensor is not None:
        square = norm.double().square().reshape(1)
        sharding.sum_over_shards(square, [t.dtensor])
        norm = square[0].sqrt().to(norm.dtype)
    return norm


def _norm(grad: Tensor, dtype: torch.dtype) -> Tensor:
    if grad.device.type == "cpu":
        return norm_on_cpu(grad).to(dtype)
    norm: Tensor = torch.linalg.vector_norm(grad, dtype=dtype)
    return norm


def norm_on_cpu(x: Tensor) -> Tensor:
    """‖x‖, 0-d, float64, to seven digits.

    A GPU adds in a tree, but torch's norm of a tensor on a CPU adds one square after another: in fp32 that loses 1 %
    over 10⁸ elements, in double it is ten times slower. Norms of rows, put together in double, are neither. Small
    tensors and those with holes are summed in double; so is everything under torch.compile, whose loops are its own.
    """
    count = x.numel()
    rest = count % _ROW
    if count == rest or torch.compiler.is_compiling() or not is_dense(x):
        norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.float64)
        return norm
    rows = x.as_strided((count // _ROW, _ROW), (_ROW, 1))  # in the order of memory, whatever the layout
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
    size: Tensor = torch.linalg.vector_norm(norms, dtype=torch.float64)
    if rest:
        last = x.as_strided((rest,), (1,), x.storage_offset() + count - rest)
        size = torch.hypot(size, torch.linalg.vector_norm(last, dtype=torch.float64))
    return size
