"""Published training speeds of the paper's four models on one card, and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from novobench.config import CellConfig
from novobench.config_loading import parse_overrides


@dataclass(frozen=True)
class Published:
    """A speed as its source prints it."""

    per_second: float
    unit: str
    """As `TaskModule.counted` names it."""
    card: str
    source: str


_DLE = "NVIDIA DeepLearningExamples, PyTorch"
_LAMBDA = "Lambda, deeplearning-benchmark, NVIDIA's code"

FIGURES: dict[str, list[Published]] = {
    "image": [
        Published(2470, "images", "A100", f"{_DLE}/Classification/ConvNets/resnet50v1.5, mixed precision, batch 256"),
        Published(1582, "images", "A100", f"{_LAMBDA}, ResNet-50, mixed precision"),
        Published(2806, "images", "H100", f"{_LAMBDA}, the highest of several H100"),
        Published(3079, "images", "H200", _LAMBDA),
    ],
    "speech": [
        Published(75.6, "utterances", "A100", f"{_DLE}/SpeechRecognition/Jasper, mixed precision, batch 64, ≤ 16.7 s"),
    ],
    "translation": [
        Published(
            82059, "target tokens", "A100",
            f"{_DLE}/Translation/Transformer, mixed precision, 10,240 tokens a side, 33,708 BPE pieces",
        ),
    ],
    "language": [
        Published(
            59961, "tokens", "A100",
            f"{_DLE}/LanguageModeling/Transformer-XL, base, mixed precision, batch 32, 192 tokens, memory 192",
        ),
        Published(43100, "tokens", "A100", _LAMBDA),
        Published(62300, "tokens", "H100", _LAMBDA),
    ],
}  # fmt: skip
"""The first figure of each task is the reference of the project's goal. Whole nodes of 8 are not listed."""

SETTINGS: dict[str, tuple[str, ...]] = {
    "image": ("runtime.precision=bf16-mixed", "batch.micro=256"),
    "speech": ("runtime.precision=bf16-mixed", "batch.micro=64"),
    "translation": ("runtime.precision=bf16-mixed", "batch.micro=20480", "model.vocabulary=33708"),
    "language": (
        "runtime.precision=bf16-mixed",
        "batch.micro=32",
        "data.segment_length=192",
        "model.memory_length=192",
    ),
}
"""What makes a task's config at full scale like the first figure's. The optimizer stays as it is, bf16 stands for
their fp16, at which tensor cores are as fast, and ResNet-50 is v2 here, with the same convolutions as v1.5."""


def like_for_like(config: CellConfig) -> bool:
    """Whether a config is at full scale and has all of its task's `SETTINGS`."""
    settings = parse_overrides(SETTINGS.get(config.task, ()))
    same = all(_value(config, key) == value for key, value in settings.items())
    return config.scale == "full" and bool(settings) and same


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config
