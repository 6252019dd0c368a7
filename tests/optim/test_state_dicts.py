"""Loaded states, and states that torch.distributed.checkpoint creates before the first step."""

import copy

import pytest
import torch
from timm.optim.nvnovograd import NvNovoGrad
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from novobench.optim import NovoGrad
from tests.optim.problems import EAGER_PATHS
from tests.optim.reference import PaperNovoGrad

path = pytest.mark.parametrize("path", [path.options for path in EAGER_PATHS.values()], ids=EAGER_PATHS)


def stepped(make, shapes=((4, 3), (3,)), dtype=torch.float32):
    torch.manual_seed(0)
    parameters = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    optimizer = make(parameters)
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 10.0**i)
    optimizer.step()
    return optimizer, parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hooks_can_change_all_of_a_loaded_state(dtype):
    """A pre-hook that matches parameters by name, as torch's documentation has it; a post-hook has the last word."""
    saver, (a, b) = stepped(lambda p: NovoGrad(zip("ab", p, strict=True), 0.1, amsgrad=True), ((4,), (4,)), dtype)
    loader, (new_b, new_a) = stepped(lambda p: NovoGrad(zip("ba", p, strict=True), 0.1), ((4,), (4,)), dtype)

    def by_name(optimizer, given):
        places = dict(zip(given["param_groups"][0]["param_names"], given["param_groups"][0]["params"], strict=True))
        made = copy.deepcopy(optimizer.state_dict())
        made["state"] = {i: given["state"][places[name]] for i, name in enumerate("ba")}
        return made

    seen = []
    loader.register_load_state_dict_pre_hook(by_name)
    loader.register_load_state_dict_post_hook(lambda optimizer: seen.append(optimizer.state[new_a]["exp_avg_sq"].dtype))
    loader.load_state_dict(saver.state_dict())
    for mine, theirs in ((new_a, a), (new_b, b)):
        torch.testing.assert_close(loader.state[mine], saver.state[theirs], rtol=0, atol=0)
    assert seen == [torch.float32]
    assert len(loader._optimizer_load_state_dict_pre_hooks) == len(loader._optimizer_load_state_dict_post_hooks) == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.optim.Adam, "another optimizer's: a parameter group has no grad_averaging and no eps_inside_sqrt"),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), "another optimizer's: a parameter group has no betas"),
        (lambda p: torch.optim.SGD(p, 0.1), "another optimizer's: a parameter group has no betas"),
        (NvNovoGrad, "through novobench.optim.convert_state_dict"),
    ],
    ids=["Adam", "SGD", "SGD without state", "timm"],
)
def test_the_state_of_another_optimizer_is_rejected(other, message):
    assert_refused(stepped(other)[0].state_dict(), message)


def test_a_state_that_does_not_fit_is_rejected():
    given = stepped(lambda p: NovoGrad(p, 0.1), ((3, 4), (3,)))[0].state_dict()
    assert_refused(given, r"exp_avg of a parameter of shape \(4, 3\) is \(3, 4\), expected \(4, 3\)")
    own = stepped(lambda p: NovoGrad(p, 0.1))[0].state_dict()
    adams = {**own, "state": stepped(torch.optim.Adam)[0].state_dict()["state"]}
    assert_refused(adams, r"exp_avg_sq of a parameter of shape \(4, 3\) is \(4, 3\), expected \(\)")
    del own["state"][1]["exp_avg_sq"]
    assert_refused(own, r"exp_avg_sq of a parameter of shape \(3,\) is missing")
    few = stepped(lambda p: NovoGrad(p, 0.1), ((4, 3),))[0].state_dict()
    assert_refused(few, "doesn't match the size of optimizer's group")  # torch's own words


def assert_refused(given, message):
    optimizer, _ = stepped(lambda p: NovoGrad(p, 0.3))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message) as refusal:
        optimizer.load_state_dict(given)
    assert "\n" not in str(refusal.value)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


@path
def test_a_step_that_only_creates_state_does_not_count_as_the_first(path):
    """torch.distributed.checkpoint creates state with a step of zero gradients and rate 0."""
    net = torch.nn.Linear(3, 2)
    parameters = [net.weight, net.bias]
    references = [PaperNovoGrad(p, 0.1, (0.9, 0.5), weight_decay=0.1, grad_averaging=True) for p in parameters]
    optimizer = NovoGrad(parameters, 0.1, (0.9, 0.5), weight_decay=0.1, grad_averaging=True, **path)
    made = get_optimizer_state_dict(net, optimizer)
    assert {float(own["exp_avg_sq"]) for own in made["state"].values()} == {-1.0}
    assert not any(own["exp_avg"].any() for own in made["state"].values())
    _step_both(optimizer, parameters, references, (0.1, 0.1))


@path
def test_a_first_step_at_rate_0_counts_if_it_has_gradients(path):
    """A warm-up may begin at 0."""
    parameters = [torch.randn(4, 3, requires_grad=True), torch.randn(3, requires_grad=True)]
    references = [PaperNovoGrad(p, 0.1, (0.9, 0.5), weight_decay=0.1, grad_averaging=True) for p in parameters]
    optimizer = NovoGrad(parameters, 0.1, (0.9, 0.5), weight_decay=0.1, grad_averaging=True, **path)
    _step_both(optimizer, parameters, references, (0.0, 0.1, 0.0, 0.1))


def _step_both(optimizer, parameters, references, rates):
    for lr in rates:
        optimizer.param_groups[0]["lr"] = lr
        for parameter, reference in zip(parameters, references, strict=True):
            parameter.grad = torch.randn_like(parameter)
            reference.step(parameter.grad, lr)
        optimizer.step()
    for parameter, reference in zip(parameters, references, strict=True):
        torch.testing.assert_close(parameter.detach().double(), torch.from_numpy(reference.w), rtol=1e-5, atol=1e-5)
        assert float(optimizer.state[parameter]["exp_avg_sq"]) == pytest.approx(reference.v, rel=1e-5)


@pytest.mark.parametrize("keeps_names", [False, True], ids=["flat", "pieces"])
def test_flattened_parameters_are_rejected(keeps_names):
    """What FullyShardedDataParallel leaves of a net, with `use_orig_params` once it has cut it; marked as it marks."""
    parameters = [torch.nn.Parameter(torch.randn(7)), torch.nn.Parameter(torch.randn(0))]
    for parameter in parameters:
        parameter._fsdp_flattened = True
        parameter._is_flat_param = not keeps_names
    with pytest.raises(ValueError, match="FullyShardedDataParallel has flattened these. Use .*fully_shard"):
        NovoGrad(parameters, 0.1)
    whole = torch.nn.Parameter(torch.randn(4, 3))  # with NO_SHARD they are put back in their own shapes
    whole._fsdp_flattened = parameters[0]._fsdp_flattened = True
    parameters[0]._is_flat_param = False
    NovoGrad([whole, parameters[0]], 0.1)
