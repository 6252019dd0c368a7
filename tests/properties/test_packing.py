"""Translation data: micro-batches that hold every pair once and never more padded tokens than allowed."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from novobench.tasks.sampling import SampleKey
from novobench.tasks.translation.data import PackedPairs, pack
from tests.properties import bounded

LENGTHS = st.lists(st.tuples(st.integers(2, 20), st.integers(2, 20)), min_size=1, max_size=60)


def padded_tokens(lengths) -> int:
    sources, targets = zip(*lengths, strict=True)
    return len(lengths) * (max(sources) + max(targets))


@bounded
@given(LENGTHS, st.integers(40, 200), st.integers(1, 4))
def test_micro_batches_are_full_and_fit(lengths, tokens, multiple):
    cuts = pack(np.array(lengths).T, tokens, multiple).tolist()
    assert cuts[0] == 0
    assert cuts[-1] == len(lengths)
    for start, stop in itertools.pairwise(cuts):
        assert start < stop
        assert padded_tokens(lengths[start:stop]) <= tokens
        if stop < len(lengths):  # more pairs fit only if they would break the multiple
            fitting = stop
            while fitting < len(lengths) and padded_tokens(lengths[start : fitting + 1]) <= tokens:
                fitting += 1
            assert fitting - stop < multiple
            assert (stop - start) % multiple == 0 or fitting - start < multiple


class Sentences:
    """Rows of the given lengths, filled with the number of the sentence."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def __getitem__(self, index):
        return np.full(self.lengths[index], index)


@bounded
@given(LENGTHS, st.integers(40, 200), st.integers(1, 4), st.integers(0, 3))
def test_every_epoch_has_each_pair_once_in_the_same_shapes(lengths, tokens, multiple, seed):
    sources, targets = zip(*lengths, strict=True)
    packed = PackedPairs(Sentences(sources), Sentences(targets), tokens, multiple, seed)
    shapes = []
    for epoch in range(2):
        keys = [SampleKey(epoch, number) for number in range(len(packed))]
        pairs = [pair for key in keys for pair in packed.pairs(key)]
        assert sorted(pairs) == list(range(len(lengths)))
        batches = [packed[key] for key in keys]
        shapes.append([(tuple(batch.source.shape), tuple(batch.target.shape)) for batch in batches])
        assert sum(batch.source.numel() + batch.target.numel() for batch in batches) == packed.padded_tokens
        for batch in batches:
            assert batch.source[:, 0].tolist() == batch.target[:, 0].tolist()  # the two sides of the same pair
    assert shapes[0] == shapes[1]
