"""ResNet-50v2: counts, initialization, and outputs compared with timm's pre-activation ResNet with the same weights."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from novobench.tasks.image.config import ImageModelConfig
from novobench.tasks.image.model import build

LAPTOP = ImageModelConfig(
    in_channels=1, classes=10, stem_width=16, stem_kernel=3, stem_stride=1, stem_pool=False,
    widths=[16, 32, 64], depths=[1, 1, 1], batch_norm_momentum=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def resnet50():
    torch.manual_seed(0)
    return build(ImageModelConfig())


def test_the_papers_network_has_its_published_size():
    with torch.device("meta"):
        parameters = list(build(ImageModelConfig()).parameters())
    assert sum(p.numel() for p in parameters) == 25_549_352
    assert len(parameters) == 153
    batch_norm = sum(p.numel() for p in parameters if p.ndim == 1) - 1000
    assert batch_norm == 45_440


def test_the_laptop_network_is_the_same_class_and_small():
    assert sum(p.numel() for p in build(LAPTOP).parameters()) == 126_458


def test_kernels_are_truncated_normals_of_variance_one_over_fan_in(resnet50):
    for module in resnet50.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            std = 1 / math.sqrt(fan_in)
            assert module.weight.std().item() == pytest.approx(std, rel=0.05)
            assert module.weight.abs().max() <= 2 * std / 0.8796 * 1.0001
    assert not resnet50.classifier.bias.any()


def test_init_scale_and_zero_gamma_are_switches():
    torch.manual_seed(0)
    network = build(ImageModelConfig(init_scale=2.0, zero_init_last_gamma=True, depths=[1, 1, 1, 1]))
    assert network.blocks[3].conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.02)
    assert all(not block.norm3.weight.any() for block in network.blocks)


class SamePool(nn.Module):
    """TensorFlow's SAME max pooling of an even size, by hand: nothing before, one row and column after."""

    def forward(self, x):
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)


def timm_twin(mine):
    """timm's resnetv2_50 with this stem and pool, carrying the same weights."""
    twin = timm.create_model("resnetv2_50", num_classes=1000)
    twin.stem.pool = SamePool()
    twin.stem.conv = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
    theirs = dict(twin.named_parameters()) | dict(twin.named_buffers())
    names = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "norm3": "norm3", "conv3": "conv3"}
    pairs = {
        "stem.weight": "stem.conv.weight",
        "classifier.weight": "head.fc.weight",
        "classifier.bias": "head.fc.bias",
    }
    places = [f"stages.{s}.blocks.{b}" for s, depth in enumerate([3, 4, 6, 3]) for b in range(depth)]
    for i, place in enumerate(places):
        for mine_name, their_name in [*names.items(), ("project", "downsample.conv")]:
            for end in ("weight", "bias", "running_mean", "running_var"):
                pairs[f"blocks.{i}.{mine_name}.{end}"] = f"{place}.{their_name}.{end}"
    pairs |= {f"norm.{end}": f"norm.{end}" for end in ("weight", "bias", "running_mean", "running_var")}
    state = mine.state_dict()
    copied = set()
    with torch.no_grad():
        for name, value in state.items():
            if not name.endswith("num_batches_tracked"):
                target = theirs[pairs[name]]
                target.copy_(value.view(target.shape))
                copied.add(pairs[name])
    assert copied >= {name for name, _ in twin.named_parameters()}
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = 0.003, 1e-5
    return twin


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_and_gradients_equal_timms(resnet50, training):
    twin = timm_twin(resnet50).double().train(training)
    mine = build(ImageModelConfig()).double()
    mine.load_state_dict(resnet50.state_dict())
    mine.train(training)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, twin_y = mine(x), twin(x)
    torch.testing.assert_close(y, twin_y, rtol=1e-9, atol=1e-9)
    y.square().sum().backward()
    twin_y.square().sum().backward()
    gradient, twin_gradient = mine.stem.weight.grad, twin.stem.conv.weight.grad
    torch.testing.assert_close(gradient, twin_gradient, rtol=1e-7, atol=1e-7 * gradient.abs().max().item())
    torch.testing.assert_close(mine.norm.running_var, twin.norm.running_var, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [7, 8, 56])
def test_same_pooling_covers_every_pixel(size, resnet50):
    x = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size)
    out = resnet50._pool(x)
    assert out.shape[-1] == math.ceil(size / 2)
    assert out.max() == x.max()
    if size % 2 == 0:
        torch.testing.assert_close(out, SamePool()(x))


def test_memory_format_does_not_change_the_function():
    torch.manual_seed(0)
    network = build(LAPTOP).double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    plain = network(x)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(x), plain)
