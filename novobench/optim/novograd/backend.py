"""Two ways to do the same NovoGrad update, a readable loop and foreach, and what all ways share.

The fused ways are `cpu` and `cuda`. Those here take one group's tensors. `s` is what the raw
gradient is multiplied by before anything else: 1 / grad scale × clip factor. With n = (s·‖g‖)² and D = √v + ε, the
update is m ← β₁·m + a·(s·g/D + d·w), w ← w - λ·m, where a = 1 - β₁ with gradient averaging after the first step,
else 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novobench.optim.novograd import rounding, sharding

_ROW = 1 << 14
"""Elements of a row; see `norm_on_cpu`."""


class Tensors(NamedTuple):
    """One parameter, its gradient and its state; complex ones as their real views, sharded ones as local parts."""

    parameter: Tensor
    gradient: Tensor
    moment: Tensor
    second: Tensor
    """v, -1 before the first step."""
    largest: Tensor | None
    """The largest v so far, with amsgrad."""
    sharded: Tensor | None = None
    """The parameter over all processes, if it lies in shards."""
    norm: Tensor | None = None
    """‖g‖ over all processes, if it lies in shards; see `with_norms`."""
    counter: Tensor | None = None
    """Where the random bits come from, if m is bf16 beside an fp32 parameter; see `rounding`."""


class Whole(NamedTuple):
    """What concerns the whole step. Tensors, never read here: the loop must not wait for the device."""

    scale: Tensor | None
    """s, or None for 1."""
    go: Tensor | None
    """A 0-d bool: False leaves everything as it is. None for True."""


def moment_dtype(parameter: Tensor) -> torch.dtype:
    """v is fp32, whatever the parameter's precision, and fp64 beside fp64 parameters."""
    return torch.float64 if parameter.dtype in (torch.float64, torch.complex128) else torch.float32


def gathered(
    parameters: Sequence[Tensor], state: dict[Tensor, dict[str, Any]], name: str, empty: float, dtype: torch.dtype
) -> Tensor:
    """One vector of a number of each parameter, on their device.

    What `state` holds already is copied in, and `state` then holds the vector's elements.
    """
    vector = torch.full((len(parameters),), empty, dtype=dtype, device=sharding.local(parameters[0]).device)
    for i, parameter in enumerate(parameters):
        own = state.get(parameter)
        if own:
            if name in own:
                vector[i] = own[name]
            own[name] = vector[i]
    return vector


