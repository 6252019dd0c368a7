"""Recordings from trees, manifests, the hub, the built-in corpus: the same utterances, counted skips, plain errors."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from novobench.config import CellConfig
from novobench.errors import ConfigError, DataError
from novobench.tasks.sampling import SampleKey
from novobench.tasks.speech import builtin
from novobench.tasks.speech.data import open_utterances
from novobench.tasks.speech.task import SpeechData, build
from novobench.tasks.speech.transcripts import in_alphabet
from tests.tasks.speech.small import (
    HUB_NAMES,
    RATE,
    SIZES,
    SMALL,
    SOURCES,
    make_parquet,
    small,
    transcripts,
)

pytestmark = pytest.mark.usefixtures("own_cache")

ALPHABET = " abcdefghijklmnopqrstuvwxyz'"


@pytest.fixture
def broken(root, tmp_path) -> Path:
    """A copy of tree and manifests, for a test to break."""
    shutil.copytree(root / "tree", tmp_path / "tree")
    shutil.copytree(root / "manifests", tmp_path / "manifests")
    return tmp_path


def everything(config: CellConfig, root: Path) -> list[tuple]:
    """Id, text, length and samples of every utterance, and what training hears of it."""
    splits = open_utterances(config, root)
    found = []
    for split in (splits.train, *splits.sets.values()):
        of = split.utterances
        for index in range(len(of)):
            samples = of.read(index)
            assert len(samples) == of.lengths[index]
            found.append((of.listing(index).id, of.texts[index], samples.numpy().tobytes()))
    batches = [splits.train[SampleKey(1, i)] for i in range(len(splits.train))]
    return [*found, *(batch.features.numpy().tobytes() for batch in batches)]


# ------------------------------------------------------------------------------------ four sources


def test_trees_manifests_and_the_hub_give_the_same_utterances(root):
    one, *others = (everything(small(**changes), root) for changes in SOURCES.values())
    assert len(one) == sum(SIZES.values()) + 4
    for other in others:
        assert other == one
    tree, manifest = (open_utterances(small(**SOURCES[name]), root).fingerprint for name in ("librispeech", "manifest"))
    assert tree == manifest


def test_the_built_in_corpus_goes_through_the_same_door(root, monkeypatch):
    def spoken(split: str) -> builtin.SpokenSplit:
        known = transcripts(root / "tree" / split)
        audio = [soundfile.read(path, dtype="int16")[0] for path, _ in known]
        offsets = np.cumsum([0, *map(len, audio)])
        ids = [path.stem for path, _ in known]
        return builtin.SpokenSplit(ids, [text.lower() for _, text in known], np.concatenate(audio), offsets, "0" * 64)

    corpus = {split: spoken(split) for split in SIZES}
    monkeypatch.setattr(builtin, "corpus", lambda: corpus)
    monkeypatch.setattr(builtin, "SAMPLE_RATE", RATE)
    assert everything(small(data__source="espeak", data__name="espeak-words"), root) == everything(small(), root)
    with pytest.raises(DataError, match="The built-in corpus has no split 'dev-cleen'. Did you mean 'dev-clean'"):
        open_utterances(
            small(data__source="espeak", data__name="espeak-words", data__split_names={"dev-clean": "dev-cleen"}), root
        )


def test_what_is_read_is_what_was_written(root):
    train = open_utterances(small(), root).train.utterances
    expected = [pair for split in ("train-a", "train-b") for pair in transcripts(root / "tree" / split)]
    assert len(train) == len(expected) == 13
    for index, (path, text) in enumerate(expected):
        assert train.listing(index).id == path.stem
        assert train.texts[index] == text.lower()
        assert np.array_equal(train.read(index).numpy(), soundfile.read(path, dtype="int16")[0] / np.float32(32768))


def test_train_splits_are_joined_in_their_order(root):
    a, b = (
        open_utterances(small(data__train_splits=[s], data__train_size=SIZES[s]), root) for s in ("train-a", "train-b")
    )
    both = open_utterances(small(data__train_splits=["train-b", "train-a"]), root)
    assert both.train.utterances.texts == b.train.utterances.texts + a.train.utterances.texts
    assert both.counts["train"] == 13
    assert both.fingerprint != open_utterances(small(), root).fingerprint


def test_a_set_may_have_another_name_where_it_lies(broken):
    (broken / "tree" / "dev-clean").rename(broken / "tree" / "held-out")
    with pytest.raises(DataError, match="has no split 'dev-clean'"):
        open_utterances(small(), broken)
    splits = open_utterances(small(data__split_names={"dev-clean": "held-out"}), broken)
    assert list(splits.sets) == ["dev-clean", "test-clean"]
    assert splits.counts == {"train": 13, "dev-clean": 5, "test-clean": 4}


def test_sets_have_their_roles(root, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_DATA", str(root))
    config = small(
        data__dev_sets=["test-clean"],
        data__test_sets=["train-a"],
        data__train_splits=["train-b"],
        data__train_size=6,
        data__set_sizes={"dev-clean": 5, "test-clean": 4, "train-a": 7},
    )
    data = SpeechData(config)
    data.setup("fit")
    roles = {each.name: each.role for each in data.evaluation_sets}
    assert roles == {"dev-clean": "search", "test-clean": "dev", "train-a": "test"}


# ------------------------------------------------------------------------------------ transcripts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  IT'S   Two\tbooks ", "it's two books"),
        ("Café déjà Ångström naïve", "cafe deja angstrom naive"),
        ("Cafe\u0301", "cafe"),  # the accent by itself
        ("ｆｕｌｌ ﬁne", "full fine"),  # full width, and a ligature
        ("I don’t, I won‘t, I ca`nt".replace(",", ""), "i don't i won't i ca'nt"),
        ("well-known yes—no 1".replace(" 1", ""), "well known yes no"),
        ("one\u2013two\u2010three\u2212".replace("\u2212", ""), "one two three"),
        ("one\u2028two\u00a0three\u200bfour", "one two three four"),  # what parts lines and words
        ("\ufeffco\u00adop", "coop"),  # a byte-order mark, a soft hyphen
        ("İSTANBUL", "istanbul"),
    ],
)
def test_transcripts_become_plain_letters(text, expected):
    assert in_alphabet(text, ALPHABET) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("alphabet", "text", "expected"),
    [
        (" abcdefghijklmnopqrstuvwxyzäöüß", "Schöne GRÜẞE, Café".replace(",", ""), "schöne grüße cafe"),
        (" abcdefghijklmnopqrstuvwxyzæøå'", "Smørrebrød på Århus", "smørrebrød på århus"),
        (" abcdefghijklmnoprstuwyząćęłńóśźż", "Łódź ŻÓŁĆ", "łódź żółć"),
        (" абвгдежзийклмнопрстуфхцчшщъыьэюя", "Ёлка й", "елка й"),
        (" abcçdefgğhıijklmnoöprsştuüvyz", "ISPARTA İzmir", "ısparta izmir"),
        (" abcdeêghinoôơprstuưvxy", "thế", "thê"),  # the tone goes, the letter stays
        (" abcdefghijklmnopqrstuvwxyz-", "well-known", "well-known"),
    ],
)
def test_letters_of_the_alphabet_are_kept(alphabet, text, expected, form):
    assert in_alphabet(unicodedata.normalize(form, text), alphabet) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it has no transcript"),
        (" \t ", "it has no transcript"),
        ("—", "its transcript '—' has no letter"),
        ("中文", "its transcript has '中', which is not in data.alphabet"),
        ("ROOM 7", "its transcript has '7', which is not in data.alphabet"),
        ("straße", "its transcript has 'ß'"),
        ("smørrebrød", "its transcript has 'ø'"),
        ("łódź", "its transcript has 'ł'"),
        ("привет you", "its transcript has 'п'"),
        ("two 😀", "its transcript has '😀'"),
        ("“two”", "its transcript has '“'"),
        ("one \ud83d two", r"its transcript has '\\ud83d'"),
        ("कि", "its transcript has 'क'"),
    ],
)
def test_what_has_no_form_in_the_alphabet_is_told(text, expected):
    with pytest.raises(ValueError, match=expected):
        in_alphabet(text, ALPHABET)


def test_a_vowel_sign_is_no_accent():
    with pytest.raises(ValueError, match="which is not in data.alphabet"):
        in_alphabet("कि", " कखग")


@pytest.mark.parametrize("alphabet", [" Abc", " ae\u0308"])
def test_alphabets_are_lower_case_and_composed(alphabet):
    with pytest.raises(ConfigError, match="'data.alphabet' must hold lower-case letters, each one character"):
        small(data__alphabet=alphabet, model__outputs=len(alphabet) + 1)


# ------------------------------------------------------------------------------------ bad utterances

BAD = "10-1-0002"
"""The second utterance of the first training speaker."""


def edit(root: Path, old: str, new: str, name: str = "10-1.trans.txt") -> None:
    path = next((root / "tree").glob(f"**/{name}"))
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def line_of(root: Path) -> str:
    path = next((root / "tree").glob("**/10-1.trans.txt"))
    return next(line for line in path.read_text().splitlines() if line.startswith(BAD))


def recording(root: Path, name: str = BAD) -> Path:
    return next((root / "tree").glob(f"**/{name}.flac"))


def rewrite(root: Path, rate: int = RATE, channels: int = 1, samples: int | None = None) -> None:
    sound, _ = soundfile.read(recording(root), dtype="int16")
    soundfile.write(recording(root), np.stack([sound[:samples]] * channels, axis=1), rate)


def cut_short(path: Path) -> None:
    """The header stays, and half of the rest."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKS = {
    "no recording": (lambda root: recording(root).unlink(), "the recording cannot be read: it is missing."),
    "no line": (lambda root: edit(root, line_of(root) + "\n", ""), "it has no transcript"),
    "noise for flac": (
        lambda root: recording(root).write_bytes(np.random.default_rng(0).bytes(5000)),
        "the recording cannot be read: it is not an audio file that libsndfile can decode (",
    ),
    "an empty file": (lambda root: recording(root).write_bytes(b""), "the recording cannot be read: it is empty."),
    "sample rate": (
        lambda root: rewrite(root, rate=8000),
        "its sample rate is 8000, but data.features.sample_rate is 16000; convert it, e.g. sox IN -r 16000 OUT",
    ),
    "stereo": (lambda root: rewrite(root, channels=2), "it has 2 channels, but must have one"),
    "less than a frame": (
        lambda root: rewrite(root, samples=256),
        "it has 256 samples, but features need at least 257",
    ),
    "empty transcript": (lambda root: edit(root, line_of(root), BAD), "it has no transcript"),
    "a digit": (
        lambda root: edit(root, BAD + " ", BAD + " 4 "),
        "its transcript has '4', which is not in data.alphabet",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_bad_utterance_is_told_or_left_out(kind, broken, root, caplog):
    damage, expected = BREAKS[kind]
    damage(broken)
    path = broken / recording(root).relative_to(root)
    with pytest.raises(DataError) as told:
        open_utterances(small(), broken)
    message = str(told.value)
    assert message.startswith(f"{path} (utterance {BAD} of train): ")
    assert expected in message
    assert message.endswith("Fix it, or set data.on_bad_utterance=skip to leave it out.")
    assert "\n" not in message

    splits = open_utterances(small(data__on_bad_utterance="skip"), broken)
    assert splits.counts == {"train": 13, "dev-clean": 5, "test-clean": 4, "train_bad": 1}
    assert len(splits.train.utterances) == 12
    assert f"Left out {path} (utterance {BAD} of train): " in caplog.text
    assert expected in caplog.text
    whole = open_utterances(small(), root).train.utterances
    kept = [whole.texts[i] for i in range(13) if whole.listing(i).id != BAD]
    assert splits.train.utterances.texts == kept


@pytest.mark.parametrize("kind", ["no recording", "noise for flac", "sample rate"])
def test_a_manifest_tells_the_same(kind, broken, caplog):
    damage, expected = BREAKS[kind]
    damage(broken)
    with pytest.raises(DataError, match=f"{BAD}.flac \\(utterance {BAD} of train\\)") as told:
        open_utterances(small(**SOURCES["manifest"]), broken)
    assert expected in str(told.value)
    assert open_utterances(small(**SOURCES["manifest"], data__on_bad_utterance="skip"), broken).counts["train_bad"] == 1


def test_a_bad_utterance_of_an_evaluation_set_is_counted_with_it(broken):
    path = recording(broken, "30-1-0000")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="30-1-0000.flac \\(utterance 30-1-0000 of dev-clean\\)"):
        open_utterances(small(), broken)
    splits = open_utterances(small(data__on_bad_utterance="skip"), broken)
    assert splits.counts == {"train": 13, "dev-clean": 5, "test-clean": 4, "dev-clean_bad": 1}
    assert len(splits.sets["dev-clean"]) == 4


