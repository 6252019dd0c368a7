"""Image classification: ResNet-50v2's training and evaluation steps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from novobench.config import CellConfig
from novobench.optim.entry import Role
from novobench.tasks.base import TaskModule
from novobench.tasks.image import scoring
from novobench.tasks.image.batches import SKIPPED_LABEL, ImageBatch
from novobench.tasks.image.config import BUILT_IN, DIGITS_SIDE
from novobench.tasks.image.data import ImageData
from novobench.tasks.image.model import build as build_model
from novobench.tasks.metric import Metric


class ImageTask(TaskModule):
    """Plain softmax cross-entropy (no label smoothing, as the authors' code), accuracy in percent."""

    role_patterns: ClassVar[dict[str, Role]] = {r"^network\.classifier\.weight$": "head"}

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        if config.runtime.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._counts = scoring.AccuracyCounts()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        return self.network(self._in_memory_format(images))

    def _in_memory_format(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.config.runtime.channels_last else images

    def graphable(self, batch: ImageBatch) -> tuple[torch.nn.Module, tuple[Tensor, ...]]:
        return self.network, (self._in_memory_format(batch.images).clone(),)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        logits = self(batch.images).float()
        loss = F.cross_entropy(logits, batch.labels, ignore_index=SKIPPED_LABEL)
        if self.config.data.on_bad_image == "skip":
            skipped = batch.labels == SKIPPED_LABEL
            self.skipped_samples = self.skipped_samples + skipped.sum()
            loss = torch.where(skipped.all(), 0.0, loss)  # the mean over no image is NaN; its gradient is 0 anyway
        return loss

    def random_batch(self, size: int) -> ImageBatch:
        data, model = self.config.data, self.config.model
        side = DIGITS_SIDE if data.source == BUILT_IN else data.image_size
        images = torch.randn(size, model.in_channels, side, side)
        return ImageBatch(images, torch.randint(model.classes, (size,)), torch.arange(size))

    def counted(self, batch: ImageBatch) -> tuple[int, str]:
        return len(batch.labels), "images"

    def evaluation_start(self) -> None:
        self._counts = scoring.AccuracyCounts()

    def evaluation_step(self, batch: ImageBatch) -> list[dict[str, Any]]:
        usable = batch.labels != SKIPPED_LABEL
        if not usable.all():
            self._counts.skip(int((~usable).sum()))
            batch = ImageBatch(*(tensor[usable] for tensor in batch))
        top5 = self._counts.add(self(batch.images).float(), batch.labels)
        rows = zip(batch.samples.tolist(), batch.labels.tolist(), top5.tolist(), strict=True)
        return [{"index": index, "reference": label, "output": best[0], "top5": best} for index, label, best in rows]

    def evaluation_end(self) -> dict[str, Metric]:
        return scoring.metrics(self.sum_over_processes(self._counts.totals()), self.config.data.name)


def build(config: CellConfig) -> tuple[ImageTask, ImageData]:
    return ImageTask(config), ImageData(config)
