"""Who takes part in the fused NovoGrad step, and what has changed since the last one.

One `FusedStep` holds the parameters of one device: their v in one vector, whose elements are the 0-d tensors of
`state`, and the plan of the tensors that had a gradient last time. A step in which nothing changed costs the host a
few comparisons of lists and two launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd import backend as paths
from novobench.optim.novograd import kernels, rounding, sharding
from novobench.optim.novograd import launch_plan as tables
from novobench.optim.novograd.layout import DIMENSIONS

_ADDRESS, _STRIDE, _CONTIGUOUS = Tensor.data_ptr, Tensor.stride, Tensor.is_contiguous


def runs_on(device: torch.device) -> bool:
    """CUDA; in Triton's interpreter, which tests use, the CPU instead."""
    return device.type == ("cpu" if kernels.INTERPRETED else "cuda")


def takes(parameter: Tensor) -> bool:
    """Whether the kernels know this parameter's dtype and can index it."""
    return parameter.dtype in tables.DTYPES and parameter.dim() <= DIMENSIONS.value


class FusedStep:
    """The fused step of the parameters of one device; `members` are (number of the group, parameter)."""

    def __init__(
        self,
        members: Sequence[tuple[int, Tensor]],
        groups: Sequence[dict[str, Any]],
        state: dict[Tensor, dict[str, Any]],
        *,
        at_once: bool = False,
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        """`at_once`: with `norms_and_update`, see there."""
        self.moment_dtype = moment_dtype
        self.members, self.groups, self.state = list(members), groups, state
        self.parameters = [parameter for _, parameter in members]
        self.sharded = any(map(sharding.is_sharded, self.parameters))
        self.at_once = at_once and not self.sharded
        self.device = sharding.local(self.parameters[0]).device
        self.guard = tables.guard(self.device)
        self.seconds = self._gather_seconds()
        self._first_moment = self._moment_of_first()
        self._captured: list[Any] = []
        """What captured graphs read: it must live as long as they may be replayed."""
        self._staging: tables.Staging | None = None
        self._in_step: list[Tensor] = []
        """Gradients of this step: one that had to be laid out anew exists nowhere else."""
        self._start_over()

    def _moment_of_first(self) -> Any:
        return self.state.get(self.parameters[0], {}).get("exp_avg")

    def is_current(self) -> bool:
        """Whether `state` still is what this step reads and writes, by the sample of the first parameter."""
        return self._moment_of_first() is self._first_moment

    def _start_over(self, staging: tables.Staging | None = None) -> None:
        """Forget what the device holds: all tables will be new ones."""
        self.plan: tables.Plan | None = None
        self.rates = tables.Rates(len(self.groups), self.device, staging)
        self._known: tuple[Any, ...] = ()
        self._addresses: list[int] = []
        self._in_capture = staging is not None

    def prepare(self) -> bool:
        """Bring the tables up to date; False if no parameter has a gradient."""
        slots: Sequence[int] = range(len(self.parameters))
        gradients: list[Any] = [p.grad for p in self.parameters]
        parameters = self.parameters
        try:
            addresses = None if self.sharded else list(map(_ADDRESS, gradients))
        except (TypeError, RuntimeError, NotImplementedError):  # None, or sparse
            addresses = None
        if addresses is None:
            slots = [i for i, g in enumerate(gradients) if g is not None]
            if not slots:
                return False
            parameters, gradients = [parameters[i] for i in slots], [gradients[i] for i in slots]
            if any(g.is_sparse for g in gradients):
                raise RuntimeError("NovoGrad does not support sparse gradients")
            gradients = [sharding.like(g, p) for g, p in zip(gradients, parameters, strict=True)]
            parameters = [sharding.local(p) for p in parameters]
            addresses = list(map(_ADDRESS, gradients))
        strides = None if all(map(_CONTIGUOUS, gradients)) else list(map(_STRIDE, gradients))
        known = (slots, list(map(_ADDRESS, parameters)), strides, [g.dtype for g in gradients])
        if self._is_captured():
            self._begin_capture(slots)
        elif self._in_capture:
            self._start_over()
        moved = addresses != self._addresses
        if self.plan is None or known != self._known or (moved and _misaligned(addresses, self._addresses)):
            members = self._with_state(slots, parameters, gradients)
            self.plan = tables.Plan(members, slots, self.rates.staging, at_once=self.at_once, sharded=self.sharded)
        elif moved:
            self.plan.set_gradients(addresses)
        self._known, self._addresses, self._in_step = known, addresses, gradients
        self.rates.refresh(self.groups)
        if self._in_capture:
            self._captured.append((self.plan, self.rates))
        elif self._staging is None:
            self._staging = tables.Staging(self.plan.table_bytes + self.rates.table_bytes)
        return True

    def norms(self) -> None:
        """Launch the sums of squares; sharded tensors are summed over their processes."""
        assert self.plan is not None
        self.plan.norms(self.seconds)
        if self.sharded:
            order = [self.parameters[self.plan.slots[i]] for i in self.plan.order_of_squares()]
            sharding.sum_over_shards(self.plan.squares, order)

    def total_square(self) -> Tensor:
        """The square of the norm of all gradients of this device, float64."""
        assert self.plan is not None
        return self.plan.squares.double().sum()

    def decide(self, limit: float | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> Tensor:
        """What gradients are multiplied by, whether to take the step, and the opposite; worked out on the device."""
        assert self.plan is not None
        self.plan.decide(limit, grad_scale, found_inf)
        return self.plan.decided

    def update(self, grad_scale: Tensor | None, found_inf: Tensor | None, decided: Tensor | None) -> None:
        """Launch the update."""
        assert self.plan is not None
        if decided is not None:
            decided = decided.to(self.device, torch.float32)
        self.plan.update(self.seconds, self.rates, grad_scale, found_inf, decided)
        self._in_step = []

    def norms_and_update(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Both in a single launch, which may read each gradient from memory once only."""
        assert self.plan is not None
        self.plan.norms_and_update(self.seconds, self.rates, grad_scale, found_inf)
        self._in_step = []

    # ------------------------------------------------------------------------------------ state

    def _gather_seconds(self) -> tables.Seconds:
        """One vector of v; what `state` holds already is copied in, and `state` then holds its elements."""
        v = paths.gathered(self.parameters, self.state, "exp_avg_sq", -1.0, torch.float32)
        largest = v
        if any(group["amsgrad"] for group in self.groups):
            largest = paths.gathered(self.parameters, self.state, "max_exp_avg_sq", 0.0, torch.float32)
        v_old = torch.empty_like(v)
        largest_old = v_old if largest is v else torch.empty_like(v)
        if not any(rounding.applies(parameter, self.moment_dtype) for parameter in self.parameters):
            return tables.Seconds(v, v_old, largest, largest_old)
        counters = paths.gathered(self.parameters, self.state, "rounding_counter", 0, torch.int64)
        return tables.Seconds(v, v_old, largest, largest_old, counters, torch.empty_like(counters))

    def _with_state(
        self, slots: Sequence[int], parameters: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> list[tables.Member]:
        members = []
        for slot, parameter, gradient in zip(slots, parameters, gradients, strict=True):
            group, whole = self.members[slot]
            if gradient.dtype not in tables.DTYPES:
                raise RuntimeError(f"NovoGrad: a gradient of dtype {gradient.dtype} for a {parameter.dtype} parameter")
            own = self.state[whole]
            if "exp_avg" not in own:
                rounds = rounding.applies(whole, self.moment_dtype)
                dtype = self.moment_dtype if rounds else None
                own["exp_avg"] = torch.zeros_like(whole, dtype=dtype, memory_format=torch.preserve_format)
                if rounds:
                    assert self.seconds.counters is not None
                    number = rounding.first_counter(len(self.state))
                    own["rounding_counter"] = self.seconds.counters[slot].fill_(number)
                own["exp_avg_sq"] = self.seconds.v[slot]
                if self.seconds.amsgrad:
                    own["max_exp_avg_sq"] = self.seconds.largest[slot]
            members.append(tables.Member(group, parameter, gradient, sharding.local(own["exp_avg"])))
        self._first_moment = self._moment_of_first()
        return members

    def _is_captured(self) -> bool:
        """Whether the stream that the kernels go to is being captured in a CUDA graph."""
        with self.guard:
            return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _begin_capture(self, slots: Sequence[int]) -> None:
        """Tables of this capture's own. State must exist: creating it inside would reset it at every replay."""
        stepped = all("exp_avg" in self.state[self.members[slot][1]] for slot in slots)
        if not stepped or self._staging is None:
            raise RuntimeError("NovoGrad: take one step with every gradient before capturing a step in a CUDA graph")
        self._captured.append(self._staging)
        self._start_over(self._staging)
        self._staging = None


def _misaligned(new: list[int], old: list[int]) -> bool:
    """Whether a gradient that used to begin at a multiple of 16 bytes no longer does, or the other way round."""
    return any((a ^ b) & 15 for a, b in zip(new, old, strict=True))
