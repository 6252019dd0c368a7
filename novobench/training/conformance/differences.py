"""Where two states of a training differ in their bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The names of tensors that differ in any bit."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def nonfinite(weights: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in weights.items() if not tensor.isfinite().all()]


def first_difference(actual: Any, expected: Any, where: str = "") -> str:
    """The place of the first difference in any bit; empty if there is none. Dicts of `actual` may have further keys:
    torch's optimizers add some as they load a state."""
    if isinstance(expected, Mapping):
        missing = [key for key in expected if key not in actual]
        if missing:
            return f"{where}.{missing[0]}".lstrip(".")
        pairs = [(actual[key], value, f"{where}.{key}".lstrip(".")) for key, value in expected.items()]
    elif isinstance(expected, list | tuple):
        if len(actual) != len(expected):
            return f"the length of {where or 'the list'}"
        pairs = [(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(actual, expected, strict=True))]
    elif torch.is_tensor(expected):
        same = torch.is_tensor(actual) and actual.dtype == expected.dtype and actual.shape == expected.shape
        return "" if same and torch.equal(_bits(actual), _bits(expected)) else where or "it"
    else:
        equal: Any = actual is expected or actual == expected
        return "" if (equal.all() if hasattr(equal, "all") else equal) else where or "it"  # NumPy compares elements
    return next(filter(None, (first_difference(*pair) for pair in pairs)), "")


def _bits(tensor: Tensor) -> Tensor:
    """The same bits are equal, also those of NaN."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
