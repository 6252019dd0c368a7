"""What training and evaluation hear: whole micro-batches, speeds, kept features, masks, all from (seed, epoch)."""

import dataclasses
from fractions import Fraction
from itertools import groupby, product
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from novobench.config import CellConfig
from novobench.errors import ConfigError, DataError
from novobench.tasks.sampling import SampleKey, uniforms
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.data import (
    EvaluationUtterances,
    FeatureExtractor,
    PackedUtterances,
    collate,
    encoded,
    min_outputs,
    open_utterances,
)
from novobench.tasks.speech.features import at_speed, mask_draws, masked
from novobench.tasks.speech.task import SpeechData, build
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import RATE, imagined, make_tree, small

COUNT = 103


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Nothing a test makes stays."""
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_tree(folder)
    return folder


def config(**changes: object) -> CellConfig:
    """103 utterances in optimizer batches of 16, micro-batches of 4."""
    settings = {"batch": {"size": 16, "micro": 4}, "data__train_size": COUNT, "data__max_seconds": 100.0}
    return small(**{**settings, **changes})


def pack(settings: CellConfig, utterances: Utterances) -> PackedUtterances:
    return PackedUtterances(utterances, settings, FeatureExtractor(utterances, settings, settings.data.speeds))


LENGTHS = np.random.default_rng(0).integers(1 * RATE, 20 * RATE, COUNT)


def packed(lengths=LENGTHS, texts=None, **changes: object) -> PackedUtterances:
    settings = config(**changes)
    return pack(settings, imagined(settings, lengths, texts))


def speeds_of(train: PackedUtterances, epoch: int) -> np.ndarray:
    return train.drawn_speeds([SampleKey(epoch, i) for i in range(len(train.utterances))])


# ------------------------------------------------------------------------------------ packing


@pytest.mark.parametrize("window", [0, 3])
def test_an_epoch_is_whole_optimizer_batches_and_holds_each_utterance(window):
    train = packed(data__bucket_window=window)
    assert len(train) == 7 * 4  # ceil(103 / 16) optimizer batches
    for epoch in (0, 5):
        found = train.packed(epoch)
        assert found.shape == (28, 4)
        assert set(found.flat) == set(range(COUNT))
        assert np.bincount(found.ravel()).max() == 2


def test_the_last_optimizer_batch_is_filled_from_the_start_of_the_epochs_order():
    train = packed()
    for epoch in (0, 1):
        order = train.packed(epoch).ravel()
        assert len(set(order[:COUNT])) == COUNT
        assert order[COUNT:].tolist() == order[: 7 * 16 - COUNT].tolist()


def test_a_tail_can_be_dropped():
    train = packed(data__tail="drop")
    found = train.packed(0).ravel()
    assert len(found) == 6 * 16 == len(set(found))


def test_an_epoch_stays_as_long_where_utterances_are_left_out():
    """Updates are counted before any is left out; the others come again, none twice more often than another."""
    train = packed(data__max_seconds=8.0, data__speeds=[1.0])
    found = train.packed(0).ravel()
    fits = np.flatnonzero(LENGTHS <= 8 * RATE)
    assert len(found) == 7 * 16
    assert set(found) == set(fits)
    times = np.bincount(found)[fits]
    assert times.max() - times.min() <= 1


def test_an_epochs_updates_can_be_counted_from_what_fits(root):
    """DeepLearningExamples' N: utterances not longer than the limit, which then come once an epoch."""
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

        def padding(found, speeds=speeds):
            lengths = (LENGTHS * speeds)[found]
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


# ------------------------------------------------------------------------------------ what is left out


@pytest.mark.parametrize("before", [False, True])
def test_long_utterances_never_come_and_are_counted(before):
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


def test_utterances_shorter_than_their_transcripts_never_come_and_are_counted_and_named(caplog):
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


def test_nothing_that_fits_is_told():
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


# ------------------------------------------------------------------------------------ speeds


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


def played(samples: torch.Tensor, speed: float, sox: bool = False) -> torch.Tensor:
    return at_speed(samples, speed, SpeechDataConfig(sox_speed=sox))


