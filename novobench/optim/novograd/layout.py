"""How tensors lie in memory: whether kernels may visit their elements in the order of memory."""

from __future__ import annotations

from torch import Tensor


def is_dense(x: Tensor) -> bool:
    """Whether x has no holes and no overlap, e.g. is channels-last: its elements fill one range of memory."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def same_layout(*tensors: Tensor) -> bool:
    """Whether the tensors, of one shape, are dense with their elements in the same order."""
    if all(map(Tensor.is_contiguous, tensors)):
        return True
    first, *others = tensors
    strides = _strides(first)
    return all(_strides(x) == strides for x in others) and is_dense(first)


def _strides(x: Tensor) -> list[int]:
    """Strides of the dimensions that have any: torch may report any stride for a dimension of one element."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]
