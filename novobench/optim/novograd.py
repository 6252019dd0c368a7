"""NovoGrad: SGD with momentum on gradients that each layer normalises by its own second moment."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench.optim import novograd_paths as paths
from novobench.optim import sharding


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
        unscale_in_step: let a GradScaler leave the gradients scaled; the step unscales. `p.grad` stays scaled.
        update_clip: layer-wise update clipping of NeMo: λ ≤ update_clip · ‖w‖ / (‖m‖ + 1e-8). 0.001 there.
        skip_nonfinite: what a gradient with an inf or NaN norm leaves alone: `"tensor"`, its own tensor, or
            `"step"`, everything. With `max_grad_norm`, or a GradScaler's `found_inf`, always everything.
        foreach, fused: implementation; by default fused on CPU, foreach on CUDA, a plain loop elsewhere. Tensors that
            the fused CPU path cannot take (mixed dtypes or strides, `update_clip`) go through the loop.
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
        capturable: bool = False,
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
        super().__init__(params, defaults)
        # On the instance: Lightning refuses to clip for an optimizer whose class says so. It tells a GradScaler
        # to leave the gradients scaled and to set `grad_scale` and `found_inf` here.
        self._step_supports_amp_scaling = unscale_in_step or max_grad_norm is not None
        self._sharing: tuple[list[Any], Any] = ([], None)

    def __getstate__(self) -> dict[str, Any]:
        own = ("max_grad_norm", "skip_nonfinite", "_step_supports_amp_scaling")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._sharing = ([], None)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but v keeps its precision: torch would cast it to the dtype of a half-precision parameter."""
        super().load_state_dict(state_dict)
        saved = state_dict["state"]
        order = [index for group in state_dict["param_groups"] for index in group["params"]]
        mine = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(order, mine, strict=True):
            for name in ("exp_avg_sq", "max_exp_avg_sq"):
                if name in saved.get(index, {}):
                    value = torch.as_tensor(saved[index][name])
                    self.state[parameter][name] = value.detach().to(
                        device=parameter.device, dtype=paths.moment_dtype(parameter), copy=True
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; `closure`, if given, recomputes the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        fused_steps, others = self._shared_out()
        ready = [step for step in fused_steps if step.prepare()]
        work = [(group, self._tensors(group, parameters)) for group, parameters in others]
        every = paths.with_norms([tensors for _, members in work for tensors in members])
        rest = iter(every)
        for step in ready:
            step.norms()
        decided = None
        scale, go = paths.unscaled(grad_scale, found_inf)
        if self.max_grad_norm is not None or self.skip_nonfinite == "step":
            if len(ready) == 1 and not every:
                decided = ready[0].decide(self.max_grad_norm, grad_scale, found_inf)
            elif ready or every:
                squares = [paths.norm(t).double().square() for t in every] + [step.total_square() for step in ready]
                scale, go = paths.limited(squares, self.max_grad_norm, scale, go)
                decided = torch.stack([torch.ones(()) if scale is None else scale, go]).float()  # type: ignore[list-item]
        for step in ready:
            step.update(grad_scale, found_inf, decided)
        for group, members in work:
            if members:
                run = _path(group, members[0].parameter)
                run(group, list(itertools.islice(rest, len(members))), paths.Whole(scale, go))
        return loss

    def _shared_out(self) -> tuple[list[Any], list[tuple[dict[str, Any], list[Tensor]]]]:
        """The fused steps, one a device, and for each group the parameters that go another way.

        Worked out again only when a group, its parameters or its implementation changes.
        """
        everything = [(group, group["params"]) for group in self.param_groups]
        if torch.compiler.is_compiling():
            return [], everything
        chosen = ("foreach", "fused", "update_clip", "amsgrad")
        signature: list[Any] = [id(self.state), id(self.param_groups)]
        for group, parameters in everything:
            signature += [id(parameters), len(parameters), *(group[name] for name in chosen)]
        if self._sharing[0] == signature:
            return self._sharing[1]
        devices: dict[torch.device, list[tuple[int, Tensor]]] = {}
        others: list[tuple[dict[str, Any], list[Tensor]]] = []
        for index, (group, parameters) in enumerate(everything):
            left = []
            for parameter in parameters:
                if _takes_triton(group, parameter):
                    devices.setdefault(parameter.device, []).append((index, parameter))
                else:
                    left.append(parameter)
            if left:
                others.append((group, parameters if len(left) == len(parameters) else left))
        steps: list[Any] = []
        if devices:
            from novobench.optim.novograd_triton import FusedStep

            steps = [FusedStep(members, self.param_groups, self.state) for members in devices.values()]
        self._sharing = (signature, (steps, others))
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
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
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
            members.append(paths.Tensors(parameter, gradient, moment, second, largest, whole))
        return members


def _takes_triton(group: dict[str, Any], parameter: Tensor) -> bool:
    """Whether a parameter goes through the Triton kernels: the default on CUDA."""
    device, fused = parameter.device.type, group["fused"]
    possible = device == "cuda" or (fused and os.environ.get("TRITON_INTERPRET") == "1")
    if group["foreach"] or fused is False or group["update_clip"] is not None or not possible:
        return False
    try:
        from novobench.optim import novograd_triton as triton
    except ImportError:
        if fused:
            raise RuntimeError(
                "`fused=True` needs Triton on CUDA: pip install triton, or leave `fused` unset."
            ) from None
        return False
    return triton.runs_on(parameter.device) and triton.takes(parameter)


def _path(group: dict[str, Any], parameter: Tensor) -> Callable[..., None]:
    """The implementation for parameters that do not go through the Triton kernels."""
    foreach, fused, device = group["foreach"], group["fused"], parameter.device.type
    if group["capturable"] or torch.compiler.is_compiling():
        return paths.loop
    if fused and device not in ("cpu", "cuda"):
        raise RuntimeError(f"`fused=True` runs on CPU and CUDA, not on {device}. Leave `fused` unset.")
    if device == "cpu" and fused is not False and not foreach:
        return paths.fused_cpu if paths.FUSED_SGD is not None else paths.loop
    if foreach or (foreach is None and device == "cuda"):
        return paths.foreach
    return paths.loop
