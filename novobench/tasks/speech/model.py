"""Jasper with dense residual connections (Li et al., 2019), as OpenSeq2Seq built it for the paper's §4.3.

B utterances, F Mel bands, T frames, C channels, V outputs.

Every convolution sees zeros where an utterance has ended, so what the network says of an utterance does not depend on
the padding beside it; the statistics of batch norm do count padded frames while training, as in the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from novobench.tasks.speech.config import Block, SpeechModelConfig


class Jasper(nn.Module):
    """Features [B, F, T] and lengths [B] to logits [B, V, T / stride] and their lengths. The defaults have 332,632,349
    parameters in 326 tensors."""

    def __init__(self, config: SpeechModelConfig) -> None:
        super().__init__()
        self.config = config
        blocks, channels, dense = [], config.features, []
        for block in config.blocks:
            if block.residual:
                dense.append(channels)
            blocks.append(JasperBlock(channels, dense if block.residual else [], block, config))
            channels = block.channels
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Conv1d(channels, config.outputs, 1)
        self.init_weights(config.init)

    def init_weights(self, kind: str) -> None:
        """Xavier kernels (normal or uniform; the output's always uniform), bias 0; batch norm starts as 1 and 0."""
        draw = _xavier_truncated_ if kind == "xavier_normal" else nn.init.xavier_uniform_
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                (nn.init.xavier_uniform_ if module is self.output else draw)(module.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        earlier: list[Tensor] = []  # inputs of the residual blocks so far
        over = _over(x, lengths)
        for block, spec in zip(self.blocks, self.config.blocks, strict=True):
            x = x.masked_fill(over, 0.0)
            if spec.residual:
                earlier.append(x)
            x = block(x, earlier, over)
            if spec.stride > 1:
                lengths = -(-lengths // spec.stride)
                over = _over(x, lengths)
        return self.output(x), lengths


class JasperBlock(nn.Module):
    """Sub-blocks of convolution, batch norm, ReLU and dropout; the last one adds the residual branches before its ReLU.

    `dense` are the channels of all inputs that a residual block adds, its own last.
    """

    def __init__(self, channels: int, dense: list[int], block: Block, config: SpeechModelConfig) -> None:
        super().__init__()
        self.dropout = block.dropout
        missing = (block.kernel - 1) * block.dilation
        if block.stride > 1 and config.padding == "same":
            missing = max(0, block.kernel - block.stride)  # TensorFlow's rule for a length that the stride divides
        self.odd = missing % 2  # a frame more at the end than the convolution itself pads
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(block.repeat):
            self.convolutions.append(
                nn.Conv1d(
                    channels,
                    block.channels,
                    block.kernel,
                    block.stride,
                    padding=missing // 2,
                    dilation=block.dilation,
                    bias=False,
                )
            )
            self.norms.append(_norm(block.channels, config))
            channels = block.channels
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, block.channels, 1, bias=False), _norm(block.channels, config))
            for width in dense
        )

    def forward(self, x: Tensor, earlier: list[Tensor], over: Tensor) -> Tensor:
        """`x` is masked already, by `over`; `earlier` holds the inputs of this and all earlier residual blocks."""
        last = len(self.convolutions) - 1
        for position, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(F.pad(x, (0, self.odd)) if self.odd else x))
            if position == last:
                for branch, entered in zip(self.branches, earlier, strict=False):
                    x = x + branch(entered)
            x = F.dropout(F.relu(x), self.dropout, self.training)
            if position < last:
                x = x.masked_fill(over, 0.0)
        return x


def _xavier_truncated_(kernel: Tensor) -> None:
    """Xavier's variance from a normal distribution that is cut off at two standard deviations: the factor 1.3 makes up
    for the cut (tf.contrib.layers.xavier_initializer with uniform=False)."""
    std = math.sqrt(1.3 * 2 / (kernel[0].numel() + kernel[:, 0].numel()))
    nn.init.trunc_normal_(kernel, 0.0, std, -2 * std, 2 * std)


def _over(x: Tensor, lengths: Tensor) -> Tensor:
    """Where `x` [B, C, T] lies behind its utterance's end: bool [B, 1, T]."""
    return (torch.arange(x.shape[-1], device=x.device) >= lengths[:, None])[:, None]


def _norm(channels: int, config: SpeechModelConfig) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)


def build(config: SpeechModelConfig) -> Jasper:
    """The network, its weights drawn from torch's default generator."""
    with torch.no_grad():
        return Jasper(config)
