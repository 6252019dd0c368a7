"""Language modelling: Transformer-XL over contiguous streams, exact perplexity, and the data module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from novobench.config import CellConfig, data_root
from novobench.tasks.base import EvaluationSet, TaskData, TaskModule
from novobench.tasks.language.corpus import check_length, checked_counts, identify, open_corpus
from novobench.tasks.language.data import (
    IGNORED,
    EvaluationText,
    ScoredSegment,
    Segment,
    StreamOrder,
    TrainingStreams,
    probe,
    targets_per_cluster,
)
from novobench.tasks.language.model import build as build_model
from novobench.tasks.metric import Metric

_KNEE, _STEEPER = 11_000, 0.76
"""Rank from which words thin out faster than Zipf's law, and by how much their exponent grows; see below."""


def word_frequencies(words: int) -> Tensor:
    """How often each of `words` word types occurs in English text, most frequent first: [words], float64, sum 1.

    Zipf's law with its bend (Ferrer-i-Cancho and Solé, 2001): 1 / (r · (1 + r / 11,000)^0.76) at rank r. Both numbers
    are fitted to the shares of WikiText-2's first 100, 1,000, 5,000 and 10,000 word types, to how many types occur
    three times in it, and to WikiText-103's rarest words, which occur three times in 103,227,021 tokens. It gives the
    clusters of the adaptive softmax at 20,000, 40,000 and 200,000 of 267,735 words 94, 2.6, 3.0 and 0.3 % of the
    tokens. The plain law, 1 / r, would give the rarest words 29 occurrences and the rare clusters 20 %.
    """
    rank = torch.arange(1, words + 1, dtype=torch.float64)
    frequencies = 1 / (rank * (1 + rank / _KNEE) ** _STEEPER)
    return frequencies / frequencies.sum()


class LanguageTask(TaskModule):
    """Mean nats a token in training; perplexity exp(all nats / all tokens), summed in float64, in evaluation.

    Memory of training belongs to the micro-batch number k, and an evaluation has memory of its own.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.network = build_model(config.model)
        self._scored_memory: Tensor | None = None
        self._nats = 0.0
        self._tokens = 0
        self._graphed: list[_Running] = []  # a list hides it from the module: its parameters are the network's

    def training_step(self, batch: Segment, batch_idx: int) -> Tensor:
        memory = None if batch.first else self.streams.get(batch.slot)
        if self._graphed and memory is not None and memory.shape[2] == self.config.model.memory_length:
            hidden, memory = self._graphed[0](batch.inputs, memory)
            self.streams[batch.slot] = memory.detach().clone()  # the next replay writes where it lies
        else:
            hidden, self.streams[batch.slot] = self.network(batch.inputs, memory)
        return self.network.loss(hidden.flatten(0, 1), batch.targets.flatten(), batch.counts).mean()

    def graphable(self, batch: Segment) -> tuple[torch.nn.Module, tuple[Tensor, ...]]:
        """The network once memory has its full length: a stream's first segments run without a graph."""
        model = self.config.model
        shape = (model.layers, len(batch.inputs), model.memory_length, model.width)
        memory = torch.zeros(
            shape, dtype=self.network.memory_dtype(self.network.embedding.weight.dtype), device=self.device
        )
        self._graphed = [_Running(self.network)]
        return self._graphed[0], (batch.inputs.clone(), memory)

    def random_batch(self, size: int) -> Segment:
        """Segments of streams that have run for a while: memory of full length stands behind them."""
        model, length = self.config.model, self.config.data.segment_length
        self.streams[0] = torch.randn(model.layers, size, model.memory_length, model.width).to(self.device)
        drawn = torch.multinomial(word_frequencies(model.vocabulary_size), 2 * size * length, replacement=True)
        words = drawn.view(2, size, length)
        counts = targets_per_cluster(words[1], model.cutoffs)
        return Segment(words[0], words[1], slot=0, first=False, counts=counts)

    def counted(self, batch: Segment) -> tuple[int, str]:
        return batch.targets.numel(), "tokens"

    def evaluation_start(self) -> None:
        self._scored_memory = None
        self._nats, self._tokens = 0.0, 0

    def evaluation_step(self, batch: ScoredSegment) -> list[dict[str, Any]]:
        memory = None if batch.first or batch.memory_length == 0 else self._scored_memory
        hidden, self._scored_memory = self.network(
            batch.inputs,
            memory,
            memory_length=batch.memory_length,
            clamp_length=batch.clamp_length,
            same_length=batch.same_length,
        )
        scored = batch.targets != IGNORED
        with torch.autocast(self.device.type, enabled=False):  # softmax in full precision, whatever the layers had
            nats = self.network.loss(hidden[scored].to(self.dtype), batch.targets[scored]).double()
        by_row = [float(row.sum()) for row in nats.split(scored.sum(dim=1).tolist())]
        self._nats += math.fsum(by_row)
        self._tokens += len(nats)
        if not batch.text:
            return []
        rows = zip(batch.places, batch.text, by_row, strict=True)
        return [{"index": index, "reference": text, "nats": value} for index, text, value in rows if text]

    def evaluation_end(self) -> dict[str, Metric]:
        self._scored_memory = None
        counts = torch.tensor([self._nats, self._tokens], dtype=torch.float64)
        nats, tokens = self.sum_over_processes(counts).tolist()
        n = round(tokens)
        perplexity = math.exp(min(nats / tokens, 700.0))  # a diverged net has a number too
        return {"ppl": Metric(perplexity, n, ""), "loss": Metric(nats / tokens, n, "nats")}


