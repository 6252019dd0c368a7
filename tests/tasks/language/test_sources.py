"""The built-in text, files and hub data sets give the same lines, and an unusable text gives one clear message."""

import dataclasses
import gzip
import os
import re

import datasets
import numpy as np
import pytest

from novobench.errors import DataError
from novobench.tasks.language.config import LanguageDataConfig
from novobench.tasks.language.corpus import open_corpus
from tests.tasks.language.texts import TEXT, TINY, tiny, write


def test_a_share_of_the_training_text_keeps_the_held_out_text():
    config = LanguageDataConfig(source="glosses", name="glosses", minimum_count=1000)
    whole, quarter = (open_corpus(dataclasses.replace(config, train_share=share), None) for share in (1, 0.25))
    assert len(quarter.tokens["train"]) == pytest.approx(len(whole.tokens["train"]) / 4, rel=0.05)
    assert len(quarter.tokens["test"]) == len(whole.tokens["test"])


def test_another_version_of_the_glosses_is_refused(monkeypatch):
    monkeypatch.setattr("novobench.tasks.language.builtin._SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"imagenet_synset_to_definition\.txt is not the expected text .*191e227d"):
        open_corpus(LanguageDataConfig(source="glosses", name="glosses"), None)


def test_hub_rows_equal_the_files(root):
    for split, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        (root / "hub").mkdir(exist_ok=True)
        rows = [line + "\n" if line.strip() else "" for line in TEXT[split].removesuffix("\n").split("\n")]
        path = root / "hub" / f"{name}-00000-of-00001.parquet"
        datasets.Dataset.from_dict({"text": rows}).to_parquet(str(path))
    files, hub = open_corpus(TINY, root), open_corpus(tiny(source="hub", path="hub"), root)
    assert hub.fingerprint == files.fingerprint
    assert np.array_equal(hub.tokens["train"], files.tokens["train"])
    with pytest.raises(DataError, match=r"hub\[train\] has no column 'txt'. Did you mean 'text'"):
        open_corpus(tiny(source="hub", path="hub", text_column="txt"), root)
    with pytest.raises(DataError, match="Cannot open split 'train' of data set 'wiki'"):
        open_corpus(tiny(source="hub", path="wiki"), root)


def test_a_missing_folder_or_file_is_named(root):
    with pytest.raises(DataError, match=r"No data folder .*/wikki for .*Put train\.txt, valid\.txt and test\.txt"):
        open_corpus(tiny(path="wikki"), root)
    (root / "wiki" / "wiki.test.tokens").rename(root / "wiki" / "wiki.test.token")
    with pytest.raises(DataError, match=r"wiki\.test\.tokens\. Did you mean 'wiki\.test\.token'"):
        open_corpus(TINY, root)


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
        ("my.text.train.tokens", "my.text.dev.tokens", "my.text.test.tokens"),
        ("train.txt", "val.txt", "test.txt", "ptb.char.train.txt", "train.bpe.txt"),
    ],
)
def test_files_with_other_names_are_found(names, root):
    (root / "other").mkdir()
    for name, text in zip(names, [*TEXT.values(), "not this", "nor this"], strict=False):
        (root / "other" / name).write_text(text)
    assert open_corpus(tiny(path="other"), root).fingerprint == open_corpus(TINY, root).fingerprint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["ptb.train.txt", "ptb.char.train.txt"],
            "2 texts that may be 'train': ptb.char.train.txt, ptb.train.txt.",
        ),
        (["train.txt", "dev.txt", "val.txt"], "2 texts that may be 'valid': dev.txt, val.txt. Leave one"),
        (["training.text"], "The folder holds: training.text. Name the text train.txt or wiki.train.tokens"),
    ],
)
def test_ambiguous_files_are_an_error(names, message, tmp_path):
    (tmp_path / "wiki").mkdir()
    for name in names:
        (tmp_path / "wiki" / name).write_text("a b\n")
    with pytest.raises(DataError, match=re.escape(message)):
        open_corpus(TINY, tmp_path)


