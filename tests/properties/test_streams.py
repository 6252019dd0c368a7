"""Language data: streams that cover the text without gaps or overlap, in training and in evaluation."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from novobench.tasks.language.config import EvaluationProtocol
from novobench.tasks.language.data import IGNORED, EvaluationText, StreamOrder, TrainingStreams, probe
from novobench.tasks.sampling import SampleKey, derive_seed
from tests.properties import bounded


@st.composite
def texts(draw):
    """A text of distinct tokens, streams, and the length of a segment; a stream has at least one whole segment."""
    streams, length = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    size = streams * length + draw(st.integers(0, 60))
    return np.arange(size, dtype=np.int32), streams, length


@bounded
@given(texts(), st.booleans(), st.integers(0, 3))
def test_training_streams_cover_the_text_without_gaps(drawn, rotate, epoch):
    tokens, streams, length = drawn
    data = TrainingStreams(tokens, streams=streams, micro=1, length=length, seed=5, rotate=rotate)
    stream_length = len(tokens) // streams
    segments = stream_length // length
    start = derive_seed(5, "rotate", epoch) % len(tokens) if rotate else 0
    inputs_of_epoch = []
    for stream in range(streams):
        rows = [data[SampleKey(epoch, segment * streams + stream)] for segment in range(segments)]
        inputs = np.concatenate([row[:-1] for row in rows])
        first = start + stream * stream_length
        assert inputs.tolist() == [i % len(tokens) for i in range(first, first + segments * length)]
        assert all(((row[1:] - row[:-1]) % len(tokens) == 1 % len(tokens)).all() for row in rows)
        inputs_of_epoch += inputs.tolist()
    assert len(set(inputs_of_epoch)) == len(inputs_of_epoch)


@bounded
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 5), st.integers(0, 6))
def test_a_stream_stays_in_its_micro_batch(micro, per_rank, world, per_epoch, start, updates):
    streams = micro * per_rank * world
    settings = {"micro": micro, "per_epoch": per_epoch, "start": start, "stop": start + updates}
    ranks = [list(StreamOrder(streams, **settings, rank=rank, world=world)) for rank in range(world)]
    interleaved = [keys for group in zip(*ranks, strict=True) for keys in group]
    assert interleaved == list(StreamOrder(streams, **settings))
    for number, keys in enumerate(interleaved):
        update, k = divmod(number, streams // micro)
        epoch, segment = divmod(start + update, per_epoch)
        assert keys == [SampleKey(epoch, segment * streams + k * micro + i) for i in range(micro)]


@bounded
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 6), st.integers(1, 3))
def test_an_evaluation_scores_each_token_once_after_the_one_before_it(size, target_length, streams, world):
    tokens = np.arange(1, size + 1, dtype=np.int32)
    protocol = EvaluationProtocol(target_length=target_length, memory_length=4, clamp_length=0, same_length=False)
    text = EvaluationText(tokens, protocol, streams)
    by_row: dict[int, list[tuple[int, int]]] = {}
    for rank in range(world):
        passes = text.share(range(rank, len(text), world))
        for number in range(len(passes)):
            batch = passes[number]
            for row, inputs, targets in zip(batch.row_numbers, batch.inputs, batch.targets, strict=True):
                assert row not in by_row
                scored = targets != IGNORED
                by_row[row] = list(zip(inputs[scored].tolist(), targets[scored].tolist(), strict=True))
    pairs = [pair for _, row in sorted(by_row.items()) for pair in row]
    assert pairs == [(i, i + 1) for i in range(size)]


@bounded
@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.integers(1, 2000))
def test_a_probe_is_a_part_of_the_text(words, size):
    tokens = np.array(words, dtype=np.int32)
    sample = probe(tokens, size)
    assert 0 < len(sample) <= min(size, len(tokens))
    assert any(words[i : i + len(sample)] == sample.tolist() for i in range(len(words)))
