"""The three Triton kernels of the fused NovoGrad step; `novograd_triton` prepares their tables and launches them.

A launch covers all tensors of one (weight, gradient, moment) dtype triple, however many, of whatever size, group,
alignment or strides. Each program takes one chunk of one tensor, looks its tensor up in tables of addresses and
layouts, and works on it in tiles of BLOCK elements. All sums are taken in a fixed order without atomics, so two
runs give the same bits.

  norms    one fp32 partial of ‖g‖² a chunk, into a slot of its own; v is copied to where `update` reads it
  whole    only for clipping and skipping of whole steps: one program adds up all partials
  update   each program adds up its tensor's partials, works out v, and moves its chunk of m and w

The 16-byte accesses that memory bandwidth needs come out of Triton only if the address and the tile's start are
both declared multiples and the access has no mask: hence the three loops, of which tails and odd layouts take the
slower two.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

# Columns of a tensor's row in the layout table.
NUMEL = tl.constexpr(0)
CHUNK = tl.constexpr(1)
"""Elements of a chunk."""
FIRST = tl.constexpr(2)
"""Number of its first chunk, which is also its first partial's slot."""
CHUNKS = tl.constexpr(3)
GROUP = tl.constexpr(4)
SLOT = tl.constexpr(5)
"""Its place in v."""
FLAT = tl.constexpr(6)
"""1: weight, gradient and moment lie dense in one and the same order, so elements are visited in memory order."""
ALIGNED = tl.constexpr(7)
"""1: flat, and all three start at a multiple of 16 bytes."""
DENSE_GRADIENT = tl.constexpr(8)
"""1: the gradient alone is dense, so that its norm may visit it in memory order."""
SIZES = tl.constexpr(9)
"""Five sizes, fastest first, then five strides each of weight, gradient and moment."""
DIMENSIONS = tl.constexpr(5)
COLUMNS = tl.constexpr(29)

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
def _strided(row, element, which: tl.constexpr):
    """Memory offsets of elements that are counted in the order of the layout row's sizes."""
    offset = element * 0
    rest = element
    for d in tl.static_range(DIMENSIONS):
        size = tl.load(row + SIZES + d)
        stride = tl.load(row + SIZES + (1 + which) * DIMENSIONS + d)
        offset += (rest % size) * stride
        rest = rest // size
    return offset


@triton.jit
def norms(
    g_address,
    layout,
    chunks,
    partials,
    v,
    v_old,
    largest,
    largest_old,
    G: tl.constexpr,
    BLOCK: tl.constexpr,
    AMSGRAD: tl.constexpr,
):
    """partials[chunk] = Σ g² over the chunk; v_old, largest_old = v, largest."""
    chunk = tl.program_id(0)
    t = tl.load(chunks + 2 * chunk)
    start = tl.load(chunks + 2 * chunk + 1)
    row = layout + t * COLUMNS
    stop = tl.minimum(start + tl.load(row + CHUNK), tl.load(row + NUMEL))
    g = tl.load(g_address + t).to(tl.pointer_type(G))
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    e = start
    if tl.load(row + ALIGNED) == 1:
        aligned = tl.multiple_of(g, 16)
        while e + BLOCK <= stop:
            x = tl.load(aligned + tl.multiple_of(e, BLOCK) + lane).to(tl.float32)
            total += x * x
            e += BLOCK
    if tl.load(row + DENSE_GRADIENT) == 1:
        while e < stop:
            x = tl.load(g + e + lane, mask=e + lane < stop, other=0.0).to(tl.float32)
            total += x * x
            e += BLOCK
    else:
        while e < stop:
            x = tl.load(g + _strided(row, e + lane, 1), mask=e + lane < stop, other=0.0).to(tl.float32)
            total += x * x
            e += BLOCK
    tl.store(partials + chunk, tl.sum(total, axis=0))
    if start == 0:
        slot = tl.load(row + SLOT)
        tl.store(v_old + slot, tl.load(v + slot))
        if AMSGRAD:
            tl.store(largest_old + slot, tl.load(largest + slot))


@triton.jit
def squares(layout, partials, squared, PARTS: tl.constexpr):
    """squared[t] = ‖g‖² of this process's share of tensor t; only for sharded tensors, before they are summed."""
    t = tl.program_id(0)
    tl.store(squared + t, _square(layout + t * COLUMNS, partials, PARTS))


@triton.jit
def _square(row, partials, PARTS: tl.constexpr):
    part = tl.arange(0, PARTS)
    found = tl.load(partials + tl.load(row + FIRST) + part, mask=part < tl.load(row + CHUNKS), other=0.0)
    return tl.sum(found, axis=0)


