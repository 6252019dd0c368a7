"""Texts under the names that people use, measured and opened; vocabularies that fit; training on a part."""

import numpy as np
import pytest

from novobench.suite.own_data import measure
from novobench.tasks.language.config import LanguageDataConfig
from novobench.tasks.language.corpus import limited
from novobench.tasks.language.sources import text_files
from tests.own_data import open_measured, write_texts


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "names",
    [
        ("train", "dev", "test"),
        ("train.txt", "val.txt", "test.txt"),
        ("Train.TXT", "Validation.txt", "TEST.txt"),
        ("poems.train.txt", "poems.valid.txt", "poems.test.txt"),
        ("poems_train", "poems_dev", "poems_test"),
        ("train.raw", "validation.tok", "test.text"),
    ],
)
def test_names(names, root):
    (root / "mine").mkdir()
    for name in (*names, "README", "notes.txt"):
        (root / "mine" / name).write_text("a b\n")
    files = text_files(LanguageDataConfig(name="mine"), root)
    assert tuple(path.name for path in files.values()) == names


def test_counts_and_vocabulary_fit(root):
    write_texts(root / "mine", train=200, valid=20, test=20)
    _, config, data = open_measured("language", path="mine")
    assert data.counts["words"] == config.model.vocabulary_size
    assert config.model.cutoffs == []
    assert "zebra" not in (root / "mine" / "train").read_text()


@pytest.mark.parametrize("unknown_in_training", [False, True])
def test_new_words_become_unknown(unknown_in_training, root):
    write_texts(root / "mine", train=200, valid=20, test=20)
    (root / "mine" / "test").write_text("dog sees zebra\n")
    if unknown_in_training:
        with (root / "mine" / "train").open("a") as file:
            file.write("<unk> dog\n")
    _, _, data = open_measured("language", path="mine", **{"batch.size": 1, "batch.micro": 1})
    assert data.baselines["test"]["unknown"].value == pytest.approx(25)  # one of dog, sees, zebra, <eos>


def test_rare_words_are_kept_if_too_many_would_be_unknown(root):
    write_texts(root / "mine", train=1, valid=1, test=1)
    words = [f"word{number}" for number in range(100)] * 3  # each is rarer than the laptop scale's 5
    for split in ("train", "valid", "test"):
        (root / "mine" / split).write_text(" ".join(words) + "\n")
    overrides = measure("language", "laptop", {"path": "mine"}).overrides
    assert overrides["data.minimum_count"] <= 3
    assert overrides["model.vocabulary_size"] == 101


def test_short_texts_get_fewer_streams_and_shorter_segments(root):
    write_texts(root / "mine", train=3, valid=1, test=1)
    measured, config, _ = open_measured("language", path="mine")
    assert config.epoch_updates >= 1
    assert (config.batch.size, config.data.segment_length < 32) == (1, True)
    assert any("training tokens" in note for note in measured.notes)


def test_a_limit_trains_on_that_many_tokens_of_the_text(root):
    write_texts(root / "mine", train=400, valid=20, test=20)
    whole = open_measured("language", path="mine")
    _, config, data = open_measured("language", path="mine", limit=300)
    assert data.counts["train"] == 300
    assert data.counts["words"] == whole[2].counts["words"]
    assert config.epoch_updates == (300 // config.batch.size - 1) // config.data.segment_length
    assert data.fingerprint == data.identify() != whole[2].fingerprint


def test_limited_takes_whole_blocks_of_lines_in_order():
    lines = [[line + 1, line + 1, 0] for line in range(500)]
    tokens = np.array(lines, dtype=np.int32).ravel()
    few, many = limited(tokens, 100), limited(tokens, 700)
    assert (len(few), len(many)) == (100, 700)
    assert (np.diff(many[many > 0]) >= 0).all()  # the order of the text
    blocks = {(int(token) - 1) // 50 for token in many[many > 0]}
    assert len(blocks) == 5  # 700 tokens of 150 each
    assert {(int(token) - 1) // 50 for token in few[few > 0]} <= blocks
    assert np.array_equal(limited(tokens, 5000), tokens)
    one_line = np.arange(1, 30, dtype=np.int32)
    assert np.array_equal(limited(one_line, 10), one_line[:10])
