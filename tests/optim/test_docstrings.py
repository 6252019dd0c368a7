"""The docstrings of everything that `novobench.optim` exports name every argument."""

import inspect
import re

import pytest

from novobench import optim


def documented_callables():
    """(docstring, signature) of exported functions and classes, and of the public methods that classes define."""
    for name in optim.__all__:
        exported = getattr(optim, name)
        own_constructor = "__init__" in vars(exported) or not inspect.isclass(exported)
        if own_constructor:
            yield pytest.param(exported.__doc__, inspect.signature(exported), id=name)
        methods = vars(exported).items() if inspect.isclass(exported) else ()
        for method, function in methods:
            if inspect.isfunction(function) and not method.startswith("_"):
                yield pytest.param(function.__doc__, inspect.signature(function), id=f"{name}.{method}")


@pytest.mark.parametrize(("docstring", "signature"), list(documented_callables()))
def test_each_argument_has_an_entry(docstring, signature):
    entries = re.findall(r"^ +((?:\*{0,2}\w+, )*\*{0,2}\w+): \S", docstring.partition("Args:\n")[2], re.MULTILINE)
    names = {name.lstrip("*") for entry in entries for name in entry.split(", ")}
    assert {name for name in signature.parameters if name != "self"} - names == set()