def test_a_recording_that_ends_early_is_told_or_left_out_when_it_is_read(broken, caplog):
    path = recording(broken)
    cut_short(path)
    assert soundfile.info(path).frames > 6000  # as its header says
    train = open_utterances(small(), broken).train
    index = [train.utterances.listing(i).id for i in range(13)].index(BAD)
    expected = f"{path} (utterance {BAD}): it cannot be read: it is damaged or cut short ("
    with pytest.raises(DataError) as told:
        train.utterances.read(index)
    assert str(told.value).startswith(expected)
    assert str(told.value).endswith("Fix it, or set data.on_bad_utterance=skip to leave it out.")

    splits = open_utterances(small(data__on_bad_utterance="skip", budget="1ep"), broken)
    assert splits.counts == {"train": 13, "dev-clean": 5, "test-clean": 4}  # as far as headers tell
    packed = splits.train.packed(0)
    batches = [splits.train[SampleKey(0, i)] for i in range(len(packed))]
    assert [batch.skipped for batch in batches] == (packed == index).sum(axis=1).tolist()
    assert [len(batch.tokens) for batch in batches] == (packed != index).sum(axis=1).tolist()
    assert expected in caplog.text


def test_a_recording_that_changed_under_its_header_is_told(broken):
    train = open_utterances(small(), broken).train
    index = [train.utterances.listing(i).id for i in range(13)].index(BAD)
    rewrite(broken, samples=5000)
    with pytest.raises(DataError, match=r"it cannot be read: it ends after 5000 of \d+ samples"):
        train.utterances.read(index)
    rewrite(broken, channels=2)
    with pytest.raises(DataError, match="it has 2 channels"):
        train.utterances.read(index)


