"""Exact perplexity: exp(all nats / all tokens), summed in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from novobench.tasks.metric import Metric

_LARGEST_LOSS = 700.0
"""Nats per token whose exponential is still a float64, so that a diverged network has a perplexity too."""


class NatCounts:
    """Running sums over the segments of one process."""

    def __init__(self) -> None:
        self._nats, self._tokens = 0.0, 0

    def add(self, nats: Tensor, row_tokens: Sequence[int]) -> list[float]:
        """Count tokens by their nats, float64 [N], which lie row after row. Returns the sum of each row; `row_tokens`
        has the number of tokens of each."""
        row_nats = [float(row.sum()) for row in nats.split(list(row_tokens))]
        self._nats += math.fsum(row_nats)
        self._tokens += len(nats)
        return row_nats

    def totals(self) -> Tensor:
        """All nats and tokens, float64 [2], to be summed over processes and given to `metrics`."""
        return torch.tensor([self._nats, self._tokens], dtype=torch.float64)


def metrics(totals: Tensor) -> dict[str, Metric]:
    """`ppl`, and `loss` in nats per token."""
    nats, tokens = totals.tolist()
    n, loss = round(tokens), nats / tokens
    return {"ppl": Metric(math.exp(min(loss, _LARGEST_LOSS)), n, ""), "loss": Metric(loss, n, "nats")}
