"""A GradScaler that reads no gradient: NovoGrad's step checks the norms that it computes anyway for infs and NaNs."""

from __future__ import annotations

from typing import Any

import torch
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from novobench.optim.novograd.optimizer import NovoGrad


class GradScaler(torch.amp.GradScaler):
    """`torch.amp.GradScaler` without its pass over the gradients, for `NovoGrad(unscale_in_step=True)`.

    Before each step, torch's class reads every gradient to check for infs and NaNs. Here the step computes the norms;
    if one is not finite, the step leaves weights and state unchanged, and the scaler reads that result on the device,
    without a host sync. Constructor arguments and state are those of `torch.amp.GradScaler`. The step must run eagerly:
    `torch.compile(optimizer.step)` cannot report an inf back to the scaler; use `torch.amp.GradScaler` with it.

    The scaler treats any other optimizer, and gradients that `unscale_` has already unscaled, as torch's class does.
    With Lightning: `Trainer(plugins=MixedPrecision("16-mixed", "cuda", GradScaler("cuda")))`.
    """

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Take a step of `optimizer` unless a gradient is not finite.

        Args:
            optimizer: its gradients come from a loss that `scale` has scaled. They stay scaled.
            *args, **kwargs: passed to `optimizer.step`.

        Returns:
            What `optimizer.step` returns.

        Raises:
            RuntimeError: for a second step without `update` in between, or a closure, which torch's class refuses.
            AssertionError: if `scale` has never been called.
        """
        optimizer_state = self._per_optimizer_states[id(optimizer)]
        checks_in_step = isinstance(optimizer, NovoGrad) and optimizer._step_supports_amp_scaling
        is_ready = self._enabled and optimizer_state["stage"] is OptState.READY
        if not checks_in_step or not is_ready or "closure" in kwargs:
            return super().step(optimizer, *args, **kwargs)
        scale, _ = self._check_scale_growth_tracker("step")
        optimizer.grad_scale = self._get_scale_async()  # type: ignore[attr-defined]
        try:
            loss: float | None = optimizer.step(*args, **kwargs)
            found_inf = getattr(optimizer, "found_inf", None)  # None: no parameter has a gradient
        finally:
            for name in ("grad_scale", "found_inf"):
                optimizer.__dict__.pop(name, None)
        found_inf = torch.zeros_like(scale) if found_inf is None else found_inf.to(scale.device)
        optimizer_state["found_inf_per_device"] = {scale.device: found_inf}
        optimizer_state["stage"] = OptState.STEPPED
        return loss
