"""Features from the cache, from loader workers and from the device have the same bits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from novobench.config import CellConfig
from novobench.errors import DataError
from novobench.tasks.speech.data import SpeechBatch, open_utterances
from novobench.tasks.speech.task import SpeechData, build
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import RATE, make_tree, small

pytestmark = pytest.mark.usefixtures("own_cache")

MASKS = {"data__frequency_masks": 2, "data__time_masks": 2}
PADDED = {**MASKS, "data__masks_over_padding": True}


def all_batches(settings: CellConfig, root: Path, task=None) -> list[SpeechBatch]:
    """All training batches of two epochs and all evaluation batches, with features."""
    data = SpeechData(dataclasses.replace(settings, data_root=str(root)))
    data.setup("fit")
    batches = list(data.train_batches(0, 4, 0, 1))
    for split in data.evaluation_sets:
        batches += data.evaluation_batches(split.dataset, 0, 1)
    return [task._with_features(batch) for batch in batches] if task else batches


def assert_same(one: list[SpeechBatch], two: list[SpeechBatch]) -> None:
    assert len(one) == len(two)
    for mine, yours in zip(one, two, strict=True):
        for name, value in mine._asdict().items():
            other = getattr(yours, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_cached_features_are_the_same_bits(root, monkeypatch):
    plain = all_batches(small(**MASKS), root)
    kept = all_batches(small(**MASKS, data__keep_features=True), root)
    assert_same(plain, kept)
    monkeypatch.setattr(Utterances, "read", lambda *_: pytest.fail("a recording was read again"))
    assert_same(plain, all_batches(small(**MASKS, data__keep_features=True), root))


def test_different_features_are_cached_separately(root):
    one, two = (
        all_batches(small(data__keep_features=True, data__features__preemphasis=value), root)[0].features
        for value in (0.97, 0.9)
    )
    assert not torch.equal(one, two)


def test_the_cache_skips_a_bad_recording_and_keeps_no_failure(tmp_path, monkeypatch):
    make_tree(tmp_path)
    path = next((tmp_path / "tree" / "dev-clean").glob("**/*.flac"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{path.name} .*: it cannot be read: it is damaged or cut short"):
        open_utterances(small(data__keep_features=True), tmp_path)
    skip = {"data__on_bad_utterance": "skip"}
    plain = all_batches(small(**skip), tmp_path)
    assert_same(plain, all_batches(small(**skip, data__keep_features=True), tmp_path))
    # The same file, bad for a transient reason: an error of an unexpected type in a library.
    path.write_bytes(whole)
    read = soundfile.SoundFile.read

    def fails(sound, *words, **more):
        if failing and sound.frames == frames:
            raise failing[0]
        return read(sound, *words, **more)

    frames, failing = soundfile.info(path).frames, [MemoryError("no room")]
    monkeypatch.setattr(soundfile.SoundFile, "read", fails)
    kept = small(**skip, data__keep_features=True)
    assert sum(batch.skipped for batch in all_batches(kept, tmp_path)) == 1
    failing.clear()
    assert_same(all_batches(small(), tmp_path), all_batches(kept, tmp_path))


def test_features_of_recordings_that_a_speed_makes_too_short_are_cached(tmp_path):
    make_tree(tmp_path)
    path = next((tmp_path / "tree" / "train-a").glob("**/*.flac"))
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 270), RATE)
    assert_same(all_batches(small(), tmp_path), all_batches(small(data__keep_features=True), tmp_path))


@pytest.mark.parametrize("masks", [MASKS, PADDED], ids=["own frames", "padding"])
def test_the_device_computes_the_same_features(root, masks):
    plain = all_batches(small(**masks), root)
    settings = small(**masks, data__features_on="accelerator")
    assert_same(plain, all_batches(settings, root, build(settings)[0]))


def test_mixed_precision_leaves_features_alone(root):
    settings = small(**MASKS, data__features_on="accelerator")
    task, _ = build(settings)
    batches = all_batches(settings, root)
    with torch.autocast("cpu", torch.bfloat16):
        batches = [task._with_features(batch) for batch in batches]
    assert_same(all_batches(small(**MASKS), root), batches)


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_change_no_bit(threads, root):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(all_batches(small(**MASKS), root), all_batches(small(**MASKS, runtime__workers=1), root))
    finally:
        torch.set_num_threads(before)
