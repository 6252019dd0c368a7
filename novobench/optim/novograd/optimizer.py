"""NovoGrad: SGD with momentum on gradients that each layer normalises by its own second moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench.optim.novograd import rounding, sharding
from novobench.optim.novograd.backend import Backend, GradScaling, second_moment_dtype
from novobench.optim.novograd.dispatch import Dispatcher
from novobench.optim.novograd.tuning import LaunchSettings


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
            a plain loop elsewhere. Tensors that fused kernels cannot take (on a CPU those that are complex,
            sharded or of mixed strides or dtypes; everywhere those with `update_clip`) go another way.
        single_launch: on CUDA, norms and update in one kernel launch, which may find gradients in the cache when it
            reads them again. Not with clipping, skipping of whole steps or sharded tensors, which need all norms first.
        capturable: never read a number from the device, so that a step can be captured in a CUDA graph (loop only).
        moment_dtype: dtype of m for fp32 parameters, beyond the paper; a group may have its own. `torch.bfloat16`
            halves the state, to 2 bytes per parameter: m is rounded stochastically with bits from a hash (see
            `rounding`), after the weight has moved by the unrounded m. None and `torch.float32` keep fp32. Parameters
            of other dtypes keep m in their own.

    State of a parameter: `exp_avg` (m, like the parameter), `exp_avg_sq` (v, 0-d, fp32, or fp64 for an fp64 parameter;
    -1 before the first step), with amsgrad `max_exp_avg_sq`, and with a rounded m `rounding_counter` (0-d int64: the
    parameter's number × 2³² + its updates so far). `p.grad` is never written. A parameter without gradient is skipped
    and may join later. ‖g‖² is summed in fp32 also for fp16 and bf16 gradients; it overflows at norms above 1.8e19,
    which counts as not finite.
    """

    launch_settings = LaunchSettings()
    """How CUDA kernels are launched; for measurements."""

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
        defaults: dict[str, Any] = {
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
        if moment_dtype is torch.bfloat16:  # absent by default, so that a state_dict is what it was without the option
            defaults["moment_dtype"] = moment_dtype
        self.max_grad_norm = max_grad_norm
        self.skip_nonfinite = skip_nonfinite
        self.single_launch = single_launch
        super().__init__(params, defaults)
        if sharding.are_flattened([parameter for group in self.param_groups for parameter in group["params"]]):
            raise ValueError(
                "NovoGrad normalises each parameter as a layer, but FullyShardedDataParallel has flattened these. "
                "Use torch.distributed.fsdp.fully_shard, which keeps layers apart"
            )
        # On the instance: Lightning refuses to clip for an optimizer whose class says so. It tells a GradScaler
        # to leave the gradients scaled and to set `grad_scale` and `found_inf` here.
        self._step_supports_amp_scaling = unscale_in_step or max_grad_norm is not None
        self._dispatcher = Dispatcher()

    def __getstate__(self) -> dict[str, Any]:
        own = ("max_grad_norm", "skip_nonfinite", "single_launch", "_step_supports_amp_scaling")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._dispatcher = Dispatcher()
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but v keeps its precision: torch would cast it to the dtype of a half-precision parameter.

        m takes this optimizer's `moment_dtype`, whatever the saved one was: fp32 is rounded to nearest bf16, bf16 is
        taken over exactly.

        Raises ValueError, and changes nothing, for a state of another optimizer or of parameters of other shapes.
        """
        given: list[tuple[Tensor, dict[str, Any]]] = []
        moment_dtypes = [group.get("moment_dtype") for group in self.param_groups]
        # What counts is what the user's hooks make of `state_dict`, and theirs shall see the finished state.
        before = self.register_load_state_dict_pre_hook(lambda _, hooked: given.extend(self._matched(hooked)))
        after = self.register_load_state_dict_post_hook(
            lambda _: self._restore_precision(given, moment_dtypes), prepend=True
        )
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

    def _restore_precision(
        self, given: list[tuple[Tensor, dict[str, Any]]], moment_dtypes: list[torch.dtype | None]
    ) -> None:
        group_of: dict[Tensor, dict[str, Any]] = {}
        for group, moment_dtype in zip(self.param_groups, moment_dtypes, strict=True):
            group.pop("moment_dtype", None)
            if moment_dtype is not None:
                group["moment_dtype"] = moment_dtype
            group_of |= dict.fromkeys(group["params"], group)
        for number, (parameter, own) in enumerate(given, 1):
            mine = self.state[parameter]
            mine.pop("rounding_counter", None)
            if rounding.applies(parameter, group_of[parameter]):
                mine["exp_avg"] = mine["exp_avg"].to(torch.bfloat16)  # torch has made it fp32
                counter = torch.as_tensor(own.get("rounding_counter", rounding.first_counter(number)))
                mine["rounding_counter"] = counter.detach().to(parameter.device, torch.int64, copy=True)
            for name in ("exp_avg_sq", "max_exp_avg_sq"):
                if name in own:
                    mine[name] = (
                        torch.as_tensor(own[name])
                        .detach()
                        .to(device=parameter.device, dtype=second_moment_dtype(parameter), copy=True)
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; `closure`, if given, recomputes the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # torch's GradScaler sets both attributes; ours leaves it to this step to look for infs.
        scaling = GradScaling(getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        looks_for_inf = scaling.grad_scale is not None and scaling.found_inf is None
        needs_global_norm = looks_for_inf or self.max_grad_norm is not None or self.skip_nonfinite == "step"

        backends = [backend for backend in self._assign_backends() if backend.prepare()]
        if needs_global_norm and backends:
            scaling = scaling.clip(backends, self.max_grad_norm)
            if looks_for_inf:
                self.found_inf = scaling.skipped()
        for backend in backends:
            backend.update(scaling)
        return loss

    def _assign_backends(self) -> list[Backend]:
        return self._dispatcher.backends(
            self.param_groups, self.state, single_launch=self.single_launch, settings=self.launch_settings
        )
