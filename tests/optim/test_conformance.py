"""What training relies on, for every registered optimizer: as novobench builds it, with AdamW for roles it leaves."""

import copy

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.optim.composite import switchable
from tests.optim.every_entry import ENTRIES, Training, every_entry, rate

COUPLED = {"normalized_sgd", "prodigy"}
"""A parameter's step depends on the gradients and weights of all others."""
OVERWRITES_GRADIENTS = {"schedule_free_adamw"}
SKIPS_FIRST_UPDATE = {"soap"}
DECAYED = {"embedding.weight", "hidden.weight", "sequence.weight", "image.weight", "gain", "head.weight"}


def assert_equal(actual, expected):
    """The same bits. Dicts of `actual` may have further keys: torch's optimizers add some as they load a state."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_equal(actual[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_equal(one, other)
    elif torch.is_tensor(expected):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    else:
        assert actual == expected


def different(before, after) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@every_entry
def test_it_learns(name):
    training = Training(name, budget="100steps", optimizer__weight_decay=1e-4, schedule__name="polynomial")
    losses = [training.update(number) for number in range(100)]
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


@every_entry
def test_it_moves_parameters_of_every_shape_and_role(name):
    training = Training(name)
    before = training.weights()
    for number in range(3):
        training.update(number)
    after = training.weights()
    assert {tensor.ndim for tensor in after.values()} == {0, 1, 2, 3, 4}
    assert different(before, after) == set(after)
    assert all(tensor.isfinite().all() for tensor in after.values())


@every_entry
def test_it_resumes_with_the_same_bits(name):
    """From plain data, with groups that differ in decay, and a parameter that has its first gradient afterwards."""

    def missing(number):
        return ["image.bias", "hidden.weight"] if number < 7 else []

    # torch's fused SGD raises an error for a parameter whose first gradient comes late.
    changes = {"optimizer__options__implementation": "foreach"} if name == "sgd" else {}
    whole, killed = Training(name, **changes), Training(name, **changes)
    for number in range(5):
        whole.update(number, without=missing(number))
        killed.update(number, without=missing(number))
    resumed = Training(name, seed=1, **changes)
    resumed.load(killed.saved())
    for number in range(5, 10):
        whole.update(number, without=missing(number))
        resumed.update(number, without=missing(number))
    assert_equal(resumed.net.state_dict(), whole.net.state_dict())
    assert_equal(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


@every_entry
def test_the_rate_is_the_one_that_training_writes(name):
    at_rest, usual = (Training(name, optimizer__weight_decay=0.0) for _ in range(2))
    built_with_another = Training(name, optimizer__weight_decay=0.0, optimizer__lr=0.7)
    before = usual.weights()
    for number in range(3):
        at_rest.update(number, lr=0.0)
        usual.update(number)
        built_with_another.update(number, lr=rate(name))
    assert_equal(at_rest.weights(), before)
    assert_equal(built_with_another.weights(), usual.weights())
    assert different(before, usual.weights())


@every_entry
def test_weight_decay_of_a_group_is_its_own(name):
    """Weights that decay end smaller; biases, whose factor is 0, are as without decay until gradients differ."""
    changes = {"optimizer__options__d0": 0.01} if name == "prodigy" else {}  # or its steps are tiny
    decayed, free = (Training(name, optimizer__weight_decay=decay, **changes) for decay in (0.3 / rate(name), 0.0))
    first = 2 if name in SKIPS_FIRST_UPDATE else 1
    for number in range(6):
        decayed.update(number)
        free.update(number)
        if number + 1 == first and name not in COUPLED:
            assert different(decayed.weights(), free.weights()) == DECAYED
    squares = [sum(training.weights()[name].square().sum() for name in DECAYED) for training in (decayed, free)]
    assert squares[0] < 0.99 * squares[1]


@every_entry
def test_a_parameter_without_gradient_stays(name):
    training = Training(name)
    before = training.weights()
    for number in range(3):
        training.update(number, without=["image.weight", "hidden.weight", "head.bias", "gain"])
    assert different(before, training.weights()) == before.keys() - {
        "image.weight", "hidden.weight", "head.bias", "gain",
    }  # fmt: skip


@every_entry
def test_gradients_of_zero_move_nothing_and_do_no_harm(name):
    training = Training(name, optimizer__weight_decay=0.0)
    before = training.weights()
    for number in range(2):
        training.update(number, silent=list(before))
    assert_equal(training.weights(), before)
    for number in range(2, 5):
        training.update(number, silent=["image.weight", "head.bias"] if number == 3 else ())
    after = training.weights()
    assert different(before, after) == set(before)
    assert all(tensor.isfinite().all() for tensor in after.values())


@every_entry
def test_it_leaves_gradients_as_they_are(name):
    training = Training(name)
    training.update(0)
    training.net.zero_grad()
    training.net.loss(1).backward()
    before = {n: parameter.grad.clone() for n, parameter in training.net.named_parameters()}
    training.optimizer.step()
    after = {n: parameter.grad for n, parameter in training.net.named_parameters()}
    assert bool(different(before, after)) == (name in OVERWRITES_GRADIENTS)


@every_entry
def test_only_an_optimizer_with_two_sets_of_weights_is_switched(name):
    training = Training(name)
    for number in range(4):
        training.update(number)
    trained = training.weights()
    training.switch("eval")
    evaluated = training.weights()
    assert bool(different(trained, evaluated)) == bool(switchable(training.optimizer))
    training.switch("train")
    torch.testing.assert_close(training.weights(), trained)


@every_entry
def test_the_claimed_state_size_is_the_measured_one(name):
    parameter = nn.Parameter(torch.ones(256, 256))
    optimizer = registry.build(name, [parameter], lr=0.01, weight_decay=0.0)
    getattr(optimizer, "train", lambda: None)()
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = sum(tensor.numel() * tensor.element_size() for tensor in tensors(optimizer.state[parameter]))
    assert state / parameter.numel() == pytest.approx(ENTRIES[name].state_bytes_per_parameter, abs=0.05)


def tensors(state) -> list[torch.Tensor]:
    if torch.is_tensor(state):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for part in parts for tensor in tensors(part)]


# ------------------------------------------------------------------------------------ updates that are not finite

GUARDED = [entry.name for entry in registry.entries() if entry.guards_on_device]


@pytest.mark.parametrize("name", GUARDED)
def test_found_inf_leaves_weights_and_state_as_they_are(name):
    """The promise of `guards_on_device`."""
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((40, 30), (30,), ())]
    optimizer = registry.build(name, parameters, lr=0.01, weight_decay=0.1)
    assert registry.guards_on_device(name, optimizer)
    for step in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.found_inf = torch.tensor(float(step == 1))
        before = copy.deepcopy((parameters, optimizer.state_dict()["state"]))
        optimizer.step()
        after = (parameters, optimizer.state_dict()["state"])
        if step == 1:
            assert_equal(after, before)
        else:
            assert not torch.equal(after[0][0], before[0][0])


@every_entry
@pytest.mark.parametrize("overflows", [(0,), (2,), (0, 1, 4)], ids=str)
def test_an_update_that_overflows_in_half_precision_leaves_no_trace(name, overflows):
    """Scaled loss, unscaled gradients, guard, step. The bits are as without those updates."""

    def train(skipped, taken):
        training = Training(name, half=True, schedule__name="constant")
        for number in taken:
            training.update(number, factor=1e38 if number in skipped else 1.0)
        training.guard.read(len(taken))
        assert training.guard.skipped == len(skipped)
        return training.net.state_dict(), training.optimizer.state_dict()

    usual = [number for number in range(6) if number not in overflows]
    assert_equal(train(overflows, range(6)), train((), usual))
