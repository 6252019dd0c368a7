"""Optimizers for PyTorch. The package needs torch alone, and imports it when one of its names is first used.

from novobench.optim import NovoGrad
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from novobench.optim.lars import LARS as LARS
    from novobench.optim.lars import larc_ as larc_
    from novobench.optim.normalized_sgd import NormalizedSGD as NormalizedSGD
    from novobench.optim.novograd import GradScaler as GradScaler
    from novobench.optim.novograd import NovoGrad as NovoGrad
    from novobench.optim.novograd import convert_state_dict as convert_state_dict
    from novobench.optim.weight_decay import weight_decay_groups as weight_decay_groups

_MODULE_OF = {
    "NovoGrad": "novograd",
    "GradScaler": "novograd",
    "convert_state_dict": "novograd",
    "LARS": "lars",
    "larc_": "lars",
    "NormalizedSGD": "normalized_sgd",
    "weight_decay_groups": "weight_decay",
}
__all__ = [
    "LARS",
    "GradScaler",
    "NormalizedSGD",
    "NovoGrad",
    "convert_state_dict",
    "larc_",
    "weight_decay_groups",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"novobench.optim.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
