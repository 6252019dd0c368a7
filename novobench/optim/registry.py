"""The optimizers that a config can name. torch is imported only when one is built.

A third-party optimizer needs no change here: name it `package.module:Class`, or publish an `OptimizerEntry` in the
entry point group `novobench.optimizers`. Modules in the current folder are found as well.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal

from novobench.optim import third_party

if TYPE_CHECKING:
    from torch.optim import Optimizer

ENTRY_POINTS = "novobench.optimizers"


class UnknownOptimizerError(LookupError):
    """No entry and no importable optimizer has this name. The message is one line."""


@dataclass(frozen=True)
class Range:
    """The interval from which `novobench search` samples a value, uniformly in its logarithm."""

    low: float
    high: float


_RANGES = {"lr": Range(1e-4, 1.0), "weight_decay": Range(1e-5, 1e-1)}


@dataclass(frozen=True)
class OptimizerEntry:
    """What novobench knows about an optimizer: how to build it, its options and their search ranges."""

    name: str
    factory: str
    """`module:Class`, imported at the first build; called with the groups, the arguments in `takes` and the options."""
    options: type
    """A frozen dataclass of its options besides lr and weight_decay, with their defaults. An annotation such as
    `Annotated[float, "[0, 1)"]` gives the interval of valid values."""
    description: str
    reference: str
    state_bytes_per_parameter: float
    """Bytes of state per fp32 parameter of a large matrix, apart from the one or two numbers per tensor."""
    tunable: Mapping[str, Range] = field(default_factory=lambda: dict(_RANGES))
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Named sets of options."""
    guards_on_device: bool = False
    """Whether its step reads the attribute `found_inf` (0-d fp32 tensor, as torch's GradScaler sets it) and leaves
    weights and state unchanged unless it is 0. Training then needs no host sync to check whether an update is finite;
    with any other optimizer it needs one per update."""
    decays_gradient: bool = False
    """Whether its weight decay is L2 regularization, which the step adds to the gradient first. LARC then comes after
    this addition; see `larc_`."""
    takes: tuple[str, ...] = ("lr", "weight_decay")
    """Which of these two arguments the factory accepts. Without `weight_decay`, weights do not decay. In any case each
    update's rate is written into `lr` of the optimizer's groups."""


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
    implementation: Implementation = "auto"
    """`loop`, `foreach` or `fused` forces that one; `auto`: the fastest that the tensors allow."""


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


_BUILT_IN = (
    OptimizerEntry(
        name="novograd",
        factory="novobench.optim.novograd:NovoGrad",
        options=NovoGradOptions,
        description="SGD with momentum on layer-wise normalized gradients",
        reference="Ginsburg et al., 2019, arXiv:1905.11286",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(1e-3, 0.3), "weight_decay": Range(1e-5, 1e-2)},
        presets={
            "printed": {"betas": [0.95, 0.25]},
            "os2s": {"betas": [0.95, 0.0], "eps_inside_sqrt": True},
            "dle": {"betas": [0.95, 0.0]},
        },
        guards_on_device=True,
    ),
    OptimizerEntry(
        name="sgd",
        factory="torch.optim:SGD",
        options=SGDOptions,
        description="stochastic gradient descent with momentum",
        reference="Sutskever et al., 2013",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(1e-3, 1.0), "weight_decay": Range(1e-6, 1e-2)},
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
        tunable={"lr": Range(1e-4, 3e-2), "weight_decay": Range(1e-6, 1e-2)},
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
        tunable={"lr": Range(1e-4, 3e-2), "weight_decay": Range(1e-3, 1.0)},
        guards_on_device=True,
    ),
    OptimizerEntry(
        name="lars",
        factory="novobench.optim.lars:LARS",
        options=LARSOptions,
        description="SGD with layer-wise adaptive rates",
        reference="You et al., 2017, arXiv:1708.03888",
        state_bytes_per_parameter=4,
        tunable={"lr": Range(0.1, 50.0), "weight_decay": Range(1e-6, 1e-2)},
    ),
    OptimizerEntry(
        name="adafactor",
        factory="torch.optim:Adafactor",
        options=AdafactorOptions,
        description="second moments factored into rows and columns, no first moment",
        reference="Shazeer & Stern, 2018, arXiv:1804.04235",
        state_bytes_per_parameter=0,
        tunable={"lr": Range(1e-3, 0.3), "weight_decay": Range(1e-5, 1e-1)},
    ),
    OptimizerEntry(
        name="normalized_sgd",
        factory="novobench.optim.normalized_sgd:NormalizedSGD",
        options=NormalizedSGDOptions,
        description="steps of fixed length along the gradient",
        reference="Hazan et al., 2015, arXiv:1507.02030",
        state_bytes_per_parameter=0,
        tunable={"lr": Range(1e-3, 1.0), "weight_decay": Range(1e-6, 1e-2)},
    ),
)

