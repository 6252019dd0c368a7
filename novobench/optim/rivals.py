"""Options and entries of the paper's rivals: newer optimizers, from torch and from the packages of novobench's extra
`rivals`.

Defaults are the package's unless an option says otherwise. Search ranges of rates and of weight decay span a factor of
32 around the usual value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from novobench.optim.entry import OptimizerEntry, Range

Beta = Annotated[float, "[0, 1)"]


@dataclass(frozen=True)
class LionOptions:
    """See `pytorch_optimizer.Lion`. Decay is decoupled."""

    betas: list[Beta] = field(default_factory=lambda: [0.9, 0.99])
    """Share of the momentum in the update's sign, and decay of the momentum."""


@dataclass(frozen=True)
class MuonOptions:
    """See `torch.optim.Muon`. Decay is decoupled."""

    momentum: Beta = 0.95
    """Decay of the momentum buffer."""
    nesterov: bool = True
    """Orthogonalize the gradient plus the decayed buffer."""
    ns_steps: Annotated[int, "[1, 100)"] = 5
    """Newton-Schulz iterations, in bf16."""
    eps: Annotated[float, "(0, inf)"] = 1e-7
    """Smallest norm that a matrix is divided by."""
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    """Factor on the rate of an m × n matrix: `original` √max(1, m / n), torch's default; `match_rms_adamw`
    0.2 √max(m, n), whose steps have the RMS of AdamW's, so that one rate fits both (Liu et al., 2025)."""


@dataclass(frozen=True)
class SOAPOptions:
    """See `pytorch_optimizer.SOAP`. Decay is decoupled. The first update only fills the preconditioners."""

    betas: list[Beta] = field(default_factory=lambda: [0.95, 0.95])
    """Decay of the first and of the second moment."""
    shampoo_beta: Beta | None = None
    """Decay of the preconditioners; the default is the second of `betas`."""
    precondition_frequency: Annotated[int, "[1, inf)"] = 10
    """Updates between two eigenbases."""
    max_precondition_dim: Annotated[int, "[1, inf)"] = 2048
    """Larger dimensions are not rotated. The package's 10,000 is above the vocabularies of the small scales, whose side
    of an embedding the paper does not rotate and whose eigenvectors cost minutes."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the root of the second moment."""


@dataclass(frozen=True)
class ScheduleFreeAdamWOptions:
    """See `schedulefree.AdamWScheduleFree`. Decay is decoupled. The config's warm-up replaces `warmup_steps`."""

    betas: list[Annotated[float, "(0, 1)"]] = field(default_factory=lambda: [0.9, 0.999])
    """Interpolation between the average and the newest iterate, and decay of the second moment."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the root of the second moment."""
    r: Annotated[float, "[0, inf)"] = 0.0
    """Iterate t enters the average with a weight of t to this power."""
    weight_lr_power: Annotated[float, "[0, inf)"] = 2.0
    """Iterates enter the average with a weight of the largest rate so far to this power."""


@dataclass(frozen=True)
class ProdigyOptions:
    """See `prodigyopt.Prodigy`. Decay is decoupled. `lr` multiplies the rate that it estimates."""

    betas: list[Beta] = field(default_factory=lambda: [0.9, 0.999])
    """Decay of the first and of the second moment."""
    beta3: Beta | None = None
    """Decay of the statistics of the estimate; the default is the root of the second of `betas`."""
    eps: Annotated[float, "(0, inf)"] = 1e-8
    """Added to the root of the second moment, times the estimate."""
    d0: Annotated[float, "(0, inf)"] = 1e-6
    """First estimate."""
    d_coef: Annotated[float, "(0, inf)"] = 1.0
    """Multiplies each estimate."""
    use_bias_correction: bool = False
    """Adam's correction of the moments' first values."""
    safeguard_warmup: bool = True
    """Keep the rate out of the estimate's denominator. The package's default is off; its README says to set this with
    a warm-up, which three of the four tasks have."""


@dataclass(frozen=True)
class AdEMAMixOptions:
    """See `pytorch_optimizer.AdEMAMix`. Decay is decoupled as in the paper; the package's default is L2."""

    betas: list[Beta] = field(default_factory=lambda: [0.9, 0.999, 0.9999])
    """Decay of the fast first moment, of the second moment and of the slow first moment."""
    alpha: Annotated[float, "[0, inf)"] = 5.0
    """Weight of the slow first moment."""
    t_alpha_beta3: Annotated[float, "(0, inf)"] | None = None
    """Updates over which `alpha` and the slow decay grow to their values. Default: none."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the root of the second moment."""


