"""What training and evaluation get: whole micro-batches, speeds and masks, all from (seed, epoch)."""

from fractions import Fraction
from itertools import groupby, product
from math import ceil, floor

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from novobench.config import CellConfig
from novobench.errors import ConfigError, DataError
from novobench.tasks.sampling import SampleKey, uniforms
from novobench.tasks.speech.data import (
    EvaluationUtterances,
    FeatureExtractor,
    PackedUtterances,
    collate,
    encoded,
    min_outputs,
    open_utterances,
)
from novobench.tasks.speech.features import at_speed
from novobench.tasks.speech.task import SpeechData, build
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import (
    RATE,
    fake_utterances,
    small,
)

pytestmark = pytest.mark.usefixtures("own_cache")

COUNT = 103
MASKS = {"data__frequency_masks": 2, "data__time_masks": 2}


def config(**changes: object) -> CellConfig:
    """103 utterances in optimizer batches of 16, micro-batches of 4."""
    settings = {"batch": {"size": 16, "micro": 4}, "data__train_size": COUNT, "data__max_seconds": 100.0}
    return small(**{**settings, **changes})


def pack(settings: CellConfig, utterances: Utterances) -> PackedUtterances:
    return PackedUtterances(utterances, settings, FeatureExtractor(utterances, settings, settings.data.speeds))


LENGTHS = np.random.default_rng(0).integers(1 * RATE, 20 * RATE, COUNT)


def packed(lengths=LENGTHS, texts=None, **changes: object) -> PackedUtterances:
    settings = config(**changes)
    return pack(settings, fake_utterances(settings, lengths, texts))


def speeds_of(train: PackedUtterances, epoch: int) -> np.ndarray:
    return train.drawn_speeds([SampleKey(epoch, i) for i in range(len(train.utterances))])


@pytest.mark.parametrize("window", [0, 3])
def test_an_epoch_is_whole_optimizer_batches_and_holds_each_utterance(window):
    train = packed(data__bucket_window=window)
    assert len(train) == 7 * 4  # ceil(103 / 16) optimizer batches
    for epoch in (0, 5):
        indices = train.packed(epoch)
        assert indices.shape == (28, 4)
        assert set(indices.flat) == set(range(COUNT))
        assert np.bincount(indices.ravel()).max() == 2


def test_the_last_optimizer_batch_is_filled_from_the_start_of_the_epochs_order():
    train = packed()
    for epoch in (0, 1):
        order = train.packed(epoch).ravel()
        assert len(set(order[:COUNT])) == COUNT
        assert order[COUNT:].tolist() == order[: 7 * 16 - COUNT].tolist()


def test_a_tail_can_be_dropped():
    train = packed(data__tail="drop")
    indices = train.packed(0).ravel()
    assert len(indices) == 6 * 16 == len(set(indices))


def test_an_epoch_stays_as_long_where_utterances_are_left_out():
    """Updates are counted before utterances are left out. The others are repeated equally often, up to one time."""
    train = packed(data__max_seconds=8.0, data__speeds=[1.0])
    indices = train.packed(0).ravel()
    fits = np.flatnonzero(LENGTHS <= 8 * RATE)
    assert len(indices) == 7 * 16
    assert set(indices) == set(fits)
    times = np.bincount(indices)[fits]
    assert times.max() - times.min() <= 1


