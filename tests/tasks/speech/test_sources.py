"""What files may hold: segments, lengths that no header knows, samples that are no numbers, other formats and data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from novobench.errors import ConfigError, DataError
from novobench.tasks.sampling import SampleKey
from novobench.tasks.speech.data import identify, open_utterances
from novobench.tasks.speech.task import SpeechData
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import (
    RATE,
    SIZES,
    SOURCES,
    make_parquet,
    small,
    transcripts,
)

MANIFEST = SOURCES["manifest"]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def files(root, tmp_path) -> Path:
    """A copy, to be changed."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path


def rewrite(root: Path, *entries: dict, split: str = "train-b") -> None:
    """The first lines of a manifest, changed."""
    path = root / "manifests" / f"{split}.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, entry in zip(lines, entries, strict=False):
        line |= entry
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def spoken(root: Path, **changes: object) -> dict[str, np.ndarray]:
    """Id -> samples of all utterances."""
    splits = open_utterances(small(**changes), root)
    found = {}
    for of in (splits.train.utterances, *(each.utterances for each in splits.sets.values())):
        found |= {of.listing(index).id: of.read(index).numpy() for index in range(len(of))}
    return found


# ------------------------------------------------------------------------------------ segments


@pytest.fixture
def long(files) -> np.ndarray:
    """Four seconds of which the manifest of train-b names two parts, and the end."""
    samples = np.random.default_rng(7).integers(-9000, 9000, 4 * RATE, dtype=np.int16)
    soundfile.write(files / "manifests" / "long.wav", samples, RATE)
    parts = ({"offset": 1.0, "duration": 0.5}, {"offset": 1.5, "duration": 0.75}, {"offset": 3.25, "duration": None})
    rewrite(files, *({"audio_filepath": "long.wav", **part} for part in parts))
    return samples / np.float32(32768)


def test_a_segment_is_that_part_of_its_recording(files, long):
    found = spoken(files, **MANIFEST)
    assert len(found) == sum(SIZES.values())
    for name, start, stop in (("1.0+0.5", 16000, 24000), ("1.5+0.75", 24000, 36000), ("3.25", 52000, 64000)):
        assert np.array_equal(found[f"long@{name}"], long[start:stop])


def test_features_and_fingerprint_know_the_segment(files, long):
    settings = small(**MANIFEST, data__keep_features=True, data__speeds=[1.0])
    before = open_utterances(settings, files)
    first = before.train.extractor(7, 1.0)
    assert first.shape[1] == 1 + 8000 // 160
    rewrite(files, {"offset": 2.0})
    after = open_utterances(settings, files)
    assert after.train.extractor(7, 1.0).shape == first.shape
    assert not np.allclose(after.train.extractor(7, 1.0), first)
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"offset": 4.0}, "its offset 4 s is past the end of the recording, at 4 s"),
        ({"offset": -0.5}, "its offset is -0.5 and must be 0 seconds or more"),
        ({"offset": "1.0"}, "its offset is '1.0' and must be"),
        ({"offset": True}, "its offset is True and must be"),
        ({"offset": float("nan")}, "its offset is nan and must be"),
        ({"offset": 1.0, "duration": -1}, "its duration is -1 and must be"),
        ({"offset": 1.0, "duration": "all"}, "its duration is 'all' and must be"),
        (
            {"offset": 3.0, "duration": 1.5},
            "its offset 3 s and duration 1.5 s extend past the end of the recording, at 4 s",
        ),
        ({"offset": 1.0, "duration": 0}, "it has 0 samples, but features need at least 257"),
        ({"offset": 3.99, "duration": None}, "it has 160 samples, but features need at least 257"),
    ],
)
def test_a_segment_that_is_no_part_of_its_recording_is_told(part, told, files, long):
    rewrite(files, part)
    with pytest.raises(DataError, match=r"long.wav \(utterance long@.* of train\): ") as error:
        open_utterances(small(**MANIFEST), files)
    assert told in str(error.value)
    assert open_utterances(small(**MANIFEST, data__on_bad_utterance="skip"), files).counts["train_bad"] == 1


def test_a_rounded_duration_may_reach_a_little_over_the_end(files, long):
    rewrite(files, {"offset": 3.25, "duration": 0.755})
    assert len(spoken(files, **MANIFEST)["long@3.25+0.755"]) == 12000


def test_a_duration_alone_is_the_whole_recording_and_told_if_wrong(files, caplog):
    (first, _), (second, _), *_ = transcripts(files / "tree" / "train-b")
    seconds = soundfile.info(second).frames / RATE
    for split in SIZES:
        rewrite(
            files,
            *({"duration": soundfile.info(p).duration} for p, _ in transcripts(files / "tree" / split)),
            split=split,
        )
    found = spoken(files, **MANIFEST)
    assert len(found[first.stem]) == soundfile.info(first).frames
    assert caplog.text == ""
    rewrite(files, {}, {"duration": 0.2})
    assert len(spoken(files, **MANIFEST)[second.stem]) == seconds * RATE
    assert caplog.text.count("train-b.json has wrong durations for 1 recordings, e.g. 0.2 s for") == 1
    assert f"{second.name}, which lasts {seconds:g} s: all of each is taken" in caplog.text


