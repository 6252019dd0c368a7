"""Each check of an optimizer fails for a class with exactly its fault, and passes for a good one."""

import random
import re

import numpy
import pytest
import torch
from torch.optim import Optimizer

from novobench.optim import registry
from novobench.training.conformance.checks import verdict_of
from novobench.training.conformance.optimizer import CHECKS, COMPILED
from novobench.training.conformance.subject import Subject

BY_NAME = {check.name: check for check in [*CHECKS, COMPILED]}
FAULTS: list[tuple[str, str, str]] = []
"""Class, the check that it fails, and what the verdict says."""


class Good(Optimizer):
    """Momentum with decoupled weight decay. The faulty classes change one thing in it."""

    def __init__(self, params, lr=0.03, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.change(group, p, p.grad)
        return loss

    def change(self, group, p, gradient):
        buffer = self.buffer(p)
        buffer.mul_(0.9).add_(gradient)
        p.mul_(1 - self.decay(group)).sub_(buffer, alpha=self.rate(group))

    def buffer(self, p):
        return self.state[p].setdefault("momentum", torch.zeros_like(p))

    def rate(self, group):
        return group["lr"]

    def decay(self, group):
        return group["lr"] * group["weight_decay"]


def faulty(check: str, says: str):
    """The decorated class fails this check, with these words in its verdict."""

    def noted(kind: type) -> type:
        FAULTS.append((kind.__name__, check, says))
        return kind

    return noted


@faulty("constructs", "optimizer '.*' cannot be built: TypeError: 'params' must be a string")
class TakesStrings(Good):
    def __init__(self, params, lr=0.03):
        if not isinstance(params, str):
            raise TypeError("'params' must be a string")


@faulty("keeps_keys", "the group of gain has lost its key 'weight_decay_factor'")
class Flattens(Good):
    def __init__(self, params, lr=0.03, weight_decay=0.0):
        flat = [p for item in params for p in (item["params"] if isinstance(item, dict) else [item])]
        super().__init__(flat, lr, weight_decay)


@faulty("takes_groups", "one group only")
class OneGroup(Good):
    def __init__(self, params, lr=0.03, weight_decay=0.0):
        super().__init__(params, lr, weight_decay)
        if len(self.param_groups) > 1:
            raise ValueError("one group only")


@faulty("learns", "at lr 0.03 the loss ends at .* times that of the start, and no rate from 0.0003 to 30 does better")
class Ascends(Good):
    def rate(self, group):
        return -group["lr"]


@faulty("moves_every_shape", r"gain \(a scalar\) does not move")
class SkipsScalars(Good):
    def change(self, group, p, gradient):
        if p.ndim:
            super().change(group, p, gradient)


@faulty("moves_every_shape", "only 2D or less")
class RefusesConvolutions(Good):
    def change(self, group, p, gradient):
        if p.ndim > 2:
            raise ValueError("only 2D or less")
        super().change(group, p, gradient)


@faulty("follows_the_rate", "built with another lr, it takes other steps at the same group")
class RemembersItsRate(Good):
    def rate(self, group):
        return self.defaults["lr"] if group["lr"] else 0.0


@faulty("rests_at_zero", "moves at lr 0 and without weight decay")
class AddsToTheRate(Good):
    def rate(self, group):
        return group["lr"] + 1e-3


@faulty("skips_missing_gradients", "NoneType")
class NeedsAllGradients(Good):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.change(group, p, p.grad + 0)


@faulty("skips_missing_gradients", "moves without a gradient")
class CoastsWithoutGradients(Good):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.change(group, p, torch.zeros_like(p) if p.grad is None else p.grad)


@faulty("survives_zero_gradients", "is not finite after gradients of 0 only")
class DividesByTheNorm(Good):
    def change(self, group, p, gradient):
        super().change(group, p, gradient / gradient.norm())


@faulty("decays", "a weight_decay of 0.1 and one of 0 give the same weights")
class IgnoresDecay(Good):
    def decay(self, group):
        return 0.0


@faulty("decays", "decays although its group has a weight_decay of 0")
class DecaysAll(Good):
    def decay(self, group):
        return group["lr"] * self.defaults["weight_decay"]


@faulty("decays", "without gradients, weight decay does not shrink")
class GrowsInstead(Good):
    def decay(self, group):
        return -super().decay(group)


@faulty("leaves_gradients", r"it sets p.grad to None")
class DropsGradients(Good):
    def change(self, group, p, gradient):
        super().change(group, p, gradient)
        p.grad = None


@faulty("resumes", "five updates after the checkpoint, net.* differs")
class KeepsStateElsewhere(Good):
    def buffer(self, p):
        self.__dict__.setdefault("buffers", {})
        return self.buffers.setdefault(p, torch.zeros_like(p))


@faulty("resumes", "optimizer.state.0.seen is a builtins.set|optimizer.state.0.seen is a numpy.ndarray")
class StateIsNoTensor(Good):
    def buffer(self, p):
        self.state[p]["seen"] = numpy.ones(2)
        return super().buffer(p)


@faulty("is_deterministic", "built twice with the same weights, net.* differs after six updates")
class DrawsFromPython(Good):
    def rate(self, group):
        return group["lr"] * random.random()


@faulty("leaves_no_trace_of_nonfinite", "with updates 0 not finite, .* differs from their absence")
class CountsAllSteps(Good):
    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["step"] = self.state[p].get("step", 0) + 1
        return loss


@faulty("switches_modes", "it has eval.. alone, which training does not call")
class OnlyEval(Good):
    def eval(self):
        pass


@faulty("switches_modes", "train.. does not bring back the weights that eval.. replaced")
class NeverComesBack(Good):
    def train(self):
        pass

    @torch.no_grad()
    def eval(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(0.5)


@faulty("switches_modes", "after an evaluation it trains differently")
class ForgetsItsMomentum(NeverComesBack):
    def eval(self):
        for state in self.state.values():
            state["momentum"].zero_()


@faulty("takes_a_closure", "it returns None, not the closure's loss")
class ReturnsNothing(Good):
    def step(self, closure=None):
        super().step(closure)


@faulty("takes_a_closure", "does not require grad")
class CallsWithoutGradients(Good):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        super().step()
        return loss


@faulty("takes_any_strides", "view size is not compatible")
class Views(Good):
    def change(self, group, p, gradient):
        super().change(group, p, gradient)
        p.view(-1)


@faulty("takes_any_strides", "depend on the order in which it is stored")
class StepsACopy(Good):
    def change(self, group, p, gradient):
        super().change(group, p if p.is_contiguous() else p.contiguous(), gradient)


@faulty("takes_float64", "dtype")
class KeepsFloat32(Good):
    def buffer(self, p):
        return self.state[p].setdefault("momentum", torch.zeros(p.shape))

    def change(self, group, p, gradient):
        super().change(group, p, gradient.lerp(self.buffer(p), 0.5) if p.dtype == torch.float64 else gradient)


@faulty("takes_bfloat16", "expected scalar type Float but found BFloat16")
class Upcasts(Good):
    def change(self, group, p, gradient):
        super().change(group, p, gradient)
        p.data = p.data.to(torch.promote_types(p.dtype, torch.float32))


def subject(name: str) -> Subject:
    return Subject(f"{__name__}:{name}")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_good_class_passes(check):
    verdict = verdict_of(check, subject("Good"))
    expected = "not applicable" if check.name == "switches_modes" else "ok"
    assert (verdict.kind, verdict.check) == (expected, check), verdict.text
    assert expected == "not applicable" or verdict.text == ""


@pytest.mark.parametrize(("name", "check", "says"), FAULTS, ids=[name for name, *_ in FAULTS])
def test_a_fault_is_seen(name, check, says):
    verdict = verdict_of(BY_NAME[check], subject(name), globals()[name])
    assert verdict.kind == "failed"
    assert re.search(says, verdict.text), verdict.text


class HalvedIfCompiled(Good):
    def rate(self, group):
        return group["lr"] / (2 if torch.compiler.is_compiling() else 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "text"), [("Good", ""), ("HalvedIfCompiled", "compiled steps of .* differ from others")]
)
def test_compiled_steps_are_compared_with_others(name, text):
    verdict = verdict_of(COMPILED, subject(name))
    assert verdict.kind == ("failed" if text else "ok"), verdict.text
    assert re.fullmatch(text, verdict.text)


def test_every_check_has_a_class_that_fails_it():
    assert {check for _, check, _ in FAULTS} | {"compiles"} == BY_NAME.keys()


class Own(Good):
    novobench_schedule = "own"

    def rate(self, group):
        return 0.03


class WithoutDecay(Good):
    def __init__(self, params, lr=0.03):
        super().__init__(params, lr)


class IgnoresClosures(Good):
    def step(self):
        super().step()


class Matrices(Good):
    novobench_roles = ("matrix",)

    def change(self, group, p, gradient):
        assert p.ndim > 1
        super().change(group, p, gradient)


class CountsInATensor(Good):
    """In its groups, as timm's Lamb does."""

    def step(self, closure=None):
        for group in self.param_groups:
            group.setdefault("steps", torch.zeros(())).add_(1)
        return super().step(closure)

    def rate(self, group):
        return group["lr"] / float(group["steps"])


@pytest.mark.parametrize(
    ("name", "check", "kind", "says"),
    [
        ("Own", "follows_the_rate", "not applicable", "novobench_schedule is 'own'"),
        ("Own", "rests_at_zero", "not applicable", "novobench_schedule is 'own'"),
        ("WithoutDecay", "decays", "not applicable", "its constructor has no weight_decay"),
        ("IgnoresClosures", "takes_a_closure", "ok", "no, but training calls the closure first"),
        ("Matrices", "moves_every_shape", "ok", ""),
        ("CountsInATensor", "leaves_no_trace_of_nonfinite", "ok", ""),
    ],
)
def test_what_a_class_declares_or_lacks_is_no_fault(name, check, kind, says):
    verdict = verdict_of(BY_NAME[check], subject(name))
    assert verdict.kind == kind, verdict.text
    assert says in verdict.text


def test_a_rate_at_which_it_learns_is_suggested():
    check = BY_NAME["learns"]
    given = verdict_of(check, Subject(f"{__name__}:Good", lr=3e-5))
    assert given.kind == "failed"
    assert re.fullmatch(
        "at lr 3e-05 the loss ends at 1.00 times that of the start; at lr 0.0[03]+ it learns", given.text
    )


@pytest.mark.parametrize(
    "name",
    ["torch.optim:RMSprop", "torch.optim:SGD", "timm.optim:Lamb", "pytorch_optimizer:AdaBelief", "prodigyopt:Prodigy"],
)
@pytest.mark.slow
def test_classes_of_other_packages_pass(name):
    for check in CHECKS:
        verdict = verdict_of(check, Subject(name))
        assert verdict.kind == ("not applicable" if check.name == "switches_modes" else "ok"), verdict


def test_arguments_of_a_base_class_that_have_no_default_are_no_options():
    registry.build("pytorch_optimizer:AdaBelief", [torch.nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.0)
    assert "defaults" not in registry.get("pytorch_optimizer:AdaBelief").options.__dataclass_fields__
