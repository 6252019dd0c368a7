"""Image classification: ResNet-50v2's training step, top-1 and top-5, and the data module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from novobench.config import CellConfig, data_root
from novobench.errors import DataError
from novobench.tasks.base import EvaluationSet, TaskData, TaskModule
from novobench.tasks.image.data import LEFT_OUT, identify, open_images
from novobench.tasks.image.model import build as build_model
from novobench.tasks.metric import Metric


class ImageTask(TaskModule):
    """Plain softmax cross-entropy (no label smoothing, as the authors' code), accuracy in percent."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        if config.runtime.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._top1 = self._top5 = self._loss = 0.0
        self._seen = self._left_out = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        return self.network(self._laid_out(images))

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.config.runtime.channels_last else images

    def graphable(self, batch: tuple[Tensor, Tensor]) -> tuple[torch.nn.Module, tuple[Tensor, ...]]:
        return self.network, (self._laid_out(batch[0]).clone(),)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images).float(), labels, ignore_index=LEFT_OUT)
        if self.config.data.on_bad_image == "skip":
            bad = labels == LEFT_OUT
            self.skipped_samples = self.skipped_samples + bad.sum()
            loss = torch.where(bad.all(), 0.0, loss)  # the mean over no image is no number; its gradient is 0 anyway
        return loss

    def random_batch(self, size: int) -> tuple[Tensor, Tensor]:
        data, model = self.config.data, self.config.model
        pixels = 8 if data.source == "digits" else data.image_size
        images = torch.randn(size, model.in_channels, pixels, pixels)
        return images, torch.randint(model.classes, (size,))

    def counted(self, batch: tuple[Tensor, Tensor]) -> tuple[int, str]:
        return len(batch[1]), "images"

    def evaluation_start(self) -> None:
        self._top1 = self._top5 = self._loss = 0.0
        self._seen = self._left_out = 0

    def evaluation_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> list[dict[str, Any]]:
        images, labels, indices = batch
        good = labels != LEFT_OUT
        if not good.all():
            self._left_out += int((~good).sum())
            images, labels, indices = images[good], labels[good], indices[good]
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
        counts = [self._top1, self._top5, self._loss, self._seen, self._left_out]
        summed = self.sum_over_processes(torch.tensor(counts, dtype=torch.float64))
        top1, top5, loss, seen, left_out = summed.tolist()
        n = round(seen)
        if n == 0:
            raise DataError(f"No evaluation image of '{self.config.data.name}' can be decoded.")
        skipped = {"skipped": Metric(left_out, n, "images")} if left_out else {}
        return {
            **skipped,
            "top1": Metric(100 * top1 / seen, n, "%"),
            "top5": Metric(100 * top5 / seen, n, "%"),
            "loss": Metric(loss / seen, n, "nats"),
        }


class ImageData(TaskData):
    """The three sources behind one door, see `data.open_images`; batches are made by the loader or by the training's
    device, see `resident`."""

    def identify(self) -> str:
        """The fingerprint that `setup` would set, decoding nothing; files that did not change are not read again."""
        return identify(self.config.data, data_root(self.config))

    def setup(self, stage: str) -> None:
        config = self.config
        splits = open_images(config.data, data_root(config), config.seed, config.model)
        self.train = splits.train
        judged = {"search": splits.search, "test": splits.test}
        if self.config.data.images_on == "loader":
            judged = {name: _Indexed(images) for name, images in judged.items()}
        self.evaluation_sets = [
            EvaluationSet(name, name, images)  # type: ignore[arg-type]
            for name, images in judged.items()
            if splits.counts[name] or name == "test"
        ]
        self.fingerprint, self.counts = splits.fingerprint, splits.counts

    def _loader(self, dataset: Any, batches: Any) -> DataLoader:
        if self.config.data.images_on == "loader":
            return super()._loader(dataset, batches)
        # A batch is a row of numbers a picture: workers would take longer to send it than it takes to make.
        return DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=torch.cuda.is_available())


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
