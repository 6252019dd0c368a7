"""Top-1 and top-5 accuracy and the mean loss of an evaluation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from novobench.errors import DataError
from novobench.tasks.metric import Metric


class AccuracyCounts:
    """Running counts over the batches of one process."""

    def __init__(self) -> None:
        self._top1 = self._top5 = self._loss = 0.0
        self._images = self._skipped = 0

    def add(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count images by their logits float32 [B, classes] and labels int64 [B]. Returns the five most probable
        classes of each (all if there are fewer), int64 [B, 5], best first."""
        top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = top5 == labels[:, None]
        self._top1 += float(hits[:, 0].sum())
        self._top5 += float(hits.any(dim=1).sum())
        self._loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        self._images += len(labels)
        return top5

    def skip(self, images: int) -> None:
        """Count images that could not be decoded."""
        self._skipped += images

    def totals(self) -> Tensor:
        """All counts, float64 [5], to be summed over processes and given to `metrics`."""
        return torch.tensor([self._top1, self._top5, self._loss, self._images, self._skipped], dtype=torch.float64)


def metrics(totals: Tensor, data_name: str) -> dict[str, Metric]:
    """`top1` and `top5` in percent, `loss` in nats per image, and `skipped` if images were skipped.

    Raises DataError if every image was skipped.
    """
    top1, top5, loss, images, skipped = totals.tolist()
    n = round(images)
    if n == 0:
        raise DataError(f"No evaluation image of '{data_name}' can be decoded.")
    return {
        **({"skipped": Metric(skipped, n, "images")} if skipped else {}),
        "top1": Metric(100 * top1 / images, n, "%"),
        "top5": Metric(100 * top5 / images, n, "%"),
        "loss": Metric(loss / images, n, "nats"),
    }