def test_an_epochs_updates_can_be_counted_from_what_fits(root):
    """DeepLearningExamples' N: utterances not longer than the limit, which then come once per epoch."""
    limit = {"data__limit_before_speed": True, "data__max_seconds": 15.0}
    fits = np.flatnonzero(LENGTHS <= 15 * RATE)
    train = packed(**limit, data__epoch_size=len(fits))
    assert len(fits) < COUNT - 16
    assert len(train) == -(-len(fits) // 16) * 4
    assert set(train.packed(0).ravel()[: len(fits)]) == set(fits)
    seconds = sorted(len(soundfile.read(path)[0]) / RATE for path in (root / "tree").glob("train-*/**/*.flac"))
    limit["data__max_seconds"] = (seconds[8] + seconds[9]) / 2
    assert open_utterances(small(**limit, data__epoch_size=9), root).train.packed(0).shape == (4, 4)
    with pytest.raises(DataError, match=r"has 9 in train not longer than .* s, but data.epoch_size is 10\..*_size=9$"):
        open_utterances(small(**limit, data__epoch_size=10), root)
    for wrong in ({"data__epoch_size": 104}, {"data__limit_before_speed": False}):
        with pytest.raises(ConfigError, match="'data.epoch_size' .* must be 1 to data.train_size 103, and needs"):
            config(**{**limit, "data__epoch_size": 90, **wrong})


def test_bucketing_sorts_inside_windows_alone():
    window = 6
    plain, sorted_ = packed(), packed(data__bucket_window=window)
    for epoch in (0, 1):
        one, two = plain.packed(epoch), sorted_.packed(epoch)
        speeds = speeds_of(plain, epoch)
        for start in range(0, len(one), window):
            part = slice(start, start + window)
            assert sorted(one[part].flat) == sorted(two[part].flat)
            lengths = (LENGTHS * speeds)[two[part].ravel()]
            assert (np.diff(lengths) >= 0).all()

        def padding(indices, speeds=speeds):
            lengths = (LENGTHS * speeds)[indices]
            return (lengths.max(axis=1, keepdims=True) - lengths).sum()

        assert padding(two) < 0.3 * padding(one)


def test_an_epoch_depends_on_seed_and_epoch_alone():
    train, again, other = packed(), packed(), packed(seed=1)
    late = again.packed(7)
    assert np.array_equal(train.packed(0), again.packed(0))
    assert np.array_equal(train.packed(7), late)
    assert not np.array_equal(train.packed(0), late)
    assert not np.array_equal(train.packed(0), other.packed(0))
    assert not np.array_equal(speeds_of(train, 0), speeds_of(other, 0))


def test_a_micro_batch_depends_on_its_key_alone(root):
    masks = {"data__frequency_masks": 1, "data__time_masks": 1}
    train, again = (open_utterances(small(**masks), root).train for _ in range(2))
    state = torch.get_rng_state()
    later = [again[SampleKey(3, i)] for i in (2, 0)]
    for place, batch in zip((2, 0), later, strict=True):
        assert torch.equal(train[SampleKey(3, place)].features, batch.features)
        assert torch.equal(train[SampleKey(3, place)].tokens, batch.tokens)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn from the global generator


def test_the_loader_gives_micro_batches_and_each_one_once_an_epoch(root):
    settings = small(data_root=str(root), budget="2ep")
    data = SpeechData(settings)
    data.setup("fit")
    assert settings.data.updates_per_epoch(8) == 2
    loader = data.train_batches(0, 4, 0, 1)
    assert sorted(list(loader.sampler)[:4]) == [SampleKey(0, i) for i in range(4)]
    batches = list(loader)
    assert len(batches) == 8
    assert {len(batch.tokens) for batch in batches} == {4}
    halves = [list(data.train_batches(0, 4, rank, 2)) for rank in (0, 1)]
    mixed = [batch for pair in zip(*halves, strict=True) for batch in pair]
    for one, two in zip(batches, mixed, strict=True):
        assert torch.equal(one.features, two.features)


def test_batches_are_padded_with_zeros_to_a_multiple(root):
    train = open_utterances(small(data__pad_frames=16), root).train
    for place, chosen in enumerate(train.packed(0)):
        batch = train[SampleKey(0, place)]
        assert batch.features.shape[2] % 16 == 0
        assert 0 <= batch.features.shape[2] - int(batch.feature_lengths.max()) < 16
        for row, length in zip(batch.features, batch.feature_lengths, strict=True):
            assert not row[:, length:].any()
            assert row[:, :length].any(dim=0).all()
        texts = [train.utterances.texts[i] for i in chosen]
        counts = batch.token_lengths.tolist()
        letters = [row[:n].tolist() for row, n in zip(batch.tokens, counts, strict=True)]
        assert ["".join(" abcdefghijklmnopqrstuvwxyz'"[i] for i in row) for row in letters] == texts
        assert batch.skipped == 0


@pytest.mark.parametrize("before", [False, True])
def test_long_utterances_are_left_out_and_counted(before):
    train = packed(data__max_seconds=15.0, data__limit_before_speed=before)
    pairs = 0
    for index in range(COUNT):
        for speed in (0.9, 1.0, 1.1):
            pairs += LENGTHS[index] / RATE * (1 if before else speed) > 15
    assert train.left_out == {"train_too_long": pairs}
    for epoch in range(3):
        seconds = LENGTHS / RATE * (1 if before else speeds_of(train, epoch))
        assert set(train.packed(epoch).flat) == set(np.flatnonzero(seconds <= 15))
    assert (LENGTHS / RATE > 15).any()


def test_utterances_too_short_for_their_transcripts_are_left_out_counted_and_named(caplog):
    """Frames every 160 samples, the first at 0; the network halves them."""
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("ab"), rng.integers(1, 12))) for _ in range(COUNT)]
    lengths = rng.integers(400, 6000, COUNT)
    train = packed(lengths, texts)
    short = {}
    for speed in (0.9, 1.0, 1.1):
        for index, text in enumerate(texts):
            resampled = len(at_speed(torch.zeros(int(lengths[index])), speed, train.data))
            frames = 1 + resampled // 160
            blanks = sum(len(list(run)) - 1 for _, run in groupby(text))
            short[index, speed] = -(-frames // 2) < len(text) + blanks
    assert 20 < sum(short.values()) < 200
    assert train.left_out == {"train_too_short": sum(short.values())}
    for epoch in range(3):
        speeds = speeds_of(train, epoch).tolist()
        assert set(train.packed(epoch).flat) == {i for i in range(COUNT) if not short[i, speeds[i]]}
    ever = [i for i in range(COUNT) if any(short[i, speed] for speed in (0.9, 1.0, 1.1))]
    assert f"{len(ever)} utterances that are, at some speed, too short for their transcripts" in caplog.text
    assert f"e.g. {', '.join(f'u{i}' for i in ever[:10])}." in caplog.text


def test_a_recording_that_a_speed_makes_shorter_than_a_frame_is_left_out():
    train = packed([270] * COUNT, data__speeds=[0.9, 1.0])
    assert train.left_out == {"train_too_short": COUNT}
    for place in range(len(train)):
        assert set(train[SampleKey(0, place)].feature_lengths.tolist()) == {2}


def test_no_utterance_that_fits_is_reported():
    with pytest.raises(DataError, match="No utterance of 'tiny' is shorter than data.max_seconds 0.5 and long enough"):
        packed(data__max_seconds=0.5).packed(0)


def test_min_outputs_is_the_shortest_path_that_ctc_finds():
    for length in (1, 2, 3, 4):
        for letters in product((0, 1), repeat=length):
            outputs = next(
                n
                for n in range(1, 9)
                if any(tuple(o for o, _ in groupby(path) if o != 2) == letters for path in product((0, 1, 2), repeat=n))
            )
            assert min_outputs(np.array(letters)) == outputs
            targets, counts = torch.tensor([letters]), torch.tensor([length])
            for n, reachable in ((outputs, True), (outputs - 1, False)):
                if n:
                    uniform = torch.zeros(n, 1, 3).log_softmax(-1)
                    loss = F.ctc_loss(uniform, targets, torch.tensor([n]), counts, 2, "none")
                    assert bool(loss.isfinite()) == reachable


def test_each_utterance_draws_a_speed_in_each_epoch():
    lengths = np.full(3000, RATE)
    train = packed(lengths, data__train_size=3000)
    one, two = speeds_of(train, 0), speeds_of(train, 1)
    for speeds in (one, two):
        for speed in (0.9, 1.0, 1.1):
            assert (speeds == speed).mean() == pytest.approx(1 / 3, abs=0.035)  # 4 standard deviations
    assert (one == two).mean() == pytest.approx(1 / 3, abs=0.035)
    shuffled = train.drawn_speeds([SampleKey(1, i) for i in (17, 3, 17)])
    assert shuffled.tolist() == [two[17], two[3], two[17]]


def test_a_batch_has_the_speeds_that_were_drawn(root):
    train = open_utterances(small(), root).train
    for epoch in (0, 1):
        speeds = speeds_of(train, epoch)
        for place, chosen in enumerate(train.packed(epoch)):
            samples = [round(int(train.utterances.lengths[i]) * speeds[i] * 10) // 10 for i in chosen]
            assert train[SampleKey(epoch, place)].feature_lengths.tolist() == [1 + n // 160 for n in samples]


def test_packing_and_features_agree_on_the_frames_of_soxs_speeds(root):
    """The frames that packing computes are those of the features."""
    train = open_utterances(small(data__sox_speed=True, data__features__whole_hops=True), root).train
    for index, length in enumerate(train.utterances.lengths.tolist()):
        for speed, tenths in ((0.9, 9), (1.0, 10), (1.1, 11)):
            samples = floor(Fraction(length * 10, tenths) + Fraction(1, 2))
            assert train.extractor(index, speed).shape[1] == ceil(Fraction(samples, 160))
            assert train._samples(np.full(len(train.utterances), speed))[index] == samples


def test_masks_can_be_placed_over_the_padding(root):
    """DeepLearningExamples draws the start from 0 to the batch's padded length minus the width."""
    masks = {"data__time_masks": 1, "data__fixed_mask_width": True, "data__pad_frames": 64}
    plain = open_utterances(small(data__pad_frames=64), root).train
    over = open_utterances(small(**masks, data__masks_over_padding=True), root).train
    behind = 0
    for epoch in range(4):
        for place, chosen in enumerate(over.packed(epoch)):
            one, two = (train[SampleKey(epoch, place)] for train in (plain, over))
            padded = one.features.shape[2]
            draws = uniforms(over.seed, "mask", [SampleKey(epoch, int(i)) for i in chosen], 2)
            for row, masked_row, length, (_, where) in zip(
                one.features, two.features, one.feature_lengths.tolist(), draws, strict=True
            ):
                start = int(where * (padded - 6))
                expected = row.clone()
                expected[:, start : start + 6] = 0
                assert torch.equal(masked_row, expected)
                behind += start >= length
    assert behind > 5


def test_masks_depend_on_seed_epoch_and_utterance_alone(root):
    masks = {"data__frequency_masks": 1, "data__fixed_mask_width": True, "data__frequency_mask_width": 2}

    def bands(train: PackedUtterances, epoch: int) -> dict[int, tuple]:
        """Utterance -> its masked bands."""
        bands_of: dict[int, tuple] = {}
        for place, chosen in enumerate(train.packed(epoch)):
            batch = train[SampleKey(epoch, place)]
            for index, row, length in zip(chosen.tolist(), batch.features, batch.feature_lengths, strict=True):
                places = tuple(torch.nonzero(~row[:, :length].any(dim=1)).flatten().tolist())
                assert len(places) == 2
                assert bands_of.setdefault(index, places) == places
        return bands_of

    train = open_utterances(small(**masks), root).train
    bucketed = open_utterances(small(**masks, data__bucket_window=2), root).train
    other = open_utterances(small(**masks, seed=1), root).train
    assert bands(train, 0) == bands(bucketed, 0)
    assert bands(train, 0) != bands(train, 1)
    assert bands(train, 0) != bands(other, 0)


def test_masks_change_nothing_else_and_no_evaluation_set(root):
    plain, with_masks = (open_utterances(small(**changes), root) for changes in ({}, MASKS))
    for place in range(4):
        one, two = (splits.train[SampleKey(0, place)].features for splits in (plain, with_masks))
        assert torch.equal(torch.where(two == 0, 0.0, one), two)
        assert not torch.equal(one, two)
    for position in range(5):
        one, two = (splits.sets["dev-clean"][position].input for splits in (plain, with_masks))
        assert torch.equal(one, two)


def test_evaluation_sets_are_complete_and_sorted_by_length(root):
    """Neither utterances that are too long for training nor those too short for their transcripts are left out."""
    splits = open_utterances(small(data__max_seconds=0.9), root)
    for name, count in (("dev-clean", 5), ("test-clean", 4)):
        items = [splits.sets[name][i] for i in range(len(splits.sets[name]))]
        of = splits.sets[name].utterances
        assert sorted(item.index for item in items) == list(range(count))
        lengths = [of.lengths[item.index] for item in items]
        assert lengths == sorted(lengths)
        assert max(lengths) > 0.9 * RATE
        for item in items:
            assert item.reference == of.texts[item.index]
            assert item.id == of.listing(item.index).id
            assert np.array_equal(item.tokens, encoded(item.reference, splits.train.data.alphabet))
            assert item.input.shape == (16, 1 + of.lengths[item.index] // 160)


def test_evaluation_keeps_what_ctc_cannot_align():
    settings = config()
    utterances = fake_utterances(settings, [400, 300], ["many letters", "a"])
    items = EvaluationUtterances(utterances, settings, FeatureExtractor(utterances, settings, [1.0]))
    assert [items[i].index for i in range(2)] == [1, 0]
    batch = collate([items[0], items[1]], settings.data)
    assert batch.references == ["a", "many letters"]
    task, _ = build(settings)
    task.eval()
    with torch.no_grad():
        rows = task.evaluation_step(batch)
    assert [row["index"] for row in rows] == [1, 0]
    assert task.evaluation_end()["wer"].n == 3


def test_recordings_that_cannot_be_read_are_left_out_of_the_batch(root):
    splits = open_utterances(small(), root)
    one, two = splits.sets["dev-clean"][0], splits.sets["dev-clean"][3]
    with_gap, without = (collate(items, small().data) for items in ([one, None, two], [one, two]))
    assert (with_gap.skipped, without.skipped) == (1, 0)
    assert torch.equal(with_gap.features, without.features)
    assert with_gap.indices == without.indices
    empty = collate([None, None], small().data)
    assert (empty.skipped, empty.indices, len(empty.features), len(empty.tokens)) == (2, [], 0, 0)


def test_a_micro_batch_without_a_readable_recording_is_reported(root, monkeypatch):
    train = open_utterances(small(), root).train
    monkeypatch.setattr(Utterances, "read", lambda *_: None)
    with pytest.raises(DataError, match=r"No recording of a micro-batch can be read: .*\.flac, .*Fix them, or raise"):
        train[SampleKey(0, 0)]