@pytest.mark.parametrize("sox", [False, True], ids=["resampled", "sox"])
@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_is_resampling_and_moves_the_pitch(speed, sox):
    """By the factor f a recording becomes f times as long and its tones lower by f; with sox's `speed` the reverse."""
    seconds, hertz = 2.0, 1000.0
    longer = 1 / speed if sox else speed
    time = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    sine = torch.sin(2 * torch.pi * hertz * time).float()
    heard = played(sine, speed, sox)
    assert len(heard) == {0.9: 35556, 1.0: 32000, 1.1: 29091}[speed] if sox else round(seconds * RATE * speed)
    inside = heard[1000:-1000]
    spectrum = np.abs(np.fft.rfft(inside.numpy() * np.hanning(len(inside)), 2**18))
    assert spectrum.argmax() * RATE / 2**18 == pytest.approx(hertz / longer, abs=0.1)
    expected = torch.sin(2 * torch.pi * hertz / longer * torch.arange(len(heard), dtype=torch.float64) / RATE)
    assert (inside - expected[1000:-1000]).abs().max() < 1e-3


def test_lengths_are_resampys_and_soxs():
    """resampy cuts the last fraction of a sample off, sox rounds to the nearest sample."""
    for count in range(3000, 3100):
        for speed, tenths in ((0.9, 9), (1.1, 11)):
            assert len(played(torch.zeros(count), speed)) == count * tenths // 10
            exact = Fraction(count * 10, tenths)
            assert len(played(torch.zeros(count), speed, sox=True)) == floor(exact + Fraction(1, 2))


def test_soxs_speeds_make_the_frames_that_are_counted(root):
    """What packing thinks an utterance has in frames is what its features have."""
    train = open_utterances(small(data__sox_speed=True, data__features__whole_hops=True), root).train
    for index, length in enumerate(train.utterances.lengths.tolist()):
        for speed, tenths in ((0.9, 9), (1.0, 10), (1.1, 11)):
            samples = floor(Fraction(length * 10, tenths) + Fraction(1, 2))
            assert train.extractor(index, speed).shape[1] == ceil(Fraction(samples, 160))
            assert train._samples(np.full(len(train.utterances), speed))[index] == samples


@pytest.mark.parametrize(("speed", "sox"), [(0.9, False), (1.1, True)])
def test_what_a_slower_rate_cannot_hold_is_filtered_out(speed, sox):
    """With fewer samples a second a tone of 7.9 kHz would come back as an alias."""
    time = torch.arange(2 * RATE, dtype=torch.float64) / RATE
    heard = played(torch.sin(2 * torch.pi * 7900 * time).float(), speed, sox)
    assert heard[1000:-1000].abs().max() < 1e-3


# ------------------------------------------------------------------------------------ features


def heard(settings: CellConfig, root: Path, task=None) -> list[dict]:
    """All training batches of two epochs and all evaluation batches, with features."""
    data = SpeechData(dataclasses.replace(settings, data_root=str(root)))
    data.setup("fit")
    batches = list(data.train_batches(0, 4, 0, 1))
    for split in data.evaluation_sets:
        batches += data.evaluation_batches(split.dataset, 0, 1)
    return [task._with_features(batch) for batch in batches] if task else batches


