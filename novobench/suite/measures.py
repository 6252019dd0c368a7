"""Claims of the paper that need no training: each measure is one number, computed in seconds on one core.

`MEASURES` names them. A measure returns the same number each time, to the rounding of the machine. torch is imported by
the measures that need it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from novobench.config import CellConfig
from novobench.suite.experiment import load_experiment
from novobench.suite.row_configs import row_config, tuned_rates
from novobench.tasks.catalog import task_config

if TYPE_CHECKING:
    import torch

BETA1 = 0.9
"""Of the comparisons between optimizers below."""

# ---------------------------------------------------------------------------------------------- memory and sizes


@cache
def _state_bytes(name: str) -> int:
    """The bytes of an optimizer's state for ResNet-50v2 after one update."""
    import dataclasses

    from novobench.optim import registry
    from novobench.training.state_size import state_bytes

    config = _config("table1", "t1_adamw_100", "full")
    optimizer = dataclasses.replace(config.optimizer, name=name, options=registry.get(name).options())
    return state_bytes(dataclasses.replace(config, optimizer=optimizer))[0]


def novograd_state_over_adam() -> float:
    """Bytes of NovoGrad's state over those of Adam's, for ResNet-50v2. The paper says a half."""
    return _state_bytes("novograd") / _state_bytes("adam")


def adam_state_over_sgd() -> float:
    """Bytes of Adam's state over those of SGD's with momentum, for ResNet-50v2. The paper says two."""
    return _state_bytes("adam") / _state_bytes("sgd")


def adafactor_numbers_over_sides() -> float:
    """Numbers in Adafactor's state for a matrix of n = 3,000 by m = 2,000 over n + m. The paper says O(n + m)."""
    import torch

    matrix = torch.zeros(3000, 2000, requires_grad=True)
    matrix.grad = torch.ones_like(matrix)
    optimizer = torch.optim.Adafactor([matrix])
    optimizer.step()
    return sum(number.numel() for number in optimizer.state[matrix].values() if number is not None) / (3000 + 2000)


def millions_of_parameters(task: str) -> float:
    """Millions of trainable parameters of the task's model at the paper's size."""
    import importlib

    import torch

    model = importlib.import_module(f"novobench.tasks.{task}.model")
    with torch.device("meta"):
        network = model.build(task_config(task).MODEL())
    return sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6


# ---------------------------------------------------------------------------------------------- identities


def _gradients(updates: int, size: float = 1.0) -> Iterator[list[torch.Tensor]]:
    """The same random gradients each time, float64, of a matrix and a vector; their size varies a hundredfold."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for update in range(updates):
        factor = size * 10 ** math.sin(update)
        yield [factor * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((8, 5), (5,))]


def _weights_after(build: Callable[[Any], Any], gradients: Iterator[list[torch.Tensor]]) -> torch.Tensor:
    """All weights, float64, after an update with each of the `gradients`. They start at ones.

    build: from parameters to the optimizer.
    """
    import torch

    parameters = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in ((8, 5), (5,))]
    optimizer = build(parameters)
    for each in gradients:
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def beta2_0_difference() -> float:
    """The largest difference of a weight after 100 updates by NovoGrad with β₂ = 0 and by layer-wise normalized SGD.
    The paper's Note 1 says 0."""
    from novobench.optim import NormalizedSGD, NovoGrad

    ours = _weights_after(lambda p: NovoGrad(p, 0.01, (BETA1, 0.0), weight_decay=0.1), _gradients(100))
    layer_wise = partial(NormalizedSGD, lr=0.01, momentum=BETA1, weight_decay=0.1, layer_wise=True)
    return float((ours - _weights_after(layer_wise, _gradients(100))).abs().max())


