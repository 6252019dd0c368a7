"""ResNet-v2 (pre-activation, bottleneck) as in OpenSeq2Seq, which the paper uses (§4.1).

B batch, C channels, H height, W width, K classes.

Differs from torchvision's ResNet-50: batch norm and ReLU come before each convolution, none follows the stem or
a projection, the projection reads the pre-activated input, and max pooling pads as TensorFlow does. As in
torchvision, a stage's stride is on the 3×3 convolution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from novobench.tasks.image.config import ImageModelConfig

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal cut at ±2; TensorFlow's variance scaling divides by it."""


class ResNetV2(nn.Module):
    """Images [B, C, H, W] to logits [B, K]. The defaults have 25,549,352 parameters in 153 tensors."""

    def __init__(self, config: ImageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(
            config.in_channels,
            config.stem_width,
            config.stem_kernel,
            config.stem_stride,
            padding=config.stem_kernel // 2,
            bias=False,
        )
        blocks, channels = [], config.stem_width
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(Bottleneck(channels, width, stride, config, project=position == 0))
                channels = width * config.expansion
        self.blocks = nn.Sequential(*blocks)
        self.norm = _norm(channels, config)
        self.classifier = nn.Linear(channels, config.classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal kernels of variance scale / fan-in, also in the classifier; biases 0; batch norm 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                std = math.sqrt(self.config.init_scale / fan_in) / _TRUNCATED_STD
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Bottleneck) and self.config.zero_init_last_gamma:
                nn.init.zeros_(module.norm3.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.to(self.stem.weight.dtype))  # images of `DeferredBatch` are float32 at any precision
        if self.config.stem_pool:
            x = self._pool(x)
        x = F.relu(self.norm(self.blocks(x)))
        return self.classifier(x.mean(dim=(2, 3)))

    def _pool(self, x: Tensor) -> Tensor:
        if self.config.pool_padding == "symmetric":
            return F.max_pool2d(x, 3, 2, padding=1)
        # TensorFlow's SAME padding: an odd remainder goes right and below.
        right, below = (max(0, (math.ceil(size / 2) - 1) * 2 + 3 - size) for size in (x.shape[3], x.shape[2]))
        x = F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2), value=-math.inf)
        return F.max_pool2d(x, 3, 2)


class Bottleneck(nn.Module):
    """BN-ReLU-1×1, BN-ReLU-3×3 (with the stride), BN-ReLU-1×1, plus the input or its projection."""

    def __init__(self, channels: int, width: int, stride: int, config: ImageModelConfig, *, project: bool) -> None:
        super().__init__()
        out = width * config.expansion
        self.norm1 = _norm(channels, config)
        self.project = nn.Conv2d(channels, out, 1, stride, bias=False) if project else None
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm2 = _norm(width, config)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm3 = _norm(width, config)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        shortcut = x if self.project is None else self.project(y)
        y = self.conv1(y)
        y = self.conv2(F.relu(self.norm2(y)))
        y = self.conv3(F.relu(self.norm3(y)))
        return y + shortcut


def _norm(channels: int, config: ImageModelConfig) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)


def build(config: ImageModelConfig) -> ResNetV2:
    """The network, with weights from torch's default generator."""
    with torch.no_grad():
        return ResNetV2(config)