def assert_same(one: list[dict], two: list[dict]) -> None:
    assert len(one) == len(two)
    for mine, yours in zip(one, two, strict=True):
        for name, value in mine._asdict().items():
            other = getattr(yours, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


MASKS = {"data__frequency_masks": 2, "data__time_masks": 2}
PADDED = {**MASKS, "data__masks_over_padding": True}


def test_kept_features_are_the_same_bits(root, monkeypatch):
    plain = heard(small(**MASKS), root)
    kept = heard(small(**MASKS, data__keep_features=True), root)
    assert_same(plain, kept)
    monkeypatch.setattr(Utterances, "read", lambda *_: pytest.fail("a recording was read again"))
    assert_same(plain, heard(small(**MASKS, data__keep_features=True), root))


def test_other_features_are_kept_apart(root):
    one, two = (
        heard(small(data__keep_features=True, data__features__preemphasis=value), root)[0].features
        for value in (0.97, 0.9)
    )
    assert not torch.equal(one, two)


def test_kept_features_go_on_without_a_bad_recording_and_keep_no_failure(tmp_path, monkeypatch):
    make_tree(tmp_path)
    path = next((tmp_path / "tree" / "dev-clean").glob("**/*.flac"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{path.name} .*: it cannot be read: it is damaged or cut short"):
        open_utterances(small(data__keep_features=True), tmp_path)
    skip = {"data__on_bad_utterance": "skip"}
    plain = heard(small(**skip), tmp_path)
    assert_same(plain, heard(small(**skip, data__keep_features=True), tmp_path))
    # The same file, bad for a reason that passes, as a library's error of a type that nobody has foreseen.
    path.write_bytes(whole)
    read = soundfile.SoundFile.read

    def fails(sound, *words, **more):
        if failing and sound.frames == frames:
            raise failing[0]
        return read(sound, *words, **more)

    frames, failing = soundfile.info(path).frames, [MemoryError("no room")]
    monkeypatch.setattr(soundfile.SoundFile, "read", fails)
    kept = small(**skip, data__keep_features=True)
    assert sum(batch.skipped for batch in heard(kept, tmp_path)) == 1
    failing.clear()
    assert_same(heard(small(), tmp_path), heard(kept, tmp_path))


def test_features_can_be_kept_of_recordings_that_a_speed_makes_too_short(tmp_path):
    make_tree(tmp_path)
    path = next((tmp_path / "tree" / "train-a").glob("**/*.flac"))
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 270), RATE)
    assert_same(heard(small(), tmp_path), heard(small(data__keep_features=True), tmp_path))


@pytest.mark.parametrize("masks", [MASKS, PADDED], ids=["own frames", "padding"])
def test_the_device_makes_the_same_features(root, masks):
    plain = heard(small(**masks), root)
    settings = small(**masks, data__features_on="accelerator")
    assert_same(plain, heard(settings, root, build(settings)[0]))


def test_mixed_precision_leaves_features_alone(root):
    settings = small(**MASKS, data__features_on="accelerator")
    task, _ = build(settings)
    batches = heard(settings, root)
    with torch.autocast("cpu", torch.bfloat16):
        batches = [task._with_features(batch) for batch in batches]
    assert_same(heard(small(**MASKS), root), batches)


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_change_no_bit(threads, root):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(heard(small(**MASKS), root), heard(small(**MASKS, runtime__workers=1), root))
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------ SpecAugment


def mask(data: SpeechDataConfig, draws, bands=20, frames=50) -> np.ndarray:
    """Where ones became zeros, bool [F, T]."""
    ones = torch.ones(bands, frames)
    found = masked(ones, data, np.array(draws))
    assert ones.all()
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    return found.numpy() == 0


def draw(count: int, numbers: int) -> np.ndarray:
    return uniforms(0, "test", [SampleKey(0, i) for i in range(count)], numbers)


@pytest.mark.parametrize("axis", ["frequency", "time"])
def test_fixed_widths_are_exact(axis):
    data = SpeechDataConfig(fixed_mask_width=True, **{f"{axis}_masks": 1, f"{axis}_mask_width": 6})
    starts = set()
    for numbers in draw(300, 2):
        found = mask(data, numbers) if axis == "frequency" else mask(data, numbers).T
        places = np.flatnonzero(found.any(axis=1))
        assert found[places].all()
        assert len(places) == 6 == places[-1] - places[0] + 1
        starts.add(int(places[0]))
    extent = 20 if axis == "frequency" else 50
    assert {min(starts), max(starts)} == {0, extent - 7}  # random.uniform(0, extent - 6), cut to an integer


@pytest.mark.parametrize("axis", ["frequency", "time"])
def test_random_widths_are_uniform_from_nothing_to_the_limit(axis):
    data = SpeechDataConfig(**{f"{axis}_masks": 1, f"{axis}_mask_width": 4})
    found = [mask(data, numbers) for numbers in draw(1000, 2)]
    widths = [int((m.any(axis=1) if axis == "frequency" else m.any(axis=0)).sum()) for m in found]
    shares = np.bincount(widths, minlength=5) / len(widths)
    assert len(shares) == 5
    assert shares == pytest.approx(np.full(5, 0.2), abs=0.055)  # 4 standard deviations


def test_masks_of_both_kinds_add_up():
    data = SpeechDataConfig(frequency_masks=2, time_masks=2, fixed_mask_width=True)
    assert mask_draws(data) == 8
    for numbers in draw(50, 8):
        found = mask(data, numbers)
        bands, frames = found.all(axis=1), found.all(axis=0)
        assert 6 <= bands.sum() <= 12
        assert 6 <= frames.sum() <= 12
        assert np.array_equal(found, bands[:, None] | frames[None, :])


def test_a_mask_wider_than_the_features_takes_all():
    assert mask(SpeechDataConfig(time_masks=1, fixed_mask_width=True), [0.5, 0.5], frames=4).all()


def test_masks_can_be_placed_over_the_padding(root):
    """DeepLearningExamples draws the start below the batch's padded length minus the width."""
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
        found: dict[int, tuple] = {}
        for place, chosen in enumerate(train.packed(epoch)):
            batch = train[SampleKey(epoch, place)]
            for index, row, length in zip(chosen.tolist(), batch.features, batch.feature_lengths, strict=True):
                places = tuple(torch.nonzero(~row[:, :length].any(dim=1)).flatten().tolist())
                assert len(places) == 2
                assert found.setdefault(index, places) == places
        return found

    train = open_utterances(small(**masks), root).train
    bucketed = open_utterances(small(**masks, data__bucket_window=2), root).train
    other = open_utterances(small(**masks, seed=1), root).train
    assert bands(train, 0) == bands(bucketed, 0)
    assert bands(train, 0) != bands(train, 1)
    assert bands(train, 0) != bands(other, 0)


def test_masks_touch_nothing_else_and_no_evaluation(root):
    plain, with_masks = (open_utterances(small(**changes), root) for changes in ({}, MASKS))
    for place in range(4):
        one, two = (splits.train[SampleKey(0, place)].features for splits in (plain, with_masks))
        assert torch.equal(torch.where(two == 0, 0.0, one), two)
        assert not torch.equal(one, two)
    for position in range(5):
        one, two = (splits.sets["dev-clean"][position].input for splits in (plain, with_masks))
        assert torch.equal(one, two)


# ------------------------------------------------------------------------------------ evaluation


def test_evaluation_comes_shortest_first_and_whole(root):
    """Nothing is left out: not what training would find too long, nor what is too short for its transcript."""
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
    utterances = imagined(settings, [400, 300], ["many letters", "a"])
    found = EvaluationUtterances(utterances, settings, FeatureExtractor(utterances, settings, [1.0]))
    assert [found[i].index for i in range(2)] == [1, 0]
    batch = collate([found[0], found[1]], settings.data)
    assert batch.references == ["a", "many letters"]
    task, _ = build(settings)
    task.eval()
    with torch.no_grad():
        rows = task.evaluation_step(batch)
    assert [row["index"] for row in rows] == [1, 0]
    assert task.evaluation_end()["wer"].n == 3


def test_recordings_that_cannot_be_read_leave_the_batch(root):
    splits = open_utterances(small(), root)
    one, two = splits.sets["dev-clean"][0], splits.sets["dev-clean"][3]
    with_gap, without = (collate(items, small().data) for items in ([one, None, two], [one, two]))
    assert (with_gap.skipped, without.skipped) == (1, 0)
    assert torch.equal(with_gap.features, without.features)
    assert with_gap.indices == without.indices
    empty = collate([None, None], small().data)
    assert (empty.skipped, empty.indices, len(empty.features), len(empty.tokens)) == (2, [], 0, 0)


def test_a_micro_batch_without_a_readable_recording_is_told(root, monkeypatch):
    train = open_utterances(small(), root).train
    monkeypatch.setattr(Utterances, "read", lambda *_: None)
    with pytest.raises(DataError, match=r"No recording of a micro-batch can be read: .*\.flac, .*Fix them, or raise"):
        train[SampleKey(0, 0)]
