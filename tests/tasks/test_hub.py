"""Folders of tables: any name works and opens only that folder; damage is reported or repaired."""

import errno
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from novobench.errors import DataError
from novobench.tasks.hub import check_text, column_values, open_hub, read_rows, row_digests

COLUMNS = {"text": "data.text_column"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of `datasets`; novobench's cache lies next to it."""
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "datasets"


def table(folder: Path, *texts, name="test-00000-of-00001.parquet", column="text"):
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({column: list(texts)}), folder / name)
    return folder / name


def texts(root: Path, path="d", split="test", columns=COLUMNS):
    return list(open_hub(path, "", root, split, columns, "data.test_split")["text"])


@pytest.mark.parametrize("odd", ["a[x]b", "**", "qu?", "[!x]", "{a,b}", "~ é#%20"])
def test_a_folder_with_any_name_is_only_that_folder(tmp_path, odd):
    for other in ("axb", "stir", "quo", "a", "y", "d"):  # names that the patterns would match
        table(tmp_path / "above" / other / "d", "wrong")
        table(tmp_path / "data" / other, "wrong")
    table(tmp_path / "above" / odd / "d", "right")
    table(tmp_path / "above" / odd / "d", "train", name="train-00000-of-00001.parquet")
    table(tmp_path / "data" / odd, "right")
    assert texts(tmp_path / "above" / odd) == ["right"]
    assert texts(tmp_path / "above" / odd, split="train") == ["train"]
    assert texts(tmp_path / "data", odd) == ["right"]


@pytest.mark.parametrize("odd", ["a::b", "a\nb"])
def test_a_path_that_the_library_cannot_read_is_an_error(tmp_path, odd):
    table(tmp_path / odd / "d", "x")
    with pytest.raises(DataError, match="(?s)cannot read the path .*'::' or a control character. Rename the folder"):
        texts(tmp_path / odd)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"", "0 bytes"),
        (lambda whole: whole[:100], "magic bytes not found"),
        (lambda whole: b"x" * 500, "magic bytes not found"),
        (lambda whole: whole[:4] + bytes(12) + whole[16:], "test-0.*cannot be read"),
    ],
)
def test_a_damaged_file_is_named_and_read_once_repaired(tmp_path, damage, message, capfd):
    path = table(tmp_path / "d", *map(str, range(50)))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(DataError, match=rf"{path} cannot be read: .*{message}|{message}.*Replace the file"):
        texts(tmp_path)
    assert capfd.readouterr() == ("", "")
    path.write_bytes(whole)
    assert texts(tmp_path) == [*map(str, range(50))]


@pytest.mark.parametrize("content", [b"", b"x" * 500, None])
def test_a_damaged_cache_of_the_library_is_built_again(tmp_path, cache, content):
    table(tmp_path / "d", "a", "b")
    assert texts(tmp_path) == ["a", "b"]
    files = [path for path in cache.rglob("*") if path.suffix in (".arrow", ".json")]
    assert {path.suffix for path in files} == {".arrow", ".json"}
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:40] if content is None else content)
        assert texts(tmp_path) == ["a", "b"]


def test_rows_that_cannot_be_read_name_the_cache(tmp_path, cache, monkeypatch):
    table(tmp_path / "d", "a", "b")
    split = open_hub("d", "", tmp_path, "test", COLUMNS, "data.test_split")
    assert read_rows(split, range(2), "text", "d[test]") == ["a", "b"]

    def fail(*_):
        raise pyarrow.ArrowInvalid("Expected to read 80 bytes")

    monkeypatch.setattr(datasets.Dataset, "__getitem__", fail)
    with pytest.raises(DataError, match=rf"rows 0 to 1 of d\[test\]: ArrowInvalid: Expected.*Remove .*{cache}"):
        read_rows(split, range(2), "text", "d[test]")


