"""Image classification: ResNet-50v2's training step, top-1 and top-5, and the data module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from novobench.config import CellConfig, data_root
from novobench.tasks.base import EvaluationSet, Metric, TaskData, TaskModule
from novobench.tasks.image.data import open_images
from novobench.tasks.image.model import build as build_model


class ImageTask(TaskModule):
    """Plain softmax cross-entropy (no label smoothing, as the authors' code), accuracy in percent."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        if config.runtime.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._top1 = self._top5 = self._loss = 0.0
        self._seen = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        if self.config.runtime.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images).float(), labels)

    def evaluation_start(self) -> None:
        self._top1 = self._top5 = self._loss = 0.0
        self._seen = 0

    def evaluation_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> list[dict[str, Any]]:
        images, labels, indices = batch
        logits = self(images).float()
        top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = top5 == labels[:, None]
        self._top1 += float(hits[:, 0].sum())
        self._top5 += float(hits.any(dim=1).sum())
        self._loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        self._seen += len(labels)
        triples = zip(indices.tolist(), labels.tolist(), top5.tolist(), strict=True)
        return [{"index": i, "reference": label, "output": best[0], "top5": best} for i, label, best in triples]

    def evaluation_end(self) -> dict[str, Metric]:
        counts = torch.tensor([self._top1, self._top5, self._loss, self._seen], dtype=torch.float64)
        top1, top5, loss, seen = self.sum_over_processes(counts).tolist()
        n = round(seen)
        return {
            "top1": Metric(100 * top1 / seen, n, "%"),
            "top5": Metric(100 * top5 / seen, n, "%"),
            "loss": Metric(loss / seen, n, "nats"),
        }


class ImageData(TaskData):
    """The three sources behind one door; see `data.open_images`."""

    def setup(self, stage: str) -> None:
        splits = open_images(self.config.data, data_root=data_root(self.config), seed=self.config.seed)
        self.train = splits.train
        self.evaluation_sets = [EvaluationSet("test", "test", _Indexed(splits.test))]
        if splits.counts["search"]:
            self.evaluation_sets.insert(0, EvaluationSet("search", "search", _Indexed(splits.search)))
        self.fingerprint, self.counts = splits.fingerprint, splits.counts


class _Indexed(torch.utils.data.Dataset):
    """Adds each sample's index, so that predictions can be told apart."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        image, label = self.dataset[index]
        return image, label, index


def build(config: CellConfig) -> tuple[ImageTask, ImageData]:
    return ImageTask(config), ImageData(config)
