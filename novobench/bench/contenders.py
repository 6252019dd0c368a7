"""The optimizers whose steps are timed: ours, torch's, and the peers that are installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from novobench.optim import NovoGrad

BASELINE = "AdamW(fused)"


@dataclass(frozen=True)
class Contender:
    """An optimizer to be measured."""

    make: Callable[..., Optimizer]
    """From parameters; NovoGrad's also takes options."""
    bytes_per_parameter: int | None = None
    """Memory traffic of a step that reads and writes each fp32 number as often as the algorithm must; None: unknown."""


def novograd(**implementation: Any) -> Callable[..., Optimizer]:
    """Makes a NovoGrad with weight decay, as the paper's recipes have it."""
    return lambda parameters, **options: NovoGrad(parameters, 1e-3, weight_decay=1e-3, **implementation, **options)


def contenders(device: torch.device) -> dict[str, Contender]:
    """Ours, torch's, and whichever peers are installed, each as its users would make it."""
    found = {
        BASELINE: Contender(lambda p: torch.optim.AdamW(p, 1e-3, fused=True), 28),
        "NovoGrad": Contender(novograd(), 24),
        "NovoGrad(loop)": Contender(novograd(foreach=False, fused=False)),
        "NovoGrad(foreach)": Contender(novograd(foreach=True)),
        "SGD(fused)": Contender(lambda p: torch.optim.SGD(p, 1e-3, 0.9, weight_decay=1e-4, fused=True), 20),
        "Adam(fused)": Contender(lambda p: torch.optim.Adam(p, 1e-3, fused=True), 28),
        "AdamW(foreach)": Contender(lambda p: torch.optim.AdamW(p, 1e-3, foreach=True)),
        "Adafactor": Contender(lambda p: torch.optim.Adafactor(p, 1e-3)),
    }
    settings: dict[str, Any] = {"lr": 1e-3, "betas": (0.95, 0.25), "weight_decay": 1e-3}
    try:
        from timm.optim.nvnovograd import NvNovoGrad

        found["timm NvNovoGrad"] = Contender(lambda p: NvNovoGrad(p, **settings))
    except ImportError:
        pass
    try:
        from pytorch_optimizer import NovoGrad as KozistrNovoGrad

        found["pytorch_optimizer NovoGrad"] = Contender(lambda p: KozistrNovoGrad(p, **settings))
    except ImportError:
        pass
    try:
        from monai.optimizers import Novograd as MonaiNovograd

        found["MONAI Novograd"] = Contender(lambda p: MonaiNovograd(p, **settings))
    except ImportError:
        pass
    try:
        from nemo.core.optim.novograd import Novograd as NemoNovograd

        found["NeMo Novograd"] = Contender(lambda p: NemoNovograd(p, **settings))
    except ImportError:
        pass
    if device.type == "cuda":
        found["NovoGrad(single launch)"] = Contender(novograd(single_launch=True), 20)
        try:
            import amp_C  # noqa: F401  # apex without its CUDA extension can be imported, but makes no FusedNovoGrad
            from apex.optimizers import FusedNovoGrad

            paper: dict[str, Any] = {"bias_correction": False, "reg_inside_moment": True, "grad_averaging": False}
            found["apex FusedNovoGrad (paper mode)"] = Contender(lambda p: FusedNovoGrad(p, **settings, **paper), 24)
        except (ImportError, RuntimeError):
            pass
    return found
