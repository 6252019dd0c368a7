"""Sentence pairs as files, shared by the tests of sources, tokenizer and batches."""

import shutil
from pathlib import Path

import datasets
import pytest

from novobench.tasks.translation.builtin import corpus
from tests.tasks.translation.small import ENGLISH, GERMAN, SEARCH, TEST, TINY_SIZES, TRAIN, write_pairs


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """A cache that is removed after the tests; the built-in corpus is generated once for all of them."""
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Sentences of the built-in corpus as text files and as parquet files with WMT14's columns; read-only."""
    folder = tmp_path_factory.mktemp("data")
    pairs = corpus()
    parts = {
        "test": pairs[:TEST],
        "validation": pairs[TEST : TEST + SEARCH],
        "train": pairs[TEST + SEARCH : TEST + SEARCH + TRAIN],
    }
    (folder / "text").mkdir()
    (folder / "hub").mkdir()
    for name, part in parts.items():
        for language, side in (("en", 0), ("de", 1)):
            (folder / "text" / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in part))
        rows = [{"translation": {"de": german, "en": english}} for english, german in part]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "hub" / f"{name}-00000-of-00001.parquet"))
    return folder


@pytest.fixture
def text_root(root, tmp_path) -> Path:
    """A copy of the text files of `root` that a test may change."""
    shutil.copytree(root / "text", tmp_path / "text")
    return tmp_path


@pytest.fixture
def tiny_root(tmp_path, monkeypatch) -> Path:
    """18 pairs as text files that a test may change, with a cache of their own."""
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for split, size in TINY_SIZES.items():
        write_pairs(tmp_path, split, ENGLISH[:size], GERMAN[:size])
    return tmp_path
