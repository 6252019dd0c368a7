"""Which samples a cell (one training run) sees, in which order, with which random numbers: pure functions of (config,
seed).

Nothing here keeps a state, so a killed run has none to restore: it requests update `u` again and gets the same
samples, the same augmentation and the same dropout masks, with any number of loader workers and processes.

Letters: N samples, B effective batch, m micro-batch, k number of a micro-batch inside its optimizer batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

Tail = Literal["drop", "wrap"]


class SampleKey(NamedTuple):
    """The key of a training item: a sample, and the epoch that its augmentation depends on."""

    epoch: int
    sample: int


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed for one purpose, e.g. `derive_seed(seed, "order", epoch)`; any change of a part changes it."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniforms(seed: int, purpose: str, keys: Sequence[SampleKey], count: int) -> np.ndarray:
    """`count` uniform numbers in (0, 1) for each key, shape [len(keys), count], float64.

    Row i depends only on (seed, purpose, keys[i]), not on the other keys or on a generator's state: a counter
    hashed by splitmix64 (Steele et al., 2014), for all keys at once.
    """
    epochs = np.array([key.epoch for key in keys], dtype=np.uint64)
    indices = np.array([key.sample for key in keys], dtype=np.uint64)
    with np.errstate(over="ignore"):
        stream = _splitmix64(_splitmix64(np.uint64(derive_seed(seed, purpose)) + epochs) ^ indices)[:, None]
        counter = np.arange(1, count + 1, dtype=np.uint64)[None, :]
        bits = _splitmix64(stream + counter * np.uint64(0x9E3779B97F4A7C15))
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _splitmix64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def updates_per_epoch(samples: int, batch: int, tail: Tail) -> int:
    """Updates in one epoch: whole optimizer batches only; `drop` rounds down, `wrap` rounds up."""
    return samples // batch if tail == "drop" else -(-samples // batch)


@lru_cache(maxsize=2)
def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of `samples` for one epoch: sorted by a hash, so that no library version changes it."""
    with np.errstate(over="ignore"):
        bits = _splitmix64(np.uint64(derive_seed(seed, "order", epoch)) + np.arange(samples, dtype=np.uint64))
    return np.argsort(bits, kind="stable")


class MicroBatches:
    """A batch sampler that yields the keys of one rank's micro-batches, from update `start` to update `stop`.

    An optimizer batch of B samples is divided into B/m micro-batches; micro-batch k belongs to rank k mod `world`.
    With `tail="wrap"` the last optimizer batch of an epoch is filled from the start of the same epoch's order.
    """

    def __init__(
        self,
        samples: int,
        *,
        batch: int,
        micro_batch: int,
        tail: Tail,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.samples, self.batch, self.micro_batch, self.tail, self.seed = (
            samples,
            batch,
            micro_batch,
            tail,
            seed,
        )
        self.start, self.stop, self.rank, self.world = start, stop, rank, world
        self.per_epoch = updates_per_epoch(samples, batch, tail)

    def __len__(self) -> int:
        return (self.stop - self.start) * (self.batch // self.micro_batch // self.world)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for update in range(self.start, self.stop):
            keys = self.optimizer_batch(update)
            for k in range(self.rank, self.batch // self.micro_batch, self.world):
                yield keys[k * self.micro_batch : (k + 1) * self.micro_batch]

    def optimizer_batch(self, update: int) -> list[SampleKey]:
        """All keys of one update, in order of k."""
        epoch, position = divmod(update, self.per_epoch)
        order = epoch_order(self.samples, self.seed, epoch)
        places = np.arange(position * self.batch, (position + 1) * self.batch) % self.samples
        return [SampleKey(epoch, int(index)) for index in order[places]]


def rank_share(samples: int, rank: int, world: int) -> range:
    """The evaluation samples of one rank. Over all ranks, each sample occurs exactly once."""
    return range(rank, samples, world)
