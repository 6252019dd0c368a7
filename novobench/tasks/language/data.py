"""Contiguous streams: how a text becomes segments that follow one another.

B streams of an update, m of a micro-batch, T tokens of a segment, S streams of an evaluation text.

The training text is cut into B equal streams, and an update trains on the next segment of each. Stream b stays in
micro-batch k = b // m, so memory belongs to k whichever process works on it. Evaluation scores every token once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from novobench.config import data_root
from novobench.tasks.base import EvaluationSet, TaskData
from novobench.tasks.language.config import EvaluationProtocol
from novobench.tasks.language.corpus import check_length, checked_counts, identify, open_corpus
from novobench.tasks.metric import Metric
from novobench.tasks.sampling import SampleKey, derive_seed

IGNORED = -1
"""A target that is not scored: padding after the end of a short stream."""
_PROBE_RUN = 500
"""Consecutive tokens of the training probe."""


class LanguageData(TaskData):
    """The built-in text, files or a hub data set; see `sources`.

    Evaluation sets: the training probe, `valid`, `test`, and `test` again under each further protocol.
    """

    def setup(self, stage: str) -> None:
        config = self.config.data
        corpus = open_corpus(config, data_root(self.config))
        check_length(corpus, config, self.config.batch.size)
        self.counts = checked_counts(corpus, config, self.config.model)
        self.fingerprint = f"{config.name}:{corpus.fingerprint}"
        self.baselines = {
            split: {
                name: Metric(value, self.counts[split], "%" if name == "unknown" else "")
                for name, value in values.items()
            }
            for split, values in corpus.baselines.items()
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

        streams = config.evaluation_streams
        self.evaluation_sets = []
        if config.probe_tokens:
            text = EvaluationText(probe(corpus.tokens["train"], config.probe_tokens), config.protocol, streams)
            self.evaluation_sets.append(EvaluationSet("probe", "train", text))
        valid, test = (
            EvaluationText(corpus.tokens[split], config.protocol, streams, corpus.vocabulary)
            for split in ("valid", "test")
        )
        self.evaluation_sets += [EvaluationSet("valid", "search", valid), EvaluationSet("test", "test", test)]
        for name, protocol in config.other_protocols.items():
            text = EvaluationText(corpus.tokens["test"], protocol, streams)
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
        """Passes over this rank's streams in the order of the text; with one stream, one rank does all of them."""
        return DataLoader(dataset.share(range(rank, len(dataset), world)), batch_size=None)


# ---------------------------------------------------------------------------------------------- training


class SegmentBatch(NamedTuple):
    """One micro-batch of training: the same segment of m streams."""

    inputs: Tensor
    """int64 [m, T]: word ids."""
    targets: Tensor
    """int64 [m, T]: the next word of each."""
    slot: int
    """k: the number of the micro-batch, whose memory these streams continue."""
    first: bool
    """The streams begin here, so they have no memory yet."""
    cluster_counts: list[int] | None = None
    """How many targets are in the softmax's head and in each later cluster; counting them on a GPU would wait for
    it."""


def targets_per_cluster(targets: Tensor, cutoffs: Sequence[int]) -> list[int]:
    """`SegmentBatch.cluster_counts` of targets int64 [m, T] on the CPU."""
    clusters = np.searchsorted(cutoffs, targets.flatten().numpy(), side="right")
    return np.bincount(clusters, minlength=len(cutoffs) + 1).tolist()


