"""Import optimizers by path, `package.module:Class` or `./file.py:Class`, and read the arguments of their constructors.

Modules in the current folder are found as well. torch is imported only to check what a path names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import io
import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from novobench.optim import python_files
from novobench.optim.entry import RANGES, ROLES, SCHEDULES, OptimizerEntry, Range, Role, Schedule

_EMPTY = inspect.Parameter.empty


class LoadingError(ImportError):
    """What a path names cannot be loaded. The message is one line and says why, without the type of an error."""


def load(path: str) -> Any:
    """The object that `package.module:Class` or `./file.py:Class` names.

    A path that ends in `.py` is relative to the current folder; see `python_files`. For modules the current folder
    comes last in the search path, so that a file there cannot shadow a library.

    Raises:
        LoadingError: there is no such file, module or name, with the nearest ones; or the import failed, with the line.
    """
    place, _, name = path.rpartition(":")
    if not place or not name:
        raise LoadingError("write package.module:Class or ./file.py:Class")
    try:
        return _attribute(_module(place), name, place)
    except LoadingError:
        raise
    except Exception as error:
        plain = SyntaxError(error.msg) if isinstance(error, SyntaxError) else error  # its own text repeats the place
        raise LoadingError(f"{type_and_message(plain)}{_place(error)}") from error


def _module(place: str) -> ModuleType:
    if place.endswith(".py"):
        try:
            file = python_files.find(place)
        except ImportError as error:
            raise LoadingError(str(error).rstrip(".")) from None
        with guarded():
            return python_files.module_of(file)
    if importlib.util.find_spec(place.partition(".")[0]) is None and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # child processes inherit it
        importlib.invalidate_caches()
    with guarded():
        return importlib.import_module(place)


def _attribute(module: ModuleType, name: str, place: str) -> Any:
    owner: Any = module
    for part in name.split("."):
        try:
            with guarded():  # a module may have a __getattr__ of its own
                owner = getattr(owner, part)
        except AttributeError:
            raise LoadingError(f"{place} has no attribute '{name}'.{_candidates(module, owner, part)}") from None
    return owner


def _candidates(module: ModuleType, owner: Any, missing: str) -> str:
    """` Did you mean 'Lion'?`, or ` It has the optimizers Lion, Tiger`, or nothing."""
    from torch.optim import Optimizer

    names = {name: value for name, value in vars(owner).items() if not name.startswith("_") and callable(value)}
    if near := difflib.get_close_matches(missing, names, n=1):
        return f" Did you mean '{near[0]}'?"
    own = [name for name, value in names.items() if inspect.isclass(value) and issubclass(value, Optimizer)]
    return f" It has {', '.join(sorted(own)[:10])}" if own and owner is module else ""


def _place(error: BaseException) -> str:
    """` (mine.py line 3)`: the line of the code that failed, of the innermost file outside Python's own import."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name} line {error.lineno})"
    error = error.__cause__ if error.__cause__ is not None and isinstance(error, ImportError) else error
    all_frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in all_frames if frame.filename not in _IMPORTING and "importlib" not in frame.filename]
    return f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""


_IMPORTING = {__file__, python_files.__file__}


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Run third-party code. Its output goes to standard error, or is dropped if the code fails.

    A BaseException such as SystemExit becomes an ImportError; an Exception and KeyboardInterrupt pass unchanged.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            yield
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise ImportError(type_and_message(error)) from error
    sys.stderr.write(printed.getvalue())


