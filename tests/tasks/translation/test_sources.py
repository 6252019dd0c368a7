"""Sentence pairs from the corpus, files, the hub and sacreBLEU: the same pairs, and clear errors for wrong text."""

import gzip
import os
import re
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from novobench.errors import DataError
from novobench.places import data_root
from novobench.suite.experiment import load_experiment
from novobench.suite.row_configs import row_config
from novobench.tasks.translation.data import identify, open_pairs
from novobench.tasks.translation.sources import Pairs, open_split, read_evaluation
from tests.tasks.translation.small import (
    ENGLISH,
    GERMAN,
    SEARCH,
    TEST,
    batches,
    corpus_config,
    error_message,
    files,
    hub,
    small_config,
    tiny_files,
    write_pairs,
)

DATA = data_root()
pytestmark = pytest.mark.usefixtures("own_cache")


# ------------------------------------------------------------------------------------ three sources


def test_files_and_hub_give_the_same_samples_as_the_corpus(root):
    opened = [open_pairs(config, root) for config in (corpus_config(), files(), hub())]
    for other in opened[1:]:
        assert other.counts == opened[0].counts
        for one, two in zip(batches(opened[0].train, 1), batches(other.train, 1), strict=True):
            assert torch.equal(one.source, two.source)
            assert torch.equal(one.target, two.target)
        assert [other.tests["test"][i] for i in range(TEST)] == [opened[0].tests["test"][i] for i in range(TEST)]
    assert len({splits.fingerprint.partition(":")[2] for splits in opened}) == 1


def test_languages_can_be_swapped(root):
    forward = open_pairs(files(), root)
    reversed_ = open_pairs(files(data__source_language="de", data__target_language="en"), root)
    assert forward.search.text.sources == reversed_.search.text.targets


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "multi30k").is_dir(), reason="needs multi30k under $NOVOBENCH_DATA")
def test_multi30k_is_read_from_its_files():
    experiment = load_experiment("table6")
    splits = open_pairs(row_config(experiment, experiment.row("t6_adam"), "gpu", 0), DATA)
    assert [splits.counts[name] for name in ("train", "search", "test")] == [29_000, 1_014, 1_000]
    assert splits.counts["unknown_pieces"] == 0
    assert splits.model.get_piece_size() == 8192
    for batch in batches(splits.train, 0):
        assert batch.source.numel() + batch.target.numel() <= 4096
    references = (DATA / "multi30k" / "test.de").read_text().splitlines()
    assert splits.tests["test"].text.targets == references
    assert splits.model.decode([splits.tests["test"].targets[i] for i in range(1000)]) == references


# ------------------------------------------------------------------------------------ files


def test_unequal_line_counts_are_reported(text_root):
    path = text_root / "text" / "train.de"
    path.write_text(path.read_text() + "Noch eine Zeile.\n")
    with pytest.raises(DataError, match=r"train.en has 600 lines, but .*train.de has 601: each line must"):
        open_pairs(files(), text_root)


def test_a_byte_that_is_not_utf8_is_reported_with_its_line(text_root):
    path = text_root / "text" / "train.de"
    path.write_bytes("Gut.\nSchön.\n".encode("latin-1") * 300)
    with pytest.raises(DataError, match=r"train.de line 2 is not UTF-8 \(byte 0xf6\). Convert the file, e.g. iconv"):
        open_pairs(files(), text_root)


def test_an_empty_line_of_a_test_set_is_reported(text_root):
    path = text_root / "text" / "test.en"
    lines = path.read_text().splitlines()
    lines[4] = ""
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"test.en line 5: the source is empty"):
        open_pairs(files(), text_root)


def test_an_empty_evaluation_split_is_reported(text_root):
    for language in ("en", "de"):
        (text_root / "text" / f"test.{language}").write_text("")
    with pytest.raises(DataError, match=r"test\.en has no sentences to evaluate"):
        open_pairs(files(), text_root)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(text_root, root):
    for language in ("en", "de"):
        path = text_root / "text" / f"test.{language}"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert open_pairs(files(), text_root).tests["test"].text == open_pairs(files(), root).tests["test"].text


def test_sentences_are_unchanged(text_root):
    """No Unicode normalization, and no split at separators inside a sentence, NUL included."""
    lines = (text_root / "text" / "test.de").read_text().splitlines()
    lines[:3] = ["caf\u00e9 cafe\u0301 \ufb01n", "vor\u2028nach\x85 \x0b Ende", "null\0stelle"]
    (text_root / "text" / "test.de").write_bytes(("\n".join(lines) + "\n").encode())
    assert open_pairs(files(), text_root).tests["test"].text.targets == lines


