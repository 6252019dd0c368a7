"""Sentence pairs in the layouts that people have, measured and opened; held-out shares; training on a part."""

import numpy as np
import pytest

from novobench.errors import DataError
from novobench.suite.own_data import measure
from novobench.tasks.sampling import SampleKey
from tests.own_data import open_measured, sentence_pairs, write_pairs

PAIRS = {"train": sentence_pairs(60, 0), "dev": sentence_pairs(6, 1), "test": sentence_pairs(7, 2)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    return tmp_path


def write_table(folder, name, pairs, header=None):
    folder.mkdir(parents=True, exist_ok=True)
    separator = "\t" if name.endswith(".tsv") else ";"
    rows = [header, *pairs] if header else pairs
    (folder / name).write_text("".join(f"{separator.join(row)}\n" for row in rows), encoding="utf-8")


def layouts(folder, layout):
    for split, pairs in PAIRS.items():
        if layout == "files":
            write_pairs(folder, split, pairs)
        elif layout == "moses":
            write_pairs(folder, f"corpus.{split}.tok", pairs)
        elif layout == "other languages":
            write_pairs(folder, {"dev": "validation"}.get(split, split), pairs, "fr", "nl")
        else:
            header = {"header": ("en", "de"), "more columns": ("id", "de", "en")}.get(layout)
            rows = [("7", german, english) for english, german in pairs] if layout == "more columns" else pairs
            write_table(folder, f"{split}.{'csv' if layout == 'header' else 'tsv'}", rows, header)


@pytest.mark.parametrize("layout", ["files", "moses", "other languages", "no header", "header", "more columns"])
def test_layouts(layout, root):
    layouts(root / "mine", layout)
    _, config, data = open_measured("translation", path="mine")
    assert [data.counts[name] for name in ("train", "search", "test")] == [60, 6, 7]
    assert data.evaluation_sets[1].dataset.text == tuple(map(list, zip(*PAIRS["test"], strict=True)))
    languages = config.data.source_language, config.data.target_language
    assert languages == (("fr", "nl") if layout == "other languages" else ("en", "de"))
    tokens = data.counts["train_batches"] * config.batch.micro
    assert config.data.train_tokens == tokens


@pytest.mark.parametrize("layout", ["files", "table"])
def test_pairs_without_splits_are_held_out_once(layout, root):
    pairs = [*PAIRS["train"], ("", "leer")]
    if layout == "files":
        write_pairs(root / "mine", "all", pairs)
    else:
        write_table(root / "mine", "all.tsv", pairs)
    given = {} if layout == "table" else {"train_split": "all"}
    measured, _, data = open_measured("translation", path="mine", **given)
    assert [data.counts[name] for name in ("train", "search", "test")] == [49, 6, 6]
    assert data.counts["left_out_empty"] == 1
    assert len([note for note in measured.notes if "drawn once with a fixed seed" in note]) == 2
    held_out = [source for each in data.evaluation_sets for source in each.dataset.text.sources]
    assert len(held_out) == 12
    assert all(held_out)
    assert data.fingerprint == data.identify()


def test_a_table_of_more_columns_needs_a_header(root):
    write_table(root / "mine", "train.tsv", [("1", "a", "b")])
    with pytest.raises(DataError, match=r"train\.tsv has 3 columns, and its first line does not name en and de"):
        measure("translation", "laptop", {"path": "mine"})


def test_the_vocabulary_is_what_the_text_allows(root):
    for split, count in (("train", 8), ("dev", 2), ("test", 2)):
        write_pairs(root / "tiny", split, [("a b a", "c d c")] * count)
    small = measure("translation", "laptop", {"path": "tiny"}).overrides["model.vocabulary"]
    assert small < 400
    signs = [chr(0x4E00 + number) for number in range(900)]
    for split in ("train", "dev", "test"):
        write_pairs(root / "many", split, [("".join(signs[k : k + 30]), "x y z") for k in range(0, 900, 30)])
    measured, config, _ = open_measured("translation", path="many", max_ratio=20, max_difference=100)
    assert measured.overrides["model.vocabulary"] == config.model.vocabulary > 900


def test_a_limit_trains_on_the_first_pairs_of_a_fixed_shuffle(root):
    layouts(root / "mine", "files")
    seen = {}
    for limit in (10, 30):
        _, config, data = open_measured("translation", path="mine", limit=limit)
        assert config.epoch_updates >= 1
        epochs = [[data.train.pairs(SampleKey(epoch, k)) for k in range(len(data.train))] for epoch in range(2)]
        seen[limit] = {pair for batch in epochs[0] for pair in batch}
        assert sorted(pair for batch in epochs[1] for pair in batch) == sorted(seen[limit])
        assert len(seen[limit]) == limit
        batch = data.train[SampleKey(0, 0)]
        lengths = [len(data.train.source[pair]) for pair in data.train.pairs(SampleKey(0, 0))]
        assert np.array_equal((batch.source != 0).sum(dim=1).numpy(), lengths)
    assert seen[10] < seen[30]
