"""NovoGrad against other libraries, its states, groups and errors; `test_matrix` has its steps on all backends."""

import copy
import pickle

import numpy as np
import pytest
import torch
from pytorch_optimizer import NovoGrad as KozistrNovoGrad
from timm.optim.nvnovograd import NvNovoGrad

from novobench.optim import GradScaler, NovoGrad
from tests.optim.problems import EAGER_PATHS
from tests.optim.reference import PaperNovoGrad

SHAPES = [(), (7,), (5, 3), (4, 3, 2), (6, 4, 3, 3)]
PATHS = {name: path.options for name, path in EAGER_PATHS.items() if name != "capturable"}
path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def weights(shapes=SHAPES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [weight.requires_grad_() for weight in made]


def gradients(step, shapes=SHAPES, dtype=torch.float32, size=1.0):
    generator = torch.Generator().manual_seed(1000 + step)
    scale = size * (1 + step % 4)
    return [(scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype) for shape in shapes]


def give(parameters, values):
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value


def assert_near(tensors, arrays, tolerance):
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_allclose(tensor.detach().double().numpy(), array, rtol=tolerance, atol=tolerance)


@path
@pytest.mark.parametrize("peer", [NvNovoGrad, KozistrNovoGrad], ids=["timm", "pytorch_optimizer"])
def test_equals_other_libraries_that_share_the_update(path, peer):
    mine, theirs = weights(dtype=torch.float64), weights(dtype=torch.float64)
    settings = {"lr": 0.03, "betas": (0.95, 0.98), "weight_decay": 0.01}
    optimizers = NovoGrad(mine, **settings, **path), peer(theirs, **settings)
    for step in range(15):
        give(mine, gradients(step, dtype=torch.float64))
        give(theirs, gradients(step, dtype=torch.float64))
        for optimizer in optimizers:
            optimizer.step()
    tolerance = 1e-10 if peer is KozistrNovoGrad else 1e-6  # timm keeps v in fp32 beside fp64 parameters
    assert_near(mine, [p.detach().numpy() for p in theirs], tolerance)


def test_beta2_zero_is_layerwise_normalized_sgd_with_momentum():
    parameters, plain = weights(), weights()
    optimizer = NovoGrad(parameters, 0.1, (0.9, 0.0), eps=0.0)
    sgd = torch.optim.SGD(plain, 0.1, momentum=0.9)
    for step in range(5):
        values = gradients(step)
        give(parameters, values)
        give(plain, [value / value.norm() for value in values])
        optimizer.step()
        sgd.step()
    assert_near(parameters, [p.detach().numpy() for p in plain], 1e-5)


@pytest.mark.parametrize("kind", ["reference", "foreach", "cpu"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_norm_of_millions_of_elements_keeps_its_digits(kind, layout):
    """Ten million squares added one after another in fp32 are 1e-4 off. Not on a power of two, so parts differ."""
    parameter = torch.zeros(10, 101, 100, 103).to(memory_format=layout).requires_grad_()
    parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    optimizer = NovoGrad([parameter], 0.1, **PATHS[kind])
    optimizer.step()
    square = np.square(parameter.grad.numpy().astype(np.float64)).sum()
    assert float(optimizer.state[parameter]["exp_avg_sq"]) == pytest.approx(square, rel=1e-5)


@pytest.mark.parametrize("kind", ["reference", "foreach", "cpu"])
@pytest.mark.parametrize("shape", [(3, 2), (600, 500)])
def test_a_norm_whose_square_overflows_counts_as_not_finite(kind, shape):
    parameter = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    parameter.grad = torch.full_like(parameter, 1e200)
    optimizer = NovoGrad([parameter], 0.1, **PATHS[kind])
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(shape, dtype=torch.float64))


@path
def test_clipping_in_the_step_equals_clipping_before_it(path):
    parameters, clipped = weights(), weights()
    optimizer = NovoGrad(parameters, 0.1, (0.9, 0.9), max_grad_norm=1.5, **path)
    other = NovoGrad(clipped, 0.1, (0.9, 0.9), **path)
    for step in range(5):
        give(parameters, gradients(step, size=0.2))
        give(clipped, gradients(step, size=0.2))
        torch.nn.utils.clip_grad_norm_(clipped, 1.5)
        optimizer.step()
        other.step()
    assert_near(parameters, [p.detach().numpy() for p in clipped], 1e-5)


@path
@pytest.mark.parametrize("limit", [None, 2.0])
@pytest.mark.parametrize("kind", [torch.amp.GradScaler, GradScaler], ids=["torch", "ours"])
def test_unscaling_in_the_step_with_a_grad_scaler(path, kind, limit, monkeypatch):
    parameters, plain = weights(), weights()
    optimizer = NovoGrad(parameters, 0.1, unscale_in_step=True, max_grad_norm=limit, **path)
    other = NovoGrad(plain, 0.1, max_grad_norm=limit, **path)
    if kind is GradScaler:  # it reads no gradient itself
        monkeypatch.delattr(torch.amp.GradScaler, "_unscale_grads_")
    scaler = kind("cpu", init_scale=1024.0)
    for step in range(4):
        values = gradients(step)
        scaler.scale(torch.zeros(()))  # makes the scaler ready, as scaling a loss would
        give(parameters, [1024.0 * value for value in values])
        give(plain, values)
        if step == 2:
            parameters[0].grad.fill_(float("inf"))
            before = copy.deepcopy((optimizer.state_dict()["state"], parameters))
        else:
            other.step()
        scaler.step(optimizer)
        scaler.update()
        if step == 2:
            assert scaler.get_scale() == 512.0
            after = (optimizer.state_dict()["state"], parameters)
            torch.testing.assert_close(after, before, rtol=0, atol=0)
            scaler.update(1024.0)
    assert_near(parameters, [p.detach().numpy() for p in plain], 1e-5)


def test_novobenchs_grad_scaler_handles_other_cases_like_torchs():
    """Other optimizers, unscaled gradients, a second step without update, no gradients."""
    for options in ({}, {"unscale_in_step": True}):
        parameters, plain = weights(), weights()
        optimizer, other = NovoGrad(parameters, 0.1, **options), NovoGrad(plain, 0.1)
        scaler = GradScaler("cpu", init_scale=1024.0)
        scaler.scale(torch.zeros(()))
        give(parameters, [1024.0 * value for value in gradients(0)])
        give(plain, gradients(0))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        other.step()
        assert_near(parameters, [p.detach().numpy() for p in plain], 1e-5)
        with pytest.raises(RuntimeError, match="already been called"):
            scaler.step(optimizer)
    without = NovoGrad([torch.nn.Parameter(torch.ones(2))], 0.1, unscale_in_step=True)
    scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    scaler.scale(torch.zeros(()))
    scaler.step(without)
    scaler.update()
    assert scaler.get_scale() == 2048.0


def test_amp_support_is_announced_only_when_the_step_unscales_or_clips():
    assert not NovoGrad(weights(), 0.1)._step_supports_amp_scaling
    assert NovoGrad(weights(), 0.1, unscale_in_step=True)._step_supports_amp_scaling
    assert NovoGrad(weights(), 0.1, max_grad_norm=1.0)._step_supports_amp_scaling


@path
def test_a_replaced_state_group_or_parameter_is_detected(path):
    """Training scripts do this to reset an optimizer, or to grow a model by replacing its parameters."""
    parameters = weights()
    optimizer = NovoGrad(parameters, 0.1, **path)
    for step in range(2):
        give(parameters, gradients(step))
        optimizer.step()
    optimizer.state.clear()
    references = [PaperNovoGrad(p.detach(), 0.1, (0.95, 0.25)) for p in parameters]
    for step in range(2, 6):
        if step == 4:
            grown = parameters[1].detach().clone().requires_grad_()
            optimizer.state[grown] = optimizer.state.pop(parameters[1])
            optimizer.param_groups[0]["params"][1] = parameters[1] = grown
        lr = 0.1 if step < 5 else 0.05
        if step == 5:
            optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": lr}
        values = gradients(step)
        give(parameters, values)
        optimizer.step()
        for reference, value in zip(references, values, strict=True):
            reference.step(value, lr=lr)
    assert_near(parameters, [r.w for r in references], 1e-5)


@path
def test_groups_have_their_own_options_and_may_be_added_later(path):
    parameters = weights([(3,), (4,), (5,)])
    settings = [{"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.2, "betas": (0.5, 0.9)}, {"lr": 0.05, "amsgrad": True}]
    references = [
        PaperNovoGrad(p.detach(), **{"betas": (0.95, 0.25), **s}) for p, s in zip(parameters, settings, strict=True)
    ]
    groups = [{"params": [p], **s} for p, s in zip(parameters, settings, strict=True)]
    optimizer = NovoGrad(groups[:2], 0.3, **path)
    for step in range(5):
        values = gradients(step, [(3,), (4,), (5,)])
        give(parameters, values)
        if step == 2:
            optimizer.add_param_group(groups[2])
        optimizer.step()
        for i, (reference, value) in enumerate(zip(references, values, strict=True)):
            if i < 2 or step >= 2:
                reference.step(value)
    assert_near(parameters, [r.w for r in references], 1e-5)


@path
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_a_copy_continues_with_the_same_bits(path, dtype, how):
    parameters = weights(dtype=dtype)
    optimizer = NovoGrad(parameters, 0.1, (0.95, 0.98), amsgrad=True, **path)
    for step in range(3):
        give(parameters, gradients(step, dtype=dtype))
        optimizer.step()
    if how == "state_dict":
        copies = [p.detach().clone().requires_grad_() for p in parameters]
        other = NovoGrad(copies, 0.3, **path)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        make = copy.deepcopy if how == "deepcopy" else lambda pair: pickle.loads(pickle.dumps(pair))
        copies, other = make((parameters, optimizer))
    for step in range(3, 6):
        give(parameters, gradients(step, dtype=dtype))
        give(copies, gradients(step, dtype=dtype))
        optimizer.step()
        other.step()
    for mine, theirs in zip(parameters, copies, strict=True):
        assert torch.equal(mine, theirs)
        assert other.state[theirs]["exp_avg_sq"].dtype == torch.float32
        torch.testing.assert_close(optimizer.state[mine], other.state[theirs], rtol=0, atol=0)


def test_a_state_may_be_loaded_before_the_first_step():
    optimizer, other = NovoGrad(weights(), 0.1), NovoGrad(weights(), 0.2)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.1
    give(other.param_groups[0]["params"], gradients(0))
    other.step()


def test_an_old_checkpoint_without_newer_options_loads():
    optimizer = NovoGrad(weights(), 0.1)
    state = optimizer.state_dict()
    del state["param_groups"][0]["update_clip"]
    optimizer.load_state_dict(state)
    give(optimizer.param_groups[0]["params"], gradients(0))
    optimizer.step()


def test_a_closure_is_evaluated_with_gradients():
    (parameter,) = weights([(3,)])
    optimizer = NovoGrad([parameter], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"betas": (1.0, 0.5)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ({"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value: -0.1"),
        ({"max_grad_norm": 0.0}, "Invalid max_grad_norm value: 0.0"),
        ({"update_clip": -1.0}, "Invalid update_clip value: -1.0"),
        ({"skip_nonfinite": "never"}, "Invalid skip_nonfinite value: 'never'"),
        ({"layer_scale": "RMS"}, "Invalid layer_scale value: 'RMS'"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("-", r"\-")):
        NovoGrad(weights(), **{"lr": 0.1, **arguments})


def test_contradictory_implementations_are_rejected():
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        NovoGrad(weights(), 0.1, foreach=True, fused=True)
    with pytest.raises(RuntimeError, match="capturable"):
        NovoGrad(weights(), 0.1, foreach=True, capturable=True)


def test_sparse_gradients_are_rejected():
    parameter = torch.zeros(3, requires_grad=True)
    parameter.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        NovoGrad([parameter], 0.1).step()


def test_state_takes_half_of_adams_memory():
    def state_bytes(optimizer, parameter):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return sum(value.numel() * value.element_size() for value in optimizer.state[parameter].values())

    novograd, adam = (torch.zeros(100, 100, requires_grad=True) for _ in range(2))
    assert state_bytes(NovoGrad([novograd], 0.1), novograd) == 4 * 10_000 + 4
    assert state_bytes(torch.optim.Adam([adam], 0.1), adam) == 8 * 10_000 + 4
