"""Recordings in the layouts that people have, measured and opened; held-out sets; alphabets; training on a part."""

import json
import shutil

import datasets
import numpy as np
import pytest
import soundfile

from novobench.errors import ConfigError, DataError
from novobench.suite.own_data import measure
from novobench.tasks.sampling import SampleKey
from novobench.tasks.speech.transcripts import in_alphabet, spoken_characters
from tests.cells import small_config
from tests.own_data import open_measured, recording, write_recordings

SPLITS = {"train": 12, "dev": 3, "test": 4}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    return tmp_path


def folders(folder, **options):
    for split, count in SPLITS.items():
        write_recordings(folder / split / "speaker 1", count, **options)


def table(folder, header, separator, suffix, directory="clips"):
    """Common Voice's layout, or a table with other column names."""
    folders(folder.parent / "source", suffix="mp3")
    (folder / directory).mkdir(parents=True)
    for split, count in SPLITS.items():
        lines = [separator.join(header)]
        for number in range(count):
            source = folder.parent / "source" / split / "speaker 1" / f"{number}.mp3"
            shutil.copy(source, folder / directory / f"{split}{number}.mp3")
            text = source.with_suffix(".txt").read_text().strip()
            lines.append(separator.join(["x", f"{split}{number}.mp3", text]))
        (folder / f"{split}{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def manifest(folder):
    folders(folder)
    for split in SPLITS:
        entries = [
            {"audio_filepath": str(path), "text": path.with_suffix(".txt").read_text().strip()}
            for path in sorted((folder / split).rglob("*.wav"), key=lambda path: int(path.stem))
        ]
        (folder / f"{split}.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def parquet(folder):
    folders(folder.parent / "source")
    folder.mkdir()
    for split in SPLITS:
        paths = sorted((folder.parent / "source" / split).rglob("*.wav"), key=lambda path: int(path.stem))
        audio = [{"bytes": path.read_bytes(), "path": None} for path in paths]
        texts = [path.with_suffix(".txt").read_text() for path in paths]
        rows = datasets.Dataset.from_dict({"audio": audio, "sentence": texts})
        rows.to_parquet(str(folder / f"{'validation' if split == 'dev' else split}-00000-of-00001.parquet"))


LAYOUTS = {
    "txt": (folders, {}, "folder"),
    "lab": (folders, {"transcripts": "lab"}, "folder"),
    "capital suffixes": (folders, {"suffix": "WAV", "transcripts": "TXT"}, "folder"),
    "mp3": (folders, {"suffix": "mp3"}, "folder"),
    "flac": (folders, {"suffix": "flac"}, "folder"),
    "ogg": (folders, {"suffix": "ogg"}, "folder"),
    "Common Voice": (table, {"header": ("id", "path", "sentence"), "separator": "\t", "suffix": ".tsv"}, "manifest"),
    "csv": (
        table,
        {"header": ("n", "Audio", "Transcript"), "separator": ",", "suffix": ".csv", "directory": "."},
        "manifest",
    ),
    "NeMo": (manifest, {}, "manifest"),
    "parquet": (parquet, {}, "hub"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, root):
    make, options, source = LAYOUTS[layout]
    make(root / "mine", **options)
    measured, config, data = open_measured("speech", path="mine")
    assert config.data.source == source
    assert list(data.counts.values()) == list(SPLITS.values())
    assert config.data.features.sample_rate == 8000
    assert [each.role for each in data.evaluation_sets] == ["search", "test"]
    assert not measured.bad
    texts = sorted(data.train.utterances.texts)
    folders(root / "plain")
    assert texts == sorted(open_measured("speech", path="plain")[2].train.utterances.texts)


def test_recordings_without_splits_are_held_out_once(root):
    write_recordings(root / "mine", 20)
    measured, config, data = open_measured("speech", path="mine")
    assert config.data.train_splits == ["."]
    assert data.counts == {"train": 16, "dev": 2, "test": 2}
    assert any("no split for dev and test" in note for note in measured.notes)
    sets = [data.train.utterances, *(each.dataset.utterances for each in data.evaluation_sets)]
    ids = [each.listing(index).id for each in sets for index in range(len(each))]
    assert sorted(ids, key=int) == [str(number) for number in range(20)]
    assert data.fingerprint == open_measured("speech", path="mine")[2].fingerprint
    assert open_measured("speech", path="mine", **{"set_sizes.dev": 5})[2].counts["train"] == 13


def test_a_part_reads_the_same_samples(root):
    write_recordings(root / "mine", 20)
    data = open_measured("speech", path="mine")[2]
    utterances = data.evaluation_sets[0].dataset.utterances
    for index in range(len(utterances)):
        number = int(utterances.listing(index).id)
        assert np.abs(utterances.read(index).numpy() - recording(number)).max() < 1e-3


def test_bad_recordings_are_grouped_by_reason(root):
    folders(root / "mine")
    train = root / "mine" / "train" / "speaker 1"
    soundfile.write(train / "0.wav", recording(0, 16000), 16000)
    soundfile.write(train / "1.wav", recording(1, channels=2), 8000)
    (train / "2.txt").unlink()
    (train / "song.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (train / "song.txt").write_text("dog")
    soundfile.write(train / "3.wav", np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    measured, config, data = open_measured("speech", path="mine")
    assert config.data.on_bad_utterance == "skip"
    reasons = {bad.example.rpartition("/")[2]: bad.reason for bad in measured.bad}
    assert sorted(reasons) == ["0.wav", "1.wav", "2.wav", "3.wav", "song.m4a"]
    assert reasons["0.wav"].startswith("its sample rate is 16000, but data.features.sample_rate is 8000; convert it")
    assert reasons["1.wav"].startswith("it has 2 channels, but must have one; mix them")
    assert reasons["2.wav"].startswith("it has no transcript")
    assert reasons["3.wav"].startswith("it cannot be read: it has samples that are")
    assert "ffmpeg -i IN OUT.wav" in reasons["song.m4a"]
    assert data.counts == {"train": 13, "train_bad": 4, "dev": 3, "test": 4}


def test_data_of_only_bad_recordings_is_an_error(root):
    folders(root / "mine", channels=2)
    with pytest.raises(DataError, match="'train' of data 'mine' has no usable utterance: all 12 are bad"):
        measure("speech", "laptop", {"path": "mine"})


def test_a_validation_folder_with_an_unusual_name(root):
    folders(root / "mine")
    (root / "mine" / "dev").rename(root / "mine" / "tuning")
    config = open_measured("speech", path="mine", search_set="tuning")[1]
    assert config.data.search_set == "tuning"
    assert config.data.held_out_sets == []


def test_letters_that_english_lacks_make_an_alphabet_of_their_own(root):
    folders(root / "mine")
    (root / "mine" / "train" / "speaker 1" / "0.txt").write_text("Straße – größer, ’s e\u0301!", encoding="utf-8")
    measured, config, data = open_measured("speech", path="mine")
    alphabet = config.data.alphabet
    assert alphabet[0] == " "
    assert {"ß", "ö", ",", "!", "'", "é"} < set(alphabet)
    assert "–" not in alphabet
    assert "straße größer, 's é!" in data.train.utterances.texts
    assert any("signs that are no letters (! ,)" in note for note in measured.notes)


@pytest.mark.parametrize("text", ["Hello", "İstanbul", "e\u0301 \u200b a", "’tis — so", "हिन्दी", "a\u00adb", "ǅ ﬁn"])
def test_the_characters_of_a_transcript_spell_it(text):
    characters = set(spoken_characters(text)) - {" "}
    assert in_alphabet(text, "".join([" ", *sorted(characters)]))


def test_a_limit_trains_on_the_first_utterances_of_a_fixed_shuffle(root):
    folders(root / "mine")
    seen = {}
    for limit in (4, 8):
        _, config, data = open_measured("speech", path="mine", limit=limit)
        assert config.batch.size == limit
        assert config.epoch_updates == 1
        batches = [data.train[SampleKey(epoch, k)] for epoch in range(3) for k in range(len(data.train))]
        seen[limit] = {index for batch in batches for index in batch.indices}
        assert len(seen[limit]) == limit
        assert data.counts["train"] == 12
    assert seen[4] < seen[8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__held_out_sets": ["nowhere"]}, r"'data.held_out_sets\[0\]' nowhere must be one of the evaluation sets"),
        ({"data__held_out_sets": ["dev-clean", "dev-clean"]}, r"held_out_sets\[1\]' dev-clean"),
        (
            {"data__limit": 5, "data__epoch_size": 5, "data__limit_before_speed": True},
            "'data.limit' 5 and data.epoch_size 5 are both set",
        ),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config("speech", **changes)