def test_the_three_texts_follow_one_naming_pattern(root):
    """With `train.txt` next to `wiki.train.tokens`, the pattern that all three splits follow wins."""
    for split in ("train", "valid", "test"):
        (root / "wiki" / f"{split}.txt").write_text("a b\n")
    assert "cat" in open_corpus(TINY, root).vocabulary
    (root / "wiki" / "wiki.test.tokens").unlink()
    assert open_corpus(TINY, root).vocabulary == ["<eos>", "a", "b"]


def pipe(folder):
    os.mkfifo(folder / "wiki.test.tokens")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            lambda folder: (folder / "wiki.test.tokens").mkdir(),
            r"No file .* The folder holds: wiki\.test\.tokens/,",
        ),
        (lambda folder: (folder / "wiki.test.tokens").symlink_to("gone"), "it is a link to gone, which is missing"),
        (pipe, "it is a pipe or a device"),
        (lambda folder: (folder / ".test.txt").write_text("a\n"), r"No file .* The folder holds: wiki\.train"),
        (lambda folder: (folder / "wiki.test.tokens.gz").write_text("a\n"), r"\. Unpack wiki\.test\.tokens\.gz\."),
        (
            lambda folder: (folder / "wiki.test.tokens").write_bytes(gzip.compress(b"a")),
            "is compressed by gzip. Unpack",
        ),
        (
            lambda folder: (folder / "wiki.test.tokens").write_text(TEXT["test"], "utf-16"),
            "Convert it: iconv -f utf-16",
        ),
        (
            lambda folder: (folder / "wiki.test.tokens").write_text(TEXT["test"], "utf-16-be"),
            "Convert it: iconv -f utf",
        ),
        (
            lambda folder: (folder / "wiki.test.tokens").write_bytes(b"\xef\xbb\xbfa\n\xed\xa0\x80\n"),
            r"line 2 is not UTF-8 \(byte 0xed\)",
        ),
    ],
)
def test_a_file_that_is_not_text_is_an_error(place, message, root):
    (root / "wiki" / "wiki.test.tokens").unlink()
    place(root / "wiki")
    with pytest.raises(DataError, match=message) as raised:
        open_corpus(TINY, root)
    assert "Did you mean 'wiki.train" not in str(raised.value)


@pytest.mark.parametrize("path", ["a" * 300, "a\0b", "wiki/wiki.train.tokens"])
def test_a_path_that_is_not_a_folder_is_an_error(path, root):
    with pytest.raises(DataError, match="No data folder .*(data root|a file has this name).*NOVOBENCH_DATA"):
        open_corpus(tiny(path=path), root)


def test_a_share_without_words_is_an_error(root):
    with pytest.raises(DataError, match=r"data\.train_share 0\.1 leaves no word of the 6 lines of .*train\.tokens"):
        open_corpus(tiny(train_share=0.1), root)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(root):
    write(root / "windows", **{split: b"\xef\xbb\xbf" + t.replace("\n", "\r\n").encode() for split, t in TEXT.items()})
    assert open_corpus(tiny(path="windows"), root).fingerprint == open_corpus(TINY, root).fingerprint


def test_a_row_of_several_lines_equals_a_file_of_them(root):
    (root / "hub").mkdir()
    for split, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        rows = [TEXT[split].removesuffix("\n"), None] if split == "train" else [TEXT[split]]
        datasets.Dataset.from_dict({"text": rows}).to_parquet(str(root / "hub" / f"{name}-00000-of-00001.parquet"))
    write(root / "wiki", train=TEXT["train"] + "\n")  # the missing row is an empty line
    assert open_corpus(tiny(source="hub", path="hub"), root).fingerprint == open_corpus(TINY, root).fingerprint
    marked = datasets.Dataset.from_dict({"text": ["\ufeff" + TEXT["test"]]})
    marked.to_parquet(str(root / "hub" / "test-00000-of-00001.parquet"))
    assert open_corpus(tiny(source="hub", path="", name="hub"), root).fingerprint == open_corpus(TINY, root).fingerprint
    numbers = datasets.Dataset.from_dict({"text": [1, 2]})
    for name in ("train", "validation", "test"):
        numbers.to_parquet(str(root / "hub" / f"{name}-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"hub\[train\]: column 'text' holds int64, not text. Set data.text_column"):
        open_corpus(tiny(source="hub", path="hub"), root)
