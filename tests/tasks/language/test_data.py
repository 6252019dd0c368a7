"""Training streams are contiguous, and evaluation scores every token once."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from novobench.tasks.language.config import EvaluationProtocol, LanguageDataConfig
from novobench.tasks.language.data import (
    IGNORED,
    EvaluationText,
    StreamOrder,
    TrainingStreams,
    probe,
)
from novobench.tasks.sampling import SampleKey

TOKENS = np.arange(1000, dtype=np.int32)


def streams(**changes):
    return TrainingStreams(TOKENS, **{"streams": 8, "micro": 2, "length": 10, "seed": 0, **changes})


def batches(data, start=0, stop=12, rank=0, world=1):
    order = StreamOrder(8, micro=2, per_epoch=12, start=start, stop=stop, rank=rank, world=world)
    return [data.collate(data.__getitems__(keys)) for keys in order]


def test_streams_are_contiguous_parts_of_the_text():
    tokens_by_row = defaultdict(list)
    for batch in batches(streams()):
        assert torch.equal(batch.targets, batch.inputs + 1)  # each token is the number before it plus one
        for row in range(2):
            tokens_by_row[2 * batch.slot + row] += batch.inputs[row].tolist()
    for stream in range(8):
        assert tokens_by_row[stream] == list(range(stream * 125, stream * 125 + 120))


def test_an_epoch_has_the_length_of_the_config():
    config = LanguageDataConfig(train_tokens=1000, segment_length=10)
    assert config.updates_per_epoch(8) == 12
    assert config.tokens_per_sample == 10
    wikitext = LanguageDataConfig()
    assert wikitext.updates_per_epoch(256) == (103_227_021 // 256 - 1) // 512 == 787


def test_order_depends_only_on_the_update():
    whole = batches(streams(), 0, 30)
    for start in (1, 11, 12, 17):
        part = batches(streams(), start, 30)
        for ours, theirs in zip(part, whole[4 * start :], strict=True):
            assert torch.equal(ours.inputs, theirs.inputs)
            assert (ours.slot, ours.first) == (theirs.slot, theirs.first)


def test_memory_begins_with_the_epoch():
    firsts = [batch.first for batch in batches(streams(), 0, 25)]
    assert firsts == ([True] * 4 + [False] * 44) * 2 + [True] * 4


def test_a_slot_stays_with_one_process():
    whole = batches(streams(), 3, 7)
    for world in (2, 4):
        shares = [batches(streams(), 3, 7, rank, world) for rank in range(world)]
        assert [{batch.slot % world for batch in share} for share in shares] == [{rank} for rank in range(world)]
        for share in shares:
            for batch in share:
                same = next(b for b in whole if torch.equal(b.inputs, batch.inputs))
                assert same.slot == batch.slot


def test_rotation_moves_the_start_each_epoch():
    data = streams(rotate=True)
    starts = {
        (seed, epoch): streams(rotate=True, seed=seed)[SampleKey(epoch, 0)][0] for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(set(starts.values())) == 4
    row = data[SampleKey(1, 8 * 11 + 7)]
    assert ((row[1:] - row[:-1]) % 1000 == 1).all()  # the text wraps around


@pytest.mark.parametrize("streams", [1, 3, 7])
@pytest.mark.parametrize("length", [4, 10, 64, 2000])
@pytest.mark.parametrize("world", [1, 2])
def test_every_token_is_scored_once(streams, length, world):
    tokens = np.random.default_rng(0).integers(1, 500, 997).astype(np.int32)
    text = EvaluationText(tokens, EvaluationProtocol(target_length=length), streams)
    tokens_by_row: dict[int, list[int]] = {}
    for rank in range(world):
        for batch in text.share(range(rank, len(text), world)):
            for place, inputs, targets in zip(
                batch.row_numbers, batch.inputs.tolist(), batch.targets.tolist(), strict=True
            ):
                scored = [target for target in targets if target != IGNORED]
                assert targets == scored + [IGNORED] * (len(targets) - len(scored))
                assert place not in tokens_by_row
                tokens_by_row[place] = scored
                tokens_by_row[-place - 1] = inputs[: len(scored)]
    order = sorted(place for place in tokens_by_row if place >= 0)
    assert [token for place in order for token in tokens_by_row[place]] == tokens.tolist()
    assert [token for place in order for token in tokens_by_row[-place - 1]] == [0, *tokens[:-1].tolist()]


def test_there_are_no_more_streams_than_tokens():
    text = EvaluationText(np.array([3, 0], np.int32), EvaluationProtocol(target_length=4), 50)
    tokens_by_row = [batch.targets.tolist() for rank in range(3) for batch in text.share(range(rank, len(text), 3))]
    assert tokens_by_row == [[[3]], [[0]]]


def test_a_row_has_the_words_of_its_targets():
    text = EvaluationText(np.array([1, 2, 0], np.int32), EvaluationProtocol(target_length=2), 1, ["<eos>", "a", "b"])
    assert [batch.texts for batch in text.share(range(1))] == [["a b"], ["<eos>"]]


def test_the_probe_is_spread_over_a_text_without_lines():
    tokens = np.concatenate([np.arange(1, 10_001), [0]])
    chosen = probe(tokens, 2000)
    assert chosen.tolist() == [*range(1, 501), *range(2501, 3001), *range(5001, 5501), *range(7501, 8001)]
    assert np.array_equal(probe(tokens[:300], 2000), tokens[:300])


def test_the_probe_is_spread_over_the_training_text_and_begins_with_lines():
    tokens = np.arange(1, 100_001, dtype=np.int32)
    tokens[9::10] = 0
    chosen = probe(tokens, 5000)
    assert len(chosen) == 5000
    starts = chosen[::500]
    assert ((starts - 1) % 10 == 0).all()
    assert np.abs(np.diff(starts) - 10_000).max() <= 10
