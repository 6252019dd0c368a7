"""What README's section "Which NovoGrad is this?" says of the packages that are installed, observed in them."""

import inspect
import math
import sys
import types

import pytest
import torch
import torch.distributed as dist
from pytorch_optimizer import NovoGrad as KozistrNovoGrad
from timm.optim.nvnovograd import NvNovoGrad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from novobench.optim import NovoGrad

PEERS = {"timm": NvNovoGrad, "pytorch_optimizer": KozistrNovoGrad}
peer = pytest.mark.parametrize("make", PEERS.values(), ids=PEERS)
peer_and_ours = pytest.mark.parametrize("make", [*PEERS.values(), NovoGrad], ids=[*PEERS, "ours"])


def stepped(make, gradients, betas=(0.0, 0.5), dtype=torch.float32, **options):
    """A weight that starts at 0, after one step of rate 1 for each of `gradients`, and its optimizer."""
    gradients = [torch.as_tensor(gradient, dtype=dtype) for gradient in gradients]
    weight = torch.zeros_like(gradients[0], requires_grad=True)
    optimizer = make([weight], lr=1.0, betas=betas, **options)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach(), optimizer


def state_dtypes(optimizer, weight):
    return {name: value.dtype for name, value in optimizer.state[weight].items() if isinstance(value, torch.Tensor)}


# ------------------------------------------------------------------------------------ which algorithm


@pytest.mark.parametrize(("make", "scaled"), [(NvNovoGrad, True), (KozistrNovoGrad, False), (NovoGrad, False)])
def test_only_timm_scales_the_first_step_by_averaging(make, scaled):
    weight, _ = stepped(make, [[3.0] * 4], betas=(0.9, 0.5), grad_averaging=True)
    torch.testing.assert_close(weight, torch.full((4,), -0.05 if scaled else -0.5))


@peer_and_ours
def test_epsilon_is_outside_the_root_and_acts_at_the_first_step(make):
    weight, _ = stepped(make, [[3.0] * 4], eps=2.0)  # the norm is 6
    torch.testing.assert_close(weight, torch.full((4,), -3 / (6 + 2)))


@pytest.mark.parametrize(("make", "restarts"), [(NvNovoGrad, True), (KozistrNovoGrad, False), (NovoGrad, False)])
def test_after_a_zero_first_gradient_only_timm_starts_v_anew(make, restarts):
    weight, _ = stepped(make, [[0.0] * 4, [2.0] * 4])  # β₂ = 0.5, ‖g‖² = 16: v is 16 or 8
    torch.testing.assert_close(weight, torch.full((4,), -2 / math.sqrt(16 if restarts else 8)))


@peer_and_ours
def test_no_moment_is_bias_corrected(make):
    """Of a constant gradient v is right from the start, so the unit vectors u add up: u, then u + 0.9·u."""
    weight, _ = stepped(make, [[3.0] * 4] * 2, betas=(0.9, 0.999), eps=0.0)
    torch.testing.assert_close(weight, torch.full((4,), -0.5 * (1 + 1.9)))


# ------------------------------------------------------------------------------------ what it keeps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_v_of_half_precision(dtype):
    """timm's is fp32, also when loaded; pytorch_optimizer's has the gradient's dtype."""
    for make, name, expected in ((NvNovoGrad, "exp_avg_sq", torch.float32), (KozistrNovoGrad, "grads_ema", dtype)):
        _, optimizer = stepped(make, [[3.0] * 4], dtype=dtype)
        other = make([torch.zeros(4, dtype=dtype, requires_grad=True)], lr=1.0)
        other.load_state_dict(optimizer.state_dict())
        for one in (optimizer, other):
            assert state_dtypes(one, one.param_groups[0]["params"][0])[name] == expected


def test_timms_v_beside_fp64_is_fp32():
    _, optimizer = stepped(NvNovoGrad, [[3.0] * 4], dtype=torch.float64)
    assert state_dtypes(optimizer, optimizer.param_groups[0]["params"][0])["exp_avg_sq"] == torch.float32


@pytest.mark.parametrize(("make", "overwrites"), [(NvNovoGrad, False), (KozistrNovoGrad, True), (NovoGrad, False)])
def test_only_pytorch_optimizer_overwrites_gradients(make, overwrites):
    _, optimizer = stepped(make, [[3.0] * 4], eps=0.0)
    gradient = optimizer.param_groups[0]["params"][0].grad
    torch.testing.assert_close(gradient, torch.full((4,), 0.5 if overwrites else 3.0))


def test_pytorch_optimizer_takes_amsgrad_and_ignores_it():
    gradients = [[3.0] * 4, [1.0] * 4, [1.0] * 4]
    plain, _ = stepped(KozistrNovoGrad, gradients)
    with_amsgrad, _ = stepped(KozistrNovoGrad, gradients, amsgrad=True)
    assert torch.equal(plain, with_amsgrad)


# ------------------------------------------------------------------------------------ what it survives


@peer
def test_an_fp16_gradient_of_norm_640_stops_others_for_good(make):
    """Its square overflows to v = inf: updates are 0 from then on, or NaN where inf - inf is taken (`lerp_`)."""
    gradients = [[64.0] * 100, *[[1.0] * 100] * 4]
    weight, _ = stepped(make, gradients, betas=(0.0, 0.98), dtype=torch.float16)
    assert not torch.nan_to_num(weight).any()
    assert weight.isnan().all() == (make is KozistrNovoGrad)


