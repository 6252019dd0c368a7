"""Order and random numbers: each sample once per epoch, the same for any number of processes."""

import numpy as np
import pytest
from scipy.stats import kstest

from novobench.tasks.sampling import MicroBatches, SampleKey, derive_seed, rank_share, uniforms, updates_per_epoch


def batches(**changes):
    settings = {"batch": 8, "micro_batch": 2, "tail": "drop", "seed": 0, "start": 0, "stop": 6, "rank": 0, "world": 1}
    return MicroBatches(25, **{**settings, **changes})


def test_an_epoch_holds_each_sample_at_most_once_and_drops_the_tail():
    epoch = [key for batch in list(batches(stop=3)) for key in batch]
    assert len(epoch) == len(set(epoch)) == 24
    assert {key.epoch for key in epoch} == {0}


def test_wrapping_fills_the_last_batch_from_the_same_epoch():
    sampler = batches(tail="wrap", stop=4)
    keys = [key for batch in sampler for key in batch]
    assert updates_per_epoch(25, 8, "wrap") == 4
    assert len(keys) == 32
    assert {key.sample for key in keys} == set(range(25))
    assert keys[25:] == keys[:7]


def test_a_batch_larger_than_the_data_wraps_more_than_once():
    keys = batches(batch=64, micro_batch=64, tail="wrap", stop=1).optimizer_batch(0)
    assert np.bincount([key.sample for key in keys]).min() == 2


def test_epochs_and_seeds_differ():
    order = [key.sample for key in batches().optimizer_batch(0)]
    assert order != [key.sample for key in batches().optimizer_batch(3)]
    assert order != [key.sample for key in batches(seed=1).optimizer_batch(0)]


@pytest.mark.parametrize("start", [1, 3, 5])
def test_starting_later_gives_the_end_of_the_same_sequence(start):
    whole = list(batches())
    assert list(batches(start=start)) == whole[start * 4 :]
    assert len(batches(start=start)) == len(whole) - start * 4


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_what_one_process_sees(world):
    whole = list(batches())
    shares = [list(batches(rank=rank, world=world)) for rank in range(world)]
    for k, micro_batch in enumerate(whole):
        assert shares[k % world][k // world] == micro_batch


def test_ranks_share_an_evaluation_set_without_overlap():
    shares = [set(rank_share(10, rank, 3)) for rank in range(3)]
    assert set.union(*shares) == set(range(10))
    assert sum(map(len, shares)) == 10


def test_random_numbers_depend_only_on_their_own_key():
    keys = [SampleKey(0, 5), SampleKey(1, 5), SampleKey(0, 6)]
    together = uniforms(7, "augment", keys, 4)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(together[i], uniforms(7, "augment", [key], 4)[0])
    assert len(np.unique(together)) == 12
    assert not np.any(together == uniforms(8, "augment", keys, 4))
    assert not np.any(together == uniforms(7, "noise", keys, 4))


def test_random_numbers_are_uniform_and_uncorrelated():
    numbers = uniforms(0, "test", [SampleKey(e, i) for e in range(20) for i in range(100)], 5)
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert numbers.min() > 0
    assert numbers.max() < 1
    correlation = np.corrcoef(numbers.T) - np.eye(5)
    assert abs(correlation).max() < 4.5 / np.sqrt(2000)
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    assert abs(neighbours) < 4.5 / np.sqrt(2000)


def test_seeds_of_different_purposes_differ():
    parts = [(0, "order", 1), (0, "order", 2), (1, "order", 1), (0, "init"), (0, "order", "1")]
    assert len({derive_seed(*p) for p in parts}) == 4  # the last has the same text, in another type
    assert all(0 <= derive_seed(*p) < 2**63 for p in parts)