def test_a_mended_recording_is_seen(broken):
    """What was read of headers is kept, but not longer than the file."""
    good = recording(broken).read_bytes()
    rewrite(broken, rate=8000)
    with pytest.raises(DataError, match="its sample rate is 8000"):
        open_utterances(small(), broken)
    recording(broken).write_bytes(good)
    open_utterances(small(), broken)


def test_a_mended_parquet_file_is_seen(broken):
    rows = [(path.stem, text, path.read_bytes()) for path, text in transcripts(broken / "tree" / "train-a")]
    others = {
        split: [(path.stem, text, path.read_bytes()) for path, text in transcripts(broken / "tree" / split)]
        for split in ("train-b", "dev-clean", "test-clean")
    }
    rewrite(broken, rate=8000)
    bad = [(name, text, recording(broken).read_bytes() if name == BAD else content) for name, text, content in rows]
    make_parquet(broken, {"train-a": bad, **others})
    config = small(**SOURCES["hub"], data__keep_features=True)
    with pytest.raises(DataError, match=rf"hub\[train.a\] row 1 \(utterance {BAD} of train\): its sample rate is 8000"):
        open_utterances(config, broken)
    make_parquet(broken, {"train-a": rows})
    before = everything(config, broken)
    make_parquet(broken, {"train-a": [(name, text, rows[0][2]) for name, text, _ in rows]})
    after = everything(config, broken)
    assert after[:1] == before[:1]
    assert after[1:7] != before[1:7]
    assert after[-4:] != before[-4:]  # kept features


