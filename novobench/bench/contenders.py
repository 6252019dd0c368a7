"""The optimizers whose steps are timed: NovoGrad, torch's optimizers, and other implementations that are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench.optim import GradScaler, NovoGrad
from novobench.optim.novograd import LaunchSettings

BASELINE = "AdamW(fused)"
LIMIT = 1e9
"""Limit of the global gradient norm: never reached, but clipping still computes the norm."""


@dataclass(frozen=True)
class Contender:
    """An optimizer to be measured."""

    make: Callable[..., Optimizer]
    """Makes the optimizer from parameters; NovoGrad's also takes options."""
    bytes_per_parameter: int | None = None
    """Memory traffic of a step that moves each number only as often as the algorithm needs; None: unknown."""
    settings: str = ""
    """Launch settings that differ from the default, in words."""
    by_name_only: bool = False
    """Measured only where `--only` names it."""


def novograd(launches: LaunchSettings | None = None, **implementation: Any) -> Callable[..., Optimizer]:
    """A factory of NovoGrad with weight decay, as in the paper's recipes."""

    def make(parameters: Any, **options: Any) -> NovoGrad:
        optimizer = NovoGrad(parameters, 1e-3, weight_decay=1e-3, **implementation, **options)
        if launches is not None:
            optimizer.launch_settings = launches
        return optimizer

    return make


def _converted(dtype: torch.dtype) -> Callable[..., Optimizer]:
    """A factory of NovoGrad on copies of the weights and gradients in another dtype."""

    def make(parameters: Iterable[Tensor], **options: Any) -> Optimizer:
        copies = []
        for parameter in parameters:
            assert parameter.grad is not None
            copy = parameter.detach().to(dtype).requires_grad_()
            copy.grad = parameter.grad.to(dtype)
            copies.append(copy)
        return novograd()(copies, **options)

    return make


_SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.95, 0.25), "weight_decay": 1e-3}
_PEERS = {
    "timm NvNovoGrad": ("timm.optim.nvnovograd", "NvNovoGrad"),
    "pytorch_optimizer NovoGrad": ("pytorch_optimizer", "NovoGrad"),
    "MONAI Novograd": ("monai.optimizers", "Novograd"),
    "NeMo Novograd": ("nemo.core.optim.novograd", "Novograd"),
}
_APEX = "apex FusedNovoGrad (paper mode)"


def contenders(device: torch.device) -> dict[str, Contender]:
    """NovoGrad, torch's optimizers and the installed peers by name, each made the way its users make it."""
    available = {
        BASELINE: Contender(lambda p: torch.optim.AdamW(p, 1e-3, fused=True), 28),
        "NovoGrad": Contender(novograd(), 24),
        "NovoGrad(reference)": Contender(novograd(foreach=False, fused=False)),
        "NovoGrad(foreach)": Contender(novograd(foreach=True)),
        "NovoGrad(bf16 moment)": Contender(novograd(moment_dtype=torch.bfloat16), 20),
        "NovoGrad(rms)": Contender(novograd(layer_scale="rms"), 24, by_name_only=True),
        "NovoGrad(bf16 weights)": Contender(_converted(torch.bfloat16), 12, by_name_only=True),
        "NovoGrad(fp16 weights)": Contender(_converted(torch.float16), 12, by_name_only=True),
        "SGD(fused)": Contender(lambda p: torch.optim.SGD(p, 1e-3, 0.9, weight_decay=1e-4, fused=True), 20),
        "Adam(fused)": Contender(lambda p: torch.optim.Adam(p, 1e-3, fused=True), 28),
        "AdamW(foreach)": Contender(lambda p: torch.optim.AdamW(p, 1e-3, foreach=True)),
        "Adafactor": Contender(lambda p: torch.optim.Adafactor(p, 1e-3)),
    }
    for name, (module, kind) in _PEERS.items():
        make = _installed(module, kind)
        if make is not None:
            available[name] = Contender(make)
    if device.type == "cuda":
        available["NovoGrad(single launch)"] = Contender(novograd(single_launch=True), 20)
        # apex without its CUDA extension can be imported, but makes no FusedNovoGrad.
        paper: dict[str, Any] = {"bias_correction": False, "reg_inside_moment": True, "grad_averaging": False}
        make = _installed("apex.optimizers", "FusedNovoGrad", **paper) if _installed("amp_C", "__name__") else None
        if make is not None:
            available[_APEX] = Contender(make, 24)
    return available


def _installed(module: str, kind: str, **options: Any) -> Callable[..., Optimizer] | None:
    """A factory of a peer's optimizer; None if it is not installed. It raises whatever else the import raised."""
    try:
        optimizer_class = getattr(importlib.import_module(module), kind)
    except ImportError:
        return None
    except Exception as error:
        problem = error

        def fails(parameters: Any) -> Optimizer:
            raise problem

        return fails
    return lambda parameters: optimizer_class(parameters, **_SETTINGS, **options)


def with_scaler(optimizer: Optimizer, parameters: list[Tensor], device: torch.device) -> Callable[[], Any]:
    """A step as in a loop with mixed precision and clipping, in the fastest way that each optimizer offers.

    NovoGrad with `novobench.optim.GradScaler` unscales and clips in its step. The others use torch's scaler and
    clipping, both of which process all gradients together on CUDA, and a fused step that never reads `found_inf` on the
    host. Scale and limit leave the gradients as they are, but every pass over them is made.
    """
    in_step = isinstance(optimizer, NovoGrad)
    kind = GradScaler if in_step else torch.amp.GradScaler
    scaler = kind(device.type, init_scale=1.0, growth_interval=1 << 30)
    scaler.scale(torch.zeros((), device=device))

    def step() -> None:
        if not in_step:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, LIMIT)
        scaler.step(optimizer)
        scaler.update()

    return step
