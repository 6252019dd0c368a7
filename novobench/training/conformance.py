"""What training relies on in an optimizer, as checks that every entry of the registry passes.

`novobench check optimizer` runs them on a class of one's own.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from novobench.optim import registry
from novobench.optim.composite import switchable
from novobench.training import checkpoints
from novobench.training.checks import Check, Failed, NotApplicable, check
from novobench.training.conformance_net import (
    DEAD,
    DECAYED,
    Subject,
    Training,
    changed,
    first_difference,
    nonfinite,
    random_gradients,
)

CHECKS: list[Check] = []
LEARNING_UPDATES = 100
_OTHER_RATES = (10.0, 0.1, 100.0, 0.01, 1000.0)
"""Factors on a rate at which nothing was learned."""
_LARGEST_DIFFERENCE = 0.9
"""Share of a step by which it may differ if the weights are stored in another order. Sums in another order can turn
eigenvectors; a step in the wrong order, or of a copy, differs by the whole step or more."""
_COMPILED_TOLERANCE = 0.05
"""Share of a step by which it may differ if it is compiled."""


@check(
    CHECKS,
    "it can be built",
    why="Training builds it from the network's parameter groups, each with a weight_decay, and from plain parameters.",
    advice="Let the constructor take an iterable of tensors or of groups first, and pass it on to Optimizer.__init__.",
    essential=True,
)
def constructs(subject: Subject) -> None:
    decay = 0.1 if "weight_decay" in subject.entry.takes else 0.0
    options = vars(subject.config().optimizer.options)
    matrix = nn.Parameter(torch.ones(3, 2))
    registry.build(subject.name, [matrix], lr=subject.rate, weight_decay=decay, options=options)
    Training(subject.config())


@check(
    CHECKS,
    "it keeps the keys of a parameter group",
    why="Training finds in each group how much of the weight decay its parameters get.",
    advice="Pass the groups on to Optimizer.__init__ as they are, and keep keys of theirs that you do not know.",
    essential=True,
)
def keeps_keys(subject: Subject) -> None:
    training = Training(subject.config())
    groups = training.optimizer.param_groups
    kept = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in training.net.named_parameters():
        if id(parameter) not in kept:
            raise Failed(f"{name} is in no group")
        if "weight_decay_factor" not in kept[id(parameter)]:
            raise Failed(f"the group of {name} has lost its key 'weight_decay_factor'")


@check(
    CHECKS,
    "it takes several parameter groups",
    why="Biases and normalization are in a group without weight decay (optimizer.decay_factors).",
    advice="Loop over self.param_groups in each step, or train with optimizer.decay_factors={}.",
)
def takes_groups(subject: Subject) -> None:
    training = Training(subject.config(grouped=True))
    kept = {id(p): group for group in training.optimizer.param_groups for p in group["params"]}
    for name, parameter in training.net.named_parameters():
        if kept[id(parameter)]["weight_decay_factor"] != float(name in DECAYED):
            raise Failed(f"{name} has moved to a group with another weight decay")


@check(
    CHECKS,
    "it learns",
    why="An optimizer that does not lower the loss of a small net in 100 updates will not train a task either.",
    advice="Give a rate at which it learns (--lr), or look at the sign and the size of its step.",
)
def learns(subject: Subject) -> str | None:
    def share(lr: float) -> float:
        """The loss on other batches at the end, as a share of that at the start."""
        training = subject.training(lr=lr, weight_decay=1e-4, updates=LEARNING_UPDATES, schedule="polynomial")
        before = _mean_loss(training)
        _update(training, range(LEARNING_UPDATES))
        return _mean_loss(training) / before

    usual = share(subject.rate)
    if usual < subject.learned:
        return None
    happened = f"at lr {subject.rate:g} the loss ends at {usual:.2f} times that of the start"
    works = next((f * subject.rate for f in _OTHER_RATES if share(f * subject.rate) < subject.learned), None)
    if works is None:
        ends = (f * subject.rate for f in (min(_OTHER_RATES), max(_OTHER_RATES)))
        raise Failed(f"{happened}, and no rate from {' to '.join(f'{end:g}' for end in ends)} does better")
    if subject.lr is None:
        return f"at lr {works:g}; {happened}"
    raise Failed(f"{happened}; at lr {works:g} it learns")


@check(
    CHECKS,
    "it trains parameters of every shape and role",
    why="Networks have scalars, vectors, matrices, embeddings and convolutions.",
    advice="Let the step handle tensors of 0 to 4 dimensions, or declare novobench_roles, e.g. ('matrix',).",
)
def moves_every_shape(subject: Subject) -> None:
    training = subject.training()
    before = training.weights()
    _update(training, range(3))
    _check_finite(training)
    _check_moved(training, before, before)


@check(
    CHECKS,
    "its rate is the one that training sets",
    why="The schedule writes the learning rate into group['lr'] before each update: warm-up and decay act through it.",
    advice="Read group['lr'] in each step, or set rates yourself and declare novobench_schedule = 'own'.",
)
def follows_the_rate(subject: Subject) -> None:
    _sets_its_own(subject)
    usual, other = subject.training(weight_decay=0.0), subject.training(weight_decay=0.0, lr=10 * subject.rate)
    before = usual.weights()
    for number in range(3):
        usual.update(number)
        other.update(number, lr=subject.rate)
    if not changed(before, usual.weights()):
        raise Failed("no weight moves")
    if different := changed(usual.weights(), other.weights()):
        raise Failed(f"built with another lr, it takes other steps at the same group['lr'], e.g. of {min(different)}")
    half = subject.training(weight_decay=0.0)
    for number in range(3):
        half.update(number, lr=subject.rate / 2)
    if not changed(usual.weights(), half.weights()):
        raise Failed("half of group['lr'] makes the same steps")


@check(
    CHECKS,
    "a rate of 0 leaves the weights",
    why="Schedules end at 0, and a warm-up may start there.",
    advice="Multiply the whole update by group['lr'].",
)
def rests_at_zero(subject: Subject) -> None:
    _sets_its_own(subject)
    training = subject.training(weight_decay=0.0)
    before = training.weights()
    for number in range(3):
        training.update(number, lr=0.0)
    if moved := changed(before, training.weights()):
        raise Failed(f"{min(moved)} moves at lr 0 and without weight decay")


@check(
    CHECKS,
    "a parameter without a gradient stays, and joins later",
    why="Parts of a network may be unused in an update (p.grad is None), also in the first ones.",
    advice="Skip parameters whose grad is None, and make a parameter's state at its first gradient.",
)
def skips_missing_gradients(subject: Subject) -> None:
    missing = ("image.weight", "hidden.weight", "head.bias", "gain")
    training = subject.training()
    before = training.weights()
    for number in range(3):
        training.update(number, without=missing)
    if moved := changed(before, training.weights()) & set(missing):
        raise Failed(f"{min(moved)} moves without a gradient")
    _check_moved(training, before, before.keys() - set(missing))
    before = training.weights()
    _update(training, range(3, 6))
    _check_finite(training)
    _check_moved(training, before, before)


@check(
    CHECKS,
    "gradients of zero do no harm",
    why="A dead unit or an unused embedding has gradients of exactly 0, and a norm of 0 is easily divided by.",
    advice="Add an eps to what the step divides by.",
)
def survives_zero_gradients(subject: Subject) -> str | None:
    training = subject.training(weight_decay=0.0)
    before = training.weights()
    for number in range(2):
        training.update(number, silent=before)
    _check_finite(training, "after gradients of 0 only")
    rested = not changed(before, training.weights())
    for number in range(2, 5):
        training.update(number, silent=["image.weight", "head.bias"] if number == 3 else ())
    _check_finite(training)
    _check_moved(training, before, before)
    return None if rested else "although it moves weights then"


@check(
    CHECKS,
    "weight decay of a group is its own",
    why="Training sets group['weight_decay'] at each update; it is 0 for biases and normalization.",
    advice="Read group['weight_decay'] in each step, not the constructor's argument.",
)
def decays(subject: Subject) -> str | None:
    if "weight_decay" not in subject.entry.takes:
        raise NotApplicable("its constructor has no weight_decay, so trainings with decay refuse it")
    silent = subject.training()
    before = silent.weights()
    expected = DECAYED if subject.takes_groups else before.keys()
    for number in range(6):
        silent.update(number, silent=before)
    after = silent.weights()
    moved = changed(before, after)
    if extra := moved - expected:
        raise Failed(f"{min(extra)} decays although its group has a weight_decay of 0")
    if moved:
        if still := {name for name in expected if before[name].any()} - moved:
            raise Failed(f"{min(still)} does not decay")
        if grown := [name for name in sorted(moved) if after[name].norm() >= before[name].norm()]:
            raise Failed(f"without gradients, weight decay does not shrink {min(grown)}")
        return None
    decayed, free = subject.training(), subject.training(weight_decay=0.0)
    _update(decayed, range(6))
    _update(free, range(6))
    if changed(free.weights(), decayed.weights()):
        return "only where gradients are not zero"
    raise Failed("a weight_decay of 0.1 and one of 0 give the same weights")


@check(
    CHECKS,
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
    if _requires_closure(training):
        training.optimizer.step(lambda: 0.0)
    else:
        training.optimizer.step()
    after = {n: p.grad for n, p in training.net.named_parameters() if p.grad is not None}
    if any(name not in after for name in gradients):
        raise Failed("it sets p.grad to None")
    overwritten = changed(gradients, after)
    return f"it overwrites p.grad, e.g. of {min(overwritten)}" if overwritten else None


@check(
    CHECKS,
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
    CHECKS,
    "the same training gives the same bits",
    why="A cell is a function of its config and seed. torch's random numbers are seeded for each micro-batch.",
    advice="Draw random numbers from torch only, and let nothing depend on time, order of sets or earlier optimizers.",
)
def is_deterministic(subject: Subject) -> None:
    first, second = subject.training(), subject.training()
    _update(first, range(6))
    _update(second, range(6))
    if place := first_difference(second.state(), first.state()):
        raise Failed(f"built twice with the same weights, {place} differs after six updates")


@check(
    CHECKS,
    "an update that is not finite leaves no trace",
    why="Training removes such gradients before the step, for every optimizer alike.",
    advice="Count steps and decay moments for each parameter, and only if its grad is not None.",
)
def leaves_no_trace_of_nonfinite(subject: Subject) -> None:
    half = not _requires_closure(subject.training())

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
    CHECKS,
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
    _update(training, range(4))
    _update(uninterrupted, range(4))
    trained = training.weights()
    training.switch("eval")
    evaluated = training.weights()
    _check_finite(training, "after eval()")
    training.switch("train")
    back = training.weights()
    for name, weight in trained.items():
        if not torch.allclose(back[name], weight, rtol=1e-4, atol=1e-5):
            raise Failed(f"train() does not bring back the weights that eval() replaced, e.g. {name}")
    with torch.no_grad():
        for name, parameter in training.net.named_parameters():
            parameter.copy_(trained[name])
    _update(training, range(4, 8))
    _update(uninterrupted, range(4, 8))
    if place := first_difference(training.state(), uninterrupted.state()):
        raise Failed(f"after an evaluation it trains differently: {place}")
    return None if changed(trained, evaluated) else "although eval() changes no weight"


@check(
    CHECKS,
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
    if _requires_closure(training):
        return f"and requires one: it computes the gradients {len(calls)} times in its first update"
    return None


@check(
    CHECKS,
    "weights may be stored in any order",
    why="Networks hold transposed matrices, and images channels last (runtime.channels_last).",
    advice="Use reshape instead of view, and make state with torch.zeros_like(p).",
)
def takes_any_strides(subject: Subject) -> None:
    strided, plain = subject.training(strided=True), subject.training()
    before = plain.weights()
    for number in range(3):
        gradients = random_gradients(number)
        strided.update_with(number, gradients)
        plain.update_with(number, gradients)
    after = plain.weights()
    for name, weight in strided.weights().items():
        step = (after[name] - before[name]).norm()
        if not (weight - after[name]).norm() <= _LARGEST_DIFFERENCE * step:
            raise Failed(f"the steps of {name} depend on the order in which it is stored")


@check(
    CHECKS,
    "weights may be float64",
    why="runtime.precision=64-true trains with such weights.",
    advice="Make state and constants with the parameter's dtype: torch.zeros_like(p).",
)
def takes_float64(subject: Subject) -> None:
    _check_dtype(subject, torch.float64)


@check(
    CHECKS,
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
        gradients = random_gradients(number)
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
"""Takes about a minute, so it is not among `CHECKS`."""


# ------------------------------------------------------------------------------------ helpers


@torch.no_grad()
def _mean_loss(training: Training) -> float:
    """On batches that no training sees."""
    return sum(float(training.net.loss(number)) for number in range(1000, 1010)) / 10


def _update(training: Training, numbers: Iterable[int]) -> None:
    for number in numbers:
        training.update(number)


def _check_finite(training: Training, when: str = "") -> None:
    if lost := nonfinite(training.weights()):
        raise Failed(f"{lost[0]} is not finite {when}".rstrip())


def _check_moved(training: Training, before: Mapping[str, Tensor], expected: Iterable[str]) -> None:
    if still := sorted(set(expected) - changed(before, training.weights()) - DEAD):
        shape = "×".join(map(str, before[still[0]].shape)) or "a scalar"
        raise Failed(f"{still[0]} ({shape}) does not move")


def _check_dtype(subject: Subject, dtype: torch.dtype) -> None:
    training = subject.training(dtype=dtype)
    before = training.weights()
    _update(training, range(3))
    for name, weight in training.weights().items():
        if weight.dtype != dtype:
            raise Failed(f"{name} becomes {weight.dtype}".replace("torch.", ""))
    _check_finite(training)
    if not changed(before, training.weights()):
        raise Failed("no weight moves")


def _sets_its_own(subject: Subject) -> None:
    if subject.entry.schedule == "own":
        raise NotApplicable("novobench_schedule is 'own', so training leaves group['lr'] alone")


def _requires_closure(training: Training) -> bool:
    closure = inspect.signature(training.optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
