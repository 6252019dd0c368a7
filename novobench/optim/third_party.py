"""Optimizers that are named by path, `package.module:Class`: how they are imported, and what they take.

A module is looked for in the current folder, too. Imports no torch but for a class of torch's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import operator
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

_EMPTY = inspect.Parameter.empty


def load(path: str) -> Any:
    """What `package.module:Class` names. Raises any Exception.

    The current folder comes last, so that no file there takes the place of a library.
    """
    module, _, name = path.partition(":")
    if not name:
        raise ImportError("write package.module:Class")
    if importlib.util.find_spec(module.partition(".")[0]) is None and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # also for the processes that this one starts
        importlib.invalidate_caches()
    with guarded():
        return operator.attrgetter(name)(importlib.import_module(module))


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """For an import of what somebody else wrote. What it prints goes to standard error, and nowhere if it fails: one
    line then says why. Raises an Exception also where the module raised what is none, as `sys.exit` does; only the
    user's Ctrl-C passes as it is."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            yield
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise ImportError(in_one_line(error)) from error
    sys.stderr.write(printed.getvalue())


def in_one_line(error: BaseException) -> str:
    """Kind and message of an error, without a line break and a last full stop."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")


def signature(made: Any) -> tuple[tuple[str, ...], type]:
    """What an optimizer's class, or a function that makes one, takes after the parameters.

    Returns which of `lr` and `weight_decay` are among it, and a frozen dataclass of the rest. Raises TypeError for
    what cannot make an optimizer.
    """
    from torch.optim import Optimizer

    if not callable(made) or (inspect.isclass(made) and not issubclass(made, Optimizer)):
        raise TypeError("it is not a subclass of torch.optim.Optimizer, nor a function that makes one")
    found: dict[str, Any] = {}
    takes_any = True
    classes = [each for each in made.__mro__ if "__init__" in vars(each)] if inspect.isclass(made) else [made]
    for each in classes:
        if each is Optimizer:
            break
        # of a class the constructor, whose first argument is self: its own signature may be that of its metaclass
        function, left_out = (each.__init__, 2) if inspect.isclass(each) else (each, 1)
        parameters = list(inspect.signature(function).parameters.values())
        for parameter in parameters[left_out:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter.default)
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        if not takes_any:  # else what is meant for the next base class comes as **kwargs
            break
    takes = tuple(name for name in ("lr", "weight_decay") if name in found or takes_any)
    options = [
        (name, *_option(default))
        for name, default in found.items()
        if name not in takes and (default is _EMPTY or _is_data(default))
    ]
    return takes, dataclasses.make_dataclass("Options", options, frozen=True, kw_only=True)


def defaults(options: type) -> dict[str, Any]:
    """The defaults of a dataclass that `signature` made, without those that must be given."""
    fields = dataclasses.fields(options)
    return {each.name: each.default_factory() for each in fields if callable(each.default_factory)}


def _is_data(value: Any) -> bool:
    """Whether a config can hold a default. An argument with any other keeps it, and is no option."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_data, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _option(default: Any) -> tuple[Any, Any]:
    """Type and field of an option. One without default must be given."""
    if default is _EMPTY:
        return Any, dataclasses.field()
    kind = type(default) | None if isinstance(default, (bool, float)) else Any
    return kind, dataclasses.field(default_factory=partial(_as_config, default))


def _as_config(default: Any) -> Any:
    return [_as_config(value) for value in default] if isinstance(default, (list, tuple)) else default
