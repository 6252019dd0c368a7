"""Norms: precise on a CPU, and of whole tensors where those are sharded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from novobench.optim.novograd import half, sharding
from novobench.optim.novograd.backend import ParamState
from novobench.optim.novograd.layout import is_dense

_ROW = 1 << 14
"""Elements of a row; see `norm_on_cpu`."""
_LARGEST_DOT = 1 << 18
"""Elements of which a dot product in fp32, the fastest way, gives ‖g‖² to a millionth; of millions it is 1e-4 off."""


def grad_norms(tensors: Sequence[ParamState]) -> Iterable[Tensor]:
    """‖g‖ of each tensor, 0-d, in v's precision or float64.

    Norms of sharded tensors are those over all processes, which takes one collective per mesh dimension. Where no
    tensor is sharded, each norm is computed when it is asked for, just before the gradient is read again.
    """
    sharded = [i for i, t in enumerate(tensors) if t.dtensor is not None]
    each = (norm(t.grad, t.exp_avg_sq.dtype) for t in tensors)
    if not sharded:
        return each
    norms = list(each)
    squares = torch.stack([norms[i].double().square() for i in sharded])
    sharding.sum_over_shards(squares, [tensors[i].dtensor for i in sharded])  # type: ignore[misc]
    for i, total in zip(sharded, squares.sqrt(), strict=True):
        norms[i] = total.to(norms[i].dtype)
    return norms


def square_norm(norms: Sequence[Tensor]) -> Tensor:
    """The square of the norm of all gradients together, 0-d float64."""
    return torch.stack([norm.double().square().to(norms[0].device) for norm in norms]).sum()


def norm_of(t: ParamState, x: Tensor) -> Tensor:
    """‖x‖ of a weight or moment of `t`, 0-d, in v's precision or float64; of a sharded one over all processes."""
    local = norm(x, t.exp_avg_sq.dtype)
    if t.dtensor is None:
        return local
    square = local.double().square().reshape(1)
    sharding.sum_over_shards(square, [t.dtensor])
    return square[0].sqrt().to(local.dtype)


def norm(x: Tensor, dtype: torch.dtype) -> Tensor:
    """‖x‖, 0-d; float64 on a CPU, else of `dtype`."""
    if x.device.type == "cpu":
        return norm_on_cpu(x)
    size: Tensor = torch.linalg.vector_norm(x, dtype=dtype)
    return size


def norm_on_cpu(x: Tensor) -> Tensor:
    """‖x‖, 0-d, float64, to six digits.

    A GPU adds in a tree, but torch's norm of a tensor on a CPU adds one square after another: in fp32 that loses 1 %
    over 10⁸ elements, in double it is ten times slower. Norms of rows, put together in double, are neither. Small
    tensors and those with holes are summed in double; so is everything under torch.compile, whose loops are its own.
    """
    if torch.compiler.is_compiling():
        return _double_norm(x)
    if x.dtype in half.DTYPES:
        square = square_on_cpu(x if is_dense(x) else x.flatten())
        return torch.tensor(square, dtype=torch.float64, device="cpu").sqrt()
    count = x.numel()
    rest = count % _ROW
    if count == rest or not is_dense(x):
        return _double_norm(x)
    rows = x.as_strided((count // _ROW, _ROW), (_ROW, 1))  # in the order of memory, whatever the layout
    norms = torch.linalg.vector_norm(rows, dim=1)
    size = _double_norm(norms)
    if rest:
        last = x.as_strided((rest,), (1,), x.storage_offset() + count - rest)
        size = torch.hypot(size, _double_norm(last))
    return size


def _double_norm(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x, dtype=torch.float64)
    return size


def square_on_cpu(x: Tensor) -> float:
    """‖x‖² of a dense tensor, its elements taken in the order of memory, whatever its layout."""
    if x.dtype in half.DTYPES:
        return sum(map(square_on_cpu, half.blocks(x)))
    count = x.numel()
    if count > _LARGEST_DOT:
        return finite_square(norm_on_cpu(x))
    flat = x if x.dim() == 1 else x.as_strided((count,), (1,))
    return torch.dot(flat, flat).item()


def finite_square(norm: Tensor) -> float:
    """The square of a norm: inf if it is too large for a float, where ** raises."""
    number: float = norm.item()
    return number * number