@triton.jit(do_not_specialize=["count"])
def whole(
    terms,
    count,
    grad_scale,
    found_inf,
    result,
    limit,
    SCALED: tl.constexpr,
    FOUND: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """result = (what gradients are multiplied by, 1 to take the step or 0 to leave everything as it is).

    `terms` are `count` parts of the square of the global norm. One program, float64.
    """
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    e = 0
    while e < count:
        total += tl.load(terms + e + lane, mask=e + lane < count, other=0.0).to(tl.float64)
        e += BLOCK
    norm = tl.sqrt(tl.sum(total, axis=0))
    scale = tl.full((), 1.0, tl.float64)
    go = norm < float("inf")
    if SCALED:
        scale = scale / tl.load(grad_scale).to(tl.float64)
    if FOUND:
        go = go & (tl.load(found_inf) == 0.0)
    if CLIP:
        scale = scale * tl.minimum(tl.load(limit).to(tl.float64) / (norm * scale + 1e-6), 1.0)
    tl.store(result, tl.where(go, scale, 1.0).to(tl.float32))
    tl.store(result + 1, go.to(tl.float32))


@triton.jit
def _moved(w, g, m, factor, beta1, decay, average, shrink, lr):
    """m and w after the step, in fp32."""
    m = beta1 * m + average * (factor * g + decay * w)
    return m, shrink * w - lr * m


@triton.jit
def update(
    w_address,
    g_address,
    m_address,
    layout,
    chunks,
    lr_address,
    numbers,
    terms,
    v,
    v_old,
    largest,
    largest_old,
    grad_scale,
    found_inf,
    decided,
    W: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    SUMMED: tl.constexpr,
    SCALED: tl.constexpr,
    FOUND: tl.constexpr,
    DECIDED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The step of one chunk. `terms` are partials, or with SUMMED ‖g‖² of each tensor; see `whole` for `decided`."""
    chunk = tl.program_id(0)
    t = tl.load(chunks + 2 * chunk)
    start = tl.load(chunks + 2 * chunk + 1)
    row = layout + t * COLUMNS
    stop = tl.minimum(start + tl.load(row + CHUNK), tl.load(row + NUMEL))
    number = numbers + tl.load(row + GROUP) * NUMBERS
    slot = tl.load(row + SLOT)

    square = tl.load(terms + t) if SUMMED else _square(row, terms, PARTS)
    scale = tl.full((), 1.0, tl.float32)
    go = square < float("inf")
    if DECIDED:
        scale = tl.load(decided)
        go = go & (tl.load(decided + 1) != 0.0)
    else:
        if SCALED:
            scale = (1.0 / tl.load(grad_scale).to(tl.float64)).to(tl.float32)
        if FOUND:
            go = go & (tl.load(found_inf) == 0.0)
    norm = tl.sqrt_rn(square) * scale
    square = norm * norm
    go = go & (square < float("inf"))

    if go:
        old = tl.load(v_old + slot)
        first = old < 0.0
        second = tl.load(number + BETA2) * old + tl.load(number + ONE_MINUS_BETA2) * square
        second = tl.where(first, square, second)
        peak = second
        if AMSGRAD:
            peak = tl.maximum(second, tl.load(largest_old + slot))
        under = second
        if AMSGRAD:
            under = tl.where(tl.load(number + AMSGRAD_ON) != 0.0, peak, second)
        eps = tl.load(number + EPS)
        inside = tl.load(number + EPS_INSIDE) != 0.0
        divisor = tl.where(inside, tl.sqrt_rn(under + eps), tl.sqrt_rn(under) + eps)
        # ε = 0 and a zero gradient: 0/0 is taken as 0
        factor = tl.where(divisor > 0.0, tl.load(number + SIGN) * scale / tl.where(divisor > 0.0, divisor, 1.0), 0.0)
        average = tl.where(first, 1.0, tl.load(number + AVERAGE))
        beta1 = tl.load(number + BETA1)
        decay = tl.load(number + DECAY_IN_MOMENT)
        lr = tl.load(tl.load(lr_address + tl.load(row + GROUP)).to(tl.pointer_type(tl.float32)))
        shrink = 1.0 - lr * tl.load(number + DECAY_IN_WEIGHT)
        if start == 0:
            tl.store(v + slot, second)
            if AMSGRAD:
                tl.store(largest + slot, peak)

        w_start = tl.load(w_address + t).to(tl.pointer_type(W))
        g_start = tl.load(g_address + t).to(tl.pointer_type(G))
        m_start = tl.load(m_address + t).to(tl.pointer_type(M))
        lane = tl.arange(0, BLOCK)
        e = start
        if tl.load(row + ALIGNED) == 1:
            w_at = tl.multiple_of(w_start, 16)
            g_at = tl.multiple_of(g_start, 16)
            m_at = tl.multiple_of(m_start, 16)
            while e + BLOCK <= stop:
                at = tl.multiple_of(e, BLOCK) + lane
                g = tl.load(g_at + at).to(tl.float32)
                w = tl.load(w_at + at).to(tl.float32)
                m = tl.load(m_at + at).to(tl.float32)
                m, w = _moved(w, g, m, factor, beta1, decay, average, shrink, lr)
                tl.store(m_at + at, m.to(M))
                tl.store(w_at + at, w.to(W))
                e += BLOCK
        flat = tl.load(row + FLAT) == 1
        while e < stop:
            element = e + lane
            mask = element < stop
            w_at = element
            g_at = element
            m_at = element
            if not flat:
                w_at = _strided(row, element, 0)
                g_at = _strided(row, element, 1)
                m_at = _strided(row, element, 2)
            g = tl.load(g_start + g_at, mask=mask, other=0.0).to(tl.float32)
            w = tl.load(w_start + w_at, mask=mask, other=0.0).to(tl.float32)
            m = tl.load(m_start + m_at, mask=mask, other=0.0).to(tl.float32)
            m, w = _moved(w, g, m, factor, beta1, decay, average, shrink, lr)
            tl.store(m_start + m_at, m.to(M), mask=mask)
            tl.store(w_start + w_at, w.to(W), mask=mask)
            e += BLOCK


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter (TRITON_INTERPRET=1 before the import), and so on CPU tensors."""
    kernel: Any = update
    return not isinstance(kernel, triton.runtime.JITFunction)
