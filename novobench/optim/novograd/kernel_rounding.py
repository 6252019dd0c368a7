"""Stochastic rounding to bf16 inside the Triton kernels, with the same bits as `rounding`, which defines them.

All arithmetic is in uint32, which wraps.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROW = tl.constexpr(1 << 16)
"""As `rounding.ROW`. A tile never crosses a row: its size is a power of two, and it starts at a multiple of that."""
GOLDEN = tl.constexpr(0x9E3779B9)
NAN = tl.constexpr(0x7FC00000)


@triton.jit
def mix32(x):
    """`rounding.mix32` of a uint32."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0x735A2D97
    return x ^ (x >> 15)


@triton.jit
def tensor_key(counter):
    """The part of `rounding.row_keys` that depends on the tensor's counter (int64) alone."""
    number, updates = (counter >> 32).to(tl.uint32), counter.to(tl.uint32)
    return mix32(mix32(number ^ GOLDEN) + updates)


@triton.jit
def stochastic_round(x, key, start, lane):
    """Round an fp32 tile x to bf16. Its elements are `start` + `lane` (int64, int32) of the tensor with that key."""
    row_key = mix32(key + (start // ROW).to(tl.uint32))
    a = row_key | 1
    b = mix32(row_key ^ GOLDEN)
    bits = mix32((start % ROW).to(tl.uint32) + lane.to(tl.uint32)) * a + b
    rounded = x.to(tl.uint32, bitcast=True) + (bits >> 16)
    rounded = tl.where(x == x, rounded, NAN)  # a carry could turn NaN into a number
    return (rounded >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
