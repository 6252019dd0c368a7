"""Triton kernels over all tensors of a device: the default on CUDA. Never waits for the device.

A `CudaBackend` keeps the parameters of one device: their v in one vector, whose elements are the 0-d tensors of the
optimizer's state, and the launch plan of the tensors that had a gradient last time. A step in which nothing changed
costs the host a few comparisons of lists and two launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd import kernels, rounding, sharding
from novobench.optim.novograd.backend import (
    Backend,
    GradScaling,
    Group,
    State,
    gather,
    init_state,
    rate_scale_squared,
)
from novobench.optim.novograd.kernel_tables import DIMENSIONS
from novobench.optim.novograd.launch_plan import (
    DTYPES,
    GroupNumbers,
    LaunchPlan,
    Member,
    Staging,
    StateVectors,
    current_device,
)
from novobench.optim.novograd.tuning import LaunchSettings

_ADDRESS, _STRIDE, _CONTIGUOUS = Tensor.data_ptr, Tensor.stride, Tensor.is_contiguous


def device_type() -> str:
    """Where the kernels run: on CUDA, or in Triton's interpreter, which tests use, on a CPU."""
    return "cpu" if kernels.INTERPRETED else "cuda"


def supports(parameter: Tensor) -> bool:
    """Whether the kernels know this parameter's dtype and can index it."""
    return parameter.dtype in DTYPES and parameter.dim() <= DIMENSIONS.value