def test_missing_files_are_named(root):
    with pytest.raises(DataError, match="No data folder .*/nowhere for 'text'.*train.en and train.de"):
        open_pairs(files(data__path="nowhere"), root)
    with pytest.raises(
        DataError, match=r"No file .*valdation.en. Both .*Did you mean 'validation'\? .* set data.search_split"
    ):
        open_pairs(files(data__search_split="valdation"), root)
    with pytest.raises(DataError, match=r"hub\[train\] has no column 'translation' with 'fr'.*translation of de, en"):
        open_pairs(hub(data__target_language="fr"), root)
    (root / "other").mkdir()
    text = datasets.Dataset.from_dict({"translation": ["Das Wetter: ein Denkmal der Englein."]})
    for split in ("train", "validation", "test"):
        text.to_parquet(str(root / "other" / f"{split}-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"other\[train\] has no column 'translation' with 'en'. It holds: translation"):
        open_pairs(hub(data__path="other"), root)
    with pytest.raises(DataError, match=r"hub\[dev\].*Unknown split"):
        open_pairs(hub(data__search_split="dev"), root)


@pytest.mark.parametrize("name", ["dev", "val", "valid"])
def test_a_validation_split_of_another_name_is_reported_with_its_key(name, text_root):
    for language in ("en", "de"):
        (text_root / "text" / f"validation.{language}").rename(text_root / "text" / f"{name}.{language}")
    with pytest.raises(DataError, match=rf"No file .*/validation\.en\. Set data\.search_split={name}\.$"):
        open_pairs(files(), text_root)
    assert len(open_pairs(files(data__search_split=name), text_root).search) == SEARCH


def test_files_of_other_languages_or_names_are_reported(text_root):
    with pytest.raises(DataError, match=r"No file .*/train\.fr\. The folder holds: .* Name the files train\.en and"):
        open_pairs(files(data__target_language="fr"), text_root)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda path: path.mkdir(), r"No file .*train\.de: it is a folder\."),
        (lambda path: path.symlink_to("gone"), r"No file .*train\.de: it is a link to gone, which is missing"),
        (os.mkfifo, r"No file .*train\.de: it is a pipe or a device"),
        (lambda path: path.with_name("train.de.gz").write_bytes(b"?"), r"No file .*train\.de\. Unpack train\.de\.gz\."),
        (lambda path: path.with_name(".train.de").write_text("?"), "Both languages have: test, validation"),
        (lambda path: path.write_bytes(gzip.compress(b"x")), r"train\.de is compressed by gzip"),
        (lambda path: path.write_text("x", "utf-16"), r"train\.de is UTF-16, or not text"),
    ],
)
def test_files_that_are_not_text_are_reported(place, message, tiny_root):
    (tiny_root / "text" / "train.de").unlink()
    place(tiny_root / "text" / "train.de")
    assert re.search(message, error_message(tiny_files(), tiny_root))


@pytest.mark.parametrize("changes", [{"data__path": "a" * 300}, {"data__train_split": "a" * 300}])
def test_names_that_no_file_can_have_are_reported(changes, tiny_root):
    assert re.match("No data folder|No file", error_message(tiny_files(**changes), tiny_root))


def test_only_a_newline_ends_a_line(tiny_root):
    signs = ["\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\0", "\r", "\u2029", "\x1e"]
    english = [line.replace(" ", f"{signs[i % len(signs)]} ", 1) for i, line in enumerate(ENGLISH)]
    write_pairs(tiny_root, "train", english, GERMAN)
    pairs = open_split(tiny_files().data, tiny_root, "train").read()
    assert pairs == Pairs(english, GERMAN)


def test_a_failure_is_reported_again(tiny_root):
    write_pairs(tiny_root, "train", ENGLISH[:-1], GERMAN)
    for look in (open_pairs, open_pairs, identify):
        with pytest.raises(DataError, match=r"train\.en has 17 lines, but .*train\.de has 18"):
            look(tiny_files(), tiny_root)
    write_pairs(tiny_root, "train", ENGLISH, GERMAN)
    assert identify(tiny_files(), tiny_root) == open_pairs(tiny_files(), tiny_root).fingerprint


# ------------------------------------------------------------------------------------ hub


STRINGS = pa.struct([("en", pa.string()), ("de", pa.string())])


def tiny_hub(root, split, rows, kind=None):
    """A parquet file with the column `translation` of these rows, and its data config."""
    (root / "hub").mkdir(exist_ok=True)
    column = rows if isinstance(rows, pa.Array) else pa.array(rows, kind)
    pa.parquet.write_table(pa.table({"translation": column}), root / "hub" / f"{split}-00000-of-00001.parquet")
    return small_config(data__source="hub", data__name="text", data__path="hub", data__hub_config="").data


