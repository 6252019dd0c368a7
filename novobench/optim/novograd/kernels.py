"""The Triton kernels of the NovoGrad step; `launch_plan` prepares their tables and launches them.

A launch covers all tensors of one (weight, gradient, moment) dtype triple, however many, of whatever size, group,
alignment or strides. Each program takes one chunk of one tensor, looks its tensor up in tables of addresses and
layouts, and works on it in tiles of BLOCK elements.

  norms    one fp32 partial of ‖g‖² per chunk; the program that finishes a tensor's last chunk adds the tensor's
           partials up; v is copied to where `update` reads it
  decide   only for clipping and skipping of whole steps: one program adds up ‖g‖² of all tensors
  update   each program works out v from its tensor's ‖g‖² and moves its chunk of m and w
  norms_and_update   the first and the last in one launch, so that `update` finds g in the cache

Which program is the last one of a tensor is left to chance, what it adds up and in which order is not: two runs give
the same bits. Products and sums are fused where `tl.fma` says so and nowhere else (all launches pass
enable_fp_fusion=False), so that all loops and all variants of a kernel compute the same.

The 16-byte accesses that memory bandwidth needs come out of Triton only if the address and the tile's start are
both declared multiples and the access has no mask. Hence three loops: whole tiles of aligned tensors; what is left
of them and other dense tensors, masked; any other layout, in small tiles, because an index costs many registers,
and what one loop needs the whole kernel reserves.

Arguments, with C chunks, T tensors, G parameter groups and P parameters of the device (T ≤ P):

  chunks                 int64 [C, 2]        tensor and first element of each chunk
  layout                 int64 [T, COLUMNS]  sizes, strides and places of each tensor, see `kernel_tables`
  w_address, g_address, m_address  int64 [T]  where weight, gradient and moment (exp_avg) begin
  lr_address             int64 [G]           where each group's learning rate lies, one fp32
  numbers                fp32 [G, NUMBERS]   the groups' other options, see `kernel_tables`
  partials               fp32 [C]            Σ g² of each chunk
  finished               int64 [T]           chunks of each tensor whose norm is done, counted on over all steps
  squares                fp32 [T]            ‖g‖² of each tensor; `decide` may get those of several launches in a row
  count                  int32               how many of them `decide` gets
  v, v_old               fp32 [P]            v (exp_avg_sq), -1 before a parameter's first step, and its copy
  v_max, v_max_old       fp32 [P]            with AMSGRAD the largest v and its copy, else v and v_old again
  counters, counters_old int64 [P]           with ROUND each tensor's `rounding_counter` and its copy, else None
  grad_scale, found_inf  fp32 []             what a GradScaler set, read with SCALED and with FOUND
  limit                  fp32 []             what the global norm is clipped to, read with CLIP
  decision               fp32 [3]            see `decide`; read by `update` with DECIDED
  tasks                  int64 [2 C]         what `norms_and_update` does, in this order
  taken, summed          int64 [1], [T]      tasks taken and norms summed by all its launches so far

Constants, known when a kernel is compiled:

  W, G, M                dtype               of weight, gradient and moment
  SCALED, FOUND          bool                whether `grad_scale` and `found_inf` are read
  CLIP, DECIDED          bool                whether `limit` and `decision` are read
  ROUND                  bool                whether an fp32 weight has a bf16 moment, which is rounded stochastically,
                                             see `kernel_rounding`
  AMSGRAD                bool                whether any group has amsgrad, so that `v_max` is kept
  BLOCK                  int                 elements of a tile
  REVERSE                bool                the update takes the last chunk first, which may still be in the cache
  EVICT                  bool                tell the cache what is read for the last time, and which gradients are not
  OVERLAP                bool                let programs of the update look up their tables while the last norms are
                                             being taken (compute capability 9.0 and newer)
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from novobench.optim.novograd import kernel_tables as column
from novobench.optim.novograd.kernel_rounding import stochastic_round, tensor_key
from novobench.optim.novograd.kernel_tables import strided

STRIDED_DIVISOR = tl.constexpr(8)
"""Tiles of a tensor that is not dense are so many times smaller: one element per thread, whose 64-bit indices fit."""


@triton.jit
def _norm_of_chunk(
    chunk, g_address, layout, chunks, partials, finished, squares, v, v_old, v_max, v_max_old,
    counters, counters_old, G, AMSGRAD, ROUND, BLOCK, KEEP,
):  # fmt: skip
    """partials[chunk] = Σ g² over the chunk; v_old, v_max_old = v, v_max. Returns the chunk's tensor t, and whether
    this was the last of its chunks: squares[t] = ‖g‖² then."""
    t = tl.load(chunks + 2 * chunk)
    start = tl.load(chunks + 2 * chunk + 1)
    row = layout + t * column.COLUMNS
    stop = tl.minimum(start + tl.load(row + column.CHUNK), tl.load(row + column.NUMEL))
    g = tl.load(g_address + t).to(tl.pointer_type(G))
    lane = tl.arange(0, BLOCK)
    if tl.load(row + column.DENSE_GRADIENT) == 1:
        total = tl.zeros((BLOCK,), tl.float32)
        e = start
        if tl.load(row + column.ALIGNED) == 1:
            aligned = tl.multiple_of(g, 16)
            while e + BLOCK <= stop:
                x = tl.load(aligned + tl.multiple_of(e, BLOCK) + lane, eviction_policy=KEEP).to(tl.float32)
                total = tl.fma(x, x, total)
                e += BLOCK
        while e < stop:
            x = tl.load(g + e + lane, mask=e + lane < stop, other=0.0).to(tl.float32)
            total = tl.fma(x, x, total)
            e += BLOCK
        partial = tl.sum(total, axis=0)
    else:
        strided_lane = tl.arange(0, BLOCK // STRIDED_DIVISOR)
        strided_total = tl.zeros((BLOCK // STRIDED_DIVISOR,), tl.float32)
        e = start
        while e < stop:
            x = tl.load(g + strided(row, e + strided_lane, 1), mask=e + strided_lane < stop, other=0.0).to(tl.float32)
            strided_total = tl.fma(x, x, strided_total)
            e += BLOCK // STRIDED_DIVISOR
        partial = tl.sum(strided_total, axis=0)
    tl.store(partials + chunk, partial)
    if start == 0:
        slot = tl.load(row + column.SLOT)
        tl.store(v_old + slot, tl.load(v + slot))
        if AMSGRAD:
            tl.store(v_max_old + slot, tl.load(v_max + slot))
        if ROUND:
            tl.store(counters_old + slot, tl.load(counters + slot))

    count = tl.load(row + column.CHUNKS)
    tl.debug_barrier()  # every thread has stored before one thread says so
    last = (tl.atomic_add(finished + t, 1, sem="acq_rel") + 1) % count == 0
    if last:
        terms = partials + tl.load(row + column.FIRST)
        part = tl.arange(0, BLOCK // STRIDED_DIVISOR)
        sums = tl.zeros((BLOCK // STRIDED_DIVISOR,), tl.float32)
        p = count * 0
        while p < count:
            sums += tl.load(terms + p + part, mask=p + part < count, other=0.0)
            p += BLOCK // STRIDED_DIVISOR
        tl.store(squares + t, tl.sum(sums, axis=0))
    return t, last


@triton.jit
def norms(
    g_address, layout, chunks, partials, finished, squares, v, v_old, v_max, v_max_old, counters, counters_old,
    G: tl.constexpr, AMSGRAD: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The part of ‖g‖² of one chunk. Grid: C programs."""
    if OVERLAP:
        gdc_launch_dependents()
    _norm_of_chunk(
        tl.program_id(0), g_address, layout, chunks, partials, finished, squares, v, v_old, v_max, v_max_old,
        counters, counters_old, G, AMSGRAD, ROUND, BLOCK, "",
    )  # fmt: skip