def test_keys_that_mean_nothing_are_told_once(files, caplog):
    rewrite(files, {"speaker": 1}, {"speaker": 2, "lang": "en"})
    open_utterances(small(**MANIFEST), files)
    assert caplog.text.count("train-b.json has keys that are ignored: 'lang' (line 2), 'speaker' (line 2).") == 1


def test_signs_that_end_lines_elsewhere_end_none_of_a_manifest(files):
    path = files / "manifests" / "train-b.json"
    entry = json.loads(path.read_text().splitlines()[0])
    lines = [json.dumps({**entry, "text": f"one{sign}two"}, ensure_ascii=False) for sign in "\u2028\u2029\x85\x0b\x1c"]
    path.write_text("\n".join([*lines, json.dumps(entry)]) + "\n", encoding="utf-8")
    assert open_utterances(small(**MANIFEST), files).train.utterances.texts[7:12] == ["one two"] * 5


@pytest.mark.parametrize("name", ["one\\u0000.flac", "one\\ud83d.flac"])
def test_a_name_that_no_file_can_have_is_told(name, files):
    path = files / "manifests" / "train-b.json"
    path.write_text(f'{{"audio_filepath": "{name}", "text": "one"}}\n')
    with pytest.raises(DataError, match="its audio_filepath is 'one.* and must be the name of a file"):
        open_utterances(small(**MANIFEST, data__train_size=8), files)
    path.write_text(path.read_text() + f'{{"audio_filepath": "{"x" * 5000}.flac", "text": "one"}}\n')
    settings = small(**MANIFEST, data__train_size=9, data__on_bad_utterance="skip")
    assert open_utterances(settings, files).counts["train_bad"] == 2


# ------------------------------------------------------------------------------------ lengths that no header knows


def count_in_flac(content: bytes, samples: int) -> bytes:
    """Another number in STREAMINFO's 36 bits; 0 is "unknown"."""
    changed = bytearray(content)
    changed[21] = changed[21] & 0xF0 | samples >> 32
    changed[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(changed)


def streamed_wav(path: Path) -> bytes:
    """A WAV as programs write it into a pipe: both sizes the largest there is."""
    samples, rate = soundfile.read(path, dtype="int16")
    copy = path.with_suffix(".wav")
    soundfile.write(copy, samples, rate)
    content = bytearray(copy.read_bytes())
    copy.unlink()
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = b"\xff" * 4
    return bytes(content)


DAMAGE = {
    "flac of unknown length": lambda path: count_in_flac(path.read_bytes(), 0),
    "flac that promises hours": lambda path: count_in_flac(path.read_bytes(), (1 << 36) - 1),
    "wav from a pipe": streamed_wav,
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("source", ["librispeech", "hub"])
def test_a_length_that_the_header_does_not_know_is_found_by_decoding(kind, source, files, root):
    rows = {}
    for split in SIZES:
        known = transcripts(files / "tree" / split)
        for path, _ in known:
            path.write_bytes(DAMAGE[kind](path))  # soundfile goes by content, not by name
        rows[split] = [(path.stem, text, path.read_bytes()) for path, text in known]
    make_parquet(files, rows)
    expected, found = spoken(root), spoken(files, **SOURCES[source])
    assert expected.keys() == found.keys()
    for name, samples in expected.items():
        assert np.array_equal(found[name], samples)
    assert "train_too_long" not in open_utterances(small(**SOURCES[source]), files).counts


def test_a_segment_of_a_recording_of_unknown_length(files, long):
    path = files / "manifests" / "long.flac"
    soundfile.write(path, long, RATE)
    path.write_bytes(count_in_flac(path.read_bytes(), 0))
    rewrite(files, *[{"audio_filepath": "long.flac"}] * 3)
    assert np.array_equal(spoken(files, **MANIFEST)["long@1.5+0.75"], long[24000:36000])


@pytest.mark.parametrize("name", ["speech.raw", "SPEECH.RAW"])
def test_a_recording_without_a_header_is_told(name, files):
    (files / "manifests" / name).write_bytes(bytes(9600))
    rewrite(files, {"audio_filepath": name})
    with pytest.raises(
        DataError,
        match=rf"{name} .*not an audio file that libsndfile can decode .*; a .raw file has no header",
    ):
        open_utterances(small(**MANIFEST), files)
    assert open_utterances(small(**MANIFEST, data__on_bad_utterance="skip"), files).counts["train_bad"] == 1


# ------------------------------------------------------------------------------------ samples that are no numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("split", ["train-b", "dev-clean"])
def test_samples_that_are_no_numbers_are_told_or_left_out(value, split, files, caplog):
    path, _ = transcripts(files / "tree" / split)[0]
    samples, _ = soundfile.read(path, dtype="float32")
    samples[100] = value
    soundfile.write(files / "odd.wav", samples, RATE, subtype="FLOAT")
    rewrite(files, {"audio_filepath": "../odd.wav"}, split=split)
    told = r"odd.wav \(utterance odd\): it cannot be read: it has samples that are not finite numbers"

    def batches(settings):
        splits = open_utterances(settings, files)
        dev = splits.sets["dev-clean"]
        training = [splits.train[SampleKey(0, place)] for place in range(len(splits.train))]
        return training, [dev[position] for position in range(len(dev))]

    with pytest.raises(DataError, match=told):
        batches(small(**MANIFEST))
    training, judged = batches(small(**MANIFEST, data__on_bad_utterance="skip"))
    assert sum(batch.skipped for batch in training) + judged.count(None) >= 1
    assert (judged.count(None) == 1) == (split == "dev-clean")
    assert all(torch.isfinite(batch.features).all() for batch in training)


# ------------------------------------------------------------------------------------ other formats, other names


@pytest.mark.parametrize("suffix", [".wav", ".WAV", ".aiff"])
def test_a_tree_may_hold_other_formats(suffix, files, root):
    for path in (files / "tree").glob("**/*.flac"):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path.with_suffix(suffix), samples, rate)
        path.unlink()
    expected, found = spoken(root), spoken(files)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(found[name], samples) for name, samples in expected.items())


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".mp3"])
def test_a_tree_may_hold_lossy_formats(suffix, files):
    for path in (files / "tree" / "train-a").glob("**/*.flac"):
        samples, rate = soundfile.read(path, dtype="float32")
        kind = {".opus": {"format": "OGG", "subtype": "OPUS"}}.get(suffix, {})
        soundfile.write(path.with_suffix(suffix), samples, rate, **kind)
        path.unlink()
    train = open_utterances(small(), files).train.utterances
    assert len(train) == 13
    assert all(len(train.read(index)) == train.lengths[index] for index in range(13))