@peer_and_ours
def test_a_small_fp16_gradient_makes_others_take_huge_updates(make):
    """Squares below 2⁻²⁵ are 0 in fp16, and so is v; pytorch_optimizer's ε = 1e-8 in fp16 is 0, too."""
    weight, _ = stepped(make, [[1e-5] * 4], dtype=torch.float16)
    expected = {NvNovoGrad: -1000.0, KozistrNovoGrad: -math.inf, NovoGrad: -0.5}[make]
    torch.testing.assert_close(weight, torch.full((4,), expected, dtype=torch.float16), rtol=0.01, atol=0)


def test_one_inf_costs_timm_the_element_and_v():
    weight, optimizer = stepped(NvNovoGrad, [[1.0] * 4, [math.inf, 1.0, 1.0, 1.0], *[[1.0] * 4] * 3])
    assert weight[0].isnan()
    assert weight[1:].tolist() == [-0.5] * 3  # of the first step: 1 / √inf adds nothing
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg_sq"] == math.inf


@pytest.mark.parametrize("foreach", [None, False])
def test_one_inf_makes_pytorch_optimizers_tensor_nan(foreach):
    weight, _ = stepped(KozistrNovoGrad, [[1.0] * 4, [math.inf, 1.0, 1.0, 1.0], [1.0] * 4], foreach=foreach)
    assert weight.isnan().all()


@peer
def test_one_nan_makes_the_whole_tensor_nan(make):
    weight, _ = stepped(make, [[1.0] * 4, [math.nan, 1.0, 1.0, 1.0], [1.0] * 4])
    assert weight.isnan().all()


@pytest.fixture(scope="module")
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("make", "options", "error"),
    [
        (NvNovoGrad, {}, (AssertionError, "^$")),
        (KozistrNovoGrad, {}, (NotImplementedError, "_foreach_copy_.* sharding strategy")),
        (KozistrNovoGrad, {"foreach": False}, (RuntimeError, "lerp_.* placement changes are not supported")),
        (NovoGrad, {}, None),
    ],
    ids=["timm", "pytorch_optimizer", "pytorch_optimizer-loop", "ours"],
)
def test_sharded_weights(make, options, error, mesh):
    """Of `torch.distributed.tensor`, as FSDP2 makes them."""
    weight = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)]).requires_grad_()
    optimizer = make([weight], lr=1.0, betas=(0.0, 0.5), **options)

    def two_steps():
        for _ in range(2):
            weight.grad = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
            optimizer.step()

    if error is None:
        two_steps()
        torch.testing.assert_close(weight.full_tensor().detach(), torch.full((4, 3), -2 / math.sqrt(12)))
    else:
        with pytest.raises(error[0], match=error[1]):
            two_steps()


# ------------------------------------------------------------------------------------ apex, without its kernels


@pytest.fixture
def apex(monkeypatch):
    """Its class, with kernels that do nothing: what its Python code decides needs no GPU."""
    kernels = types.ModuleType("amp_C")
    kernels.multi_tensor_novograd = lambda *_: None
    monkeypatch.setitem(sys.modules, "amp_C", kernels)
    module = pytest.importorskip("apex.optimizers.fused_novograd", reason="apex is not on the path")
    applier = module.multi_tensor_applier
    monkeypatch.setattr(type(applier), "available", True)
    monkeypatch.setattr(applier, "chunk_size", 1, raising=False)
    monkeypatch.setattr(torch.cuda, "FloatTensor", lambda values, device: torch.tensor(values, device=device))
    return module.FusedNovoGrad


def with_gradients(*values, dtype=torch.float32):
    weights = [torch.zeros(4, dtype=dtype, requires_grad=True) for _ in values]
    for weight, value in zip(weights, values, strict=True):
        weight.grad = torch.full_like(weight, value)
    return weights


def test_apexs_defaults_are_another_algorithm(apex):
    defaults = {name: p.default for name, p in inspect.signature(apex).parameters.items()}
    assert (defaults["betas"], defaults["eps"]) == ((0.9, 0.999), 1e-8)
    assert not defaults["reg_inside_moment"]
    assert defaults["grad_averaging"]
    assert defaults["bias_correction"]
    with pytest.raises(RuntimeError, match="does not support the AMSGrad variant"):
        apex(with_gradients(1.0), amsgrad=True)


def test_apex_keeps_norms_in_fp32_vectors_of_the_group(apex):
    for dtype, place in ((torch.float16, 0), (torch.float32, 1)):
        optimizer = apex(with_gradients(64.0, 3.0, dtype=dtype))
        optimizer.step()
        norms = optimizer.param_groups[0]["exp_avg_sq"][place]
        assert norms.dtype == torch.float32
        assert norms.tolist() == [128.0, 6.0]  # not their squares, which would not fit into fp16


def test_apex_refuses_bf16_and_another_number_of_gradients(apex):
    with pytest.raises(RuntimeError, match="only support fp16 and fp32"):
        apex(with_gradients(1.0, dtype=torch.bfloat16)).step()
    weights = with_gradients(1.0, 2.0)
    optimizer = apex(weights)
    optimizer.step()
    weights[0].grad = None
    with pytest.raises(AssertionError):
        optimizer.step()