def test_rows_without_recording_or_text_are_bad_utterances(broken, caplog):
    rows = {
        split: [(path.stem, text, path.read_bytes()) for path, text in transcripts(broken / "tree" / split)]
        for split in SIZES
    }
    rows["train-a"][2] = (*rows["train-a"][2][:2], None)
    rows["train-b"][1] = (rows["train-b"][1][0], None, rows["train-b"][1][2])
    make_parquet(broken, rows)
    with pytest.raises(DataError, match=r"hub\[train.a\] row 2 .*: the recording cannot be read: it is missing"):
        open_utterances(small(**SOURCES["hub"]), broken)
    counts = open_utterances(small(**SOURCES["hub"], data__on_bad_utterance="skip"), broken).counts
    assert counts["train_bad"] == 2
    assert "hub[train.b] row 1" in caplog.text
    assert "it has no transcript" in caplog.text


def test_nothing_left_is_told(broken):
    for path in (broken / "tree" / "dev-clean").glob("**/*.flac"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="'dev-clean' of data 'tiny' has no usable utterance"):
        open_utterances(small(data__on_bad_utterance="skip"), broken)


def test_an_evaluation_set_without_a_readable_recording_has_no_error_rate(broken):
    for path in (broken / "tree" / "test-clean").glob("**/*.flac"):
        cut_short(path)
    config = small(data__on_bad_utterance="skip", data_root=str(broken))
    task, data = build(config)
    data.setup("fit")
    test = next(each for each in data.evaluation_sets if each.name == "test-clean")
    batches = list(data.evaluation_batches(test.dataset, 0, 1))
    assert [batch.skipped for batch in batches] == [3, 1]
    for batch in batches:
        assert task.evaluation_step(batch) == []
    with pytest.raises(DataError, match="No recording of an evaluation set of 'tiny' can be read"):
        task.evaluation_end()