_entries: dict[str, OptimizerEntry] = {entry.name: entry for entry in _BUILT_IN}


def register(entry: OptimizerEntry) -> None:
    """Add an entry. Raises ValueError for a name in use, because the meaning of recorded results must not change."""
    if entry.name in _entries:
        raise ValueError(f"An optimizer named '{entry.name}' is already registered as {_entries[entry.name].factory}.")
    _entries[entry.name] = entry


def entries(pattern: str = "*") -> list[OptimizerEntry]:
    """All entries whose name matches a shell pattern such as `adam*`, built-in ones first."""
    _load_entry_points()
    return [entry for entry in _entries.values() if fnmatch.fnmatch(entry.name, pattern)]


def get(name: str) -> OptimizerEntry:
    """The entry of a registered name, or a new entry for a class or function `package.module:Class`.

    Raises:
        UnknownOptimizerError: no such optimizer; the message suggests the nearest name or says why the import failed.
    """
    if name not in _entries:
        _load_entry_points()
    if name in _entries:
        return _entries[name]
    if ":" in name:
        return _from_path(name)
    if name in _broken:
        raise UnknownOptimizerError(f"optimizer '{name}' cannot be loaded: {_broken[name]}.")
    near = difflib.get_close_matches(name, _entries, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UnknownOptimizerError(f"optimizer '{name}' is not registered.{hint} Run: novobench list optimizers")


_broken: dict[str, str] = {}


def broken() -> dict[str, str]:
    """Entry points that failed to load: name -> reason. They must not stop training with another optimizer."""
    _load_entry_points()
    return _broken


@cache
def _load_entry_points() -> None:
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            with third_party.guarded():
                entry = point.load()
            if not isinstance(entry, OptimizerEntry):
                raise TypeError(f"{point.value} is not an OptimizerEntry")
            register(entry)
        except Exception as error:
            _broken[point.name] = third_party.type_and_message(error)


@cache
def _from_path(path: str) -> OptimizerEntry:
    """The entry of a constructor. Its options are all arguments except the parameters, `lr` and `weight_decay`."""
    try:
        takes, options = third_party.signature(third_party.load(path))
    except Exception as error:
        raise UnknownOptimizerError(
            f"optimizer '{path}' cannot be used: {third_party.type_and_message(error)}."
        ) from None
    return OptimizerEntry(
        name=path,
        factory=path,
        options=options,
        description="a class of another package",
        reference=path,
        state_bytes_per_parameter=float("nan"),
        tunable={name: _RANGES[name] for name in ("lr", "weight_decay") if name == "lr" or name in takes},
        decays_gradient=any(entry.factory == path and entry.decays_gradient for entry in _BUILT_IN),
        takes=takes,
    )


def build(
    name: str, params: Any, *, lr: float, weight_decay: float, options: Mapping[str, Any] | None = None
) -> Optimizer:
    """Build an optimizer.

    Args:
        name: a registered name or `package.module:Class`.
        params: parameters, or parameter groups.
        lr: rate of the first update.
        weight_decay: coefficient d; ignored if the entry does not take one.
        options: values for fields of the entry's `options`; other fields keep their defaults. For torch's own
            optimizers, `implementation: auto` means fused on a CPU, where torch would run a slow loop, and on CUDA,
            where only fused reads `found_inf`; elsewhere it means foreach.

    Raises:
        UnknownOptimizerError: see `get`.
        ValueError: the constructor raised an error; the message quotes it.
        TypeError: the result has no parameter groups with `lr`.
    """
    entry, params, options = get(name), list(params), dict(options or {})
    if ":" in name:  # omit options at their defaults: a constructor may itself set some arguments of its base class
        defaults = third_party.defaults(entry.options)
        arguments = {key: value for key, value in options.items() if key not in defaults or value != defaults[key]}
        implementation = None
    else:
        arguments = {**dataclasses.asdict(entry.options()), **options}
        implementation = arguments.pop("implementation", None)
    if entry.options is NovoGradOptions and arguments["moment_dtype"] is not None:
        import torch

        arguments["moment_dtype"] = getattr(torch, arguments["moment_dtype"])
    if implementation == "auto" and entry.factory.startswith("torch.optim:"):
        implementation = "fused" if _device_types(params) <= {"cpu", "cuda"} else "foreach"
    if implementation not in (None, "auto"):
        arguments |= {"foreach": implementation == "foreach", "fused": implementation == "fused"}
    rates = {"lr": lr, "weight_decay": weight_decay}
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    factory = third_party.load(entry.factory)
    try:
        with third_party.guarded():
            optimizer: Optimizer = factory(params, **{key: rates[key] for key in entry.takes}, **arguments)
    except Exception as error:
        raise ValueError(f"optimizer '{name}' cannot be built: {third_party.type_and_message(error)}.") from error
    groups = getattr(optimizer, "param_groups", None)
    if not groups or any("lr" not in group for group in groups):
        raise TypeError(f"optimizer '{name}' has no parameter groups with an 'lr' for the schedule to set.")
    # If True, as in torch's fused optimizers, GradScaler leaves the gradients scaled, so clipping would be wrong.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def _device_types(params: list[Any]) -> set[str]:
    tensors = (tensor for item in params for tensor in (item["params"] if isinstance(item, dict) else [item]))
    return {tensor.device.type for tensor in tensors}


def guards_on_device(name: str, optimizer: Optimizer) -> bool:
    """Whether `optimizer` reads `found_inf` without a host sync. torch's own optimizers do so only if fused; NovoGrad
    does unless `fused=False`."""
    entry = get(name)
    unset = not entry.factory.startswith("torch.optim:")  # NovoGrad is fused by default, torch's optimizers are not
    fused = [group.get("fused") for group in optimizer.param_groups]
    return entry.guards_on_device and all(unset if chosen is None else chosen for chosen in fused)


def validate(entry: OptimizerEntry, options: Any, weight_decay: float) -> None:
    """Check the constraints that types and intervals of single options cannot express.

    Raises:
        ValueError: the number of betas is not two; the optimizer accepts no weight decay; torch rejects this
            Nesterov momentum.
    """
    if weight_decay and "weight_decay" not in entry.takes:
        raise ValueError(
            f"'optimizer.weight_decay' is {weight_decay:g}, but {entry.name} accepts no such argument. "
            "Set optimizer.weight_decay=0, or give the class a weight_decay."
        )
    if isinstance(options, (NovoGradOptions, AdamOptions)) and len(options.betas) != 2:
        raise ValueError(f"'optimizer.options.betas' of {entry.name} must be two numbers, not {list(options.betas)}.")
    if isinstance(options, SGDOptions) and options.nesterov and (options.momentum == 0 or options.dampening != 0):
        raise ValueError("'optimizer.options.nesterov' needs momentum above 0 and dampening 0.")
