"""The guard against updates that are not finite: it skips them, alike for every optimizer, and puts back
what its forward passes have changed.

An optimizer that takes a GradScaler's `found_inf` is told on the device, and the host learns of skipped updates when
somebody reads; any other has its gradients taken away, for which the host waits once per update.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from novobench.config import CellConfig
from novobench.errors import TrainingError
from novobench.optim import registry
from novobench.tasks.base import TaskModule


class Guard:
    """Looks at the global gradient norm and the buffers of each update. A skipped update leaves weights, optimizer
    state, buffers (batch-norm statistics) and streams (Transformer-XL memory) as they were; data and schedule move on.
    Where the update began or grew a stream, what was not there before is NaN, which tasks read as absent.

    `skipped` counts such updates, `in_a_row` those since the last finite one, and `norm` is the newest global norm,
    unclipped, NaN for a skipped update: all as of the last `read`.
    """

    def __init__(self, config: CellConfig, total: int, *, skipped: int = 0, in_a_row: int = 0) -> None:
        """`total`, `skipped` and `in_a_row` are numbers of updates."""
        self.config, self.total = config, total
        self.skipped, self.in_a_row, self.norm = skipped, in_a_row, math.nan
        self._unread: list[Tensor] = []
        """Global norms since the last `read`, on the device."""
        self._on_device = False
        self._settled = 0
        """Parameters that the optimizer has state for, as far as this process has seen."""

    def start(self, module: TaskModule, optimizer: Optimizer) -> None:
        """Before the first update of this process; the module lies on its device."""
        self._on_device = registry.guards_on_device(self.config.optimizer.name, optimizer)
        self._module = module
        self._buffers = [_Buffers(alike) for alike in _by_type(module.buffers())]

    def begin_update(self) -> None:
        """Before the first forward pass of an update."""
        for buffers in self._buffers:
            buffers.save()
        self._streams = dict(self._module.streams)

    def before_step(self, optimizer: Optimizer) -> tuple[list[nn.Parameter], Tensor] | None:
        """Between backward and step, gradients unscaled and reduced: the parameters with gradients and their norm.

        None if the host knows already that the update is skipped.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        not_finite = norm * 0 != 0
        if self._buffers:  # a variance that overflows divides its layer's outputs to 0: all gradients stay finite
            for buffers in self._buffers:
                not_finite = not_finite | buffers.not_finite()
            not_finite = self._module.sum_over_processes(not_finite) > 0  # gradients are everybody's, buffers are not
        self._unread.append(torch.where(not_finite, math.nan, norm))
        for buffers in self._buffers:
            buffers.restore(not_finite)
        self._restore_streams(not_finite)
        # An optimizer's very first step waits too: torch's SGD makes its momentum of memory nobody has written to,
        # which a skipped step would leave as it is.
        if self._on_device and len(parameters) <= self._settled:
            optimizer.found_inf = not_finite.float()  # type: ignore[attr-defined]
            return parameters, norm
        optimizer.__dict__.pop("found_inf", None)
        if not_finite:
            for parameter in parameters:
                parameter.grad = None
            return None
        self._settled = len(parameters)
        return parameters, norm

    @torch.no_grad()
    def _restore_streams(self, wanted: Tensor) -> None:
        """Put back the streams of before the update if `wanted`, a bool on the device, is true.

        The next forward pass is launched by shapes, and the host does not know `wanted`. So a stream keeps the shape
        that the update has given it either way, see `_in_shape_of`.
        """
        streams = self._module.streams
        for k, now in streams.items():
            streams[k] = torch.where(wanted, _in_shape_of(now, self._streams.get(k)), now)

    def read(self, update: int) -> None:
        """Learn of the updates since the last `read`, up to number `update`; waits for the device.

        Raises `TrainingError` if `runtime.max_nonfinite` of them in a row were skipped.
        """
        norms = torch.stack(self._unread).tolist() if self._unread else []
        self._unread = []
        limit = self.config.runtime.max_nonfinite
        for number, norm in enumerate(norms, update - len(norms) + 1):
            self.norm = norm
            if math.isfinite(norm):
                self.in_a_row = 0
                continue
            self.skipped += 1
            self.in_a_row += 1
            if self.in_a_row >= limit:
                lost = not_finite(self._module)
                weights = f"the weights, too: {lost[0]}; " if lost else ""
                raise TrainingError(
                    f"Gradients were not finite in {limit} updates in a row, up to update {number} of {self.total} "
                    f"({weights}optimizer {self.config.optimizer.name}, lr {self.config.optimizer.lr:g}): the training "
                    "has diverged. Lower optimizer.lr, clip gradients with optimizer.clip_norm, or raise "
                    "runtime.max_nonfinite."
                )


def _in_shape_of(now: Tensor, before: Tensor | None) -> Tensor:
    """A stream's state `before` an update in the shape that it has `now`: its last entries in each dimension, after NaN
    for those that it did not have. All NaN if the stream had no state."""
    if before is None:
        return torch.full_like(now, math.nan)
    if before.shape == now.shape:
        return before
    more = [size - had for size, had in zip(now.shape, before.shape, strict=True)]
    return F.pad(before, [count for size in reversed(more) for count in (size, 0)], value=math.nan)


def not_finite(module: nn.Module) -> list[str]:
    """The names of its weights and statistics that hold a number which is not finite; waits for the device."""
    return [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor).all()]


class _Buffers:
    """Buffers of one type on one device, kept and put back in a few kernels for all together. Layers change them in
    place, so they stay where they are."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = [tensor.view(-1) for tensor in tensors]
        self.saved = torch.cat(self.tensors)
        self.now, self.kept = torch.empty_like(self.saved), torch.empty_like(self.saved)
        self.parts = self.kept.split([len(tensor) for tensor in self.tensors])

    def save(self) -> None:
        torch.cat(self.tensors, out=self.saved)

    def not_finite(self) -> Tensor:
        """Whether any number in them has become one that is not finite, a bool on the device."""
        torch.cat(self.tensors, out=self.now)
        return ((self.now * 0 != 0) & (self.saved * 0 == 0)).any()

    @torch.no_grad()
    def restore(self, wanted: Tensor) -> None:
        """Put back what was saved if `wanted`, a bool on the device, is true. After `not_finite`."""
        torch.where(wanted, self.saved, self.now, out=self.kept)
        torch._foreach_copy_(self.tensors, self.parts)


def _by_type(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors that are not empty, those of one type and device together."""
    found: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            found.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(found.values())


class GradScaler(torch.amp.GradScaler):
    """torch's GradScaler where `Guard` has looked for infs and told the optimizer: a step never waits to look again."""

    def _maybe_opt_step(self, optimizer: Optimizer, optimizer_state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return optimizer.step(*args, **kwargs)