def test_null_text_of_a_hub_data_set_is_empty(tiny_root):
    rows = [None, {"en": "\ufeffa", "de": None}, {"en": " a\nb ", "de": "c"}, {"en": None, "de": None}]
    split = open_split(tiny_hub(tiny_root, "train", rows, STRINGS), tiny_root, "train")
    assert split.read() == Pairs(["", "\ufeffa", "a b", ""], ["", "", "c", ""])
    with pytest.raises(DataError, match=r"hub\[train\] line 1: the source is empty"):
        read_evaluation(split)
    first = open_split(tiny_hub(tiny_root, "train", [{"en": "\ufeffa", "de": "b"}], STRINGS), tiny_root, "train")
    assert first.read() == Pairs(["a"], ["b"])  # a byte-order mark at the start is removed, as from a file


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"en": "a", "de": 1}], "'de' of column 'translation' holds int64, not text"),
        ([{"en": ["a"], "de": ["b"]}], "'en' of column 'translation' holds lists or mappings, not text"),
        ([{"en": b"a", "de": b"b"}], "'en' of column 'translation' holds binary, not text"),
        ([{"en": "a", "fr": "b"}], "no column 'translation' with 'de'. It holds: translation of en, fr"),
        (["a"], "no column 'translation' with 'en'. It holds: translation. Set data.path"),
        ([["a"]], "no column 'translation' with 'en'"),
    ],
)
def test_hub_columns_of_other_kinds_are_reported(rows, message, tiny_root):
    with pytest.raises(DataError, match=re.escape(message)):
        open_split(tiny_hub(tiny_root, "train", rows), tiny_root, "train")


def test_hub_text_that_is_not_utf8_is_reported(tiny_root):
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    data = tiny_hub(tiny_root, "train", pa.StructArray.from_arrays([bad, pa.array(["b"])], ["en", "de"]))
    with pytest.raises(DataError, match=r"hub\[train\]: column 'translation' has text that is not UTF-8"):
        open_split(data, tiny_root, "train").read()


def test_a_hub_set_in_memory_is_identified_by_its_text(tiny_root, monkeypatch):
    data = tiny_hub(tiny_root, "train", [{"en": "a", "de": "b"}], STRINGS)
    kept = open_split(data, tiny_root, "train").fingerprint()
    for english in ("a", "x"):
        table = datasets.Dataset.from_list([{"translation": {"en": english, "de": "b"}}])
        monkeypatch.setattr("novobench.tasks.translation.sources.open_hub", lambda *_, table=table: table)
        assert (open_split(data, tiny_root, "train").fingerprint() == kept) == (english == "a")


# ------------------------------------------------------------------------------------ sacreBLEU's test sets


def test_a_sacrebleu_test_set_is_a_further_test(root, monkeypatch):
    from sacrebleu.dataset import DATASETS

    folder = root / "sacrebleu"
    folder.mkdir()
    shutil.copy(root / "text" / "test.en", folder / "wmt14_full.en-de.src")
    for field in ("ref", "docid", "origlang", "genre"):
        shutil.copy(root / "text" / "test.de", folder / f"wmt14_full.en-de.{field}")
    monkeypatch.setattr(DATASETS["wmt14/full"], "_outdir", str(folder))
    splits = open_pairs(files(data__more_tests=["sacrebleu:wmt14/full"]), root)
    assert splits.tests["wmt14-full"].text == splits.tests["test"].text
    with pytest.raises(DataError, match="sacreBLEU has no test set 'wmt41'. Did you mean 'wmt"):
        open_pairs(files(data__more_tests=["sacrebleu:wmt41"]), root)


def test_unknown_sacrebleu_sets_are_reported(tiny_root):
    message = error_message(tiny_files(data__more_tests=["sacrebleu:wmt99"]), tiny_root)
    assert re.search(r"'data\.more_tests': sacreBLEU has no test set 'wmt99'\. Did you mean 'wmt", message)
    message = error_message(tiny_files(data__more_tests=["sacrebleu:wmt08/nc"]), tiny_root)
    assert re.search(r"sacreBLEU's 'wmt08/nc' has no en-de\. It has: .*en-cs", message)


@pytest.mark.parametrize("error", [SystemExit(1), OSError("Name or service not known"), KeyError("x")])
def test_a_failed_sacrebleu_download_is_reported(error, tiny_root, monkeypatch):
    from sacrebleu.dataset import DATASETS

    def fail(_):
        raise error

    monkeypatch.setattr(DATASETS["wmt14"], "get_source_file", fail)
    message = error_message(tiny_files(data__more_tests=["sacrebleu:wmt14"]), tiny_root)
    assert re.search(
        r"sacreBLEU cannot read 'sacrebleu:wmt14': .*Check the network and remove incomplete downloads", message
    )
