"""Imports optimizers by path, `package.module:Class`, and reads the arguments of their constructors.

Modules in the current folder count, too. Imports torch only to check what a path names.
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
    """The object that `package.module:Class` names. Raises any Exception that the import raises.

    The current folder comes last in the search path, so that a file there cannot shadow a library.
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
    """Context for running third-party code. Its output goes to standard error, or is dropped if it fails.

    Raises ImportError for a BaseException such as SystemExit; an Exception and KeyboardInterrupt pass unchanged.
    """
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
    """Type and message of an error, without line breaks and without a final full stop."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")


def signature(factory: Any) -> tuple[tuple[str, ...], type]:
    """The arguments that an optimizer's class, or a function that makes one, takes after the parameters.

    Returns:
        Which of `lr` and `weight_decay` it takes, and a frozen dataclass of its other arguments.

    Raises:
        TypeError: `factory` is neither a subclass of Optimizer nor a function.
        ValueError: it has no signature.
    """
    from torch.optim import Optimizer

    if not callable(factory) or (inspect.isclass(factory) and not issubclass(factory, Optimizer)):
        raise TypeError("it is not a subclass of torch.optim.Optimizer, nor a function that makes one")
    arguments: dict[str, Any] = {}
    has_kwargs = True
    is_class = inspect.isclass(factory)
    factories = [base for base in factory.__mro__ if "__init__" in vars(base)] if is_class else [factory]
    for base in factories:
        if base is Optimizer:
            break
        # For a class read the constructor, which has `self`, too: the class's signature may be its metaclass's.
        function, skipped = (base.__init__, 2) if inspect.isclass(base) else (base, 1)
        parameters = list(inspect.signature(function).parameters.values())
        for parameter in parameters[skipped:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                arguments.setdefault(parameter.name, parameter.default)
        has_kwargs = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        if not has_kwargs:  # with **kwargs, the arguments of the next base class are arguments here
            break
    takes = tuple(name for name in ("lr", "weight_decay") if name in arguments or has_kwargs)
    options = [
        (name, *_option(default))
        for name, default in arguments.items()
        if name not in takes and (default is _EMPTY or _is_data(default))
    ]
    return takes, dataclasses.make_dataclass("Options", options, frozen=True, kw_only=True)


def defaults(options: type) -> dict[str, Any]:
    """The defaults of a dataclass that `signature` made. Required options have none."""
    fields = dataclasses.fields(options)
    return {field.name: field.default_factory() for field in fields if callable(field.default_factory)}


def _is_data(value: Any) -> bool:
    """Whether a config can hold this default. An argument with another kind of default is no option."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_data, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _option(default: Any) -> tuple[Any, Any]:
    """Type and dataclass field of an option, which is required if `default` is empty."""
    if default is _EMPTY:
        return Any, dataclasses.field()
    kind = type(default) | None if isinstance(default, (bool, float)) else Any
    return kind, dataclasses.field(default_factory=partial(_as_config, default))


def _as_config(default: Any) -> Any:
    return [_as_config(value) for value in default] if isinstance(default, (list, tuple)) else default