class CudaBackend(Backend):
    """For fp32, fp16 and bf16 parameters of one device. Gradients may have another of these dtypes, and any layout."""

    def __init__(
        self,
        members: Sequence[tuple[int, Tensor]],
        groups: Sequence[Group],
        state: State,
        settings: LaunchSettings,
        *,
        single_launch: bool = False,
    ) -> None:
        """`members` are parameters with the number of their group. `single_launch`: norms and update in one kernel
        where the global norm is not needed."""
        self.members, self._groups, self._state, self._settings = list(members), groups, state, settings
        self._parameters = [parameter for _, parameter in members]
        self._sharded = any(map(sharding.is_sharded, self._parameters))
        self._single_launch = single_launch and not self._sharded
        self._device = sharding.local(self._parameters[0]).device
        self._current_device = current_device(self._device)
        self._vectors = self._gather_vectors()
        self._first_exp_avg = self._exp_avg_of_first()
        self._captured: list[Any] = []
        """What captured graphs read: it must live as long as they may be replayed."""
        self._staging: Staging | None = None
        self._grads: list[Tensor] = []
        """Gradients of this step, kept alive because some may be copies in another layout."""
        self._has_norms = False
        self._start_over()

    def _exp_avg_of_first(self) -> Any:
        return self._state.get(self._parameters[0], {}).get("exp_avg")

    def is_current(self) -> bool:
        """By the sample of the first parameter."""
        return self._exp_avg_of_first() is self._first_exp_avg

    def _start_over(self, staging: Staging | None = None) -> None:
        """Forget what the device holds: all tables will be new ones."""
        self._plan: LaunchPlan | None = None
        self._numbers = GroupNumbers(len(self._groups), self._device, staging)
        self._last: tuple[Any, ...] = ()
        self._addresses: list[int] = []
        self._in_capture = staging is not None

    def prepare(self) -> bool:
        """Bring the tables up to date."""
        slots: Sequence[int] = range(len(self._parameters))
        grads: list[Any] = [p.grad for p in self._parameters]
        parameters = self._parameters
        try:
            addresses = None if self._sharded else list(map(_ADDRESS, grads))
        except (TypeError, RuntimeError, NotImplementedError):  # None, or sparse
            addresses = None
        if addresses is None:
            slots = [i for i, g in enumerate(grads) if g is not None]
            if not slots:
                return False
            parameters, grads = [parameters[i] for i in slots], [grads[i] for i in slots]
            if any(g.is_sparse for g in grads):
                raise RuntimeError("NovoGrad does not support sparse gradients")
            grads = [sharding.like(g, p) for g, p in zip(grads, parameters, strict=True)]
            parameters = [sharding.local(p) for p in parameters]
            addresses = list(map(_ADDRESS, grads))
        strides = None if all(map(_CONTIGUOUS, grads)) else list(map(_STRIDE, grads))
        now = (slots, list(map(_ADDRESS, parameters)), strides, [g.dtype for g in grads])
        if self._is_captured():
            self._begin_capture(slots)
        elif self._in_capture:
            self._start_over()
        moved = addresses != self._addresses
        if self._plan is None or now != self._last or (moved and _misaligned(addresses, self._addresses)):
            members = self._with_state(slots, parameters, grads)
            self._plan = LaunchPlan(
                members,
                slots,
                self._settings,
                self._numbers.staging,
                single_launch=self._single_launch,
                sharded=self._sharded,
            )
        elif moved:
            self._plan.set_grads(addresses)
        self._last, self._addresses, self._grads, self._has_norms = now, addresses, grads, False
        self._numbers.refresh(self._groups)
        if self._in_capture:
            self._captured.append((self._plan, self._numbers))
        elif self._staging is None:
            self._staging = Staging(self._plan.table_bytes + self._numbers.table_bytes)
        return True

    def square_norm(self) -> Tensor:
        return self._launch_norms().squares.double().sum()

    def clip(self, scaling: GradScaling, max_grad_norm: float | None) -> GradScaling:
        """In one small kernel."""
        decision = self._launch_norms().decide(max_grad_norm, scaling.grad_scale, scaling.found_inf)
        return scaling._replace(decision=decision)

    def update(self, scaling: GradScaling) -> None:
        decision, single_launch = scaling.decision, self._single_launch and not self._has_norms
        if single_launch:
            assert self._plan is not None
            self._plan.norms_and_update(self._vectors, self._numbers, scaling.grad_scale, scaling.found_inf)
        else:
            plan = self._plan if self._has_norms else self._launch_norms()
            assert plan is not None
            if decision is not None:
                decision = decision.to(self._device, torch.float32)
            plan.update(self._vectors, self._numbers, scaling.grad_scale, scaling.found_inf, decision)
        self._grads, self._has_norms = [], False

    def _launch_norms(self) -> LaunchPlan:
        """The first launch; norms of sharded tensors are then summed over their processes."""
        assert self._plan is not None
        self._plan.norms(self._vectors)
        if self._sharded:
            order = [self._parameters[self._plan.slots[i]] for i in self._plan.order_of_squares()]
            sharding.sum_over_shards(self._plan.squares, order)
        self._has_norms = True
        return self._plan

    # ------------------------------------------------------------------------------------ state

    def _gather_vectors(self) -> StateVectors:
        v = gather(self._parameters, self._state, "exp_avg_sq", -1.0, torch.float32)
        v_max = v
        if any(group["amsgrad"] for group in self._groups):
            v_max = gather(self._parameters, self._state, "max_exp_avg_sq", 0.0, torch.float32)
        counters = None
        if any(rounding.applies(parameter, self._groups[group]) for group, parameter in self.members):
            counters = gather(self._parameters, self._state, "rounding_counter", 0, torch.int64)
        return StateVectors.of(v, v_max, counters)

    def _with_state(self, slots: Sequence[int], parameters: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Member]:
        members = []
        for slot, parameter, grad in zip(slots, parameters, grads, strict=True):
            group, whole = self.members[slot]
            if grad.dtype not in DTYPES:
                raise RuntimeError(f"NovoGrad: a gradient of dtype {grad.dtype} for a {parameter.dtype} parameter")
            own = self._state[whole]
            if "exp_avg" not in own:
                vectors = self._vectors
                v_max = vectors.v_max[slot] if vectors.amsgrad else None
                counter = None if vectors.counters is None else vectors.counters[slot]
                init_state(whole, self._groups[group], self._state, vectors.v[slot], v_max, counter)
            scale = rate_scale_squared(whole, self._groups[group])
            members.append(Member(group, parameter, grad, sharding.local(own["exp_avg"]), scale))
        self._first_exp_avg = self._exp_avg_of_first()
        return members

    def _is_captured(self) -> bool:
        """Whether the stream that the kernels go to is being captured in a CUDA graph."""
        with self._current_device:
            return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _begin_capture(self, slots: Sequence[int]) -> None:
        """Tables of this capture's own. State must exist: creating it inside would reset it at every replay."""
        stepped = all("exp_avg" in self._state[self.members[slot][1]] for slot in slots)
        if not stepped or self._staging is None:
            raise RuntimeError("NovoGrad: take one step with every gradient before capturing a step in a CUDA graph")
        self._captured.append(self._staging)
        self._start_over(self._staging)
        self._staging = None


def _misaligned(new: list[int], old: list[int]) -> bool:
    """Whether a gradient that used to begin at a multiple of 16 bytes no longer does, or the other way round."""
    return any((a ^ b) & 15 for a, b in zip(new, old, strict=True))
