"""Rows of numbers that tell the CUDA kernels how a tensor lies in memory, and what its parameter group asks for.

Here stand the meaning of their columns, how the host fills them in, and how a kernel finds an element by them.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from novobench.optim.novograd.layout import is_dense, same_layout

# Columns of a tensor's row in the layout table.
NUMEL = tl.constexpr(0)
CHUNK = tl.constexpr(1)
"""Elements of a chunk."""
FIRST = tl.constexpr(2)
"""Number of its first chunk, which is also its first partial's slot."""
CHUNKS = tl.constexpr(3)
"""How many it has."""
GROUP = tl.constexpr(4)
SLOT = tl.constexpr(5)
"""Its place in v."""
FLAT = tl.constexpr(6)
"""1: weight, gradient and moment lie dense in one and the same order, so elements are visited in memory order."""
ALIGNED = tl.constexpr(7)
"""1: flat, and all three start at a multiple of 16 bytes."""
DENSE_GRADIENT = tl.constexpr(8)
"""1: the gradient alone is dense, so that its norm may visit it in memory order."""
RATE_SCALE_SQUARED = tl.constexpr(9)
"""n: its rate is √n times its group's, 1 unless `layer_scale="rms"`."""
SIZES = tl.constexpr(10)
"""Five sizes, fastest first, then five strides each of weight, gradient and moment."""
DIMENSIONS = tl.constexpr(5)
COLUMNS = tl.constexpr(30)

# Columns of a group's row of numbers.
BETA1 = tl.constexpr(0)
BETA2 = tl.constexpr(1)
ONE_MINUS_BETA2 = tl.constexpr(2)
EPS = tl.constexpr(3)
DECAY_IN_MOMENT = tl.constexpr(4)
DECAY_IN_WEIGHT = tl.constexpr(5)
AVERAGE = tl.constexpr(6)
"""What the new term of m is multiplied by after the first step."""
EPS_INSIDE = tl.constexpr(7)
AMSGRAD_ON = tl.constexpr(8)
SIGN = tl.constexpr(9)
"""-1 to maximize."""
NUMBERS = tl.constexpr(10)


@triton.jit
def strided(row, element, which: tl.constexpr):
    """Memory offsets of elements that are counted in the order of the layout row's sizes."""
    offset = element * 0
    rest = element
    for d in tl.static_range(DIMENSIONS):
        size = tl.load(row + SIZES + d)
        stride = tl.load(row + SIZES + (1 + which) * DIMENSIONS + d)
        offset += (rest % size) * stride
        rest = rest // size
    return offset


def layout_columns(weight: Tensor, gradient: Tensor, moment: Tensor, rate_scale_squared: int) -> list[int]:
    """A tensor's columns from FLAT on; without sizes and strides if the three lie dense in the same order."""
    flat = same_layout(weight, gradient, moment)
    aligned = flat and all(x.data_ptr() % 16 == 0 for x in (weight, gradient, moment))
    sizes, strides = [1] * DIMENSIONS.value, [[0] * DIMENSIONS.value for _ in range(3)]
    if not flat:
        fastest_first = sorted(range(weight.dim()), key=lambda d: weight.stride(d))
        for place, d in enumerate(fastest_first):
            sizes[place] = weight.size(d)
            for of_tensor, tensor in zip(strides, (weight, gradient, moment), strict=True):
                of_tensor[place] = tensor.stride(d)
    flags = int(flat), int(aligned), int(is_dense(gradient))
    return [*flags, rate_scale_squared, *sizes, *(s for of in strides for s in of)]


def group_numbers(group: dict[str, Any]) -> tuple[float, ...]:
    """A group's options as the kernels' row of numbers."""
    (beta1, beta2), decay, decoupled = group["betas"], group["weight_decay"], group["decoupled_weight_decay"]
    return (
        beta1,
        beta2,
        1 - beta2,
        group["eps"],
        0.0 if decoupled else decay,
        decay if decoupled else 0.0,
        1 - beta1 if group["grad_averaging"] else 1.0,
        float(group["eps_inside_sqrt"]),
        float(group["amsgrad"]),
        -1.0 if group["maximize"] else 1.0,
    )
