"""NovoGrad: SGD with momentum on gradients that are normalized layer by layer, by a running second moment."""

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
    r"""NovoGrad (Ginsburg et al., 2019, Algorithm 1). A layer is one parameter tensor; its second moment is one number.

    .. math::
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert^2, \qquad v_1 = \lVert g_1 \rVert^2 \\
        m_t = \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + d\, w_t, \qquad m_0 = 0 \\
        w_{t+1} = w_t - \lambda_t m_t

    Scale of λ: a normalized gradient has a norm of about 1, whatever the size of the layer, and m sums about
    1 / (1 - β₁) of them. One step therefore moves a layer by about λ / (1 - β₁). Good rates lie between those of SGD
    and those of Adam.

    Args:
        params: parameters, or parameter groups. Any shape, strides and device; fp32, fp64, fp16, bf16 or complex; plain
            tensors or DTensors. Options down to `maximize`, and `update_clip`, may differ between groups.
        lr: λ, a float or a one-element tensor. No default: the paper has one rate per experiment.
        betas: (β₁, β₂), each in [0, 1). β₁ defaults to 0.95, as in all public configs of the authors (paper: 0.9 to
            0.95); β₂ to 0.25, from the paper's footnote 1 (0.98 for ImageNet). β₂ = 0 is layer-wise normalized SGD.
        eps: ε, added to √v at each step, the first included. Default 1e-8, as in all public code.
        weight_decay: d, added to the normalized gradient (equation 6). Default 0.
        grad_averaging: multiply the new term of m by 1 - β₁, except at the first step, where the paper initializes m.
            Default False. timm, NeMo and OpenSeq2Seq scale the first step, too.
        amsgrad: divide by the square root of the largest v so far (§3). Default False.
        eps_inside_sqrt: divide by √(v + ε), as equations 5 and 6 and OpenSeq2Seq, instead of √v + ε, as Algorithm 1.
            Default False.
        decoupled_weight_decay: subtract λ·d·w in the weight update, as AdamW does, instead of adding d·w to m (the
            paper's footnote 2). Default False.
        maximize: move along the gradient instead of against it. Default False.
        max_grad_norm: clip the global norm of all gradients to this value, inside the step. `p.grad` keeps the
            unclipped gradient. Default None: no clipping.
        unscale_in_step: tell a GradScaler that the step divides by the scale itself. `p.grad` keeps the scaled
            gradient. Default False. torch's GradScaler still reads every gradient to check for infs;
            `novobench.optim.GradScaler` does not.
        update_clip: NeMo's layer-wise update clipping: m moves the weight at the rate
            min(λ, update_clip · ‖w‖ / (‖m‖ + 1e-8)). Decoupled weight decay keeps λ. Default None: no clipping; NeMo
            uses 0.001.
        skip_nonfinite: what a gradient whose norm is inf or NaN leaves unchanged: `"tensor"` (default), its own weight
            and state; `"step"`, those of all parameters. With `max_grad_norm`, and with a GradScaler that unscales in
            the step, it is always all parameters.
        foreach, fused: the implementation. By default, the fused CPU kernel on a CPU, the Triton kernels on CUDA where
            Triton is installed, torch's `_foreach` operations on CUDA without Triton, and a loop over tensors
            elsewhere. `foreach=True`, `fused=True` ask for one of them; both False, for the loop. Tensors that a kernel
            cannot take use another implementation: on a CPU, those that are complex, sharded or of mixed strides or
            dtypes; on all devices, those with `update_clip`.
        single_launch: on CUDA, compute norms and update in one kernel launch, so that the update may read gradients
            from the cache. No effect where all norms must come first: with clipping, with skipping of whole steps and
            for sharded tensors. Default False.
        capturable: never read a number from the device, so that a CUDA graph can capture the step: the loop replaces
            `_foreach` operations. Default False. The Triton kernels need no such flag.
        moment_dtype: dtype of m for fp32 parameters, which goes beyond the paper; a group may have its own.
            `torch.bfloat16` halves the state to 2 bytes per parameter: the weight moves by m in fp32, and m is then
            rounded stochastically, with bits from a hash (see `rounding`). None (default) and `torch.float32` keep
            fp32. Parameters of other dtypes keep m in their own.
        layer_scale: `"rms"`: steps of equal RMS instead of equal norm, which goes beyond the paper: m moves the weight
            at the rate λ·√n, n the number of elements of the tensor, all its shards included. Coupled weight decay is
            part of m; decoupled weight decay keeps λ; `update_clip` clips λ·√n. A group may have its own. Default None:
            the paper's λ.

    Raises:
        ValueError: an option is out of range; parameters that FullyShardedDataParallel has flattened.
        RuntimeError: `foreach` with `fused` or `capturable`; in `step`, `fused=True` where no kernel can run, or a
            sparse gradient.

    State of a parameter: `exp_avg` (m: shape and dtype of the parameter), `exp_avg_sq` (v: 0-d, fp32, or fp64 for an
    fp64 or complex128 parameter; -1 before the first step), with amsgrad `max_exp_avg_sq` (the largest v so far), and
    with a rounded m `rounding_counter` (0-d int64: the parameter's number × 2³² + its updates so far).

    The step never writes `p.grad`. It skips a parameter without a gradient, which may have one at a later step. ‖g‖² is
    at least fp32, for fp16 and bf16 gradients, too; in fp32 it overflows at norms above 1.8e19, which then count as not
    finite.
    """

    launch_settings = LaunchSettings()
    """How CUDA kernels are launched. Benchmarks assign other settings before the first step."""

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
        layer_scale: Literal["rms"] | None = None,
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
        if layer_scale not in (None, "rms"):
            raise ValueError(f"Invalid layer_scale value: {layer_scale!r} (choose 'rms' or None)")
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
        # Absent by default, so that a state_dict is what it was without these options.
        if moment_dtype is torch.bfloat16:
            defaults["moment_dtype"] = moment_dtype
        if layer_scale is not None:
            defaults["layer_scale"] = layer_scale
        self.max_grad_norm = max_grad_norm
        self.skip_nonfinite = skip_nonfinite
        self.single_launch = single_launch
        super().__init__(params, defaults)
        if sharding.are_flattened([parameter for group in self.param_groups for parameter in group["params"]]):
            raise ValueError(
                "NovoGrad normalizes each parameter as a layer, but FullyShardedDataParallel has flattened these. "
                "Use torch.distributed.fsdp.fully_shard, which keeps layers apart"
            )
        # With this flag, a GradScaler leaves the gradients scaled and sets `grad_scale` and `found_inf` here.
        # On the instance, because Lightning refuses to clip gradients for a class that has it.
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
                if name != "layer_scale":  # a saved group without it had the paper's rates
                    group.setdefault(name, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned. v keeps its precision: torch alone would cast it to a parameter's dtype.

        m takes this optimizer's `moment_dtype`, whatever the saved one was: fp32 is rounded to the nearest bf16, and
        bf16 is taken over exactly.

        Args:
            state_dict: a state of this class for parameters of the same number, order and shapes. Dtypes and devices
                may differ. For states of apex and timm, see `novobench.optim.convert_state_dict`.

        Raises:
            ValueError: the state is another optimizer's, or its groups or shapes do not match. Nothing is changed then.
        """
        saved_states: list[tuple[Tensor, dict[str, Any]]] = []
        moment_dtypes = [group.get("moment_dtype") for group in self.param_groups]
        # The user's pre-hooks may replace `state_dict`, so ours runs after them; their post-hooks see our result.
        before = self.register_load_state_dict_pre_hook(lambda _, hooked: saved_states.extend(self._matched(hooked)))
        after = self.register_load_state_dict_post_hook(
            lambda _: self._restore_precision(saved_states, moment_dtypes), prepend=True
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _matched(self, state_dict: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
        """Each parameter with its own part of `state_dict`. Raises ValueError unless that is a NovoGrad's state."""
        groups = state_dict["param_groups"]
        for group in groups:
            missing = [name for name in ("betas", "grad_averaging", "eps_inside_sqrt") if name not in group]
            if missing:
                raise ValueError(
                    f"loaded state dict is another optimizer's: a parameter group has no {' and no '.join(missing)}. "
                    "Those of apex and timm go through novobench.optim.convert_state_dict"
                )
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in self.param_groups]:
            return []  # torch raises its own ValueError
        saved_ids = [saved_id for group in groups for saved_id in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        state = state_dict["state"]
        matched = [
            (parameter, state[saved_id])
            for parameter, saved_id in zip(parameters, saved_ids, strict=True)
            if state.get(saved_id)
        ]
        for parameter, own in matched:
            for name, shape in (("exp_avg", tuple(parameter.shape)), ("exp_avg_sq", ())):
                loaded_shape = tuple(torch.as_tensor(own[name]).shape) if name in own else "missing"
                if loaded_shape != shape:
                    raise ValueError(
                        f"loaded state dict does not fit: {name} of a parameter of shape {tuple(parameter.shape)} "
                        f"is {loaded_shape}, expected {shape}"
                    )
        return matched

    def _restore_precision(
        self, saved_states: list[tuple[Tensor, dict[str, Any]]], moment_dtypes: list[torch.dtype | None]
    ) -> None:
        group_of: dict[Tensor, dict[str, Any]] = {}
        for group, moment_dtype in zip(self.param_groups, moment_dtypes, strict=True):
            group.pop("moment_dtype", None)
            if moment_dtype is not None:
                group["moment_dtype"] = moment_dtype
            group_of |= dict.fromkeys(group["params"], group)
        for number, (parameter, own) in enumerate(saved_states, 1):
            mine = self.state[parameter]
            mine.pop("rounding_counter", None)
            if rounding.applies(parameter, group_of[parameter]):
                mine["exp_avg"] = mine["exp_avg"].to(torch.bfloat16)  # torch converted it to fp32
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
        """Take one step: update the weights and the state of all parameters that have a gradient.

        Args:
            closure: recomputes the loss and the gradients; called once, with gradients enabled.

        Returns:
            The closure's loss, or None without a closure.

        Raises:
            RuntimeError: a sparse gradient; `fused=True` where no kernel can run; a CUDA graph that captures a first
                step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # torch's GradScaler sets both attributes. Ours sets `grad_scale` alone: this step checks for infs.
        scaling = GradScaling(getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        checks_for_inf = scaling.grad_scale is not None and scaling.found_inf is None
        needs_global_norm = checks_for_inf or self.max_grad_norm is not None or self.skip_nonfinite == "step"

        backends = [backend for backend in self._assign_backends() if backend.prepare()]
        if needs_global_norm and backends:
            scaling = scaling.clip(backends, self.max_grad_norm)
            if checks_for_inf:
                self.found_inf = scaling.skipped()
        for backend in backends:
            backend.update(scaling)
        return loss

    def _assign_backends(self) -> list[Backend]:
        return self._dispatcher.backends(
            self.param_groups, self.state, single_launch=self.single_launch, settings=self.launch_settings
        )