@dataclass(frozen=True)
class LambOptions:
    """See `pytorch_optimizer.Lamb`, version 3 of the paper: decay inside the trust ratio, no bias correction.

    The package's defaults are decay outside the ratio, and steps divided by the first moment's bias correction after
    the ratio, ten times too long at first.
    """

    betas: list[Beta] = field(default_factory=lambda: [0.9, 0.999])
    """Decay of the first and of the second moment."""
    eps: Annotated[float, "[0, inf)"] = 1e-6
    """Added to the root of the second moment and to the norm of the update."""
    grad_averaging: bool = True
    """Multiply the gradient by 1 - beta1 before it enters the first moment."""


@dataclass(frozen=True)
class ScaleOptions:
    """See `novobench.optim.scale.SCALE`."""

    momentum: Beta = 0.9
    """Decay of the output layer's momentum."""
    eps: Annotated[float, "(0, inf)"] = 1e-8
    """Smallest RMS that a gradient is divided by."""


RIVALS: tuple[OptimizerEntry, ...] = (
    OptimizerEntry(
        name="lion",
        factory="pytorch_optimizer:Lion",
        options=LionOptions,
        description="sign of an interpolated momentum",
        reference="Chen et al., 2023, arXiv:2302.06675",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(1e-4, 3.2e-3), "weight_decay": Range(0.03, 0.96)},
        requires="pytorch_optimizer",
    ),
    OptimizerEntry(
        name="muon",
        factory="novobench.optim.muon:Muon",
        options=MuonOptions,
        description="orthogonalized momentum of matrices",
        reference="Jordan et al., 2024; Liu et al., 2025, arXiv:2502.16982",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(5e-4, 1.6e-2), "weight_decay": Range(5e-3, 0.16)},
        roles=("matrix",),
    ),
    OptimizerEntry(
        name="soap",
        factory="pytorch_optimizer:SOAP",
        options=SOAPOptions,
        description="Adam in the eigenbases of Shampoo's preconditioners; plain Adam for vectors",
        reference="Vyas et al., 2024, arXiv:2409.11321",
        state_bytes_per_parameter=24,
        tunable={"lr": Range(5e-4, 1.6e-2), "weight_decay": Range(2e-3, 6.4e-2)},
        requires="pytorch_optimizer",
    ),
    OptimizerEntry(
        name="schedule_free_adamw",
        factory="schedulefree:AdamWScheduleFree",
        options=ScheduleFreeAdamWOptions,
        description="AdamW with averaged weights instead of a decaying rate",
        reference="Defazio et al., 2024, arXiv:2405.15682",
        state_bytes_per_parameter=8,
        tunable={"lr": Range(1e-3, 3.2e-2), "weight_decay": Range(5e-3, 0.16)},
        schedule="constant",
        requires="schedulefree",
    ),
    OptimizerEntry(
        name="prodigy",
        factory="prodigyopt:Prodigy",
        options=ProdigyOptions,
        description="Adam that estimates its rate; lr is a factor on it, usually 1",
        reference="Mishchenko & Defazio, 2023, arXiv:2306.06101",
        state_bytes_per_parameter=16,
        tunable={"lr": Range(0.2, 6.4), "weight_decay": Range(2e-3, 6.4e-2)},
        requires="prodigyopt",
    ),
    OptimizerEntry(
        name="ademamix",
        factory="pytorch_optimizer:AdEMAMix",
        options=AdEMAMixOptions,
        description="AdamW with a fast and a slow momentum",
        reference="Pagliardini et al., 2024, arXiv:2409.03137",
        state_bytes_per_parameter=12,
        tunable={"lr": Range(5e-4, 1.6e-2), "weight_decay": Range(5e-3, 0.16)},
        constants={"weight_decouple": True},
        requires="pytorch_optimizer",
    ),
    OptimizerEntry(
        name="lamb",
        factory="pytorch_optimizer:Lamb",
        options=LambOptions,
        description="Adam whose layers step in proportion to their weight norm",
        reference="You et al., 2019, arXiv:1904.00962",
        state_bytes_per_parameter=8,
        tunable={"lr": Range(1e-3, 3.2e-2), "weight_decay": Range(2e-3, 6.4e-2)},
        constants={"weight_decouple": False, "adam_debias": True},
        requires="pytorch_optimizer",
    ),
    OptimizerEntry(
        name="scale",
        factory="novobench.optim.scale:SCALE",
        options=ScaleOptions,
        description="gradients normalized per output, momentum in the output layer alone",
        reference="Glentis et al., 2025, arXiv:2506.16659",
        state_bytes_per_parameter=0,
        tunable={"lr": Range(2e-4, 6.4e-3), "weight_decay": Range(5e-3, 0.16)},
        roles=("matrix", "embedding", "head"),
    ),
)
