"""The optimizers that a config can name. torch is imported only when one is built.

A third-party optimizer needs no change here: name it `package.module:Class` or `./file.py:Class`, or publish an
`OptimizerEntry` in the entry point group `novobench.optimizers`. Modules in the current folder are found as well.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from novobench.optim import python_files, third_party
from novobench.optim.built_in import BUILT_IN, NovoGradOptions, SGDOptions
from novobench.optim.entry import ROLES
from novobench.optim.entry import OptimizerEntry as OptimizerEntry
from novobench.optim.rivals import RIVALS

if TYPE_CHECKING:
    from torch.optim import Optimizer

ENTRY_POINTS = "novobench.optimizers"


class UnknownOptimizerError(LookupError):
    """No entry and no importable optimizer has this name. The message is one line."""


class MissingPackageError(ImportError):
    """An entry's package is not installed. The message is one line."""


_entries: dict[str, OptimizerEntry] = {entry.name: entry for entry in (*BUILT_IN, *RIVALS)}


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
    """The entry of a registered name, or a new entry for `package.module:Class` or `./file.py:Class` (or a function).

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


def label(name: str) -> str:
    """The name for people: `MyOptimizer` for `package.module:MyOptimizer` and `./file.py:MyOptimizer`; a registered
    name is its own label."""
    return name.rpartition(":")[2]


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
    """The entry of a constructor. Its options are all arguments except the parameters, `lr` and `weight_decay`.

    A class that a registered entry builds, such as `schedulefree:AdamWScheduleFree`, has the schedule and the roles of
    that entry unless it declares its own.
    """
    registered = next((entry for entry in (*BUILT_IN, *RIVALS) if entry.factory == path), None)
    try:
        factory = third_party.load(path)
        takes, options = third_party.signature(factory)
        schedule, roles = third_party.declared(factory, registered)
        tunable = third_party.search_ranges(factory, takes, options, schedule)
    except Exception as error:
        is_worded = isinstance(error, third_party.LoadingError)
        reason = str(error) if is_worded else third_party.type_and_message(error)
        end = "" if reason.endswith("?") else "."
        raise UnknownOptimizerError(f"optimizer '{path}' cannot be used: {reason}{end}") from None
    return OptimizerEntry(
        name=path,
        factory=path,
        code=python_files.code_of(factory),
        options=options,
        description="a class of another package",
        reference=path,
        state_bytes_per_parameter=float("nan"),
        tunable=tunable,
        decays_gradient=registered is not None and registered.decays_gradient,
        schedule=schedule,
        roles=roles,
        takes=tuple(takes),
    )


def check_package(entry: OptimizerEntry) -> None:
    """Raise MissingPackageError if the package that an entry requires is not installed."""
    if entry.requires and importlib.util.find_spec(entry.requires) is None:
        raise MissingPackageError(
            f"optimizer '{entry.name}' needs the package {entry.requires}, which is not installed. "
            "Run: pip install 'novobench[rivals]', or make setup in a checkout."
        )


def build(
    name: str, params: Any, *, lr: float, weight_decay: float, options: Mapping[str, Any] | None = None
) -> Optimizer:
    """Build an optimizer.

    Args:
        name: a registered name, `package.module:Class` or `./file.py:Class`.
        params: parameters, or parameter groups.
        lr: rate of the first update.
        weight_decay: coefficient d; ignored if the entry does not take one.
        options: values for fields of the entry's `options`; other fields keep their defaults. For torch's own
            optimizers, `implementation: auto` means fused on a CPU, where torch would run a slow loop, and on CUDA,
            where only fused reads `found_inf`; elsewhere it means foreach.

    Raises:
        UnknownOptimizerError: see `get`.
        MissingPackageError: the package that the entry requires is not installed; the message names the extra.
        ValueError: the constructor raised an error; the message quotes it.
        TypeError: the result has no parameter groups, or, unless its schedule is `own`, they have no `lr`.
    """
    entry, params, options = get(name), list(params), dict(options or {})
    check_package(entry)
    if ":" in name:  # omit options at their defaults: a constructor may itself set some arguments of its base class
        defaults = third_party.defaults(entry.options)
        arguments = {key: value for key, value in options.items() if key not in defaults or value != defaults[key]}
        implementation = None
    else:
        arguments = {**dataclasses.asdict(entry.options()), **options, **entry.constants}
        implementation = arguments.pop("implementation", None)
    if issubclass(entry.options, NovoGradOptions) and arguments["moment_dtype"] is not None:
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
    if not groups or (entry.schedule != "own" and any("lr" not in group for group in groups)):
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


def validate(entry: OptimizerEntry, options: Any, weight_decay: float, where: str = "optimizer") -> None:
    """Check the constraints that types and intervals of single options cannot express. where: the config key of the
    optimizer.

    Raises:
        ValueError: the number of betas is not that of the default; the optimizer accepts no weight decay; torch rejects
            this Nesterov momentum.
    """
    if weight_decay and "weight_decay" not in entry.takes:
        raise ValueError(
            f"'{where}.weight_decay' is {weight_decay:g}, but {entry.name} accepts no such argument. "
            f"Set {where}.weight_decay=0, or give the class a weight_decay."
        )
    if ":" not in entry.name and hasattr(options, "betas") and len(options.betas) != len(entry.options().betas):
        count = {2: "two", 3: "three"}[len(entry.options().betas)]
        raise ValueError(f"'{where}.options.betas' of {entry.name} must be {count} numbers, not {list(options.betas)}.")
    if isinstance(options, SGDOptions) and options.nesterov and (options.momentum == 0 or options.dampening != 0):
        raise ValueError(f"'{where}.options.nesterov' needs momentum above 0 and dampening 0.")


def validate_roles(
    entry: OptimizerEntry, roles: Sequence[str], patterns: Mapping[str, str], others: OptimizerEntry, has_others: bool
) -> None:
    """Check which optimizer takes which parameters.

    Args:
        entry: the optimizer.
        roles: those that it takes.
        patterns: the config's pattern -> role.
        others: the optimizer of the other roles.
        has_others: whether the config says anything about it.

    Raises:
        ValueError: a role does not exist or is named twice; there is none; `others` or `patterns` are set although one
            optimizer takes all parameters; the others' entry does not take the rest.
    """
    for key, role in [*(("roles", role) for role in roles), *((f"role_patterns.{p}", r) for p, r in patterns.items())]:
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"'optimizer.{key}': there is no role '{role}'.{hint} Known: {', '.join(ROLES)}.")
    if not roles or len(set(roles)) < len(roles):
        raise ValueError(f"'optimizer.roles' must be different roles, at least one, not {list(roles)}.")
    rest = [role for role in ROLES if role not in roles]
    if not rest and (has_others or patterns):
        key = "others" if has_others else "role_patterns"
        raise ValueError(
            f"'optimizer.{key}' is set, but {entry.name} takes the parameters of all roles. Remove it, or set "
            "optimizer.roles, e.g. to [matrix]."
        )
    if refused := [role for role in rest if role not in others.roles]:
        raise ValueError(
            f"'optimizer.others.name': {others.name} takes {', '.join(others.roles)}, but {entry.name} leaves "
            f"{', '.join(refused)}. Choose one that takes all roles, e.g. adamw."
        )
