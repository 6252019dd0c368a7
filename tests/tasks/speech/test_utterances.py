"""Bad utterances: reported with their names, or left out and counted, from every source and through the command."""

import json

import numpy as np
import pytest
import soundfile
import torch
import yaml

from novobench.errors import DataError
from novobench.tasks.sampling import SampleKey
from novobench.tasks.speech.data import (
    open_utterances,
)
from novobench.tasks.speech.task import build
from tests.tasks.speech.small import (
    BAD_ID,
    MANIFEST,
    RATE,
    SIZES,
    SMALL,
    SOURCES,
    change_transcript,
    cut_short,
    edit_manifest,
    everything,
    make_parquet,
    recording,
    rewrite_recording,
    small,
    transcript_line,
    transcripts,
)

pytestmark = pytest.mark.usefixtures("own_cache")


# ------------------------------------------------------------------------------------ bad utterances


BREAKS = {
    "no recording": (lambda root: recording(root).unlink(), "the recording cannot be read: it is missing."),
    "no line": (lambda root: change_transcript(root, transcript_line(root) + "\n", ""), "it has no transcript"),
    "noise for flac": (
        lambda root: recording(root).write_bytes(np.random.default_rng(0).bytes(5000)),
        "the recording cannot be read: it is not an audio file that libsndfile can decode (",
    ),
    "an empty file": (lambda root: recording(root).write_bytes(b""), "the recording cannot be read: it is empty."),
    "sample rate": (
        lambda root: rewrite_recording(root, rate=8000),
        "its sample rate is 8000, but data.features.sample_rate is 16000; convert it, e.g. sox IN -r 16000 OUT",
    ),
    "stereo": (lambda root: rewrite_recording(root, channels=2), "it has 2 channels, but must have one"),
    "less than a frame": (
        lambda root: rewrite_recording(root, samples=256),
        "it has 256 samples, but features need at least 257",
    ),
    "empty transcript": (lambda root: change_transcript(root, transcript_line(root), BAD_ID), "it has no transcript"),
    "a digit": (
        lambda root: change_transcript(root, BAD_ID + " ", BAD_ID + " 4 "),
        "its transcript has '4', which is not in data.alphabet",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_bad_utterance_is_reported_or_left_out(kind, files, root, caplog):
    damage, expected = BREAKS[kind]
    damage(files)
    path = files / recording(root).relative_to(root)
    with pytest.raises(DataError) as error:
        open_utterances(small(), files)
    message = str(error.value)
    assert message.startswith(f"{path} (utterance {BAD_ID} of train): ")
    assert expected in message
    assert message.endswith("Fix it, or set data.on_bad_utterance=skip to leave it out.")
    assert "\n" not in message

    splits = open_utterances(small(data__on_bad_utterance="skip"), files)
    assert splits.counts == {"train": 13, "dev-clean": 5, "test-clean": 4, "train_bad": 1}
    assert len(splits.train.utterances) == 12
    assert f"Left out {path} (utterance {BAD_ID} of train): " in caplog.text
    assert expected in caplog.text
    whole = open_utterances(small(), root).train.utterances
    kept = [whole.texts[i] for i in range(13) if whole.listing(i).id != BAD_ID]
    assert splits.train.utterances.texts == kept


@pytest.mark.parametrize("kind", ["no recording", "noise for flac", "sample rate"])
def test_a_manifest_reports_the_same_error(kind, files, caplog):
    damage, expected = BREAKS[kind]
    damage(files)
    with pytest.raises(DataError, match=f"{BAD_ID}.flac \\(utterance {BAD_ID} of train\\)") as error:
        open_utterances(small(**SOURCES["manifest"]), files)
    assert expected in str(error.value)
    assert open_utterances(small(**SOURCES["manifest"], data__on_bad_utterance="skip"), files).counts["train_bad"] == 1


def test_a_bad_utterance_of_an_evaluation_set_is_counted_with_it(files):
    path = recording(files, "30-1-0000")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="30-1-0000.flac \\(utterance 30-1-0000 of dev-clean\\)"):
        open_utterances(small(), files)
    splits = open_utterances(small(data__on_bad_utterance="skip"), files)
    assert splits.counts == {"train": 13, "dev-clean": 5, "test-clean": 4, "dev-clean_bad": 1}
    assert len(splits.sets["dev-clean"]) == 4


def test_a_recording_that_ends_early_is_reported_or_left_out_when_it_is_read(files, caplog):
    path = recording(files)
    cut_short(path)
    assert soundfile.info(path).frames > 6000  # as its header says
    train = open_utterances(small(), files).train
    index = [train.utterances.listing(i).id for i in range(13)].index(BAD_ID)
    expected = f"{path} (utterance {BAD_ID}): it cannot be read: it is damaged or cut short ("
    with pytest.raises(DataError) as error:
        train.utterances.read(index)
    assert str(error.value).startswith(expected)
    assert str(error.value).endswith("Fix it, or set data.on_bad_utterance=skip to leave it out.")

    splits = open_utterances(small(data__on_bad_utterance="skip", budget="1ep"), files)
    assert splits.counts == {"train": 13, "dev-clean": 5, "test-clean": 4}  # by the headers alone
    packed = splits.train.packed(0)
    batches = [splits.train[SampleKey(0, i)] for i in range(len(packed))]
    assert [batch.skipped for batch in batches] == (packed == index).sum(axis=1).tolist()
    assert [len(batch.tokens) for batch in batches] == (packed != index).sum(axis=1).tolist()
    assert expected in caplog.text


def test_a_recording_that_changed_under_its_header_is_reported(files):
    train = open_utterances(small(), files).train
    index = [train.utterances.listing(i).id for i in range(13)].index(BAD_ID)
    rewrite_recording(files, samples=5000)
    with pytest.raises(DataError, match=r"it cannot be read: it ends after 5000 of \d+ samples"):
        train.utterances.read(index)
    rewrite_recording(files, channels=2)
    with pytest.raises(DataError, match="it has 2 channels"):
        train.utterances.read(index)


def test_a_repaired_recording_is_noticed(files):
    """Headers are cached, but only until the file changes."""
    good = recording(files).read_bytes()
    rewrite_recording(files, rate=8000)
    with pytest.raises(DataError, match="its sample rate is 8000"):
        open_utterances(small(), files)
    recording(files).write_bytes(good)
    open_utterances(small(), files)


def test_a_repaired_parquet_file_is_noticed(files):
    rows = [(path.stem, text, path.read_bytes()) for path, text in transcripts(files / "tree" / "train-a")]
    others = {
        split: [(path.stem, text, path.read_bytes()) for path, text in transcripts(files / "tree" / split)]
        for split in ("train-b", "dev-clean", "test-clean")
    }
    rewrite_recording(files, rate=8000)
    bad = [(name, text, recording(files).read_bytes() if name == BAD_ID else content) for name, text, content in rows]
    make_parquet(files, {"train-a": bad, **others})
    config = small(**SOURCES["hub"], data__keep_features=True)
    with pytest.raises(
        DataError, match=rf"hub\[train.a\] row 1 \(utterance {BAD_ID} of train\): its sample rate is 8000"
    ):
        open_utterances(config, files)
    make_parquet(files, {"train-a": rows})
    before = everything(config, files)
    make_parquet(files, {"train-a": [(name, text, rows[0][2]) for name, text, _ in rows]})
    after = everything(config, files)
    assert after[:1] == before[:1]
    assert after[1:7] != before[1:7]
    assert after[-4:] != before[-4:]  # cached features


def test_rows_without_recording_or_text_are_bad_utterances(files, caplog):
    rows = {
        split: [(path.stem, text, path.read_bytes()) for path, text in transcripts(files / "tree" / split)]
        for split in SIZES
    }
    rows["train-a"][2] = (*rows["train-a"][2][:2], None)
    rows["train-b"][1] = (rows["train-b"][1][0], None, rows["train-b"][1][2])
    make_parquet(files, rows)
    with pytest.raises(DataError, match=r"hub\[train.a\] row 2 .*: the recording cannot be read: it is missing"):
        open_utterances(small(**SOURCES["hub"]), files)
    counts = open_utterances(small(**SOURCES["hub"], data__on_bad_utterance="skip"), files).counts
    assert counts["train_bad"] == 2
    assert "hub[train.b] row 1" in caplog.text
    assert "it has no transcript" in caplog.text


def test_nothing_left_is_reported(files):
    for path in (files / "tree" / "dev-clean").glob("**/*.flac"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="'dev-clean' of data 'tiny' has no usable utterance"):
        open_utterances(small(data__on_bad_utterance="skip"), files)


def test_an_evaluation_set_without_a_readable_recording_has_no_error_rate(files):
    for path in (files / "tree" / "test-clean").glob("**/*.flac"):
        cut_short(path)
    config = small(data__on_bad_utterance="skip", data_root=str(files))
    task, data = build(config)
    data.setup("fit")
    test = next(each for each in data.evaluation_sets if each.name == "test-clean")
    batches = list(data.evaluation_batches(test.dataset, 0, 1))
    assert [batch.skipped for batch in batches] == [3, 1]
    for batch in batches:
        assert task.evaluation_step(batch) == []
    with pytest.raises(DataError, match="No recording of an evaluation set of 'tiny' can be read"):
        task.evaluation_end()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("split", ["train-b", "dev-clean"])
def test_samples_that_are_not_finite_are_reported_or_left_out(value, split, files, caplog):
    path, _ = transcripts(files / "tree" / split)[0]
    samples, _ = soundfile.read(path, dtype="float32")
    samples[100] = value
    soundfile.write(files / "odd.wav", samples, RATE, subtype="FLOAT")
    edit_manifest(files, {"audio_filepath": "../odd.wav"}, split=split)
    error = r"odd.wav \(utterance odd\): it cannot be read: it has samples that are not finite numbers"

    def batches(settings):
        splits = open_utterances(settings, files)
        dev = splits.sets["dev-clean"]
        training = [splits.train[SampleKey(0, place)] for place in range(len(splits.train))]
        return training, [dev[position] for position in range(len(dev))]

    with pytest.raises(DataError, match=error):
        batches(small(**MANIFEST))
    training, judged = batches(small(**MANIFEST, data__on_bad_utterance="skip"))
    assert sum(batch.skipped for batch in training) + judged.count(None) >= 1
    assert (judged.count(None) == 1) == (split == "dev-clean")
    assert all(torch.isfinite(batch.features).all() for batch in training)


# ------------------------------------------------------------------------------------ through the command: exit code 1


@pytest.fixture
def run_tiny(workspace, files, novobench):
    """A command that trains one small row on the tree of `files`."""
    content = {
        "title": "Tiny",
        "where": "nowhere",
        "task": "speech",
        "columns": [{"key": "wer", "split": "test-clean", "metric": "wer", "label": "WER", "better": "smaller"}],
        "set": {key: value for key, value in SMALL.items() if key not in ("task", "seed", "scale")},
        "gpu": {},
        "rows": [{"id": "novograd", "label": "NovoGrad", "gpu": {}}],
    }
    (workspace / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(content))
    words = ("run", "tiny", "--scale", "gpu", "--set", f"data_root={files}")
    return lambda *more: novobench(*words, *more)


def reason(err: str) -> str:
    """The line about the cell. The summary below it says that finished cells are kept."""
    first, summary = (line for line in err.splitlines() if line)
    assert "1 of 1 cells failed; the others are finished and kept" in summary
    assert "Traceback" not in err
    return first


def test_a_recording_cut_short_ends_the_command(files, run_tiny):
    cut_short(recording(files))
    code, _, err = run_tiny()
    assert code == 1
    assert f"{recording(files)} (utterance {BAD_ID}): it cannot be read: it is damaged or cut short" in reason(err)
    assert "data.on_bad_utterance=skip" in err


def test_training_continues_without_bad_utterances(workspace, files, run_tiny):
    cut_short(recording(files))
    cut_short(recording(files, "40-1-0002"))
    recording(files, "40-1-0000").write_bytes(b"")
    change_transcript(files, "11-1-0001 ", "11-1-0001 4 ", "11-1.trans.txt")
    code, out, err = run_tiny("data.on_bad_utterance=skip", "budget=2ep")
    assert (code, err) == (0, "")
    assert "test-clean: wer" in out
    cell = next((workspace / "runs" / "gpu").glob("speech-*"))
    logged = (cell / "log.txt").read_text()
    for name in (BAD_ID, "40-1-0002", "40-1-0000", "11-1-0001"):
        assert f"{name}.flac (utterance {name}" in logged
    record = json.loads((cell / "record.json").read_text())
    counts = {"train": 13, "train_bad": 1, "dev-clean": 5, "test-clean": 4, "test-clean_bad": 1}
    assert record["counts"] == counts
    train = open_utterances(small(data__on_bad_utterance="skip", seed=record["seed"]), files).train
    index = [train.utterances.listing(i).id for i in range(12)].index(BAD_ID)
    assert record["skipped_samples"] == sum(int((train.packed(epoch) == index).sum()) for epoch in (0, 1)) >= 2
    test, dev = (record["metrics"][name] for name in ("test-clean", "dev-clean"))
    assert test["skipped"] == {"value": 1, "n": 2, "unit": "utterances"}
    assert "skipped" not in dev