class _Running(torch.nn.Module):
    """The network in the middle of a stream, as a module of its own so that its graph does not stand in the way of the
    first segment."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(tokens, memory)


class LanguageData(TaskData):
    """The three sources behind one door, see `corpus.open_corpus`. Evaluation sets: the training probe, `valid`,
    `test`, and `test` again under each further protocol."""

    def setup(self, stage: str) -> None:
        config = self.config.data
        corpus = open_corpus(config, data_root(self.config))
        check_length(corpus, config, self.config.batch.size)
        self.counts = checked_counts(corpus, config, self.config.model)
        self.fingerprint = f"{config.name}:{corpus.fingerprint}"
        self.baselines = {
            split: {
                name: Metric(value, self.counts[split], "%" if name == "unknown" else "")
                for name, value in found.items()
            }
            for split, found in corpus.baselines.items()
        }
        self.train = TrainingStreams(
            corpus.tokens["train"],
            streams=self.config.batch.size,
            micro=self.config.batch.micro,
            length=config.segment_length,
            seed=self.config.seed,
            rotate=config.rotate,
            cutoffs=self.config.model.cutoffs,
        )
        self.collate = self.train.collate

        pieces = config.evaluation_streams
        self.evaluation_sets = []
        if config.probe_tokens:
            known = probe(corpus.tokens["train"], config.probe_tokens)
            self.evaluation_sets.append(EvaluationSet("probe", "train", EvaluationText(known, config.protocol, pieces)))
        valid, test = (
            EvaluationText(corpus.tokens[split], config.protocol, pieces, corpus.words) for split in ("valid", "test")
        )
        self.evaluation_sets += [EvaluationSet("valid", "search", valid), EvaluationSet("test", "test", test)]
        for name, protocol in config.other_protocols.items():
            text = EvaluationText(corpus.tokens["test"], protocol, pieces)
            self.evaluation_sets.append(EvaluationSet(f"test-{name}", "test", text))

    def identify(self) -> str:
        return f"{self.config.data.name}:{identify(self.config.data, data_root(self.config))}"

    def train_batches(self, start: int, stop: int, rank: int, world: int) -> DataLoader:
        order = StreamOrder(
            self.config.batch.size,
            micro=self.config.batch.micro,
            per_epoch=self.config.epoch_updates,
            start=start,
            stop=stop,
            rank=rank,
            world=world,
        )
        return self._batch_loader(self.train, order)

    def evaluation_batches(self, dataset: EvaluationText, rank: int, world: int) -> DataLoader:  # type: ignore[override]
        """Passes over this rank's pieces in the order of the text; with one piece, one rank does it all."""
        return DataLoader(dataset.share(range(rank, len(dataset), world)), batch_size=None)


def build(config: CellConfig) -> tuple[LanguageTask, LanguageData]:
    return LanguageTask(config), LanguageData(config)