def gradient_scale_difference(optimizer: Literal["novograd", "sngd"]) -> float:
    """The largest difference of a weight after 100 updates if all gradients are a million times as large. 0 if the size
    of a step does not depend on the size of gradients (§2)."""
    from novobench.optim import NormalizedSGD, NovoGrad

    def build(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        if optimizer == "novograd":
            return NovoGrad(parameters, 0.01, (BETA1, 0.98), eps=0.0)
        return NormalizedSGD(parameters, 0.01, eps=0.0)

    small, large = (_weights_after(build, _gradients(100, size)) for size in (1.0, 1e6))
    return float((small - large).abs().max())


def _averaged(gradients: Callable[[], Iterator[list[torch.Tensor]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The change of all weights by NovoGrad, and with an averaged first moment at 1 / (1 − β₁) of the rate."""
    from novobench.optim import NovoGrad

    plain = partial(NovoGrad, lr=0.01, betas=(BETA1, 0.98))
    averaged = partial(NovoGrad, lr=0.01 / (1 - BETA1), betas=(BETA1, 0.98), grad_averaging=True)
    return _weights_after(plain, gradients()) - 1, _weights_after(averaged, gradients()) - 1


def averaged_moment_difference() -> float:
    """The largest difference of a weight between NovoGrad and the form whose first moment is an exponential average, at
    1 / (1 − β₁) of the rate, after 100 updates of which the first has zero gradients; 0 if they are the same (§3)."""

    def gradients() -> Iterator[list[torch.Tensor]]:
        for update, each in enumerate(_gradients(100)):
            yield [gradient * (update > 0) for gradient in each]

    plain, averaged = _averaged(gradients)
    return float((plain - averaged).abs().max())


def averaged_moment_first_step() -> float:
    """The length of the first step with an averaged first moment over that without, at 1 / (1 − β₁) of the rate; 1 if
    they are the same. The paper starts m at the normalized gradient, not at 1 − β₁ times it: hence 1 / (1 − β₁)."""
    plain, averaged = _averaged(lambda: _gradients(1))
    return float(averaged.norm() / plain.norm())


# ---------------------------------------------------------------------------------------------- convergence


def counterexample_regret(*, amsgrad: bool) -> float:
    """The mean regret of NovoGrad after 9,000 steps of the convex problem of Reddi et al. (2018, Theorem 1): losses 3x,
    −x, −x in turn for x in [−1, 1], rates 1 / √t, β₁ = 0 and β₂ = 1 / 10. The best x is −1; an optimizer that goes to 1
    has a mean regret of 2/3, one that converges has 0 in the end."""
    import torch

    from novobench.optim import NovoGrad

    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = NovoGrad([x], 1.0, (0.0, 0.1), amsgrad=amsgrad)
    regret, steps = 0.0, 9000
    for step in range(steps):
        slope = 3.0 if step % 3 == 0 else -1.0
        regret += slope * (x.item() + 1)
        x.grad = torch.full_like(x, slope)
        optimizer.param_groups[0]["lr"] = 1 / math.sqrt(step + 1)
        optimizer.step()
        with torch.no_grad():
            x.clamp_(-1, 1)
    return regret / steps


def rising_rates(*, amsgrad: bool) -> float:
    """The share of 200 updates that make λ / √v of a layer larger, at a constant λ; v is the largest so far with
    AMSGrad. 0 if λ / √v never rises (§3)."""
    import torch

    from novobench.optim import NovoGrad

    parameter = torch.ones(8, 5, dtype=torch.float64, requires_grad=True)
    optimizer = NovoGrad([parameter], 0.01, (BETA1, 0.98), amsgrad=amsgrad)
    key, seconds = "max_exp_avg_sq" if amsgrad else "exp_avg_sq", []
    for gradient, _ in _gradients(200):
        parameter.grad = gradient
        optimizer.step()
        seconds.append(float(optimizer.state[parameter][key]))
    return sum(later < before for before, later in itertools.pairwise(seconds)) / len(seconds)


# ---------------------------------------------------------------------------------------------- sizes of gradients


@cache
def _early_norms() -> tuple[float, ...]:
    """The norms of all layers' gradients in the first 50 updates of Table 1's cell of SGD at laptop scale, seed 100."""
    import torch

    from novobench.tasks import base
    from novobench.training.rates import optimizer_parts, set_rates

    config = _config("table1", "t1_sgd_100", "laptop")
    module, data = base.build(config)
    data.setup("fit")
    optimizer = module.configure_optimizers()
    parts = optimizer_parts(optimizer, config.optimizer)
    norms: list[float] = []
    for update, batch in enumerate(data.train_batches(0, 50, 0, 1)):
        set_rates(parts, update, config.total_updates, config)
        optimizer.zero_grad()
        loss: Any = module.training_step(batch, update)
        loss.backward()
        norms += torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).tolist()
        optimizer.step()
    return tuple(norms)


def early_norms_below_1() -> float:
    """The share of layers and updates whose gradient has a norm below 1, in the first 50 updates of SGD on Table 1's
    task at laptop scale. A normalized gradient has a norm of 1; §3.1 says that it is the larger one."""
    norms = _early_norms()
    return sum(norm < 1 for norm in norms) / len(norms)


def early_median_norm() -> float:
    """The median norm of a layer's gradient in the same updates."""
    import statistics

    return statistics.median(_early_norms())


def rate_ratio(task: str, first: str, second: str) -> float:
    """The tuned rate under key `first` over that under `second`, of a task at laptop scale. §3.1 says that safe rates
    fall in the order SGD, NovoGrad, Adam."""
    one, other = (tuned_rates(task, "laptop", key, "measure")["optimizer.lr"] for key in (first, second))
    return float(one) / float(other)


def _config(experiment: str, row: str, scale: str) -> CellConfig:
    loaded = load_experiment(experiment)
    config = row_config(loaded, loaded.row(row), scale, seed=100)
    assert config is not None
    return config


MEASURES: dict[str, Callable[[], float]] = {
    "novograd_state_over_adam": novograd_state_over_adam,
    "adam_state_over_sgd": adam_state_over_sgd,
    "adafactor_numbers_over_sides": adafactor_numbers_over_sides,
    "transformer_big_parameters": partial(millions_of_parameters, "translation"),
    "transformer_xl_parameters": partial(millions_of_parameters, "language"),
    "beta2_0_difference": beta2_0_difference,
    "novograd_scale_difference": partial(gradient_scale_difference, "novograd"),
    "sngd_scale_difference": partial(gradient_scale_difference, "sngd"),
    "averaged_moment_difference": averaged_moment_difference,
    "averaged_moment_first_step": averaged_moment_first_step,
    "counterexample_regret": partial(counterexample_regret, amsgrad=False),
    "counterexample_regret_amsgrad": partial(counterexample_regret, amsgrad=True),
    "rising_rates": partial(rising_rates, amsgrad=False),
    "rising_rates_amsgrad": partial(rising_rates, amsgrad=True),
    "early_norms_below_1": early_norms_below_1,
    "early_median_norm": early_median_norm,
    "rate_sgd_over_novograd_image": partial(rate_ratio, "image", "sgd-b32", "novograd-b32"),
    "rate_sgd_over_novograd_speech": partial(rate_ratio, "speech", "sgd", "novograd"),
    "rate_novograd_over_adam_image": partial(rate_ratio, "image", "novograd-b32", "adamw-b32"),
    "rate_novograd_over_adam_speech": partial(rate_ratio, "speech", "novograd", "adam"),
    "rate_novograd_over_adam_translation": partial(rate_ratio, "translation", "novograd", "adam"),
    "rate_novograd_over_adam_language": partial(rate_ratio, "language", "novograd", "adam"),
}
"""Name -> the measure; the function's docstring says what the number is."""