@triton.jit(do_not_specialize=["count"])
def decide(
    squares, count, grad_scale, found_inf, limit, decision,
    SCALED: tl.constexpr, FOUND: tl.constexpr, CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """decision = (what gradients are multiplied by, 1 to take the step or 0 to change nothing, the opposite).

    `squares` are `count` terms of the square of the global norm. Grid: one program. float64.
    """
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    e = 0
    while e < count:
        total += tl.load(squares + e + lane, mask=e + lane < count, other=0.0).to(tl.float64)
        e += BLOCK
    norm = tl.sqrt(tl.sum(total, axis=0))
    scale = tl.full((), 1.0, tl.float64)
    take_step = norm < float("inf")
    if SCALED:
        scale = scale / tl.load(grad_scale).to(tl.float64)
    if FOUND:
        take_step = take_step & (tl.load(found_inf) == 0.0)
    if CLIP:
        scale = scale * tl.minimum(tl.load(limit).to(tl.float64) / (norm * scale + 1e-6), 1.0)
    tl.store(decision, tl.where(take_step, scale, 1.0).to(tl.float32))
    tl.store(decision + 1, take_step.to(tl.float32))
    tl.store(decision + 2, 1.0 - take_step.to(tl.float32))


@triton.jit
def _moved(w, g, m, factor, beta1, decay, average, shrink, rate):
    """m and w after the step, in fp32."""
    m = tl.fma(beta1, m, average * tl.fma(factor, g, decay * w))
    return m, tl.fma(-rate, m, shrink * w)


@triton.jit
def _stored(m, M, key, start, lane):
    """A tile of m as it is stored: rounded stochastically if its tensor has a key, else to nearest."""
    if key is None:
        return m.to(M)
    else:
        return stochastic_round(m, key, start, lane)


@triton.jit
def _update_of_chunk(
    chunk, w_address, g_address, m_address, layout, chunks, lr_address, numbers, squares, v, v_old, v_max,
    v_max_old, counters, counters_old, grad_scale, found_inf, decision, W, G, M, SCALED, FOUND, DECIDED, AMSGRAD,
    ROUND, BLOCK, OVERLAP, DROP,
):  # fmt: skip
    t = tl.load(chunks + 2 * chunk)
    start = tl.load(chunks + 2 * chunk + 1)
    row = layout + t * column.COLUMNS
    stop = tl.minimum(start + tl.load(row + column.CHUNK), tl.load(row + column.NUMEL))
    group = tl.load(row + column.GROUP)
    number = numbers + group * column.NUMBERS
    slot = tl.load(row + column.SLOT)
    w_start = tl.load(w_address + t).to(tl.pointer_type(W))
    g_start = tl.load(g_address + t).to(tl.pointer_type(G))
    m_start = tl.load(m_address + t).to(tl.pointer_type(M))
    lr = tl.load(tl.load(lr_address + group).to(tl.pointer_type(tl.float32)))
    rate = lr * tl.sqrt_rn(tl.load(row + column.RATE_SCALE_SQUARED).to(tl.float32))
    if OVERLAP:
        gdc_wait()  # everything above was written before the norms' launch, everything below may come from it

    square = tl.load(squares + t)
    scale = tl.full((), 1.0, tl.float32)
    take_step = square < float("inf")
    if DECIDED:
        scale = tl.load(decision)
        take_step = take_step & (tl.load(decision + 1) != 0.0)
    else:
        if SCALED:
            scale = (1.0 / tl.load(grad_scale).to(tl.float64)).to(tl.float32)
        if FOUND:
            take_step = take_step & (tl.load(found_inf) == 0.0)
    norm = tl.sqrt_rn(square) * scale
    square = norm * norm
    old = tl.load(v_old + slot)
    first = old < 0.0
    # a first step with neither gradient nor rate makes a state and nothing else, see `backend.scalar_update`
    take_step = take_step & (square < float("inf")) & ((square > 0.0) | (lr != 0.0) | (old >= 0.0))

    if take_step:
        v_new = tl.load(number + column.BETA2) * old + tl.load(number + column.ONE_MINUS_BETA2) * square
        v_new = tl.where(first, square, v_new)
        v_max_new = v_new
        if AMSGRAD:
            v_max_new = tl.maximum(v_new, tl.load(v_max_old + slot))
        v_used = v_new
        if AMSGRAD:
            v_used = tl.where(tl.load(number + column.AMSGRAD_ON) != 0.0, v_max_new, v_new)
        eps = tl.load(number + column.EPS)
        inside = tl.load(number + column.EPS_INSIDE) != 0.0
        divisor = tl.where(inside, tl.sqrt_rn(v_used + eps), tl.sqrt_rn(v_used) + eps)
        # ε = 0 and a zero gradient: 0/0 is taken as 0
        factor = tl.where(
            divisor > 0.0, tl.load(number + column.SIGN) * scale / tl.where(divisor > 0.0, divisor, 1.0), 0.0
        )
        average = tl.where(first, 1.0, tl.load(number + column.AVERAGE))
        beta1 = tl.load(number + column.BETA1)
        decay = tl.load(number + column.DECAY_IN_MOMENT)
        shrink = 1.0 - lr * tl.load(number + column.DECAY_IN_WEIGHT)
        if start == 0:
            tl.store(v + slot, v_new)
            if AMSGRAD:
                tl.store(v_max + slot, v_max_new)
        key = None
        if ROUND:
            counter = tl.load(counters_old + slot)
            key = tensor_key(counter)
            if start == 0:
                tl.store(counters + slot, counter + 1)

        if tl.load(row + column.FLAT) == 1:
            lane = tl.arange(0, BLOCK)
            e = start
            if tl.load(row + column.ALIGNED) == 1:
                w_at = tl.multiple_of(w_start, 16)
                g_at = tl.multiple_of(g_start, 16)
                m_at = tl.multiple_of(m_start, 16)
                while e + BLOCK <= stop:
                    at = tl.multiple_of(e, BLOCK) + lane
                    g = tl.load(g_at + at, eviction_policy=DROP).to(tl.float32)
                    w = tl.load(w_at + at, eviction_policy=DROP).to(tl.float32)
                    m = tl.load(m_at + at, eviction_policy=DROP).to(tl.float32)
                    m, w = _moved(w, g, m, factor, beta1, decay, average, shrink, rate)
                    tl.store(m_at + at, _stored(m, M, key, e, lane), eviction_policy=DROP)
                    tl.store(w_at + at, w.to(W), eviction_policy=DROP)
                    e += BLOCK
            while e < stop:
                at = e + lane
                mask = at < stop
                g = tl.load(g_start + at, mask=mask, other=0.0).to(tl.float32)
                w = tl.load(w_start + at, mask=mask, other=0.0).to(tl.float32)
                m = tl.load(m_start + at, mask=mask, other=0.0).to(tl.float32)
                m, w = _moved(w, g, m, factor, beta1, decay, average, shrink, rate)
                tl.store(m_start + at, _stored(m, M, key, e, lane), mask=mask)
                tl.store(w_start + at, w.to(W), mask=mask)
                e += BLOCK
        else:
            strided_lane = tl.arange(0, BLOCK // STRIDED_DIVISOR)
            e = start
            while e < stop:
                element = e + strided_lane
                mask = element < stop
                w_at = w_start + strided(row, element, 0)
                m_at = m_start + strided(row, element, 2)
                g = tl.load(g_start + strided(row, element, 1), mask=mask, other=0.0).to(tl.float32)
                w = tl.load(w_at, mask=mask, other=0.0).to(tl.float32)
                m = tl.load(m_at, mask=mask, other=0.0).to(tl.float32)
                m, w = _moved(w, g, m, factor, beta1, decay, average, shrink, rate)
                tl.store(m_at, _stored(m, M, key, e, strided_lane), mask=mask)
                tl.store(w_at, w.to(W), mask=mask)
                e += BLOCK // STRIDED_DIVISOR


@triton.jit
def update(
    w_address, g_address, m_address, layout, chunks, lr_address, numbers, squares, v, v_old, v_max, v_max_old,
    counters, counters_old, grad_scale, found_inf, decision,
    W: tl.constexpr, G: tl.constexpr, M: tl.constexpr, SCALED: tl.constexpr, FOUND: tl.constexpr,
    DECIDED: tl.constexpr, AMSGRAD: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr,
    EVICT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The step of one chunk. Grid: C programs."""
    chunk = tl.program_id(0)
    if REVERSE:
        chunk = tl.num_programs(0) - 1 - chunk
    _update_of_chunk(
        chunk, w_address, g_address, m_address, layout, chunks, lr_address, numbers, squares, v, v_old, v_max,
        v_max_old, counters, counters_old, grad_scale, found_inf, decision, W, G, M, SCALED, FOUND, DECIDED, AMSGRAD,
        ROUND, BLOCK, OVERLAP, "evict_first" if EVICT else "",
    )  # fmt: skip


@triton.jit
def norms_and_update(
    tasks, taken, summed, w_address, g_address, m_address, layout, chunks, lr_address, numbers, partials, finished,
    squares, v, v_old, v_max, v_max_old, counters, counters_old, grad_scale, found_inf,
    W: tl.constexpr, G: tl.constexpr, M: tl.constexpr, SCALED: tl.constexpr, FOUND: tl.constexpr,
    AMSGRAD: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr, EVICT: tl.constexpr,
):  # fmt: skip
    """Both in one launch: a program takes the next of `tasks`, which is chunk c's norm (c) or its update (-1 - c).
    Grid: 2 C programs.

    An update waits until its tensor's ‖g‖² is complete. The norms come earlier among the tasks, so some program has
    begun them, and every wait ends. `taken` and `summed` count tasks and sums over all such launches.
    """
    count = tl.num_programs(0)
    ticket = tl.atomic_add(taken, 1, sem="relaxed")
    task = tl.load(tasks + ticket % count)
    if task >= 0:
        t, last = _norm_of_chunk(
            task, g_address, layout, chunks, partials, finished, squares, v, v_old, v_max, v_max_old,
            counters, counters_old, G, AMSGRAD, ROUND, BLOCK, "evict_last" if EVICT else "",
        )  # fmt: skip
        if last:
            tl.debug_barrier()  # the sum is stored before others can see the count
            tl.atomic_add(summed + t, 1, sem="release")
    else:
        chunk = -1 - task
        t = tl.load(chunks + 2 * chunk)
        launch = ticket // count + 1
        seen = tl.atomic_add(summed + t, 0, sem="acquire")
        while seen < launch:
            seen = tl.atomic_add(summed + t, 0, sem="acquire")
        _update_of_chunk(
            chunk, w_address, g_address, m_address, layout, chunks, lr_address, numbers, squares, v, v_old, v_max,
            v_max_old, counters, counters_old, grad_scale, found_inf, squares, W, G, M, SCALED, FOUND, False, AMSGRAD,
            ROUND, BLOCK, False, "evict_first" if EVICT else "",
        )  # fmt: skip


INTERPRETED = not isinstance(update, triton.runtime.JITFunction)
"""Whether the kernels run in Triton's interpreter (TRITON_INTERPRET=1 before the import), and so on CPU tensors."""