class TrainingStreams(Dataset):
    """Segments by `SampleKey`; sample number = segment × B + stream, see `StreamOrder`."""

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        streams: int,
        micro: int,
        length: int,
        seed: int,
        rotate: bool = False,
        cutoffs: Sequence[int] = (),
    ) -> None:
        self.tokens, self.streams, self.micro, self.length = tokens, streams, micro, length
        self.seed, self.rotate, self.cutoffs = seed, rotate, cutoffs
        self.stream_length = len(tokens) // streams

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[tuple[SampleKey, np.ndarray]]:
        return [(key, self[key]) for key in keys]

    def __getitem__(self, key: SampleKey) -> np.ndarray:
        """int32 [T + 1]: the inputs and, shifted by one, the targets."""
        segment, stream = divmod(key.sample, self.streams)
        start = stream * self.stream_length + segment * self.length
        if self.rotate:
            start += derive_seed(self.seed, "rotate", key.epoch) % len(self.tokens)
        return self.tokens.take(range(start, start + self.length + 1), mode="wrap")

    def collate(self, items: list[tuple[SampleKey, np.ndarray]]) -> SegmentBatch:
        """One micro-batch of `__getitems__`."""
        tokens = torch.from_numpy(np.stack([segment for _, segment in items]).astype(np.int64))
        segment, stream = divmod(items[0][0].sample, self.streams)
        targets = tokens[:, 1:]
        counts = targets_per_cluster(targets, self.cutoffs)
        return SegmentBatch(tokens[:, :-1], targets, stream // self.micro, segment == 0, counts)


class StreamOrder:
    """A batch sampler like `sampling.MicroBatches`, but in the order of the text: update u is segment
    u mod (updates per epoch) of every stream."""

    def __init__(
        self, streams: int, *, micro: int, per_epoch: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> None:
        self.streams, self.micro, self.per_epoch = streams, micro, per_epoch
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __len__(self) -> int:
        return (self.stop - self.start) * (self.streams // self.micro // self.world)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for update in range(self.start, self.stop):
            epoch, segment = divmod(update, self.per_epoch)
            for k in range(self.rank, self.streams // self.micro, self.world):
                first = segment * self.streams + k * self.micro
                yield [SampleKey(epoch, sample) for sample in range(first, first + self.micro)]


# ---------------------------------------------------------------------------------------------- evaluation


class ScoredBatch(NamedTuple):
    """One pass of an evaluation: the same segment of S streams."""

    inputs: Tensor
    """int64 [S, T]: word ids."""
    targets: Tensor
    """int64 [S, T]; `IGNORED` after a stream's end."""
    first: bool
    """The streams begin here, so they have no memory yet."""
    row_numbers: list[int]
    """A number for each row, in the order of the text."""
    texts: list[str]
    """The words of each row's targets; empty if predictions are not kept."""
    memory_length: int
    clamp_length: int
    same_length: bool


class EvaluationText(Dataset):
    """A whole text in `streams` streams. Every token is a target once: the first after `<eos>`, and the first of a
    later stream after the token before it."""

    def __init__(
        self, tokens: np.ndarray, protocol: EvaluationProtocol, streams: int = 1, vocabulary: list[str] | None = None
    ) -> None:
        self.vocabulary, self.protocol = vocabulary, protocol
        streams = min(streams, len(tokens))  # no stream is empty
        self.targets = np.array_split(tokens, streams)
        self.inputs = np.array_split(np.concatenate([[0], tokens[:-1]]), streams)
        self.passes = -(-len(self.targets[0]) // protocol.target_length)  # the first stream is the longest

    def __len__(self) -> int:
        """Streams."""
        return len(self.targets)

    def share(self, streams: range) -> EvaluationPasses:
        """The passes over some of the streams in parallel."""
        return EvaluationPasses(self, streams)


class EvaluationPasses(Dataset):
    """`ScoredBatch`es of some streams of a text, in order."""

    def __init__(self, text: EvaluationText, streams: range) -> None:
        self.text, self.streams = text, streams

    def __len__(self) -> int:
        return self.text.passes if self.streams else 0

    def __getitem__(self, number: int) -> ScoredBatch:
        if not 0 <= number < len(self):
            raise IndexError(number)
        text, protocol, vocabulary = self.text, self.text.protocol, self.text.vocabulary
        part = slice(number * protocol.target_length, (number + 1) * protocol.target_length)
        targets = [text.targets[stream][part] for stream in self.streams]
        return ScoredBatch(
            inputs=_padded([text.inputs[stream][part] for stream in self.streams], 0),
            targets=_padded(targets, IGNORED),
            first=number == 0,
            row_numbers=[stream * text.passes + number for stream in self.streams],
            texts=[" ".join(vocabulary[token] for token in row) for row in targets] if vocabulary else [],
            memory_length=protocol.memory_length,
            clamp_length=protocol.clamp_length,
            same_length=protocol.same_length,
        )


def _padded(rows: list[np.ndarray], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    padded = np.full((len(rows), width), filler, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)


def probe(tokens: np.ndarray, size: int) -> np.ndarray:
    """About `size` training tokens, on which the training perplexity of curves is taken.

    They are runs that begin with a line and are spread evenly over the text: the start of a sorted or dated text would
    not represent it. A run that would begin inside the run before it, as in a text without lines, begins in the middle
    of a line.
    """
    size = min(size, len(tokens))
    runs = max(1, round(size / _PROBE_RUN))
    line_starts = np.concatenate([[0], np.flatnonzero(tokens[:-1] == 0) + 1])
    chosen: list[np.ndarray] = []
    stop = 0
    for run in range(runs):
        place = run * len(tokens) // runs
        start = int(line_starts[max(int(np.searchsorted(line_starts, place)) - 1, 0)])
        start = place if start < stop else start
        stop = start + size // runs
        chosen.append(tokens[start:stop])
    return np.concatenate(chosen)
