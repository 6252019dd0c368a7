"""A GradScaler that lets NovoGrad's step look for infs, in the norms that it takes anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from novobench.optim.novograd.optimizer import NovoGrad


class GradScaler(torch.amp.GradScaler):
    """`torch.amp.GradScaler` without its pass over the gradients, for `NovoGrad(unscale_in_step=True)`.

    torch's reads every gradient for an inf before each step. Here the step finds a norm that is not finite, leaves
    everything as it was, and the scaler learns of it on the device, without waiting. Any other optimizer, and a
    gradient that was unscaled by hand, is treated as torch does. Under Lightning:
    `Trainer(plugins=MixedPrecision("16-mixed", "cuda", GradScaler("cuda")))`.
    """

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        state = self._per_optimizer_states[id(optimizer)]
        looks_itself = isinstance(optimizer, NovoGrad) and optimizer._step_supports_amp_scaling
        if not self._enabled or not looks_itself or state["stage"] is not OptState.READY or "closure" in kwargs:
            return super().step(optimizer, *args, **kwargs)
        scale, _ = self._check_scale_growth_tracker("step")
        optimizer.grad_scale = self._get_scale_async()  # type: ignore[attr-defined]
        try:
            result = optimizer.step(*args, **kwargs)
            found = getattr(optimizer, "found_inf", None)  # None: no parameter has a gradient
        finally:
            for name in ("grad_scale", "found_inf"):
                optimizer.__dict__.pop(name, None)
        found = torch.zeros_like(scale) if found is None else found.to(scale.device)
        state["found_inf_per_device"] = {scale.device: found}
        state["stage"] = OptState.STEPPED
        return result
