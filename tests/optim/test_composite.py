"""Several optimizers as one take the steps that each takes alone."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.optim.composite import Composite, Part, switchable

SHAPES = ((6, 4), (4, 3), (4,), (3,))
PAIRS = [("novograd", "adamw"), ("adam", "sgd"), ("lars", "novograd"), ("adafactor", "normalized_sgd")]


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def part(name, members, ratio=1.0):
    group = {"params": members, "lr_ratio": ratio, "weight_decay_factor": 1.0}
    return Part(registry.get(name), registry.build(name, [group], lr=0.1, weight_decay=0.01), 0.01)


def composite(names, tensors) -> Composite:
    return Composite([part(names[0], tensors[:2]), part(names[1], tensors[2:], 0.5)])


def draw_gradients(tensors, step):
    """With a parameter that has none at some steps, and one that is all zeros."""
    generator = torch.Generator().manual_seed(step)
    for number, tensor in enumerate(tensors):
        tensor.grad = torch.randn(tensor.shape, generator=generator)
        if (number + step) % 4 == 0:
            tensor.grad = None
        elif (number + step) % 5 == 0:
            tensor.grad.zero_()


@pytest.mark.parametrize("names", PAIRS, ids=" ".join)
def test_the_bits_of_each_optimizer_alone(names):
    together, apart = parameters(), parameters()
    one = composite(names, together)
    several = [part(names[0], apart[:2]), part(names[1], apart[2:])]
    for step in range(6):
        draw_gradients(together, step)
        draw_gradients(apart, step)
        rate = 0.1 / (step + 1)
        for group in one.param_groups:
            group["lr"] = rate
        one.step()
        for each in several:
            each.optimizer.param_groups[0]["lr"] = rate
            each.optimizer.step()
    assert all(map(torch.equal, together, apart))
    for mine, theirs in zip(together, apart, strict=True):
        (owner,) = [each for each in several if any(theirs is p for p in each.optimizer.param_groups[0]["params"])]
        assert owner.optimizer.state.get(theirs, {}).keys() == one.state.get(mine, {}).keys()
        for name, value in owner.optimizer.state.get(theirs, {}).items():
            torch.testing.assert_close(one.state[mine][name], value, rtol=0, atol=0)
    assert [group["lr_ratio"] for group in one.param_groups] == [1.0, 0.5]
    assert one.param_groups[1] is one.parts[1].optimizer.param_groups[0]


def saved(state):
    """Through a file, as a checkpoint: plain data only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@pytest.mark.parametrize("how", [saved, copy.deepcopy], ids=["file", "copy"])
@pytest.mark.parametrize("names", PAIRS, ids=" ".join)
def test_resumes_bit_for_bit(names, how):
    tensors = {"whole": parameters(), "broken": parameters()}
    for kind, members in tensors.items():
        optimizer = composite(names, members)
        for step in range(8):
            if kind == "broken" and step == 4:
                state = how(optimizer.state_dict())
                optimizer = composite(names, members)
                optimizer.load_state_dict(state)
            draw_gradients(members, step)
            for group in optimizer.param_groups:  # as training does, also after the groups were loaded
                group["lr"] = 0.1 / (step + 1)
            optimizer.step()
    assert all(map(torch.equal, tensors["whole"], tensors["broken"]))


def test_a_state_of_other_optimizers_is_refused():
    one, other = composite(PAIRS[0], parameters()), parameters()
    with pytest.raises(ValueError, match="of 2 optimizers, not of 1"):
        Composite([part("novograd", other)]).load_state_dict(one.state_dict())
    with pytest.raises(KeyError, match="parts"):
        one.load_state_dict(part("novograd", other).optimizer.state_dict())


