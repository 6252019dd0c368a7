"""Checks of an optimizer: the forms of calls and of weights that its step takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from novobench.training.conformance.checks import Check, Failed, check
from novobench.training.conformance.differences import changed
from novobench.training.conformance.net import random_gradients
from novobench.training.conformance.subject import Subject, check_finite, requires_closure, update_all

FORMS: list[Check] = []
_LARGEST_DIFFERENCE = 0.9
"""Share of a step by which it may differ if the weights are stored in another order. Sums in another order can turn
eigenvectors; a step in the wrong order, or of a copy, differs by the whole step or more."""
_COMPILED_TOLERANCE = 0.05
"""Share of a step by which it may differ if it is compiled."""


@check(
    FORMS,
    "its step takes a closure",
    why="torch's contract: step(closure) calls the closure with gradients enabled and returns its loss.",
    advice="Begin with: loss = None if closure is None else torch.enable_grad()(closure)(), and return loss.",
)
def takes_a_closure(subject: Subject) -> str | None:
    training = subject.training()
    vars(training.optimizer).pop("step", None)  # what the class itself does, without training's wrapper
    calls: list[bool] = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        training.optimizer.zero_grad()
        loss = training.net.loss(0)
        loss.backward()
        return loss.detach()

    closure()
    with torch.no_grad():
        expected = float(training.net.loss(0))
    calls.clear()
    try:
        loss: Any = training.optimizer.step(closure)  # type: ignore[arg-type]
    except TypeError as error:
        if "argument" not in str(error) or calls:
            raise
        return "no, but training calls the closure first"
    if not calls:
        return "no, it ignores the closure, but training calls it first"
    if not (torch.is_tensor(loss) or isinstance(loss, float)) or abs(float(loss) - expected) > 0.1 * abs(expected):
        raise Failed(f"it returns {loss}, not the closure's loss, {expected:.4g}")
    if requires_closure(training):
        return f"and requires one: it computes the gradients {len(calls)} times in its first update"
    return None


@check(
    FORMS,
    "weights may be stored in any order",
    why="Networks hold transposed matrices, and images channels last (runtime.channels_last).",
    advice="Use reshape instead of view, and make state with torch.zeros_like(p).",
)
def takes_any_strides(subject: Subject) -> None:
    strided, plain = subject.training(strided=True), subject.training()
    before = plain.weights()
    for number in range(3):
        gradients = random_gradients(plain.net, number)
        strided.update_with(number, gradients)
        plain.update_with(number, gradients)
    after = plain.weights()
    for name, weight in strided.weights().items():
        step = (after[name] - before[name]).norm()
        if not (weight - after[name]).norm() <= _LARGEST_DIFFERENCE * step:
            raise Failed(f"the steps of {name} depend on the order in which it is stored")


@check(
    FORMS,
    "weights may be float64",
    why="runtime.precision=64-true trains with such weights.",
    advice="Make state and constants with the parameter's dtype: torch.zeros_like(p).",
)
def takes_float64(subject: Subject) -> None:
    _check_dtype(subject, torch.float64)


@check(
    FORMS,
    "weights may be bfloat16",
    why="Large models are trained with such weights in other programs. No training of novobench does so.",
    advice="Make state and constants with the parameter's dtype, or compute in float32 and copy the result back.",
)
def takes_bfloat16(subject: Subject) -> None:
    _check_dtype(subject, torch.bfloat16)


def compiles(subject: Subject) -> None:
    compiled, plain = subject.training(), subject.training()
    before = plain.weights()
    step = torch.compile(compiled.optimizer.step)
    for number in range(3):
        gradients = random_gradients(plain.net, number)
        compiled.update_with(number, gradients, step)
        plain.update_with(number, gradients)
    after = plain.weights()
    for name, weight in compiled.weights().items():
        distance = (after[name] - before[name]).norm()
        if not (weight - after[name]).norm() <= _COMPILED_TOLERANCE * distance:
            raise Failed(f"compiled steps of {name} differ from others")


COMPILED = Check(
    "its step can be compiled",
    "torch.compile(optimizer.step) makes one program of the many small operations of a step.",
    "Keep numbers that change in tensors, and avoid .item() and branches on values of tensors.",
    compiles,
)
"""Takes about a minute, so it is not in `FORMS`."""


def _check_dtype(subject: Subject, dtype: torch.dtype) -> None:
    training = subject.training(dtype=dtype)
    before = training.weights()
    update_all(training, range(3))
    for name, weight in training.weights().items():
        if weight.dtype != dtype:
            raise Failed(f"{name} becomes {weight.dtype}".replace("torch.", ""))
    check_finite(training)
    if not changed(before, training.weights()):
        raise Failed("no weight moves")
