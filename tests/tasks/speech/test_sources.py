"""The four sources: the same utterances from each, clear errors for what is missing, and the identity of data."""

import numpy as np
import pytest
import soundfile

from novobench.errors import ConfigError, DataError
from novobench.tasks.speech import builtin
from novobench.tasks.speech.data import (
    identify,
    open_utterances,
)
from novobench.tasks.speech.task import SpeechData
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import (
    HUB_NAMES,
    NOT_AUDIO,
    RATE,
    SAMPLES,
    SIZES,
    SOURCES,
    everything,
    make_parquet,
    open_split,
    small,
    transcripts,
    wav,
)

pytestmark = pytest.mark.usefixtures("own_cache")


# ------------------------------------------------------------------------------------ four sources


def test_trees_manifests_and_the_hub_give_the_same_utterances(root):
    one, *others = (everything(small(**changes), root) for changes in SOURCES.values())
    assert len(one) == sum(SIZES.values()) + 4
    for other in others:
        assert other == one
    tree, manifest = (open_utterances(small(**SOURCES[name]), root).fingerprint for name in ("librispeech", "manifest"))
    assert tree == manifest


def test_the_built_in_corpus_gives_the_same_utterances(root, monkeypatch):
    def samples_by_id(split: str) -> builtin.SpokenSplit:
        utterances = transcripts(root / "tree" / split)
        audio = [soundfile.read(path, dtype="int16")[0] for path, _ in utterances]
        offsets = np.cumsum([0, *map(len, audio)])
        ids = [path.stem for path, _ in utterances]
        texts = [text.lower() for _, text in utterances]
        return builtin.SpokenSplit(ids, texts, np.concatenate(audio), offsets, "0" * 64)

    corpus = {split: samples_by_id(split) for split in SIZES}
    monkeypatch.setattr(builtin, "corpus", lambda: corpus)
    monkeypatch.setattr(builtin, "SAMPLE_RATE", RATE)
    assert everything(small(data__source="espeak", data__name="espeak-words"), root) == everything(small(), root)
    with pytest.raises(DataError, match="The built-in corpus has no split 'dev-cleen'. Did you mean 'dev-clean'"):
        open_utterances(
            small(data__source="espeak", data__name="espeak-words", data__split_names={"dev-clean": "dev-cleen"}), root
        )


def test_utterances_are_read_as_written(root):
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


def test_a_set_may_have_another_name_in_the_source(files):
    (files / "tree" / "dev-clean").rename(files / "tree" / "held-out")
    with pytest.raises(DataError, match="has no split 'dev-clean'"):
        open_utterances(small(), files)
    splits = open_utterances(small(data__split_names={"dev-clean": "held-out"}), files)
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


# ------------------------------------------------------------------------------------ missing folders and splits


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
        table = datasets.Dataset.from_dict({"id": ["1"], "words": ["ONE"], "audio": [{"bytes": b"", "path": ""}]})
        table.to_parquet(str(tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"hub\[train.a\] has no column 'text'. It holds: id, words, audio"):
        open_utterances(small(**SOURCES["hub"]), tmp_path)


def test_all_wrong_sizes_are_reported_at_once(root):
    with pytest.raises(DataError) as error:
        open_utterances(small(data__train_size=14, data__set_sizes={"dev-clean": 6, "test-clean": 4}), root)
    assert str(error.value) == (
        "data 'tiny' (librispeech tree) has 13 utterances in train, but data.train_size is 14, "
        "5 utterances in dev-clean, but data.set_sizes.dev-clean is 6. "
        "Complete the data, or add: --set data.train_size=13 data.set_sizes.dev-clean=5"
    )


@pytest.mark.parametrize("source", ["librispeech", "manifest"])
def test_a_split_with_another_name_is_reported_with_the_key_to_set(source, files):
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


# ------------------------------------------------------------------------------------ the hub


def test_rows_may_name_their_files(tmp_path, caplog):
    import datasets

    (tmp_path / "hub" / "data").mkdir(parents=True)
    soundfile.write(tmp_path / "hub" / "here.wav", SAMPLES, RATE)
    soundfile.write(tmp_path / "there.wav", SAMPLES[:6000], RATE)
    audio = [
        {"bytes": None, "path": "here.wav"},
        {"bytes": b"", "path": str(tmp_path / "there.wav")},
        {"bytes": wav(), "path": "not-asked-for.wav"},
        {"bytes": None, "path": "gone.wav"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"noise", "path": None},
    ]
    kinds = {"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    kinds |= {"text": datasets.Value("string"), "id": datasets.Value("string")}
    columns = {"audio": audio, "text": ["one"] * len(audio), "id": ["a", "b", "c", "d", "e", None, None]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    table.to_parquet(str(tmp_path / "hub" / "data" / "train.a-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"hub\[train.a\] row 3 \(utterance d of train\): .*: it is missing"):
        open_split(tmp_path, "hub")
    utterances = open_split(tmp_path, "hub", skip=True)
    assert [len(utterances.read(index)) for index in range(len(utterances))] == [8000, 6000, 8000]
    for row, reason in enumerate(["it is missing", "it is missing", "it is missing", NOT_AUDIO], 3):
        assert f"row {row} (utterance {'de'[row - 3 : row - 2] or f'row-{row}'} of train)" in caplog.text
        assert reason in caplog.text
    before = (utterances.sources[0].cache_key, utterances.sources[0].fingerprint)
    soundfile.write(tmp_path / "there.wav", SAMPLES[:5000], RATE)
    after = open_split(tmp_path, "hub", skip=True)
    assert after.lengths.tolist() == [8000, 5000, 8000]
    assert (after.sources[0].cache_key, after.sources[0].fingerprint) != before


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (
            "audio",
            [7],
            r"hub\[train.a\] has no columns of recordings, transcripts and ids, but audio: Value\('int",
        ),
        ("text", [7], r"row 0 \(utterance a of train\): its text is 7 and must be a string"),
        ("text", [["one"]], r"row 0 \(utterance a of train\): its text is \['one'\] and must be a string"),
        ("text", [None], r"row 0 \(utterance a of train\): it has no transcript"),
    ],
)
def test_columns_of_other_types_are_reported(column, values, expected, tmp_path):
    import datasets

    (tmp_path / "hub" / "data").mkdir(parents=True)
    columns = {"audio": [{"bytes": wav(), "path": "a.wav"}], "text": ["one"], "id": ["a"], column: values}
    table = datasets.Dataset.from_dict(columns)
    table.to_parquet(str(tmp_path / "hub" / "data" / "train.a-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=expected):
        open_split(tmp_path, "hub")


def test_a_row_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    make_parquet(tmp_path, {"train-a": [("a", "one", wav()), ("b", "two", wav())]})
    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "__init__", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(DataError, match=r"row 0 \(utterance a of train\): .*\(MemoryError\)"):
            open_split(tmp_path, "hub")
    assert open_split(tmp_path, "hub").lengths.tolist() == [8000, 8000]


# ------------------------------------------------------------------------------------ the identity of data


@pytest.mark.parametrize("source", SOURCES)
def test_different_recordings_with_the_same_names_sizes_and_texts_are_different_data(source, files):
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


def test_the_same_data_have_one_identity_from_any_source(root):
    assert len({identify(small(**changes), root) for changes in SOURCES.values()}) == 1


def test_data_are_identified_without_reading_headers(root, monkeypatch):
    data = SpeechData(small(data_root=str(root)))
    data.setup("fit")
    monkeypatch.setattr(Utterances, "__init__", lambda *_: pytest.fail("lengths were asked for"))
    assert SpeechData(small(data_root=str(root))).identify() == data.fingerprint
