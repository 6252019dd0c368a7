"""Micro-batches packed by padded tokens, evaluation items, and counts that must match the config."""

import re

import numpy as np
import pytest
import torch

from novobench.config_loading import parse_overrides
from novobench.errors import DataError
from novobench.tasks.sampling import SampleKey
from novobench.tasks.translation.data import PackedPairs, collate, open_pairs, pack
from novobench.tasks.translation.model import PAD
from tests.tasks.translation.small import (
    ENGLISH,
    GERMAN,
    SEARCH,
    TINY_SIZES,
    TRAIN,
    batches,
    error_message,
    files,
    proposed_changes,
    tiny_files,
    write_pairs,
)

pytestmark = pytest.mark.usefixtures("own_cache")


# ------------------------------------------------------------------------------------ packing


@pytest.fixture(scope="module")
def packed(root) -> PackedPairs:
    return open_pairs(files(), root).train


def test_an_epoch_holds_each_pair_once(packed):
    for epoch in (0, 1):
        indices = [pair for i in range(len(packed)) for pair in packed.pairs(SampleKey(epoch, i))]
        assert sorted(indices) == list(range(TRAIN))


def test_micro_batches_keep_to_their_tokens_and_are_nearly_full(packed):
    padded, real = 0, 0
    for batch in batches(packed, 0):
        (pairs, source), (same, target) = batch.source.shape, batch.target.shape
        assert pairs == same
        assert pairs * (source + target) <= 512
        padded += pairs * (source + target)
        real += int((batch.source != PAD).sum() + (batch.target != PAD).sum())
    assert padded == packed.padded_tokens
    assert real > 0.9 * padded
    assert padded > 0.85 * 512 * len(packed)


def test_epochs_differ_in_pairs_but_not_in_shapes(packed):
    shapes = [[batch.source.shape + batch.target.shape for batch in batches(packed, epoch)] for epoch in (0, 1)]
    assert shapes[0] == shapes[1]
    pairs = [{tuple(packed.pairs(SampleKey(epoch, i))) for i in range(len(packed))} for epoch in (0, 1)]
    assert pairs[0] != pairs[1]


def test_a_micro_batch_depends_on_seed_and_key_alone(packed, root):
    again = open_pairs(files(), root).train
    other = open_pairs(files(seed=1), root).train
    key = SampleKey(3, 5)
    assert again.pairs(key) == packed.pairs(key)
    assert any(other.pairs(SampleKey(3, i)) != packed.pairs(SampleKey(3, i)) for i in range(len(packed)))


def test_workers_change_no_bit(packed):
    keys = [[SampleKey(0, i)] for i in range(4)]
    runs = [
        list(
            torch.utils.data.DataLoader(
                packed, batch_sampler=keys, num_workers=n, multiprocessing_context=context, collate_fn=collate
            )
        )
        for n, context in ((0, None), (2, "forkserver"))
    ]
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one.source, two.source)
        assert torch.equal(one.target, two.target)


def test_packing_by_hand():
    lengths = np.array([[5, 5, 6, 6, 7], [5, 5, 5, 5, 5]])
    assert pack(lengths, 22, 1).tolist() == [0, 2, 4, 5]  # 2 × (5 + 5), 2 × (6 + 5), 7 + 5
    assert pack(lengths, 33, 2).tolist() == [0, 2, 4, 5]  # three would fit, but two are a multiple of 2
    with pytest.raises(DataError, match=r"pair of 7 \+ 5 tokens does not fit into a micro-batch of 11 tokens"):
        pack(lengths, 11, 1)


def test_micro_batches_that_are_too_small_are_reported_with_the_size_needed(tiny_root):
    message = error_message(tiny_files(batch={"size": 8, "micro": 8}), tiny_root)
    need = int(re.search(r"Raise batch\.micro to (\d+) or more", message)[1])
    lengths = [sum(map(len, pair)) for pair in zip(*open_sequences(tiny_root), strict=True)]
    assert need == max(lengths)
    open_pairs(tiny_files(batch={"size": need, "micro": need}), tiny_root)


