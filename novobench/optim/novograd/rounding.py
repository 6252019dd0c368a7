"""Stochastic rounding of fp32 moments to bf16, from random bits that are a function of a counter.

bf16 has 8 significant bits. Rounding to nearest drops every change of a moment below 2⁻⁹ of its size. The change is
(1 - β₁) times the distance to its limit, so with β₁ = 0.95 a moment stops 4 to 8 % short of its limit, always on the
side it came from. Stochastic rounding goes up with the probability that makes the expected
value exact, so its errors average out over steps. Compensated summation would need a second bf16 per parameter for
what rounding drops, and that is the memory that bf16 saves.

Element e, counted in memory order, lies at place e mod 2¹⁶ of row e div 2¹⁶. Its 16 random bits are

    bits(e) = ((a · mix32(e mod 2¹⁶) + b) mod 2³²) div 2¹⁶,   (a, b) = hashes of the tensor's counter and the row.

The hash mix32 scatters the places; multiply-shift with a random (a, b) makes the bits of each place uniform, new in
each step, tensor and row, and within a row independent for each pair of places. Uniform bits make the expected value
exact, and independence of pairs makes the variances of rounding errors add up. A full hash of every element would do
the same, but takes a CPU more than twice as long: here the hashes of the places are a table.

The counter of a tensor is one int64, kept in `state` as `rounding_counter`: 2³² times the tensor's number plus its
updates so far. There is no generator, so a resumed training rounds as an uninterrupted one does. Shards of a DTensor
use the same bits at the same local place: this correlates rounding errors across shards, but biases none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

ROW = 1 << 16
"""Elements that share (a, b). On a CPU the few buffers of this length stay in the cache."""
_LOW = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
"""2³² / φ: keeps the hash of zeros from being 0."""
_NAN = 0x7FC00000
Integer = TypeVar("Integer", int, Tensor)


def mix32(x: Integer) -> Integer:
    """A bijective hash of 32-bit numbers: flipping any bit of x flips each bit of the result half of the time.

    x is a Python int or an int64 tensor of values in [0, 2³²), and so is the result. The constants are from Christopher
    Wellons' hash prospector (https://github.com/skeeto/hash-prospector).
    """
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _LOW
    x = (x ^ (x >> 15)) * 0x735A2D97 & _LOW
    return x ^ (x >> 15)


def row_keys(counter: Integer, row: Integer) -> tuple[Integer, Integer]:
    """(a, b) of a row, a odd, both in [0, 2³²)."""
    key = mix32(mix32(mix32((counter >> 32 & _LOW) ^ _GOLDEN) + (counter & _LOW) & _LOW) + row & _LOW)
    return key | 1, mix32(key ^ _GOLDEN)


def applies(parameter: Tensor, group: dict[str, Any]) -> bool:
    """Whether exp_avg of a parameter of this group is bf16 while the weight is fp32, and therefore rounded."""
    return group.get("moment_dtype") is torch.bfloat16 and parameter.dtype is torch.float32


def first_counter(tensors: int) -> int:
    """The counter of a tensor before its first update; `tensors` is the number of tensors with state, including it."""
    return tensors << 32


def as_stored(exp_avg: Tensor, stored: Tensor, counter: Tensor | None) -> Tensor:
    """A new m in the dtype of the stored one; with a counter it is rounded stochastically."""
    if counter is None:
        return exp_avg.to(stored.dtype)
    rounded = torch.empty_like(stored)
    stochastic_round(exp_avg, counter, rounded)
    return rounded


def stochastic_round(x: Tensor, counter: int | Tensor, out: Tensor) -> None:
    """out = x, rounded up or down at random so that its expected value is x.

    Args:
        x: fp32, of any shape and strides.
        counter: the tensor's counter, an int or a 0-d int64 tensor, which on a GPU is not read by the host.
        out: bf16, of x's shape.

    Values that bf16 represents exactly are unchanged, infinities included, and NaN stays NaN. A finite x can become
    infinite only if its magnitude is above the largest bf16 (3.39e38). Elements are counted in `out`'s memory order.
    """
    by_place = sorted(range(out.dim()), key=out.stride, reverse=True)
    x, out = x.permute(by_place), out.permute(by_place)
    if not (x.is_contiguous() and out.is_contiguous()):
        x, scattered, out = x.contiguous(), out, torch.empty_like(out, memory_format=torch.contiguous_format)
        stochastic_round(x, counter, out)
        scattered.copy_(out)
        return
    x, out = x.view(-1), out.view(-1)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        for row, (x_row, out_row) in enumerate(zip(x.split(ROW), out.split(ROW), strict=True)):
            _round_row(x_row, int(counter), row, out_row)
    else:
        _round_on_device(x, torch.as_tensor(counter, device=x.device), out)


def update_rows(
    weight: Tensor, grad: Tensor, exp_avg: Tensor, counter: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the rows of three tensors of one layout on a CPU, the bf16 moment as an fp32 copy, and advance the counter.

    What the caller makes of the copy is rounded back into the moment when it asks for the next row.
    """
    number = int(counter)
    counter += 1
    flat = (x.as_strided((x.numel(),), (1,)).split(ROW) for x in (weight, grad, exp_avg))
    for row, (w, g, stored) in enumerate(zip(*flat, strict=True)):
        m = stored.float()
        yield w, g, m
        _round_row(m, number, row, stored)


@lru_cache
def _mixed_places(device: torch.device) -> Tensor:
    """mix32 of the places in a row, int32 [ROW]."""
    return _int32(mix32(torch.arange(ROW, device=device)))


def _int32(x: Integer) -> Integer:
    """The 32-bit number as a signed one, as torch's arithmetic has it."""
    x = (x ^ 0x80000000) - 0x80000000
    return x.to(torch.int32) if isinstance(x, Tensor) else x


def _round_row(x: Tensor, counter: int, row: int, out: Tensor) -> None:
    """Round one row, or the beginning of one."""
    a, b = row_keys(counter, row)
    offset = torch.tensor(_int32(b), dtype=torch.int32, device=x.device)
    bits = torch.add(offset, _mixed_places(x.device)[: x.numel()], alpha=_int32(a))
    finite = math.isfinite(x.sum().item())  # nearly always, and then no mask is needed
    _add_bits(x, bits, out, keep_nan=not finite)


def _add_bits(x: Tensor, bits: Tensor, out: Tensor, *, keep_nan: bool) -> None:
    """Add the upper halves of `bits` to the halves of x that bf16 drops; a carry rounds up. Overwrites `bits`."""
    bits.bitwise_right_shift_(16).bitwise_and_(0xFFFF).add_(x.view(torch.int32))
    if keep_nan:  # a carry could turn NaN into a number
        bits.masked_fill_(x != x, _NAN)
    out.view(torch.int16).copy_(bits.bitwise_right_shift_(16))


def _round_on_device(x: Tensor, counter: Tensor, out: Tensor) -> None:
    """All whole rows at once, then what is left, without asking the device."""
    rows, rest = divmod(x.numel(), ROW)
    a, b = (_int32(key).unsqueeze(1) for key in row_keys(counter, torch.arange(rows + 1, device=x.device)))
    places = _int32(mix32(torch.arange(ROW if rows else rest, device=x.device)))
    if rows:
        whole = slice(0, rows * ROW)
        _add_bits(x[whole].view(rows, ROW), places * a[:rows] + b[:rows], out[whole].view(rows, ROW), keep_nan=True)
    if rest:
        last = slice(rows * ROW, None)
        _add_bits(x[last], places[:rest] * a[rows] + b[rows], out[last], keep_nan=True)