# ------------------------------------------------------------------------------------ wrong folders and files


def test_missing_folders_and_splits_are_named(root, tmp_path):
    with pytest.raises(DataError, match="No data folder .*/nowhere for 'tiny' .*LibriSpeech's folders.*NOVOBENCH_DATA"):
        open_utterances(small(data__path="nowhere"), root)
    with pytest.raises(DataError, match="No data folder .*/nowhere for 'tiny' .*manifests"):
        open_utterances(small(data__source="manifest", data__path="nowhere"), root)
    with pytest.raises(
        DataError, match="has no split 'dev-cleen'. Did you mean 'dev-clean'.*It holds: dev-clean, test-"
    ):
        open_utterances(small(data__search_set="dev-cleen", data__set_sizes={"dev-cleen": 5, "test-clean": 4}), root)
    with pytest.raises(DataError, match=r"has no split 'train-c'. Did you mean 'train-.'.*It holds: dev-clean"):
        open_utterances(small(**SOURCES["manifest"], data__train_splits=["train-c"]), root)
    hub = {**SOURCES["hub"], "data__train_splits": ["train.c"]}
    with pytest.raises(DataError, match=r"hub\[train.c\].*Unknown split.*train.a.*Set data.hub_config, data.train_sp"):
        open_utterances(small(**hub), root)
    (tmp_path / "tree" / "train-a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"tree/train-a holds no <speaker>/<chapter>/\*.trans.txt"):
        open_utterances(small(), tmp_path)


def test_a_column_that_is_missing_is_named(root, tmp_path):
    import datasets

    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name in HUB_NAMES.values():
        table = datasets.Dataset.from_dict({"id": ["1"], "sentence": ["ONE"], "audio": [{"bytes": b"", "path": ""}]})
        table.to_parquet(str(tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"hub\[train.a\] has no column 'text'. It holds: id, sentence, audio"):
        open_utterances(small(**SOURCES["hub"]), tmp_path)


def test_transcripts_that_are_not_utf8_are_told(broken):
    path = next((broken / "tree").glob("**/10-1.trans.txt"))
    content = path.read_text().replace(line_of(broken), f"{BAD} CAFÉ")
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(
        DataError, match=r"10-1.trans.txt line 2 is not UTF-8 \(byte 0xc9\). Convert the file, e.g. iconv"
    ):
        open_utterances(small(), broken)
    path.write_text(content, encoding="utf-8")
    assert "cafe" in open_utterances(small(), broken).train.utterances.texts
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())  # as Windows writes it
    assert "cafe" in open_utterances(small(), broken).train.utterances.texts


@pytest.mark.parametrize(
    "line", ["no json", '{"text": "one"}', '["a.flac", "one"]', '{"audio_filepath": "a.flac"}', "7"]
)
def test_a_manifest_line_that_is_no_utterance_is_told(line, broken):
    path = broken / "manifests" / "train-b.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "", line, *lines[3:]]) + "\n")
    with pytest.raises(DataError, match=r"train-b.json line 3 is not a JSON object with audio_filepath and text \("):
        open_utterances(small(**SOURCES["manifest"]), broken)


def test_a_null_in_a_manifest_is_no_word(broken):
    path = broken / "manifests" / "train-b.json"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "text": None}), *others]) + "\n")
    with pytest.raises(DataError, match="it has no transcript"):
        open_utterances(small(**SOURCES["manifest"]), broken)
    path.write_text("\n")
    with pytest.raises(DataError, match=r"train-b.json is empty"):
        open_utterances(small(**SOURCES["manifest"]), broken)