def open_sequences(tiny_root):
    train = open_pairs(tiny_files(), tiny_root).train
    return list(train.source), list(train.target)


# ------------------------------------------------------------------------------------ evaluation


def test_evaluation_items_are_complete_and_sorted_by_length(root):
    search = open_pairs(files(), root).search
    items = [search[i] for i in range(len(search))]
    assert sorted(item.index for item in items) == list(range(SEARCH))
    lengths = [len(item.source) for item in items]
    assert lengths == sorted(lengths)
    batch = collate(items[-3:])
    assert batch.source.shape == (3, lengths[-1])
    assert batch.source[0, : lengths[-3]].tolist() == items[-3].source


def test_a_sentence_longer_than_the_positions_is_reported(root):
    with pytest.raises(DataError, match=r"has a sentence of \d+ tokens, but model.positions is 20. Add: --set"):
        open_pairs(
            files(model__positions=20, data__max_length=20, data__max_output=20, batch={"size": 512, "micro": 512}),
            root,
        )


def test_the_positions_that_are_proposed_are_enough_for_all_sets(tiny_root):
    write_pairs(tiny_root, "test", [" ".join(ENGLISH[:n]) for n in (2, 4)], GERMAN[:2])
    write_pairs(tiny_root, "validation", [" ".join(ENGLISH[:n]) for n in (1, 2, 3)], GERMAN[:3])
    small = {"model__positions": 24, "data__max_length": 24, "data__max_output": 24}
    message = error_message(tiny_files(**small), tiny_root)
    assert message.startswith("test has a sentence of")
    open_pairs(tiny_files(**{**small, **proposed_changes(message)}), tiny_root)


# ------------------------------------------------------------------------------------ counts


def test_the_declared_tokens_of_an_epoch_are_checked_where_they_count(root, caplog):
    measured = len(open_pairs(files(), root).train) * 512
    with pytest.raises(
        DataError, match=f"{measured} padded tokens.*data.train_tokens is 8192. .*--set data.train_tokens={measured}"
    ):
        open_pairs(files(budget="1ep", data__train_tokens=8192), root)
    open_pairs(files(budget="1ep", data__train_tokens=measured), root)
    caplog.clear()
    open_pairs(files(budget="4steps", data__train_tokens=8192), root)
    assert "by which curves count epochs" in caplog.text


def test_all_wrong_counts_are_reported_in_one_line_to_paste(root):
    wrong = {"data__train_size": 601, "data__test_size": 31, "budget": "1ep", "data__train_tokens": 8192}
    with pytest.raises(DataError, match=r"\(files text\) has 600 train pairs, but data\.train_size is 601,") as error:
        open_pairs(files(**wrong), root)
    options = str(error.value).partition("Complete the data, or add: --set ")[2]
    right = {key.replace(".", "__"): value for key, value in parse_overrides(options.split()).items()}
    assert set(right) == {"data__train_size", "data__test_size", "data__train_tokens"}
    open_pairs(files(**{**wrong, **right}), root)


@pytest.mark.parametrize("budget", ["4steps", "1ep"])
def test_an_epoch_shorter_than_an_update_is_reported(budget, tiny_root):
    too_large = {"batch": {"size": 256 * 64, "micro": 256}, "data__train_tokens": 256 * 64, "budget": budget}
    changes = proposed_changes(error_message(tiny_files(**too_large), tiny_root))
    micro_batches = len(open_pairs(tiny_files(), tiny_root).train)
    assert changes["batch__size"] == changes["data__train_tokens"] == 256 * micro_batches
    changes["batch"] = {"size": changes.pop("batch__size"), "micro": 256}
    assert open_pairs(tiny_files(**{**too_large, **changes}), tiny_root).counts["train"] == TINY_SIZES["train"]