def test_of_two_recordings_of_a_name_the_flac_counts(files, root):
    for path in (files / "tree").glob("**/*.flac"):
        soundfile.write(path.with_suffix(".wav"), np.zeros(500), RATE)
    assert spoken(files).keys() == spoken(root).keys()
    assert open_utterances(small(), files).fingerprint == open_utterances(small(), root).fingerprint


@pytest.mark.parametrize("source", ["librispeech", "manifest"])
def test_a_split_of_another_name_is_told_with_what_to_set(source, files):
    folder = files / ("tree" if source == "librispeech" else "manifests")
    ending = "" if source == "librispeech" else ".json"
    (folder / f"dev-clean{ending}").rename(folder / f"validation{ending}")
    settings = SOURCES[source]
    with pytest.raises(DataError, match=r"set data.split_names={dev-clean: validation}"):
        open_utterances(small(**settings), files)
    assert len(open_utterances(small(**settings, data__split_names={"dev-clean": "validation"}), files).sets) == 2
    with pytest.raises(DataError, match=r"Set data.train_splits, e.g. data.train_splits=\[train-a\]"):
        open_utterances(small(**settings, data__train_splits=["train"]), files)


def test_no_evaluation_set_is_called_train():
    with pytest.raises(ConfigError, match="'train' names the training set. Give the evaluation set another name"):
        small(data__dev_sets=["train"], data__set_sizes={"train": 1, "dev-clean": 5, "test-clean": 4})


# ------------------------------------------------------------------------------------ the identity of data


@pytest.mark.parametrize("source", SOURCES)
def test_other_recordings_of_the_same_names_sizes_and_texts_are_other_data(source, files):
    settings = small(**SOURCES[source])
    before = identify(settings, files)
    path, _ = transcripts(files / "tree" / "train-b")[2]
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    make_parquet(files)
    after = identify(settings, files)
    changed = [one != two for one, two in zip(before.split(":"), after.split(":"), strict=True)]
    assert changed == [False, True, False, False]  # name, train, dev-clean, test-clean


def test_the_same_data_from_any_source_have_one_identity(root):
    assert len({identify(small(**changes), root) for changes in SOURCES.values()}) == 1


def test_data_are_identified_without_being_heard(root, monkeypatch):
    data = SpeechData(small(data_root=str(root)))
    data.setup("fit")
    monkeypatch.setattr(Utterances, "__init__", lambda *_: pytest.fail("lengths were asked for"))
    assert SpeechData(small(data_root=str(root))).identify() == data.fingerprint
