"""The paper's formulas, computed apart and compared with the steps of novobench's optimizers.

Each formula is written as the paper prints it, tensor by tensor in float64, independently of `novobench.optim`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

LR, DECAY, BETA1, BETA2, EPS = 0.1, 0.01, 0.9, 0.3, 1e-3
"""ε is large, so that its place matters."""
STEPS = 4

Rule = Callable[..., Any]
"""(w, gradients) -> the weight after all steps. Both are tensors."""


def holds(name: str) -> bool:
    """Whether novobench's optimizer steps as a formula of `FORMULAS` says. Raises KeyError for another name."""
    import torch

    rule, optimizer, options = FORMULAS[name]
    for start, gradients in _problems():
        stepped = _stepped(optimizer, options, start, gradients)
        if not torch.allclose(stepped, rule(start, gradients), rtol=1e-9, atol=1e-12):
            return False
    return True


def _problems() -> Iterator[tuple[Any, list[Any]]]:
    """A matrix and a vector with their gradients. The second gradient is small, so that maxima and averages matter."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 4), (5,)):
        weight, *gradients = torch.randn((STEPS + 1, *shape), generator=generator, dtype=torch.float64)
        gradients[1] *= 0.01
        yield weight, gradients


def _stepped(name: str, options: dict[str, Any], start: Any, gradients: list[Any]) -> Any:
    import torch

    from novobench.optim import registry

    weight = torch.nn.Parameter(start.clone())
    optimizer = registry.build(name, [weight], lr=LR, weight_decay=_DECAYS.get(name, DECAY), options=options)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def _sngd(w: Any, gradients: list[Any]) -> Any:
    for g in gradients:
        w = w - LR * g / g.norm()
    return w


def _adam(w: Any, gradients: list[Any], decay: float = 0.0, *, corrected: bool = False) -> Any:
    """Equations 1 to 3, which start from m = v = 0."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        m_hat, v_hat = (m / (1 - BETA1**t), v / (1 - BETA2**t)) if corrected else (m, v)
        w = w - LR * (m_hat / (v_hat.sqrt() + EPS) + decay * w)
    return w


def _adamw(w: Any, gradients: list[Any]) -> Any:
    """§2.2, with the bias correction of Kingma and Ba; see `equation-3` in configs/deviations.yaml."""
    return _adam(w, gradients, DECAY, corrected=True)


def _novograd(
    w: Any,
    gradients: list[Any],
    *,
    beta2: float = BETA2,
    inside: bool = False,
    times_w: bool = False,
    in_update: bool = False,
    average: bool = False,
    maximum: bool = False,
) -> Any:
    """Algorithm 1 and its variants in §3. The first gradient initializes the moments and moves the weights."""
    m: Any = None
    v = v_max = 0.0
    for g in gradients:
        v = float(g.norm()) ** 2 if m is None else beta2 * v + (1 - beta2) * float(g.norm()) ** 2
        v_max = max(v_max, v) if maximum else v
        normalized = g / (math.sqrt(v_max + EPS) if inside else math.sqrt(v_max) + EPS)
        new = normalized * w if times_w else normalized if in_update else normalized + DECAY * w
        m = new if m is None else BETA1 * m + (1 - BETA1 if average else 1) * new
        w = w - LR * (m + DECAY * w if in_update else m)
    return w


def _variant(**changes: Any) -> Rule:
    return lambda w, gradients: _novograd(w, gradients, **changes)


_BETAS: dict[str, Any] = {"betas": [BETA1, BETA2], "eps": EPS}
_DECAYS = {"normalized_sgd": 0.0, "adam": 0.0}
"""Optimizers whose formulas have no weight decay."""

FORMULAS: dict[str, tuple[Rule, str, dict[str, Any]]] = {
    "sngd": (_sngd, "normalized_sgd", {"eps": 0.0}),
    "adam": (_adam, "adam", _BETAS),
    "adamw": (_adamw, "adamw", _BETAS),
    "algorithm-1": (_novograd, "novograd", _BETAS),
    "epsilon-inside": (_variant(inside=True), "novograd", _BETAS),
    "equation-5": (_variant(times_w=True), "novograd", _BETAS),
    "decay-in-update": (_variant(in_update=True), "novograd", {**_BETAS, "decoupled_weight_decay": True}),
    "moving-average": (_variant(average=True), "novograd", {**_BETAS, "grad_averaging": True}),
    "amsgrad": (_variant(maximum=True), "novograd", {**_BETAS, "amsgrad": True}),
    "beta2-zero": (_variant(beta2=0.0), "novograd", {**_BETAS, "betas": [BETA1, 0.0]}),
}
"""Name in configs/rubric.yaml -> the formula, and novobench's optimizer with its options."""