def unscaled(grad_scale: Tensor | None, found_inf: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """s and whether to go on, from what a GradScaler set."""
    scale = None if grad_scale is None else grad_scale.double().reciprocal().squeeze()
    return scale, None if found_inf is None else (found_inf == 0).squeeze()


def limited(squares: list[Tensor], max_grad_norm: float | None, scale: Tensor | None, go: Tensor | None) -> Tensor:
    """s, whether to go on, and the opposite, when the global norm, of which `squares` are the parts, decides."""
    device = squares[0].device
    total = torch.stack([square.double().to(device) for square in squares]).sum().sqrt()
    finite = torch.isfinite(total)
    go = finite if go is None else go.to(device) & finite
    scale = torch.ones_like(total) if scale is None else scale.to(total)
    if max_grad_norm is not None:
        scale = scale * (max_grad_norm / (total * scale + 1e-6)).clamp_max(1.0)  # 1e-6 as torch's clip_grad_norm_
    return torch.stack([scale, go, ~go])


def with_norms(tensors: list[Tensors]) -> list[Tensors]:
    """The same tensors, those in shards with their gradient's norm over all processes."""
    places = [i for i, t in enumerate(tensors) if t.sharded is not None]
    if not places:
        return tensors
    squares = torch.stack([norm(tensors[i]).double().square() for i in places])
    sharding.sum_over_shards(squares, [tensors[i].sharded for i in places])  # type: ignore[misc]
    for i, total in zip(places, squares.sqrt(), strict=True):
        tensors[i] = tensors[i]._replace(norm=total.to(tensors[i].second.dtype))
    return tensors


def norm(t: Tensors) -> Tensor:
    """‖g‖, 0-d, in v's precision."""
    if t.norm is not None:
        return t.norm
    if t.gradient.device.type == "cpu":
        return norm_on_cpu(t.gradient).to(t.second.dtype)
    return torch.linalg.vector_norm(t.gradient, dtype=t.second.dtype)


def norm_on_cpu(x: Tensor) -> Tensor:
    """‖x‖, 0-d, float64, to seven digits.

    A GPU adds in a tree, but torch's norm of a tensor on a CPU adds one square after another: in fp32 that loses 1 %
    over 10⁸ elements, in double it is ten times slower. Norms of rows, put together in double, are neither. Small
    tensors and those with holes are summed in double; so is everything under torch.compile, whose loops are its own.
    """
    count = x.numel()
    rest = count % _ROW
    if count == rest or torch.compiler.is_compiling() or not dense(x):
        return torch.linalg.vector_norm(x, dtype=torch.float64)
    rows = x.as_strided((count // _ROW, _ROW), (_ROW, 1))  # in the order of memory, whatever the layout
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
    size = torch.linalg.vector_norm(norms, dtype=torch.float64)
    if rest:
        last = x.as_strided((rest,), (1,), x.storage_offset() + count - rest)
        size = torch.hypot(size, torch.linalg.vector_norm(last, dtype=torch.float64))
    return size


def _size(t: Tensors, x: Tensor) -> Tensor:
    """‖x‖ of a weight or moment, over all processes."""
    size = torch.linalg.vector_norm(x)
    if t.sharded is not None:
        square = size.double().square().reshape(1)
        sharding.sum_over_shards(square, [t.sharded])
        size = square[0].sqrt().to(size.dtype)
    return size


# ---------------------------------------------------------------------------------------------- the readable one


def loop(group: dict[str, Any], members: list[Tensors], whole: Whole) -> None:
    """Tensor by tensor, in fp32 (fp64) arithmetic, without reading a number from the device."""
    for t in members:
        _update(group, t, whole)


def _update(group: dict[str, Any], t: Tensors, whole: Whole) -> None:
    beta1, beta2 = group["betas"]
    lr, decay, dtype, device = group["lr"], group["weight_decay"], t.second.dtype, t.second.device
    if isinstance(lr, Tensor):
        lr = lr.to(device=device, dtype=dtype)
    scale = torch.ones((), dtype=dtype, device=device) if whole.scale is None else whole.scale.to(device, dtype)
    gradient, weight, moment = (x.to(dtype) for x in (t.gradient, t.parameter, t.moment))

    square = (norm(t) * scale) ** 2
    keep = ~torch.isfinite(square) if whole.go is None else ~(torch.isfinite(square) & whole.go.to(device))
    first = t.second < 0
    keep |= first & (square == 0) & (lr == 0)  # see `advancing`
    second = torch.where(first, square, beta2 * t.second + (1 - beta2) * square)
    largest = second if t.largest is None else torch.maximum(t.largest, second)
    divisor = (largest + group["eps"]).sqrt() if group["eps_inside_sqrt"] else largest.sqrt() + group["eps"]
    factor = torch.where(divisor > 0, scale / divisor, 0.0)  # ε = 0 and a zero gradient: 0/0 is taken as 0
    update = gradient * (-factor if group["maximize"] else factor)
    new_weight = weight
    if decay and group["decoupled_weight_decay"]:
        new_weight = weight * (1 - lr * decay)
    elif decay:
        update = update + decay * weight
    if group["grad_averaging"]:
        update = update * torch.where(first, torch.ones_like(second), 1 - beta1)
    moment = beta1 * moment + update
    if group["update_clip"] is not None:
        limit = group["update_clip"] * _size(t, weight)
        lr = (limit / (_size(t, moment) + 1e-8)).clamp_max(lr)
    new_weight = new_weight - lr * moment

    t.parameter.copy_(torch.where(keep, t.parameter, new_weight.to(t.parameter.dtype)))
    t.moment.copy_(torch.where(keep, t.moment, _as_stored(t, moment)))
    if t.counter is not None:
        t.counter.add_(~keep)
    t.second.copy_(torch.where(keep, t.second, second))
    if t.largest is not None:
        t.largest.copy_(torch.where(keep, t.largest, largest))


def _as_stored(t: Tensors, moment: Tensor) -> Tensor:
    """A new m in the dtype of the stored one."""
    if t.counter is None:
        return moment.to(t.moment.dtype)
    rounded = torch.empty_like(t.moment)
    rounding.stochastic_round(moment, t.counter, rounded)
    return rounded


# ---------------------------------------------------------------------------------------------- foreach


def foreach(group: dict[str, Any], members: list[Tensors], whole: Whole) -> None:
    """All tensors of a device at once; reads the norms from the device once a step."""
    scale, go = _on_host(whole)
    if not go:
        return
    alike: dict[tuple[torch.device, torch.dtype], list[Tensors]] = {}
    for t in members:
        if plain(t.parameter, t.gradient, t.moment) and group["update_clip"] is None:
            alike.setdefault((t.parameter.device, t.parameter.dtype), []).append(t)
        else:
            _update(group, t, whole)
    for (_, dtype), same in alike.items():
        if same[0].gradient.device.type == "cpu" or any(t.sharded is not None for t in same):
            norms = [norm(t) for t in same]
        else:
            norms = list(torch._foreach_norm([t.gradient for t in same], 2, dtype=same[0].second.dtype))
        lr = group["lr"].item() if isinstance(group["lr"], Tensor) else group["lr"]
        advance = advancing(group, lr, scale, dtype)
        taken = []
        for t, size in zip(same, torch.stack(norms).tolist(), strict=True):
            step = advance(size * size, t.second.item(), -1.0 if t.largest is None else t.largest.item())
            if step is None:
                continue
            factor, average, second = step
            taken.append((t, factor, average))
            t.second.fill_(second)
            if t.largest is not None:
                t.largest.clamp_min_(second)
        if not taken:
            continue
        weights = [t.parameter for t, _, _ in taken]
        moments = [t.moment for t, _, _ in taken]
        updates = torch._foreach_mul([t.gradient for t, _, _ in taken], [factor * a for _, factor, a in taken])
        decay = group["weight_decay"]
        if decay and not group["decoupled_weight_decay"]:
            torch._foreach_add_(updates, torch._foreach_mul(weights, [decay * a for _, _, a in taken]))
        torch._foreach_mul_(moments, group["betas"][0])
        torch._foreach_add_(moments, updates)
        if decay and group["decoupled_weight_decay"]:
            torch._foreach_mul_(weights, 1 - lr * decay)
        torch._foreach_add_(weights, moments, alpha=-lr)


def _on_host(whole: Whole) -> tuple[float, bool]:
    """s and whether to go on, read from the device once."""
    return 1.0 if whole.scale is None else whole.scale.item(), whole.go is None or bool(whole.go)


def advancing(
    group: dict[str, Any], lr: float, scale: float, dtype: torch.dtype
) -> Callable[[float, float, float], tuple[float, float, float] | None]:
    """The function that makes ± s / D, a and the new v of a tensor's ‖g‖², v and largest v (-1 without amsgrad).

    It returns None if the tensor is to be left as it is: if the norm is not finite, in the precision of v, or if a
    first step has neither gradient nor rate. torch.distributed.checkpoint takes such a step to make a state.
    """
    (beta1, beta2), eps, eps_inside_sqrt = group["betas"], group["eps"], group["eps_inside_sqrt"]
    signed, scale_square = -scale if group["maximize"] else scale, scale * scale
    average_later = 1 - beta1 if group["grad_averaging"] else 1.0
    limit = torch.finfo(dtype).max

    def advance(square: float, second: float, largest: float) -> tuple[float, float, float] | None:
        square *= scale_square
        if not square <= limit:
            return None
        if second < 0:
            if square == 0.0 and lr == 0.0:
                return None
            second, average = square, 1.0
        else:
            second, average = beta2 * second + (1 - beta2) * square, average_later
        if second > largest:
            largest = second
        divisor = math.sqrt(largest + eps) if eps_inside_sqrt else math.sqrt(largest) + eps
        if divisor == 0.0:  # ε = 0 and a zero gradient: 0/0 is taken as 0
            return 0.0, 1.0, second
        return signed / divisor, average, second

    return advance


def plain(parameter: Tensor, gradient: Tensor, moment: Tensor, moment_dtype: torch.dtype | None = None) -> bool:
    """One dtype with fp32 or fp64 arithmetic and one layout: the kernels check neither and would mix elements.

    `moment_dtype` is that of m if the caller makes a copy of m in the parameter's dtype.
    """
    dtype = parameter.dtype
    return (
        gradient.dtype is dtype
        and moment.dtype is (moment_dtype or dtype)
        and (dtype is torch.float32 or dtype is torch.float64)
        and parameter.numel() > 0
        and same_order(parameter, gradient, moment)
    )


def same_order(*tensors: Tensor) -> bool:
    """Whether the tensors, of one shape, lie dense in memory in one and the same order of their elements."""
    if all(map(Tensor.is_contiguous, tensors)):
        return True
    first, *others = tensors
    strides = _strides(first)
    return all(_strides(x) == strides for x in others) and dense(first)


def dense(x: Tensor) -> bool:
    """No holes and no overlap, e.g. channels-last: elements may be visited in memory order."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _strides(x: Tensor) -> list[int]:
    """Those that matter: of a dimension of one element torch may say anything."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]
