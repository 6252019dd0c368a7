"""Contiguous streams: how a text becomes segments that follow one another.

B streams of an update, m of a micro-batch, T tokens of a segment, S pieces of an evaluation text.

The training text is cut into B equal pieces, and an update trains on the next segment of each; stream b stays in
micro-batch k = b // m for ever, so memory belongs to k whatever process works on it. Evaluation scores every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from novobench.tasks.language.config import EvaluationProtocol
from novobench.tasks.sampling import SampleKey, derive_seed

IGNORED = -1
"""A target that is not scored: padding behind the end of a short piece."""
_PROBE_RUN = 500
"""Tokens in a row of the training probe."""


class Segment(NamedTuple):
    """One micro-batch of training."""

    inputs: Tensor
    """[m, T], int64."""
    targets: Tensor
    """[m, T]: the next word of each."""
    slot: int
    """k: whose memory goes on here."""
    first: bool
    """The streams begin here, so there is no memory yet."""
    counts: list[int] | None = None
    """How many targets the softmax's head covers and how many each later cluster, which a GPU would be asked for."""


def targets_per_cluster(targets: Tensor, cutoffs: Sequence[int]) -> list[int]:
    """`Segment.counts` of targets on the CPU."""
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
        """T + 1 tokens: the inputs and, one on, the targets."""
        segment, stream = divmod(key.sample, self.streams)
        start = stream * self.stream_length + segment * self.length
        if self.rotate:
            start += derive_seed(self.seed, "rotate", key.epoch) % len(self.tokens)
        return self.tokens.take(range(start, start + self.length + 1), mode="wrap")

    def collate(self, items: list[tuple[SampleKey, np.ndarray]]) -> Segment:
        """One micro-batch of `__getitems__`."""
        tokens = torch.from_numpy(np.stack([found for _, found in items]).astype(np.int64))
        segment, stream = divmod(items[0][0].sample, self.streams)
        targets = tokens[:, 1:]
        counts = targets_per_cluster(targets, self.cutoffs)
        return Segment(tokens[:, :-1], targets, stream // self.micro, segment == 0, counts)


class StreamOrder:
    """A batch sampler like `sampling.MicroBatches`, but in the order of the text: update u is its epoch's segment
    u mod (updates an epoch) of every stream."""

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


class ScoredSegment(NamedTuple):
    """One pass of an evaluation."""

    inputs: Tensor
    """[S, T], int64."""
    targets: Tensor
    """[S, T]; `IGNORED` behind a piece's end."""
    first: bool
    places: list[int]
    """A number for each row, in the order of the text."""
    text: list[str]
    """What each row's targets say; empty if nobody wants to read it."""
    memory_length: int
    clamp_length: int
    same_length: bool


class EvaluationText(Dataset):
    """A whole text in `pieces` streams: every token is a target once, the first after `<eos>`, a later piece's first
    after the token before it."""

    def __init__(
        self, tokens: np.ndarray, protocol: EvaluationProtocol, pieces: int = 1, words: list[str] | None = None
    ) -> None:
        self.words, self.protocol = words, protocol
        pieces = min(pieces, len(tokens))  # none without a token
        self.targets = np.array_split(tokens, pieces)
        self.inputs = np.array_split(np.concatenate([[0], tokens[:-1]]), pieces)
        self.passes = -(-len(self.targets[0]) // protocol.target_length)  # the first piece is the longest

    def __len__(self) -> int:
        return len(self.targets)

    def share(self, pieces: range) -> _Share:
        """The passes over some of the pieces, side by side."""
        return _Share(self, pieces)


class _Share(Dataset):
    def __init__(self, whole: EvaluationText, pieces: range) -> None:
        self.whole, self.pieces = whole, pieces

    def __len__(self) -> int:
        return self.whole.passes if self.pieces else 0

    def __getitem__(self, number: int) -> ScoredSegment:
        if not 0 <= number < len(self):
            raise IndexError(number)
        whole, protocol = self.whole, self.whole.protocol
        part = slice(number * protocol.target_length, (number + 1) * protocol.target_length)
        targets = [whole.targets[piece][part] for piece in self.pieces]
        return ScoredSegment(
            inputs=_padded([whole.inputs[piece][part] for piece in self.pieces], 0),
            targets=_padded(targets, IGNORED),
            first=number == 0,
            places=[piece * whole.passes + number for piece in self.pieces],
            text=[" ".join(whole.words[token] for token in row) for row in targets] if whole.words else [],
            memory_length=protocol.memory_length,
            clamp_length=protocol.clamp_length,
            same_length=protocol.same_length,
        )


def _padded(rows: list[np.ndarray], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    full = np.full((len(rows), width), filler, np.int64)
    for number, row in enumerate(rows):
        full[number, : len(row)] = row
    return torch.from_numpy(full)


def probe(tokens: np.ndarray, size: int) -> np.ndarray:
    """About `size` training tokens: runs that begin with a line and are spread evenly over the text, as the head of a
    sorted or dated text would not stand for it. A run that would begin inside the one before it, as in a text without
    lines, begins where it is."""
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
