"""Language modelling: Transformer-XL's training and evaluation steps over contiguous streams."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from novobench.config import CellConfig
from novobench.optim.entry import Role
from novobench.tasks.base import TaskModule
from novobench.tasks.language import scoring
from novobench.tasks.language.data import IGNORED, LanguageData, ScoredBatch, SegmentBatch, targets_per_cluster
from novobench.tasks.language.model import build as build_model
from novobench.tasks.language.vocabulary import word_frequencies
from novobench.tasks.metric import Metric


class LanguageTask(TaskModule):
    """Mean nats per token in training, exact perplexity in evaluation; see `scoring`.

    Training memory belongs to the micro-batch number k; an evaluation has its own memory.
    """

    role_patterns: ClassVar[dict[str, Role]] = {
        r"^network\.softmax\.cluster_weight$": "head",
        r"^network\.(content|position)_bias$": "norm_bias",  # one vector per head
    }

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        self._evaluation_memory: Tensor | None = None
        self._counts = scoring.NatCounts()
        self._graphed: list[_WithFullMemory] = []  # a list, so that the network's parameters are not registered twice

    def training_step(self, batch: SegmentBatch, batch_idx: int) -> Tensor:
        memory = None if batch.first else self.streams.get(batch.slot)
        if self._graphed and memory is not None and memory.shape[2] == self.config.model.memory_length:
            hidden, memory = self._graphed[0](batch.inputs, memory)
            self.streams[batch.slot] = memory.detach().clone()  # the next replay overwrites the graph's output
        else:
            hidden, self.streams[batch.slot] = self.network(batch.inputs, memory)
        return self.network.loss(hidden.flatten(0, 1), batch.targets.flatten(), batch.cluster_counts).mean()

    def graphable(self, batch: SegmentBatch) -> tuple[torch.nn.Module, tuple[Tensor, ...]]:
        """The network once memory has its full length; a stream's first segments run without a graph."""
        model = self.config.model
        shape = (model.layers, len(batch.inputs), model.memory_length, model.width)
        memory = torch.zeros(
            shape, dtype=self.network.memory_dtype(self.network.embedding.weight.dtype), device=self.device
        )
        self._graphed = [_WithFullMemory(self.network)]
        return self._graphed[0], (batch.inputs.clone(), memory)

    def random_batch(self, size: int) -> SegmentBatch:
        """Segments in the middle of their streams: their memory has its full length."""
        model, length = self.config.model, self.config.data.segment_length
        self.streams[0] = torch.randn(model.layers, size, model.memory_length, model.width).to(self.device)
        samples = torch.multinomial(word_frequencies(model.vocabulary_size), 2 * size * length, replacement=True)
        inputs, targets = samples.view(2, size, length)
        counts = targets_per_cluster(targets, model.cutoffs)
        return SegmentBatch(inputs, targets, slot=0, first=False, cluster_counts=counts)

    def counted(self, batch: SegmentBatch) -> tuple[int, str]:
        return batch.targets.numel(), "tokens"

    def evaluation_start(self) -> None:
        self._evaluation_memory = None
        self._counts = scoring.NatCounts()

    def evaluation_step(self, batch: ScoredBatch) -> list[dict[str, Any]]:
        memory = None if batch.first or batch.memory_length == 0 else self._evaluation_memory
        hidden, self._evaluation_memory = self.network(
            batch.inputs,
            memory,
            memory_length=batch.memory_length,
            clamp_length=batch.clamp_length,
            same_length=batch.same_length,
        )
        scored = batch.targets != IGNORED
        with torch.autocast(self.device.type, enabled=False):  # softmax in full precision, unlike the layers
            nats = self.network.loss(hidden[scored].to(self.dtype), batch.targets[scored]).double()
        row_nats = self._counts.add(nats, scored.sum(dim=1).tolist())
        if not batch.texts:
            return []
        rows = zip(batch.row_numbers, batch.texts, row_nats, strict=True)
        return [{"index": index, "reference": text, "nats": value} for index, text, value in rows if text]

    def evaluation_end(self) -> dict[str, Metric]:
        self._evaluation_memory = None
        return scoring.metrics(self.sum_over_processes(self._counts.totals()))


class _WithFullMemory(torch.nn.Module):
    """The network in the middle of a stream. It is a module of its own, so that a stream's first segments, which have
    less memory, do not go through the CUDA graph."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(tokens, memory)


def build(config: CellConfig) -> tuple[LanguageTask, LanguageData]:
    return LanguageTask(config), LanguageData(config)
