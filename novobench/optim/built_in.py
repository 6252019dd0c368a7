"""Options and entries of the optimizers that come with novobench and torch: the paper's and NovoGrad's variants.

Each search range spans a factor of 32 around the usual value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from novobench.optim.entry import OptimizerEntry, Range

Implementation = Literal["auto", "loop", "foreach", "fused"]


@dataclass(frozen=True)
class NovoGradOptions:
    """See `novobench.optim.NovoGrad`."""

    betas: list[Annotated[float, "[0, 1)"]] = field(default_factory=lambda: [0.95, 0.25])
    """Decay of the momentum and of the layer-wise second moment; the defaults are those that the paper prints."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the norm that a gradient is divided by."""
    grad_averaging: bool = False
    """Multiply the normalized gradient by 1 - beta1 before it enters the momentum."""
    amsgrad: bool = False
    """Divide by the largest second moment so far."""
    eps_inside_sqrt: bool = False
    """Add `eps` to the second moment instead of to its root (OpenSeq2Seq)."""
    decoupled_weight_decay: bool = False
    """Decay weights directly, as AdamW, instead of through the momentum."""
    update_clip: Annotated[float, "(0, inf)"] | None = None
    """NeMo's layer-wise update clipping; 0.001 there."""
    moment_dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of exp_avg for fp32 parameters. `bfloat16` halves the state to 2 bytes per parameter. The default is
    the parameter's dtype."""
    layer_scale: Literal["rms"] | None = None
    """`rms`: steps of equal RMS, which is not the paper's: the rate of a tensor is lr times the root of its number of
    elements."""
    implementation: Implementation = "auto"
    """`loop`, `foreach` or `fused` forces that one; `auto`: the fastest that the tensors allow."""


@dataclass(frozen=True)
class NovoGradRmsOptions(NovoGradOptions):
    """NovoGrad's options, with steps of equal RMS by default."""

    layer_scale: Literal["rms"] | None = "rms"
    """`null` makes it the paper's NovoGrad."""


@dataclass(frozen=True)
class SGDOptions:
    """See `torch.optim.SGD`. Momentum 0.9, as in every recipe of the paper's baselines."""

    momentum: Annotated[float, "[0, 1)"] = 0.9
    """Decay of the momentum buffer."""
    dampening: Annotated[float, "[0, 1]"] = 0.0
    """The new gradient enters the momentum buffer times 1 - this."""
    nesterov: bool = False
    """Step along the gradient plus the decayed buffer."""
    implementation: Implementation = "auto"
    """`loop`, `foreach` or `fused` forces that one; `auto`: fused on CPU and CUDA, else foreach."""


@dataclass(frozen=True)
class AdamOptions:
    """See `torch.optim.Adam` and `AdamW`, whose defaults these are."""

    betas: list[Annotated[float, "[0, 1)"]] = field(default_factory=lambda: [0.9, 0.999])
    """Decay of the first and of the second moment."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the root of the second moment."""
    amsgrad: bool = False
    """Divide by the largest second moment so far."""
    implementation: Implementation = "auto"
    """`loop`, `foreach` or `fused` forces that one; `auto`: fused on CPU and CUDA, else foreach."""


@dataclass(frozen=True)
class LARSOptions:
    """See `novobench.optim.LARS`."""

    momentum: Annotated[float, "[0, 1)"] = 0.9
    """Decay of the momentum buffer."""
    trust: Annotated[float, "(0, inf)"] = 0.001
    """Trust coefficient: a layer's step relative to its weight norm."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the norm that a layer's rate is divided by."""


@dataclass(frozen=True)
class AdafactorOptions:
    """See `torch.optim.Adafactor`, whose defaults these are. `lr` is the upper bound of its relative step."""

    beta2_decay: Annotated[float, "(-inf, 0]"] = -0.8
    """Exponent c of the second moment's decay 1 - t^c."""
    d: Annotated[float, "[1, inf)"] = 1.0
    """Threshold of the root mean square at which an update is clipped."""


@dataclass(frozen=True)
class NormalizedSGDOptions:
    """See `novobench.optim.NormalizedSGD`."""

    momentum: Annotated[float, "[0, 1)"] = 0.0
    """Decay of the momentum buffer; 0: no buffer."""
    layer_wise: bool = False
    """Normalize each tensor's gradient on its own instead of all together."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the norm that a gradient is divided by."""


@dataclass(frozen=True)
class NovoGradVariantOptions:
    """See `novobench.optim.novograd_variants.NovoGradVariant`."""

    betas: list[Annotated[float, "[0, 1)"]] = field(default_factory=lambda: [0.95, 0.25])
    """Decay of the momentum and of the layer-wise second moment."""
    eps: Annotated[float, "[0, inf)"] = 1e-8
    """Added to the norm that is divided by."""
    normalize: Literal["gradient", "moment"] = "gradient"
    """What the root of v divides: the gradient, as in the paper, or the first moment of raw gradients."""
    initialize_second_moment: bool = True
    """Start the second moment at the first gradient's square norm, as in the paper, instead of at 0."""


