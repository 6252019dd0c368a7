"""Jasper against its definition, written out utterance by utterance and frame by frame in NumPy."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from novobench.tasks.speech.config import Block, SpeechModelConfig
from novobench.tasks.speech.model import build

SMALL = SpeechModelConfig(
    features=6,
    outputs=5,
    blocks=[
        Block(8, 11, stride=2, dropout=0.0),
        Block(8, 5, 2, dropout=0.0, residual=True),
        Block(10, 3, 3, dropout=0.0, residual=True),
        Block(7, 7, 1, dropout=0.0, residual=True),
        Block(9, 5, dilation=2, dropout=0.0),
        Block(12, 1, dropout=0.0),
    ],
)


def network(**changes):
    torch.manual_seed(0)
    net = build(dataclasses.replace(SMALL, **changes)).double().eval()
    with torch.no_grad():  # so that no scale, shift or statistic of batch norm is trivial
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
    return net


# ------------------------------------------------------------------------------------ size and start


def parameters(blocks=None):
    with torch.device("meta"):
        net = build(SpeechModelConfig() if blocks is None else SpeechModelConfig(blocks=blocks))
    return [p.numel() for p in net.parameters()]


def test_the_paper_size_is_exact():
    """Convolutions and batch norms of the published table, counted by hand."""
    total, tensors = 64 * 256 * 11 + 2 * 256, 3
    channels, entered = 256, []
    for kernel, width in [(k, w) for k, w in ((11, 256), (13, 384), (17, 512), (21, 640), (25, 768)) for _ in range(2)]:
        entered.append(channels)
        total += channels * width * kernel + 4 * width * width * kernel + 5 * 2 * width
        total += sum(each * width for each in entered) + len(entered) * 2 * width
        tensors += 15 + 3 * len(entered)
        channels = width
    total += 768 * 896 * 29 + 2 * 896 + 896 * 1024 + 2 * 1024 + 1024 * 29 + 29
    tensors += 3 + 3 + 2
    assert (total, tensors) == (332_632_349, 326)
    assert (sum(parameters()), len(parameters())) == (total, tensors)


@pytest.mark.parametrize("kind", ["xavier_normal", "xavier_uniform"])
def test_initial_weights_have_xaviers_deviation_and_limits(kind):
    torch.manual_seed(0)
    net = build(SpeechModelConfig(blocks=[Block(256, 11), Block(256, 13, 1, residual=True)], init=kind))
    for name, weight in net.state_dict().items():
        if weight.ndim == 3 and weight.numel() > 50_000:
            std = math.sqrt(2 / (weight.shape[2] * (weight.shape[0] + weight.shape[1])))
            assert float(weight.std()) == pytest.approx(std, rel=0.02), name
            limit = math.sqrt(3) if kind == "xavier_uniform" else 2 * math.sqrt(1.3)
            assert 0.99 * limit * std < float(weight.abs().max()) <= limit * std * 1.000001, name
    assert float(net.output.weight.detach().abs().max()) <= math.sqrt(6 / (256 + 29))
    assert not net.output.bias.any()


# ------------------------------------------------------------------------------------ what it computes


def convolved(x, weight, stride, dilation, left):
    """x [C, T] with zeros outside; output t sees frames t·stride + k·dilation - left."""
    outputs = -(-x.shape[1] // stride)
    result = np.zeros((weight.shape[0], outputs))
    for t in range(outputs):
        for k in range(weight.shape[2]):
            place = t * stride + k * dilation - left
            if 0 <= place < x.shape[1]:
                result[:, t] += weight[:, :, k] @ x[:, place]
    return result


def normalised(x, norm):
    scale = norm.weight.numpy() / np.sqrt(norm.running_var.numpy() + 1e-3)
    return (x - norm.running_mean.numpy()[:, None]) * scale[:, None] + norm.bias.numpy()[:, None]


def literal(net, x, left_of_stride):
    """One utterance by itself, no padding anywhere."""
    entered = []
    for block, spec in zip(net.blocks, SMALL.blocks, strict=True):
        if spec.residual:
            entered.append(x)
        left = left_of_stride if spec.stride > 1 else (spec.kernel - 1) * spec.dilation // 2
        for position in range(spec.repeat):
            weight = block.convolutions[position].weight.numpy()
            x = normalised(convolved(x, weight, spec.stride, spec.dilation, left), block.norms[position])
            if spec.residual and position == spec.repeat - 1:
                for branch, earlier in zip(block.branches, entered, strict=True):
                    x = x + normalised(branch[0].weight.numpy()[:, :, 0] @ earlier, branch[1])
            x = np.maximum(x, 0)
    return net.output.weight.numpy()[:, :, 0] @ x + net.output.bias.numpy()[:, None]


@torch.no_grad()
@pytest.mark.parametrize(("padding", "left"), [("same", 4), ("symmetric", 5)])
def test_a_padded_batch_is_each_utterance_by_itself(padding, left):
    """TensorFlow's SAME pads 4 frames before and 5 after for kernel 11 and stride 2; the other variant 5 and 5."""
    net = network(padding=padding)
    lengths = torch.tensor([30, 17, 32, 2])
    x = torch.randn(4, 6, 32, dtype=torch.float64)  # noise past the ends, too
    logits, outputs = net(x, lengths)
    assert outputs.tolist() == [15, 9, 16, 1]
    for row, length, row_logits, count in zip(x, lengths.tolist(), logits, outputs.tolist(), strict=True):
        expected = literal(net, row[:, :length].numpy(), left)
        assert expected.shape == (5, count)
        np.testing.assert_allclose(row_logits[:, :count].numpy(), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_an_utterance_does_not_depend_on_its_batch_or_padding():
    net = network()
    x, lengths = torch.randn(3, 6, 48, dtype=torch.float64), torch.tensor([48, 21, 33])
    together, counts = net(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        padded = torch.zeros(1, 6, -(-length // 16) * 16, dtype=torch.float64)
        padded[:, :, :length] = x[i, :, :length]
        alone, _ = net(padded, lengths[i : i + 1])
        torch.testing.assert_close(alone[0, :, : counts[i]], together[i, :, : counts[i]], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_batch_norm_counts_padded_frames_while_training():
    """As the authors' code: the statistics of the first layer are over all frames of the batch, zeros included."""
    net = network().train()
    norm = net.blocks[0].norms[0]
    before = norm.running_mean.clone()
    x, lengths = torch.randn(2, 6, 32, dtype=torch.float64), torch.tensor([32, 8])
    masked = x.clone()
    masked[1, :, 8:] = 0
    weight = net.blocks[0].convolutions[0].weight.numpy()
    both = np.concatenate([convolved(each.numpy(), weight, 2, 1, 4) for each in masked], axis=1)
    net(x, lengths)
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.9 * before.numpy() + 0.1 * both.mean(axis=1), rtol=1e-9)


def test_every_parameter_is_trained():
    net = network().train()
    logits, _ = net(torch.randn(2, 6, 32, dtype=torch.float64), torch.tensor([32, 20]))
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
