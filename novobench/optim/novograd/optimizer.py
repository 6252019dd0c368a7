"""NovoGrad: SGD with momentum on gradients that each layer normalises by its own second moment."""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench.optim.novograd import backend as paths
from novobench.optim.novograd import cpu, rounding, sharding


class _Sharing(NamedTuple):
    """How parameters were shared out among implementations, and for what: see `NovoGrad._shared_out`."""

    signature: list[Any]
    order: list[Tensor]
    steps: list[Any]
    others: list[tuple[dict[str, Any], list[Tensor]]]


class NovoGrad(Optimizer):
    r"""NovoGrad (Ginsburg et al., 2019, Algorithm 1). A layer is a parameter tensor; its second moment is one number.

    .. math::
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert^2, \qquad v_1 = \lVert g_1 \rVert^2 \\
        m_t = \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + d\, w_t, \qquad m_0 = 0 \\
        w_{t+1} = w_t - \lambda_t m_t

    What λ means here: a normalised gradient has norm about 1 whatever the layer's size, and the moment sums about
    1 / (1 - β₁) of them, so one step moves a layer by about λ / (1 - β₁). Rates lie between SGD's and Adam's.

    Args:
        params: parameters or groups.
        lr: λ, a float or a 0-d tensor.
        betas: β₁ (0.95 in every public config of the authors; the paper says 0.9-0.95) and β₂ (0.25, the paper's
            footnote 1; 0.98 for ImageNet). β₂ = 0 gives layer-wise normalised SGD.
        eps: ε, 1e-8 in all public code.
        weight_decay: d, added to the normalised gradient (equation 6).
        grad_averaging: multiply the new term of m by 1 - β₁, but not at the first step (the paper's moment
            initialisation; timm, NeMo and OpenSeq2Seq scale the first step too).
        amsgrad: divide by the largest v so far (§3).
        eps_inside_sqrt: √(v + ε), equations 5 and 6 and OpenSeq2Seq, instead of √v + ε, Algorithm 1.
        decoupled_weight_decay: decay in the weight update, as AdamW, instead of in m (the paper's footnote 2).
        maximize: ascend.
        max_grad_norm: clip the global norm of all gradients to this value inside the step. `p.grad` stays unclipped.
        unscale_in_step: let a GradScaler leave the gradients scaled; the step unscales. `p.grad` stays scaled. torch's
            GradScaler still reads them all once to look for infs; `novobench.optim.GradScaler` does not.
        update_clip: layer-wise update clipping of NeMo: λ ≤ update_clip · ‖w‖ / (‖m‖ + 1e-8). 0.001 there.
        skip_nonfinite: what a gradient with an inf or NaN norm leaves alone: `"tensor"`, its own tensor, or
            `"step"`, everything. With `max_grad_norm`, or a GradScaler's `found_inf`, always everything.
        foreach, fused: implementation; by default fused on CPU, fused on CUDA where there is Triton, else foreach, and
            a plain loop elsewhere. Tensors that fused kernels cannot take (on a CPU those of half precision, complex,
            sharded or of mixed strides; everywhere those with `update_clip`) go another way.
        single_launch: on CUDA, norms and update in one kernel launch, which may find gradients in the cache when it
            reads them again. Not with clipping, skipping of whole steps or sharded tensors, which need all norms first.
        capturable: never read a number from the device, so that a step can be captured in a CUDA graph (loop only).

    State of a parameter: `exp_avg` (m, like the parameter), `exp_avg_sq` (v, 0-d, fp32, or fp64 for an fp64 parameter;
    -1 before the first step) and, with amsgrad, `max_exp_avg_sq`. `p.grad` is never written. A parameter without
    gradient is skipped and may join later. ‖g‖² is summed in fp32 also for fp16 and bf16 gradients; it overflows at
    norms above 1.8e19, which counts as not finite.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.95, 0.25),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        eps_inside_sqrt: bool = False,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        unscale_in_step: bool = False,
        update_clip: float | None = None,
        skip_nonfinite: Literal["tensor", "step"] = "tensor",
        foreach: bool | None = None,
        fused: bool | None = None,
        single_launch: bool = False,
        capturable: bool = False,
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        for name, value in (("learning rate", lr), ("epsilon value", eps), ("weight_decay value", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        for name, limit in (("max_grad_norm", max_grad_norm), ("update_clip", update_clip)):
            if limit is not None and not limit > 0.0:
                raise ValueError(f"Invalid {name} value: {limit}")
        if skip_nonfinite not in ("tensor", "step"):
            raise ValueError(f"Invalid skip_nonfinite value: {skip_nonfinite!r} (choose 'tensor' or 'step')")
        if moment_dtype not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"Invalid moment_dtype value: {moment_dtype} (choose torch.float32 or torch.bfloat16)")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if capturable and foreach:
            raise RuntimeError("`capturable` and `foreach` cannot be `True` together: foreach reads the norms.")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
            "amsgrad": amsgrad,
            "eps_inside_sqrt": eps_inside_sqrt,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "update_clip": update_clip,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
        }
        self.max_grad_norm = max_grad_norm
        self.skip_nonfinite = skip_nonfinite
        self.single_launch = single_launch
        self.moment_dtype = moment_dtype
        super().__init__(params, defaults)
        if sharding.are_flattened([parameter for group in self.param_groups for parameter in group["params"]]):
            raise ValueError(
                "NovoGrad normalises each parameter as a layer, but FullyShardedDataParallel has flattened these. "
                "Use torch.distributed.fsdp.fully_shard, which keeps layers apart"
            )
        # On the instance: Lightning refuses to clip for an optimizer whose class says so. It tells a GradScaler
        # to leave the gradients scaled and to set `grad_scale` and `found_inf` here.
        self._step_supports_amp_scaling = unscale_in_step or max_grad_norm is not None
        self._sharing = _Sharing([], [], [], [])

    def __getstate__(self) -> dict[str, Any]:
        own = ("max_grad_norm", "skip_nonfinite", "single_launch", "moment_dtype", "_step_supports_amp_scaling")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("moment_dtype", None)  # in what was pickled before there was one
        self._sharing = _Sharing([], [], [], [])
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but v keeps its precision: torch would cast it to the dtype of a half-precision parameter.

        Raises ValueError, and changes nothing, for a state of another optimizer or of parameters of other shapes.
        """
        given: list[tuple[Tensor, dict[str, Any]]] = []
        # What counts is what the user's hooks make of `state_dict`, and theirs shall see the finished state.
        before = self.register_load_state_dict_pre_hook(lambda _, hooked: given.extend(self._matched(hooked)))
        after = self.register_load_state_dict_post_hook(lambda _: self._restore_precision(given), prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _matched(self, state_dict: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
        """Each parameter with its own part of `state_dict`, once all is known to be a NovoGrad's."""
        groups = state_dict["param_groups"]
        for group in groups:
            missing = [name for name in ("betas", "grad_averaging", "eps_inside_sqrt") if name not in group]
            if missing:
                raise ValueError(
                    f"loaded state dict is another optimizer's: a parameter group has no {' and no '.join(missing)}. "
                    "Those of apex and timm go through novobench.optim.convert_state_dict"
                )
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in self.param_groups]:
            return []  # torch refuses it, in its own words
        places = [place for group in groups for place in group["params"]]
        mine = [parameter for group in self.param_groups for parameter in group["params"]]
        state = state_dict["state"]
        matched = [(mine[i], state[place]) for i, place in enumerate(places) if state.get(place)]
        for parameter, own in matched:
            for name, shape in (("exp_avg", tuple(parameter.shape)), ("exp_avg_sq", ())):
                found = tuple(torch.as_tensor(own[name]).shape) if name in own else "missing"
                if found != shape:
                    raise ValueError(
                        f"loaded state dict does not fit: {name} of a parameter of shape {tuple(parameter.shape)} "
                        f"is {found}, expected {shape}"
                    )
        return matched

    def _restore_precision(self, given: list[tuple[Tensor, dict[str, Any]]]) -> None:
        for number, (parameter, own) in enumerate(given, 1):
            mine = self.state[parameter]
            mine.pop("rounding_counter", None)
            if rounding.applies(parameter, self.moment_dtype):
                mine["exp_avg"] = mine["exp_avg"].to(self.moment_dtype)  # torch has made it fp32
                counter = own.get("rounding_counter", rounding.first_counter(number))
                mine["rounding_counter"] = torch.as_tensor(counter).to(parameter.device, torch.int64, copy=True)
            for name in ("exp_avg_sq", "max_exp_avg_sq"):
                if name in own:
                    mine[name] = (
                        torch.as_tensor(own[name])
                        .detach()
                        .to(device=parameter.device, dtype=paths.moment_dtype(parameter), copy=True)
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; `closure`, if given, recomputes the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        looks = grad_scale is not None and found_inf is None  # for `GradScaler`, which leaves that to the step
        decides = looks or self.max_grad_norm is not None or self.skip_nonfinite == "step"
        if torch.compiler.is_compiling() and self._one_operator():
            found = self._operator_step(grad_scale, found_inf, decides)
            if looks and found is not None:
                self.found_inf = found[2]
            return loss
        fused_steps, others = self._shared_out()
        ready = [step for step in fused_steps if step.prepare()]
        work = [(group, self._tensors(group, parameters)) for group, parameters in others]
        every = paths.with_norms([tensors for _, members in work for tensors in members])
        rest = iter(every)
        decided = None
        in_kernels = not every and (len(ready) == 1 or not decides)  # which read what a GradScaler set by themselves
        scale, go = (None, None) if in_kernels else paths.unscaled(grad_scale, found_inf)
        at_once = [step for step in ready if step.at_once and not decides]
        for step in ready:
            if step not in at_once:
                step.norms()
        if decides and (ready or every):
            if in_kernels:
                decided = ready[0].decide(self.max_grad_norm, grad_scale, found_inf)
            else:
                squares = [paths.norm(t).double().square() for t in every] + [step.total_square() for step in ready]
                decided = paths.limited(squares, self.max_grad_norm, scale, go)
                scale, go = decided[0], decided[1].bool()
            if looks:
                self.found_inf = decided[2].float()
        for step in ready:
            if step in at_once:
                step.norms_and_update(grad_scale, found_inf)
            else:
                step.update(grad_scale, found_inf, decided)
        for group, members in work:
            if members:
                run = _path(group, members[0].parameter)
                run(group, list(itertools.islice(rest, len(members))), paths.Whole(scale, go))
        return loss

    def _one_operator(self) -> bool:
        """Whether a compiled step is one call of the operator: all goes through Triton, on one device."""
        members = [(group, parameter) for group in self.param_groups for parameter in group["params"]]
        return (
            len({(parameter.device, group["amsgrad"]) for group, parameter in members}) == 1
            and all(_takes_triton(group, parameter) for group, parameter in members)
            and not any(sharding.is_sharded(parameter) for _, parameter in members)
        )

    def _operator_step(self, grad_scale: Tensor | None, found_inf: Tensor | None, decides: bool) -> Tensor | None:
        from novobench.optim.novograd.compiled import novograd_step
        from novobench.optim.novograd.layout import group_numbers

        members = [(i, t) for i, group in enumerate(self.param_groups) for t in self._tensors(group, group["params"])]
        if not members:
            return None
        return novograd_step(
            [t.parameter for _, t in members],
            [t.gradient for _, t in members],
            [t.moment for _, t in members],
            [t.second for _, t in members],
            [t.largest for _, t in members if t.largest is not None],
            [t.counter for _, t in members if t.counter is not None],
            [i for i, _ in members],
            [number for group in self.param_groups for number in group_numbers(group)],
            [lr if isinstance(lr, Tensor) else torch.tensor(lr) for lr in (g["lr"] for g in self.param_groups)],
            grad_scale,
            found_inf,
            self.max_grad_norm,
            decides,
        )

    def _shared_out(self) -> tuple[list[Any], list[tuple[dict[str, Any], list[Tensor]]]]:
        """The fused steps, and for each group the parameters that go another way.

        Worked out again only when a group, its parameters, its implementation or the state as a whole changes.
        """
        everything = [(group, group["params"]) for group in self.param_groups]
        if torch.compiler.is_compiling():
            return [], everything
        chosen = ("foreach", "fused", "update_clip", "amsgrad", "capturable")
        signature: list[Any] = [id(self.state), id(self.param_groups)]
        for group, parameters in everything:
            signature += [id(group), len(parameters), *(group[name] for name in chosen)]
        order = list(itertools.chain.from_iterable(parameters for _, parameters in everything))
        known = self._sharing
        same = known.signature == signature and all(map(operator.is_, order, known.order))
        if same and all(step.is_current() for step in known.steps):
            return known.steps, known.others
        devices: dict[torch.device, list[tuple[int, Tensor]]] = {}
        on_cpu: dict[tuple[int, torch.dtype], list[Tensor]] = {}
        others: list[tuple[dict[str, Any], list[Tensor]]] = []
        for index, (group, parameters) in enumerate(everything):
            left = []
            for parameter in parameters:
                if _takes_triton(group, parameter):
                    devices.setdefault(parameter.device, []).append((index, parameter))
                elif _takes_cpu_step(group, parameter):
                    on_cpu.setdefault((index, parameter.dtype), []).append(parameter)
                else:
                    left.append(parameter)
            if left:
                others.append((group, parameters if len(left) == len(parameters) else left))
        groups = self.param_groups
        steps: list[Any] = [
            cpu.CpuStep(groups[index], members, self.state, self.moment_dtype) for (index, _), members in on_cpu.items()
        ]
        if devices:
            from novobench.optim.novograd.cuda import FusedStep

            steps += [
                FusedStep(members, groups, self.state, at_once=self.single_launch, moment_dtype=self.moment_dtype)
                for members in devices.values()
            ]
        self._sharing = _Sharing(signature, order, steps, others)
        return steps, others

    def _tensors(self, group: dict[str, Any], parameters: list[Tensor]) -> list[paths.Tensors]:
        """Gradient and state of every parameter that has a gradient."""
        members = []
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            state = self.state[parameter]
            if not state:
                if gradient.is_sparse:
                    raise RuntimeError("NovoGrad does not support sparse gradients")
                rounds = rounding.applies(parameter, self.moment_dtype)
                dtype = self.moment_dtype if rounds else None
                state["exp_avg"] = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
                if rounds:
                    number = rounding.first_counter(len(self.state))
                    state["rounding_counter"] = torch.full((), number, dtype=torch.int64, device=parameter.device)
                state["exp_avg_sq"] = torch.full((), -1.0, dtype=paths.moment_dtype(parameter), device=parameter.device)
            if group["amsgrad"] and "max_exp_avg_sq" not in state:
                state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg_sq"])
            moment, whole = state["exp_avg"], None
            if sharding.is_sharded(parameter):
                gradient, whole = sharding.like(gradient, parameter), parameter
                parameter, moment = sharding.local(parameter), sharding.local(moment)
            if parameter.is_complex():
                parameter, gradient, moment = (torch.view_as_real(x) for x in (parameter, gradient, moment))
            second, largest = state["exp_avg_sq"], state.get("max_exp_avg_sq")
            counter = state.get("rounding_counter")
            members.append(paths.Tensors(parameter, gradient, moment, second, largest, whole, counter=counter))
        return members


def _takes_triton(group: dict[str, Any], parameter: Tensor) -> bool:
    """Whether a parameter goes through the Triton kernels: the default on CUDA."""
    device, fused = parameter.device.type, group["fused"]
    possible = device == "cuda" or (fused and os.environ.get("TRITON_INTERPRET") == "1")
    if group["foreach"] or fused is False or group["update_clip"] is not None or not possible:
        return False
    try:
        from novobench.optim.novograd import cuda
    except ImportError:
        if fused:
            raise RuntimeError(
                "`fused=True` needs Triton on CUDA: pip install triton, or leave `fused` unset."
            ) from None
        return False
    return cuda.runs_on(parameter.device) and cuda.takes(parameter)


def _takes_cpu_step(group: dict[str, Any], parameter: Tensor) -> bool:
    """Whether a parameter goes through the fused kernel on the CPU: the default there."""
    if group["fused"] is False or group["foreach"] or group["capturable"] or group["update_clip"] is not None:
        return False
    return cpu.takes(parameter)


def _path(group: dict[str, Any], parameter: Tensor) -> Callable[..., None]:
    """The implementation for parameters that do not go through fused kernels."""
    foreach, fused, device = group["foreach"], group["fused"], parameter.device.type
    if group["capturable"] or torch.compiler.is_compiling():
        return paths.loop
    if fused and device not in ("cpu", "cuda"):
        raise RuntimeError(f"`fused=True` runs on CPU and CUDA, not on {device}. Leave `fused` unset.")
    if foreach or (foreach is None and device == "cuda"):
        return paths.foreach
    return paths.loop
