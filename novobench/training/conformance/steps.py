"""Checks of an optimizer: how it is built, and what one step does to the weights."""

from __future__ import annotations

import torch
from torch import nn

from novobench.optim import registry
from novobench.training.conformance.checks import Check, Failed, NotApplicable, check
from novobench.training.conformance.differences import changed
from novobench.training.conformance.net import DECAYED, Training
from novobench.training.conformance.subject import Subject, check_finite, check_moved, update_all

STEPS: list[Check] = []
LEARNING_UPDATES = 100
_OTHER_RATES = (10.0, 0.1, 100.0, 0.01, 1000.0)
"""Factors on a rate at which nothing was learned."""


@check(
    STEPS,
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
    STEPS,
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
    STEPS,
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
    STEPS,
    "it learns",
    why="An optimizer that does not lower the loss of a small net in 100 updates will not train a task either.",
    advice="Give a rate at which it learns (--lr), or look at the sign and the size of its step.",
)
def learns(subject: Subject) -> str | None:
    def share(lr: float) -> float:
        """The loss on other batches at the end, as a share of that at the start."""
        training = subject.training(lr=lr, weight_decay=1e-4, updates=LEARNING_UPDATES, schedule="polynomial")
        before = _mean_loss(training)
        update_all(training, range(LEARNING_UPDATES))
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
    STEPS,
    "it trains parameters of every shape and role",
    why="Networks have scalars, vectors, matrices, embeddings and convolutions.",
    advice="Let the step handle tensors of 0 to 4 dimensions, or declare novobench_roles, e.g. ('matrix',).",
)
def moves_every_shape(subject: Subject) -> None:
    training = subject.training()
    before = training.weights()
    update_all(training, range(3))
    check_finite(training)
    check_moved(training, before, before)


@check(
    STEPS,
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
    STEPS,
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
    STEPS,
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
    check_moved(training, before, before.keys() - set(missing))
    before = training.weights()
    update_all(training, range(3, 6))
    check_finite(training)
    check_moved(training, before, before)


@check(
    STEPS,
    "gradients of zero do no harm",
    why="A dead unit or an unused embedding has gradients of exactly 0, and a norm of 0 is easily divided by.",
    advice="Add an eps to what the step divides by.",
)
def survives_zero_gradients(subject: Subject) -> str | None:
    training = subject.training(weight_decay=0.0)
    before = training.weights()
    for number in range(2):
        training.update(number, silent=before)
    check_finite(training, "after gradients of 0 only")
    rested = not changed(before, training.weights())
    for number in range(2, 5):
        training.update(number, silent=["image.weight", "head.bias"] if number == 3 else ())
    check_finite(training)
    check_moved(training, before, before)
    return None if rested else "although it moves weights then"


@check(
    STEPS,
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
    update_all(decayed, range(6))
    update_all(free, range(6))
    if changed(free.weights(), decayed.weights()):
        return "only where gradients are not zero"
    raise Failed("a weight_decay of 0.1 and one of 0 give the same weights")


def _sets_its_own(subject: Subject) -> None:
    if subject.entry.schedule == "own":
        raise NotApplicable("novobench_schedule is 'own', so training leaves group['lr'] alone")


@torch.no_grad()
def _mean_loss(training: Training) -> float:
    """On batches that no training sees."""
    return sum(float(training.net.loss(number)) for number in range(1000, 1010)) / 10