def test_all_wrong_sizes_are_told_at_once(root):
    with pytest.raises(DataError) as told:
        open_utterances(small(data__train_size=14, data__set_sizes={"dev-clean": 6, "test-clean": 4}), root)
    assert str(told.value) == (
        "data 'tiny' (librispeech tree) has 13 utterances in train, but data.train_size is 14, "
        "5 utterances in dev-clean, but data.set_sizes.dev-clean is 6. "
        "Complete the data, or add: --set data.train_size=13 data.set_sizes.dev-clean=5"
    )


# ------------------------------------------------------------------------------------ through the command: exit code 1


@pytest.fixture
def run_tiny(workspace, broken, novobench):
    """A command that trains one small row on the tree of `broken`."""
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
    words = ("run", "tiny", "--scale", "gpu", "--set", f"data_root={broken}")
    return lambda *more: novobench(*words, *more)


def reason(err: str) -> str:
    """The cell's line; the summary below it says that the rest is kept."""
    first, summary = (line for line in err.splitlines() if line)
    assert "1 of 1 cells failed; the others are finished and kept" in summary
    assert "Traceback" not in err
    return first


def test_a_recording_cut_short_ends_the_command(broken, run_tiny):
    cut_short(recording(broken))
    code, _, err = run_tiny()
    assert code == 1
    assert f"{recording(broken)} (utterance {BAD}): it cannot be read: it is damaged or cut short" in reason(err)
    assert "data.on_bad_utterance=skip" in err


def test_training_goes_on_without_bad_utterances(workspace, broken, run_tiny):
    cut_short(recording(broken))
    cut_short(recording(broken, "40-1-0002"))
    recording(broken, "40-1-0000").write_bytes(b"")
    edit(broken, "11-1-0001 ", "11-1-0001 4 ", "11-1.trans.txt")
    code, out, err = run_tiny("data.on_bad_utterance=skip", "budget=2ep")
    assert (code, err) == (0, "")
    assert "test-clean: wer" in out
    cell = next((workspace / "runs" / "gpu").glob("speech-*"))
    logged = (cell / "log.txt").read_text()
    for name in (BAD, "40-1-0002", "40-1-0000", "11-1-0001"):
        assert f"{name}.flac (utterance {name}" in logged
    record = json.loads((cell / "record.json").read_text())
    counts = {"train": 13, "train_bad": 1, "dev-clean": 5, "test-clean": 4, "test-clean_bad": 1}
    assert record["counts"] == counts
    train = open_utterances(small(data__on_bad_utterance="skip"), broken).train
    index = [train.utterances.listing(i).id for i in range(12)].index(BAD)
    assert record["skipped_samples"] == sum(int((train.packed(epoch) == index).sum()) for epoch in (0, 1)) >= 2
    test, dev = (record["metrics"][name] for name in ("test-clean", "dev-clean"))
    assert test["skipped"] == {"value": 1, "n": 2, "unit": "utterances"}
    assert "skipped" not in dev
