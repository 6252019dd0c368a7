"""Jasper with dense residual connections (Li et al., 2019), as OpenSeq2Seq built it for the paper's §4.3.

B utterances, F Mel bands, T frames, C channels, V outputs.

The input of every convolution is masked past the end of an utterance, so an utterance's logits do not depend on its
padding. In training, batch norm's statistics include the padded frames, as in the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from novobench.tasks.speech.config import Block, SpeechModelConfig


class Jasper(nn.Module):
    """Features [B, F, T] and lengths [B] to logits [B, V, T / stride] and their lengths [B].

    The defaults have 332,632,349 parameters in 326 tensors.
    """

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
        """Xavier kernels (`kind` is normal or uniform; the output's are always uniform), bias 0; batch norm 1 and 0."""
        draw = _xavier_truncated_ if kind == "xavier_normal" else nn.init.xavier_uniform_
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                (nn.init.xavier_uniform_ if module is self.output else draw)(module.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        earlier: list[Tensor] = []  # inputs of the residual blocks so far
        mask = _padding_mask(x, lengths)
        for block, spec in zip(self.blocks, self.config.blocks, strict=True):
            x = x.masked_fill(mask, 0.0)
            if spec.residual:
                earlier.append(x)
            x = block(x, earlier, mask)
            if spec.stride > 1:
                lengths = -(-lengths // spec.stride)
                mask = _padding_mask(x, lengths)
        return self.output(x), lengths


class JasperBlock(nn.Module):
    """Sub-blocks of convolution, batch norm, ReLU and dropout. The last one adds the residual branches before its ReLU.

    `dense` holds the channels of each input that a residual block adds, its own input last.
    """

    def __init__(self, channels: int, dense: list[int], block: Block, config: SpeechModelConfig) -> None:
        super().__init__()
        self.dropout = block.dropout
        padding = (block.kernel - 1) * block.dilation
        if block.stride > 1 and config.padding == "same":
            padding = max(0, block.kernel - block.stride)  # TensorFlow's rule for a length that the stride divides
        self.odd = padding % 2  # one more frame at the end than the convolution itself pads
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(block.repeat):
            self.convolutions.append(
                nn.Conv1d(
                    channels,
                    block.channels,
                    block.kernel,
                    block.stride,
                    padding=padding // 2,
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

    def forward(self, x: Tensor, earlier: list[Tensor], mask: Tensor) -> Tensor:
        """`x` [B, C, T] with `mask` applied; `earlier` holds the inputs of this and all earlier residual blocks."""
        last = len(self.convolutions) - 1
        for position, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(F.pad(x, (0, self.odd)) if self.odd else x))
            if position == last:
                for branch, residual in zip(self.branches, earlier, strict=False):
                    x = x + branch(residual)
            x = F.dropout(F.relu(x), self.dropout, self.training)
            if position < last:
                x = x.masked_fill(mask, 0.0)
        return x


def _xavier_truncated_(kernel: Tensor) -> None:
    """Xavier's variance from a normal distribution truncated at two standard deviations: the factor 1.3 compensates for
    the truncation (tf.contrib.layers.xavier_initializer with uniform=False)."""
    std = math.sqrt(1.3 * 2 / (kernel[0].numel() + kernel[:, 0].numel()))
    nn.init.trunc_normal_(kernel, 0.0, std, -2 * std, 2 * std)


def _padding_mask(x: Tensor, lengths: Tensor) -> Tensor:
    """True where `x` [B, C, T] lies past the end of its utterance: bool [B, 1, T]."""
    return (torch.arange(x.shape[-1], device=x.device) >= lengths[:, None])[:, None]


def _norm(channels: int, config: SpeechModelConfig) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)


def build(config: SpeechModelConfig) -> Jasper:
    """The network, with weights drawn from torch's default generator."""
    with torch.no_grad():
        return Jasper(config)
