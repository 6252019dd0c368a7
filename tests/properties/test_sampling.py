"""Order of samples: whole optimizer batches, each sample once per epoch, whatever the ranks and the start."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from novobench.tasks.sampling import MicroBatches, SampleKey, rank_share, uniforms
from tests.properties import bounded


@st.composite
def samplers(draw):
    """The arguments of a `MicroBatches` of one process, and the number of ranks that can share it."""
    world, micro_batch = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    batch = micro_batch * world * draw(st.integers(1, 3))
    tail = draw(st.sampled_from(["drop", "wrap"]))
    samples = draw(st.integers(batch if tail == "drop" else 1, 80))
    start = draw(st.integers(0, 8))
    settings = {
        "samples": samples,
        "batch": batch,
        "micro_batch": micro_batch,
        "tail": tail,
        "seed": draw(st.integers(0, 99)),
        "start": start,
        "stop": start + draw(st.integers(0, 8)),
    }
    return settings, world


@bounded
@given(samplers(), st.integers(0, 3))
def test_an_epoch_has_each_sample_once(drawn, epoch):
    settings, _ = drawn
    sampler = MicroBatches(**settings)
    updates = range(epoch * sampler.per_epoch, (epoch + 1) * sampler.per_epoch)
    keys = [key for update in updates for key in sampler.optimizer_batch(update)]
    assert {key.epoch for key in keys} == {epoch}
    counts = Counter(key.sample for key in keys)
    assert set(counts) <= set(range(settings["samples"]))
    if settings["tail"] == "drop":
        assert set(counts.values()) == {1}
        assert settings["samples"] - len(keys) < settings["batch"]
    else:
        assert set(counts) == set(range(settings["samples"]))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(keys) - settings["samples"] < settings["batch"]


@bounded
@given(samplers())
def test_ranks_partition_whole_optimizer_batches(drawn):
    settings, world = drawn
    one = MicroBatches(**settings)
    ranks = [list(MicroBatches(**settings, rank=rank, world=world)) for rank in range(world)]
    interleaved = [micro_batch for group in zip(*ranks, strict=True) for micro_batch in group]
    assert interleaved == list(one)
    assert {len(micro_batch) for micro_batch in interleaved} <= {settings["micro_batch"]}
    keys = [key for micro_batch in interleaved for key in micro_batch]
    updates = range(settings["start"], settings["stop"])
    assert keys == [key for update in updates for key in one.optimizer_batch(update)]
    assert all(len(rank) == len(MicroBatches(**settings, rank=0, world=world)) for rank in ranks)


@bounded
@given(samplers(), st.data())
def test_a_later_start_continues_the_same_sequence(drawn, data):
    settings, _ = drawn
    later = data.draw(st.integers(settings["start"], settings["stop"]))
    before = list(MicroBatches(**{**settings, "stop": later}))
    after = list(MicroBatches(**{**settings, "start": later}))
    assert before + after == list(MicroBatches(**settings))


@bounded
@given(st.integers(0, 50), st.integers(1, 5))
def test_ranks_partition_an_evaluation_set(samples, world):
    shares = [rank_share(samples, rank, world) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@bounded
@given(
    st.integers(0, 2**62),
    st.lists(st.builds(SampleKey, st.integers(0, 1000), st.integers(0, 10**7)), min_size=1, max_size=8),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_random_numbers_depend_only_on_their_key(seed, keys, count, random):
    numbers = uniforms(seed, "crop", keys, count)
    assert numbers.shape == (len(keys), count)
    assert ((numbers > 0) & (numbers < 1)).all()
    order = list(range(len(keys)))
    random.shuffle(order)
    np.testing.assert_array_equal(uniforms(seed, "crop", [keys[i] for i in order], count), numbers[order])