def type_and_message(error: BaseException) -> str:
    """`ValueError: its message`, without line breaks or a final full stop."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")


def signature(factory: Any) -> tuple[dict[str, Any], type]:
    """The arguments that an optimizer's class, or a function that returns an optimizer, takes after the parameters.

    Returns:
        Those of `lr` and `weight_decay` that it takes, with their defaults (None without one), and a frozen dataclass
        of its other arguments.

    Raises:
        TypeError: `factory` is neither a subclass of Optimizer nor a function.
        ValueError: it has no signature.
    """
    from torch.optim import Optimizer

    if not callable(factory) or (inspect.isclass(factory) and not issubclass(factory, Optimizer)):
        raise TypeError("it is neither a subclass of torch.optim.Optimizer nor a function that returns an optimizer")
    arguments: dict[str, Any] = {}
    has_kwargs = True
    is_class = inspect.isclass(factory)
    factories = [base for base in factory.__mro__ if "__init__" in vars(base)] if is_class else [factory]
    for base in factories:
        if base is Optimizer:
            break
        # The signature of a class may be its metaclass's, so read its constructor, whose first argument is `self`.
        function, skipped = (base.__init__, 2) if inspect.isclass(base) else (base, 1)
        parameters = list(inspect.signature(function).parameters.values())
        for parameter in parameters[skipped:]:
            if base is not factory and parameter.name == "defaults":  # of Optimizer, which a class sets itself
                continue
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                arguments.setdefault(parameter.name, parameter.default)
        has_kwargs = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        if not has_kwargs:  # **kwargs pass on the arguments of the next base class
            break
    takes = {name: arguments.get(name) for name in ("lr", "weight_decay") if name in arguments or has_kwargs}
    takes = {name: None if default is _EMPTY else default for name, default in takes.items()}
    options = [
        (name, *_option(default))
        for name, default in arguments.items()
        if name not in takes and (default is _EMPTY or _is_data(default))
    ]
    return takes, dataclasses.make_dataclass("Options", options, frozen=True, kw_only=True)


def declared(factory: Any, registered: OptimizerEntry | None = None) -> tuple[Schedule, tuple[Role, ...]]:
    """The schedule and the roles that an optimizer's class or function declares by its attributes `novobench_schedule`
    and `novobench_roles`, as in `OptimizerEntry`; by default those of a `registered` entry that builds it, else `task`
    and all roles.

    Raises:
        ValueError: there is no such schedule or role, or the roles are none.
    """
    schedule = getattr(factory, "novobench_schedule", registered.schedule if registered else "task")
    if schedule not in SCHEDULES:
        raise ValueError(f"its novobench_schedule is {schedule!r}, which must be one of {', '.join(SCHEDULES)}")
    roles = getattr(factory, "novobench_roles", registered.roles if registered else ROLES)
    if not isinstance(roles, (list, tuple)) or not roles or any(role not in ROLES for role in roles):
        raise ValueError(f"its novobench_roles are {roles!r}, which must be a tuple of some of {', '.join(ROLES)}")
    return schedule, tuple(roles)


def search_ranges(factory: Any, takes: Mapping[str, Any], options: type, schedule: Schedule) -> dict[str, Range]:
    """The search ranges of an optimizer's class or function: those that its attribute `novobench_ranges` declares, a
    mapping of keys below `optimizer` to (low, high), or else of `lr` and of the `weight_decay` that it takes.

    The latter span a factor of 32 around the constructor's default if that is above 0, otherwise around 0.01 and 0.001.

    Raises:
        ValueError: what is declared is no such mapping.
    """
    tunable = [name for name in RANGES if name in takes or (name == "lr" and schedule != "own")]
    declared_ranges = getattr(factory, "novobench_ranges", None)
    if declared_ranges is None:
        return {name: Range.around(takes[name]) if _is_positive(takes.get(name)) else RANGES[name] for name in tunable}
    keys = {*tunable, "others.lr_ratio", *(f"options.{field.name}" for field in dataclasses.fields(options))}
    valid = isinstance(declared_ranges, Mapping) and all(
        key in keys and isinstance(ends, (list, tuple)) and len(ends) == 2 and all(map(_is_positive, ends))
        and ends[0] < ends[1]
        for key, ends in declared_ranges.items()
    )  # fmt: skip
    if not valid or not declared_ranges:
        raise ValueError(
            f"its novobench_ranges are {declared_ranges!r}, which must be a mapping of some of "
            f"{', '.join(sorted(keys))} to (low, high), two increasing numbers above 0"
        )
    return {key: Range(float(low), float(high)) for key, (low, high) in declared_ranges.items()}


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 1e-100 < value < 1e100


def defaults(options: type) -> dict[str, Any]:
    """The defaults of a dataclass that `signature` returned. Required options are absent."""
    fields = dataclasses.fields(options)
    return {field.name: field.default_factory() for field in fields if callable(field.default_factory)}


def _is_data(value: Any) -> bool:
    """Whether a config can hold this default. Arguments with other defaults are not options."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_data, value))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return value is None or isinstance(value, (bool, int, float, str))


def _option(default: Any) -> tuple[Any, Any]:
    """Type and dataclass field of an option. Without a default the option is required."""
    if default is _EMPTY:
        return Any, dataclasses.field()
    annotation = type(default) | None if isinstance(default, (bool, float)) else Any
    return annotation, dataclasses.field(default_factory=partial(_as_config, default))


def _as_config(default: Any) -> Any:
    return [_as_config(value) for value in default] if isinstance(default, (list, tuple)) else default