BUILT_IN = (
    OptimizerEntry(
        name="novograd",
        factory="novobench.optim.novograd:NovoGrad",
        options=NovoGradOptions,
        description="SGD with momentum on layer-wise normalized gradients",
        reference="Ginsburg et al., 2019, arXiv:1905.11286",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(4e-3, 0.128), "weight_decay": Range(2e-4, 6.4e-3)},
        presets={
            "printed": {"betas": [0.95, 0.25]},
            "os2s": {"betas": [0.95, 0.0], "eps_inside_sqrt": True},
            "dle": {"betas": [0.95, 0.0]},
        },
        guards_on_device=True,
    ),
    OptimizerEntry(
        name="novograd_rms",
        factory="novobench.optim.novograd:NovoGrad",
        options=NovoGradRmsOptions,
        description="not the paper's: NovoGrad with steps of equal RMS; rate lr times the root of a tensor's size",
        reference="novobench, not published",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(7e-5, 2.24e-3), "weight_decay": Range(2e-4, 6.4e-3)},
        guards_on_device=True,
    ),
    OptimizerEntry(
        name="novograd_adamw",
        factory="novobench.optim.novograd:NovoGrad",
        options=NovoGradOptions,
        description="NovoGrad for weight matrices and convolutions, AdamW for the rest; not in the paper",
        reference="Ginsburg et al., 2019, arXiv:1905.11286; Loshchilov & Hutter, 2019, arXiv:1711.05101",
        state_bytes_per_parameter=4,
        tunable={
            "lr": Range(4e-3, 0.128),
            "weight_decay": Range(2e-4, 6.4e-3),
            "others.lr_ratio": Range(2e-2, 0.64),
        },
        guards_on_device=True,
        roles=("matrix",),
    ),
    OptimizerEntry(
        name="sgd",
        factory="torch.optim:SGD",
        options=SGDOptions,
        description="stochastic gradient descent with momentum",
        reference="Sutskever et al., 2013",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(1e-2, 0.32), "weight_decay": Range(2e-5, 6.4e-4)},
        guards_on_device=True,
        decays_gradient=True,
    ),
    OptimizerEntry(
        name="adam",
        factory="torch.optim:Adam",
        options=AdamOptions,
        description="adaptive moments; weight decay in the gradient",
        reference="Kingma & Ba, 2015, arXiv:1412.6980",
        state_bytes_per_parameter=8,
        tunable={"lr": Range(5e-4, 1.6e-2), "weight_decay": Range(2e-5, 6.4e-4)},
        guards_on_device=True,
        decays_gradient=True,
    ),
    OptimizerEntry(
        name="adamw",
        factory="torch.optim:AdamW",
        options=AdamOptions,
        description="Adam with decoupled weight decay",
        reference="Loshchilov & Hutter, 2019, arXiv:1711.05101",
        state_bytes_per_parameter=8,
        tunable={"lr": Range(5e-4, 1.6e-2), "weight_decay": Range(5e-3, 0.16)},
        guards_on_device=True,
    ),
    OptimizerEntry(
        name="lars",
        factory="novobench.optim.lars:LARS",
        options=LARSOptions,
        description="SGD with layer-wise adaptive rates",
        reference="You et al., 2017, arXiv:1708.03888",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(0.5, 16.0), "weight_decay": Range(2e-5, 6.4e-4)},
    ),
    OptimizerEntry(
        name="adafactor",
        factory="torch.optim:Adafactor",
        options=AdafactorOptions,
        description="second moments factored into rows and columns, no first moment",
        reference="Shazeer & Stern, 2018, arXiv:1804.04235",
        state_bytes_per_parameter=0,
        tunable={"lr": Range(3e-3, 0.096), "weight_decay": Range(2e-4, 6.4e-3)},
    ),
    OptimizerEntry(
        name="normalized_sgd",
        factory="novobench.optim.normalized_sgd:NormalizedSGD",
        options=NormalizedSGDOptions,
        description="steps of fixed length along the gradient",
        reference="Hazan et al., 2015, arXiv:1507.02030",
        state_bytes_per_parameter=0,
        tunable={"lr": Range(6e-3, 0.192), "weight_decay": Range(2e-5, 6.4e-4)},
    ),
    OptimizerEntry(
        name="novograd_variant",
        factory="novobench.optim.novograd_variants:NovoGradVariant",
        options=NovoGradVariantOptions,
        description="NovoGrad that normalizes the first moment, or starts the second one at 0; not in the paper",
        reference="Ginsburg et al., 2019, arXiv:1905.11286, Note 2",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(4e-3, 0.128), "weight_decay": Range(2e-4, 6.4e-3)},
    ),
)