def test_a_folder_without_data_files_is_an_error(tmp_path):
    (tmp_path / "d").mkdir()
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{tmp_path}/d holds no data files. It needs .* test-00000-of-00001.parq"):
            texts(tmp_path)
        (tmp_path / "d" / "README.md").write_text("no data")
    table(tmp_path / "d", "hidden", name=".test-00000-of-00001.parquet")
    table(tmp_path / "d" / ".git", "hidden")
    with pytest.raises(DataError, match="holds no data files"):
        texts(tmp_path)
    table(tmp_path / "d", "visible")
    assert texts(tmp_path) == ["visible"]
    with pytest.raises(DataError, match=r"d\[other\]: Unknown split \"other\".* Set data.test_split"):
        texts(tmp_path, split="other")
    with pytest.raises(DataError, match=r"no column 'txt'. Did you mean 'text'\? It holds: text. Set data.text_column"):
        texts(tmp_path, columns={"txt": "data.text_column"})


def test_a_column_of_text_is_read_row_by_row_and_others_are_refused(tmp_path):
    rows = {"text": ["a", None, "b\n"], "label": [1, 2, 3], "lists": [["a"], [], ["b"]]}
    (tmp_path / "d").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "d" / "test-00000-of-00001.parquet")
    split = open_hub("d", "", tmp_path, "test", COLUMNS, "data.test_split")
    check_text(split.features["text"], "column 'text'", "d[test]", "Set data.text_column.")
    assert list(column_values(split, "text", "d[test]")) == rows["text"]
    for column, dtype in (("label", "int64"), ("lists", "lists or mappings")):
        with pytest.raises(DataError, match=rf"d\[test\]: column '{column}' holds {dtype}, not text. Set data.text_c"):
            check_text(split.features[column], f"column '{column}'", "d[test]", "Set data.text_column.")


def test_files_other_than_parquet_are_read(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "test.csv").write_text("text\na\nb\n")
    assert texts(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "data.path is empty: set it to a folder under the data root .*, or to a hub id"),
        ("a/b/c", "No data folder .*/data/a/b/c, and 'a/b/c' cannot be a hub id"),
        ("../d", "No data folder .*/data/../d, and '../d' cannot be a hub id"),
        ("/nowhere", "No data folder /nowhere, and '/nowhere' cannot be a hub id"),
        ("we!rd", "cannot be a hub id"),
        ("file", "/data/file is not a folder: set data.path to the folder with"),
        ("here", "No data folder .*/data/here, although .*/here exists: relative paths start at the data root"),
        (
            "no/one",
            r"data set 'no/one': .*OfflineModeIsEnabled.*Check data.path and the network, or put ",
        ),
    ],
)
def test_a_path_that_is_neither_a_folder_nor_a_hub_id(tmp_path, monkeypatch, path, message):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").touch()
    table(tmp_path / "here", "of the working directory")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        texts(tmp_path / "data", path)


def test_a_folder_is_never_taken_for_the_hubs_data_set_of_its_name(tmp_path):
    """Offline, the library returns what its cache has under a name."""
    table(tmp_path / "one" / "squad", "mine")
    assert texts(tmp_path / "one", "squad") == ["mine"]
    with pytest.raises(DataError, match="data set 'squad': .*Check data.path and the network"):
        texts(tmp_path / "two", "squad")


def test_digests_of_rows_include_files_once_they_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "0.bin").write_bytes(b"content")
    rows = [{"bytes": None, "path": "0.bin"}, {"bytes": b"own", "path": None}, {"bytes": None, "path": None}, None]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "d" / "test-00000-of-00001.parquet")
    split = open_hub("d", "", tmp_path, "test", {"image": ""}, "data.test_split")

    def has_content():
        return row_digests(split, "image", tmp_path / "d", "test", "d[test]").any(axis=1).tolist()

    with monkeypatch.context() as patch:
        original = os.open

        def failing(name, *settings, **more):
            if str(name).endswith("0.bin"):
                raise OSError(errno.EACCES, "Permission denied", str(name))
            return original(name, *settings, **more)

        patch.setattr(os, "open", failing)
        assert has_content() == [False, True, False, False]
    assert has_content() == [True, True, False, False]
    assert not np.array_equal(*row_digests(split, "image", tmp_path / "d", "test", "d[test]")[:2])