def test_the_closure_is_called_once_before_all_steps_with_gradients():
    tensors = parameters()
    optimizer, calls = composite(PAIRS[0], tensors), []

    def closure():
        calls.append([tensor.detach().clone() for tensor in tensors])
        loss = sum((tensor**2).sum() for tensor in tensors)
        loss.backward()
        return loss

    before = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert len(calls) == 1
    assert all(map(torch.equal, calls[0], before))
    assert loss.item() == pytest.approx(sum((tensor**2).sum().item() for tensor in before))
    assert not any(map(torch.equal, tensors, before))


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_reaches_all_parts(to_none):
    tensors = parameters()
    optimizer = composite(PAIRS[0], tensors)
    draw_gradients(tensors, 1)
    had = [tensor.grad is not None for tensor in tensors]
    optimizer.zero_grad(set_to_none=to_none)
    for tensor, was in zip(tensors, had, strict=True):
        assert tensor.grad is None if to_none or not was else not tensor.grad.any()


def test_found_inf_reaches_all_parts_and_is_taken_back():
    tensors = parameters()
    optimizer = composite(PAIRS[0], tensors)
    for step, infinite in enumerate((0.0, 1.0, 0.0)):
        draw_gradients(tensors, 1)
        before = copy.deepcopy([tensors, optimizer.state_dict()["parts"]])
        optimizer.found_inf = torch.tensor(infinite)
        optimizer.step()
        changed = not torch.equal(tensors[0], before[0][0])
        assert changed == (infinite == 0.0), step
        if infinite:
            torch.testing.assert_close([tensors, optimizer.state_dict()["parts"]], before, rtol=0, atol=0)
    del optimizer.found_inf
    optimizer.step()
    assert not any("found_inf" in vars(each.optimizer) for each in optimizer.parts)


def test_torchs_grad_scaler_unscales_first():
    scaled, plain = parameters(), parameters()
    scaler, one, other = torch.amp.GradScaler("cpu", init_scale=8.0), *(composite(PAIRS[0], p) for p in (scaled, plain))
    for infinite in (False, True, False):
        draw_gradients(plain, 1)
        for mine, theirs in zip(scaled, plain, strict=True):
            mine.grad = None if theirs.grad is None else theirs.grad * scaler.scale(torch.ones(()))
        if infinite:
            scaled[0].grad[0, 0] = torch.inf
        scaler.step(one)
        scaler.update()
        if not infinite:
            other.step()
    assert all(map(torch.equal, scaled, plain))


def test_pickled_and_copied():
    tensors = parameters()
    optimizer = composite(PAIRS[0], tensors)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        members = [p for group in twin.param_groups for p in group["params"]]
        draw_gradients(members, 1)
        twin.step()
        assert not torch.equal(members[0], tensors[0])


def test_what_cannot_be_one_is_refused():
    tensors = parameters()
    with pytest.raises(ValueError, match="belong to more than one optimizer"):
        Composite([part("novograd", tensors[:2]), part("adamw", tensors[1:])])
    path = "torch.optim:LBFGS"
    bfgs = Part(registry.get(path), torch.optim.LBFGS(tensors[2:]), 0.0)
    with pytest.raises(ValueError, match=r"'torch\.optim:LBFGS' requires a closure"):
        Composite([part("novograd", tensors[:2]), bfgs])
    with pytest.raises(TypeError, match="one of `parts`"):
        composite(PAIRS[0], tensors).add_param_group({"params": [nn.Parameter(torch.ones(1))]})


class Swapping(torch.optim.SGD):
    """Remembers the calls of `train` and `eval`."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.calls = []

    def train(self):
        self.calls.append("train")

    def eval(self):
        self.calls.append("eval")


def test_train_and_eval_reach_the_parts_that_have_both():
    tensors = parameters()
    swapping = Swapping(tensors[2:])
    optimizer = Composite([part("novograd", tensors[:2]), Part(registry.get("sgd"), swapping, 0.0)])
    assert switchable(optimizer) == [swapping] == switchable(swapping)
    optimizer.eval()
    optimizer.train()
    assert swapping.calls == ["eval", "train"]
    assert switchable(composite(PAIRS[0], parameters())) == []
    assert switchable(torch.optim.SGD(tensors)) == []
