"""Checks of an optimizer: what it remembers, and what it leaves behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from novobench.optim.composite import switchable
from novobench.training import checkpoints
from novobench.training.conformance.checks import Check, Failed, NotApplicable, check
from novobench.training.conformance.differences import changed, first_difference
from novobench.training.conformance.subject import Subject, check_finite, requires_closure, update_all

STATE: list[Check] = []


@check(
    STATE,
    "it leaves gradients as they are",
    why="Code after the step may read p.grad. Training clears it, so a change does no harm here.",
    advice="Work on a copy of the gradient.",
)
def leaves_gradients(subject: Subject) -> str | None:
    training = subject.training()
    training.update(0)
    training.net.zero_grad()
    training.net.loss(1).backward()
    gradients = {n: p.grad.clone() for n, p in training.net.named_parameters() if p.grad is not None}
    if requires_closure(training):
        training.optimizer.step(lambda: 0.0)
    else:
        training.optimizer.step()
    after = {n: p.grad for n, p in training.net.named_parameters() if p.grad is not None}
    if any(name not in after for name in gradients):
        raise Failed("it sets p.grad to None")
    overwritten = changed(gradients, after)
    return f"it overwrites p.grad, e.g. of {min(overwritten)}" if overwritten else None


@check(
    STATE,
    "it resumes with the same bits",
    why="A training that is killed and resumed must give the result of one that was not.",
    advice="Keep all that a step reads in self.state[p] or in the groups, as tensors and numbers.",
)
def resumes(subject: Subject) -> None:
    def missing(number: int) -> list[str]:
        return ["image.bias", "hidden.weight"] if number < 7 else []

    whole, killed = subject.training(), subject.training()
    for number in range(5):
        whole.update(number, without=missing(number))
        killed.update(number, without=missing(number))
    resumed = subject.training(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(Path(folder), 5, killed.state())
        resumed.load(checkpoints.load_newest(Path(folder)) or {})
    for number in range(5, 10):
        whole.update(number, without=missing(number))
        resumed.update(number, without=missing(number))
    if place := first_difference(resumed.state(), whole.state()):
        raise Failed(f"five updates after the checkpoint, {place} differs")


@check(
    STATE,
    "the same training gives the same bits",
    why="A cell is a function of its config and seed. torch's random numbers are seeded for each micro-batch.",
    advice="Draw random numbers from torch only, and let nothing depend on time, order of sets or earlier optimizers.",
)
def is_deterministic(subject: Subject) -> None:
    first, second = subject.training(), subject.training()
    update_all(first, range(6))
    update_all(second, range(6))
    if place := first_difference(second.state(), first.state()):
        raise Failed(f"built twice with the same weights, {place} differs after six updates")


@check(
    STATE,
    "an update that is not finite leaves no trace",
    why="Training removes such gradients before the step, for every optimizer alike.",
    advice="Count steps and decay moments for each parameter, and only if its grad is not None.",
)
def leaves_no_trace_of_nonfinite(subject: Subject) -> None:
    half = not requires_closure(subject.training())

    def state(skipped: Iterable[int], taken: Iterable[int]) -> Mapping[str, object]:
        training = subject.training(half=half, schedule="constant")
        for number in taken:
            training.update(number, factor=(1e38 if half else float("nan")) if number in skipped else 1.0)
        if half:
            training.guard.read(6)
            if training.guard.skipped != len(tuple(skipped)):
                raise Failed(f"{training.guard.skipped} updates were skipped instead of {len(tuple(skipped))}")
        return training.state()

    for skipped in ((0,), (2,), (0, 1, 4)):
        usual = state((), [number for number in range(6) if number not in skipped])
        if place := first_difference(state(skipped, range(6)), usual):
            raise Failed(f"with updates {', '.join(map(str, skipped))} not finite, {place} differs from their absence")


@check(
    STATE,
    "train() and eval() switch its weights and back",
    why="Training calls eval() before an evaluation and train() after it, and continues with the bits of before.",
    advice="Give it both methods, and let each undo the other, as in the package schedulefree.",
)
def switches_modes(subject: Subject) -> str | None:
    training, uninterrupted = subject.training(), subject.training()
    has = [mode for mode in ("train", "eval") if callable(getattr(training.optimizer, mode, None))]
    if not switchable(training.optimizer):
        if len(has) == 1 and not hasattr(training.optimizer, "parts"):
            raise Failed(f"it has {has[0]}() alone, which training does not call")
        raise NotApplicable("it has no train() and eval(): the weights that it trains are evaluated")
    update_all(training, range(4))
    update_all(uninterrupted, range(4))
    trained = training.weights()
    training.switch("eval")
    evaluated = training.weights()
    check_finite(training, "after eval()")
    training.switch("train")
    back = training.weights()
    for name, weight in trained.items():
        if not torch.allclose(back[name], weight, rtol=1e-4, atol=1e-5):
            raise Failed(f"train() does not bring back the weights that eval() replaced, e.g. {name}")
    with torch.no_grad():
        for name, parameter in training.net.named_parameters():
            parameter.copy_(trained[name])
    update_all(training, range(4, 8))
    update_all(uninterrupted, range(4, 8))
    if place := first_difference(training.state(), uninterrupted.state()):
        raise Failed(f"after an evaluation it trains differently: {place}")
    return None if changed(trained, evaluated) else "although eval() changes no weight"
