"""The guard against non-finite updates: it skips them, alike for every optimizer, and restores what their forward
passes have changed.

An optimizer that reads a GradScaler's `found_inf` gets it on the device, and the host learns of skipped updates at the
next `read`. Any other optimizer loses its gradients instead, for which the host waits once per update.
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
from novobench.training.rates import optimizer_parts


class Guard:
    """Checks the global gradient norm and the buffers of each update. A skipped update leaves weights, optimizer state,
    buffers (batch-norm statistics) and streams (Transformer-XL memory) as they were; data and schedule advance.
    Where the update created or extended a stream, the new part becomes NaN, which tasks read as absent.

    As of the last `read`: `skipped` counts the skipped updates, `in_a_row` those since the last finite update, and
    `norm` is the newest global norm, before clipping (NaN for a skipped update).
    """

    def __init__(self, config: CellConfig, total: int) -> None:
        """total: updates of the whole training, for messages."""
        self.config, self.total = config, total
        self.skipped, self.in_a_row, self.norm = 0, 0, math.nan
        self._unread: list[Tensor] = []
        """Global norms since the last `read`, on the device."""
        self._on_device = False
        self._stepped_parameters = 0
        """Parameters that the optimizer is known to have state for."""
        self._groups: list[dict[str, Any]] = []
        """The parameter groups before the step, if the host knows that the update is skipped."""

    def start(self, module: TaskModule, optimizer: Optimizer) -> None:
        """Call before the first update of this process, with the module on its device."""
        parts = optimizer_parts(optimizer, self.config.optimizer)
        self._on_device = all(registry.guards_on_device(part.entry.name, part.optimizer) for part in parts)
        optimizer.register_step_post_hook(self._restore_groups)
        self._module = module
        self._buffers = [_Buffers(group) for group in _by_type(module.buffers())]

    def begin_update(self) -> None:
        """Call before the first forward pass of an update."""
        for buffers in self._buffers:
            buffers.save()
        self._streams = dict(self._module.streams)

    def before_step(self, optimizer: Optimizer) -> tuple[list[nn.Parameter], Tensor] | None:
        """Call between backward pass and step, with gradients unscaled and reduced. Returns the parameters that have
        gradients and the norm of these; None if the host already knows that the update is skipped."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        nonfinite = norm * 0 != 0  # inf * 0 is NaN
        if self._buffers:  # a variance that overflows divides its layer's outputs to 0: all gradients stay finite
            for buffers in self._buffers:
                nonfinite = nonfinite | buffers.nonfinite()
            nonfinite = self._module.sum_over_processes(nonfinite) > 0  # gradients are shared, buffers are not
        self._unread.append(torch.where(nonfinite, math.nan, norm))
        for buffers in self._buffers:
            buffers.restore(nonfinite)
        self._restore_streams(nonfinite)
        # The first step of each parameter is decided on the host: torch's SGD allocates its momentum uninitialized, and
        # a step skipped on the device would leave it so.
        if self._on_device and len(parameters) <= self._stepped_parameters:
            optimizer.found_inf = nonfinite.float()  # type: ignore[attr-defined]
            return parameters, norm
        optimizer.__dict__.pop("found_inf", None)
        if nonfinite:
            for parameter in parameters:
                parameter.grad = None
            self._groups = [
                {key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items()}
                for group in optimizer.param_groups
            ]
            return None
        self._stepped_parameters = len(parameters)
        return parameters, norm

    def _restore_groups(self, optimizer: Optimizer, *_: Any) -> None:
        """Some optimizers count steps in their groups, also steps without any gradient."""
        for group, before in zip(optimizer.param_groups, self._groups, strict=False):
            group.clear()
            group.update(before)
        self._groups = []

    @torch.no_grad()
    def _restore_streams(self, skip: Tensor) -> None:
        """Restore the streams of before the update where `skip`, a bool on the device, is true.

        The host must know the shapes of the next forward pass, and does not know `skip`. So a stream keeps the shape
        that the update has given it in both cases, see `_in_shape_of`.
        """
        streams = self._module.streams
        for k, now in streams.items():
            streams[k] = torch.where(skip, _in_shape_of(now, self._streams.get(k)), now)

    def read(self, update: int) -> None:
        """Count the updates since the last `read`, the newest of which is `update`. Waits for the device.

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
                lost = nonfinite_tensors(self._module)
                weights = f"nor are the weights, e.g. {lost[0]}; " if lost else ""
                raise TrainingError(
                    f"Gradients were not finite in {limit} updates in a row, up to update {number} of {self.total} "
                    f"({weights}optimizer {self.config.optimizer.name}, lr {self.config.optimizer.lr:g}): the training "
                    "has diverged. Lower optimizer.lr, clip gradients with optimizer.clip_norm, or raise "
                    "runtime.max_nonfinite."
                )


def _in_shape_of(now: Tensor, before: Tensor | None) -> Tensor:
    """A stream's state `before` an update, in the shape that it has `now`: padded at the front of each dimension with
    NaN. All NaN if the stream had no state."""
    if before is None:
        return torch.full_like(now, math.nan)
    if before.shape == now.shape:
        return before
    growth = [new - old for new, old in zip(now.shape, before.shape, strict=True)]
    return F.pad(before, [count for size in reversed(growth) for count in (size, 0)], value=math.nan)


def nonfinite_tensors(module: nn.Module) -> list[str]:
    """Names of the module's parameters and buffers that hold a non-finite number. Waits for the device."""
    return [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor).all()]


class _Buffers:
    """Buffers of one dtype and device, saved and restored together by a few kernels. Layers change them in place, so
    they keep their memory."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = [tensor.view(-1) for tensor in tensors]
        self.saved = torch.cat(self.tensors)
        self.now, self.kept = torch.empty_like(self.saved), torch.empty_like(self.saved)
        self.parts = self.kept.split([len(tensor) for tensor in self.tensors])

    def save(self) -> None:
        torch.cat(self.tensors, out=self.saved)

    def nonfinite(self) -> Tensor:
        """Whether a number that was finite at `save` no longer is: a bool on the device."""
        torch.cat(self.tensors, out=self.now)
        return ((self.now * 0 != 0) & (self.saved * 0 == 0)).any()

    @torch.no_grad()
    def restore(self, skip: Tensor) -> None:
        """Restore what was saved where `skip`, a bool on the device, is true. Call after `nonfinite`."""
        torch.where(skip, self.saved, self.now, out=self.kept)
        torch._foreach_copy_(self.tensors, self.parts)


def _by_type(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The tensors that are not empty, in groups of one dtype and device."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


class GradScaler(torch.amp.GradScaler):
    """torch's GradScaler without its own wait for the device: `Guard` has already looked for non-finite gradients and
    passed the result on."""

    def _maybe_opt_step(self, optimizer: Optimizer, optimizer_state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return optimizer.step(*args, **kwargs)
