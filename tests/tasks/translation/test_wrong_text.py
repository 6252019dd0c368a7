"""Sentence pairs that cannot be read, cut into pieces or packed: one line that names the file or key, and whose advice
helps."""

import gzip
import os
import re

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import sentencepiece as spm

from novobench.config_loading import parse_overrides
from novobench.errors import DataError
from novobench.tasks.translation.data import identify, open_pairs
from novobench.tasks.translation.scoring import nearest_neighbours
from novobench.tasks.translation.sources import Pairs, open_split, read_evaluation
from novobench.tasks.translation.tokenizer import load_bpe, train_bpe
from tests.tasks.translation.small import small_config

_NUMBERS, _THINGS = ("one", "two", "three"), ("birds", "fish", "trees")
_ZAHLEN, _DINGE = ("ein", "zwei", "drei"), ("Vögel", "Fische", "Bäume")
ENGLISH = [f"the {who} sees {n} {what}" for who in ("cat", "dog") for n in _NUMBERS for what in _THINGS]
GERMAN = [f"{who} sieht {n} {what}" for who in ("die Katze", "der Hund") for n in _ZAHLEN for what in _DINGE]
SIZES = {"train": len(ENGLISH), "validation": 3, "test": 2}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for split, size in SIZES.items():
        write(tmp_path, split, ENGLISH[:size], GERMAN[:size])
    return tmp_path


def write(root, split, english, german):
    for language, lines in (("en", english), ("de", german)):
        (root / "text" / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))


def files(**changes):
    sizes = {"data__train_size": SIZES["train"], "data__search_size": SIZES["validation"], "data__test_size": 2}
    settings = {"data__source": "files", "data__name": "text", "model__vocabulary": 60, "budget": "4steps"}
    return small_config(**{**sizes, **settings, "batch": {"size": 256, "micro": 256}, **changes})


def told(config, root) -> str:
    with pytest.raises(DataError) as caught:
        open_pairs(config, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def advised(message: str) -> dict:
    """The overrides that a message proposes, as keyword arguments of `files`."""
    options = parse_overrides(message.partition("--set ")[2].partition(" at least")[0].split())
    return {key.replace(".", "__"): value for key, value in options.items()}


# ------------------------------------------------------------------------------------ files


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
def test_what_is_no_text_is_told(place, message, root):
    (root / "text" / "train.de").unlink()
    place(root / "text" / "train.de")
    assert re.search(message, told(files(), root))


@pytest.mark.parametrize("changes", [{"data__path": "a" * 300}, {"data__train_split": "a" * 300}])
def test_names_that_no_file_can_have_are_told(changes, root):
    assert re.match("No data folder|No file", told(files(**changes), root))


def test_only_a_newline_ends_a_line(root):
    signs = ["\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\0", "\r", "\u2029", "\x1e"]
    english = [line.replace(" ", f"{signs[i % len(signs)]} ", 1) for i, line in enumerate(ENGLISH)]
    write(root, "train", english, GERMAN)
    pairs = open_split(files().data, root, "train").read()
    assert pairs == Pairs(english, GERMAN)


# ------------------------------------------------------------------------------------ hub


def hub(root, split, rows, kind=None):
    (root / "hub").mkdir(exist_ok=True)
    column = rows if isinstance(rows, pa.Array) else pa.array(rows, kind)
    pa.parquet.write_table(pa.table({"translation": column}), root / "hub" / f"{split}-00000-of-00001.parquet")
    return small_config(data__source="hub", data__name="text", data__path="hub", data__hub_config="").data


STRINGS = pa.struct([("en", pa.string()), ("de", pa.string())])


def test_null_text_of_a_hub_set_is_empty(root):
    rows = [None, {"en": "\ufeffa", "de": None}, {"en": " a\nb ", "de": "c"}, {"en": None, "de": None}]
    split = open_split(hub(root, "train", rows, STRINGS), root, "train")
    assert split.read() == Pairs(["", "\ufeffa", "a b", ""], ["", "", "c", ""])
    with pytest.raises(DataError, match=r"hub\[train\] line 1: the source is empty"):
        read_evaluation(split)
    first = open_split(hub(root, "train", [{"en": "\ufeffa", "de": "b"}], STRINGS), root, "train")
    assert first.read() == Pairs(["a"], ["b"])  # a mark at the start, as of a file, is none of the text


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
def test_hub_columns_of_other_kinds_are_told(rows, message, root):
    with pytest.raises(DataError, match=re.escape(message)):
        open_split(hub(root, "train", rows), root, "train")


def test_hub_text_that_is_not_utf8_is_told(root):
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    data = hub(root, "train", pa.StructArray.from_arrays([bad, pa.array(["b"])], ["en", "de"]))
    with pytest.raises(DataError, match=r"hub\[train\]: column 'translation' has text that is not UTF-8"):
        open_split(data, root, "train").read()


def test_a_hub_set_in_memory_is_identified_by_its_text(root, monkeypatch):
    data = hub(root, "train", [{"en": "a", "de": "b"}], STRINGS)
    kept = open_split(data, root, "train").fingerprint()
    for english in ("a", "x"):
        table = datasets.Dataset.from_list([{"translation": {"en": english, "de": "b"}}])
        monkeypatch.setattr("novobench.tasks.translation.sources.open_hub", lambda *_, table=table: table)
        assert (open_split(data, root, "train").fingerprint() == kept) == (english == "a")


# ------------------------------------------------------------------------------------ sacreBLEU's test sets


def test_sacrebleu_sets_that_there_are_not_are_told(root):
    message = told(files(data__more_tests=["sacrebleu:wmt99"]), root)
    assert re.search(r"'data\.more_tests': sacreBLEU has no test set 'wmt99'\. Did you mean 'wmt", message)
    message = told(files(data__more_tests=["sacrebleu:wmt08/nc"]), root)
    assert re.search(r"sacreBLEU's 'wmt08/nc' has no en-de\. It has: .*en-cs", message)


@pytest.mark.parametrize("error", [SystemExit(1), OSError("Name or service not known"), KeyError("x")])
def test_a_sacrebleu_set_that_does_not_come_is_told(error, root, monkeypatch):
    from sacrebleu.dataset import DATASETS

    def fail(_):
        raise error

    monkeypatch.setattr(DATASETS["wmt14"], "get_source_file", fail)
    message = told(files(data__more_tests=["sacrebleu:wmt14"]), root)
    assert re.search(
        r"sacreBLEU cannot read 'sacrebleu:wmt14': .*Check the network and remove incomplete downloads", message
    )


# ------------------------------------------------------------------------------------ BPE


@pytest.mark.parametrize("vocabulary", [5, 20, 400])
@pytest.mark.parametrize("text", ["varied", "one line", "one word"])
def test_the_vocabulary_that_is_proposed_can_be_trained(text, vocabulary, root):
    if text == "one line":
        write(root, "train", ENGLISH[:1] * 18, GERMAN[:1] * 18)
    elif text == "one word":
        write(root, "train", ["aaaa aaaa"] * 18, ["bbb bbb"] * 18)
    config = files(model__vocabulary=vocabulary, data__min_length=1)
    pairs = open_split(config.data, root, "train").read()
    try:
        train_bpe(pairs, vocabulary, config.data, "x")
    except DataError as error:
        right = advised(str(error))["model__vocabulary"]
        assert load_bpe(train_bpe(pairs, right, config.data, "x")).get_piece_size() == right
    else:
        assert vocabulary == 20
        assert text == "one word"


def test_lines_too_long_for_sentencepiece_are_told(root, caplog):
    long = " ".join(ENGLISH * 20)
    write(root, "train", [*ENGLISH[:-1], long], GERMAN)
    assert open_pairs(files(), root).counts["left_out_long"] == 1
    assert "train.en: 1 of 36 lines have more than 4192 bytes" in caplog.text
    write(root, "train", [long], [long + "."])
    assert "every line has more than 4,192 bytes" in told(files(data__train_size=1), root)


def test_a_text_of_blanks_alone_is_told(root):
    write(root, "train", [" ", "\u2003"], ["\u00a0", "\t"])
    assert "has only empty pairs" in told(files(), root)
    write(root, "train", ["\u2581 \u2581"] * 3, ["\u2581"] * 3)  # sentencepiece's own sign for a blank
    assert "the text has only blanks" in told(files(), root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Download it again"),
        (b"the\t-1\n", "it is damaged or not a sentencepiece model"),
        (None, "No BPE model .*: it is missing. Set data.bpe_model to"),
        ("folder", "No BPE model .*: it is a folder"),
        ("cut", "it is damaged or not a sentencepiece model"),
        ("no text", "it is damaged or not a sentencepiece model"),
    ],
)
def test_a_bpe_model_that_is_none_is_told(content, message, root, capfd):
    whole = train_bpe(Pairs(ENGLISH, GERMAN), 60, files().data, "x")
    path = root / "bpe.model"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        made = {"cut": whole[1:], "no text": whole.replace(b"die", b"d\xffe")}
        path.write_bytes(made.get(content, content))
    config = files(data__bpe_model="bpe.model")
    capfd.readouterr()
    assert re.search(message, told(config, root))
    assert capfd.readouterr().err == ""  # the library is not asked about what it would complain of itself
    if content == "folder":
        path.rmdir()
    path.write_bytes(whole)
    assert open_pairs(config, root).model.get_piece_size() == 60  # and no failure is kept


def test_a_bpe_model_of_another_size_is_told_with_its_size(root):
    (root / "bpe.model").write_bytes(train_bpe(Pairs(ENGLISH, GERMAN), 70, files().data, "x"))
    config = {"data__bpe_model": "bpe.model"}
    right = advised(told(files(**config), root))
    assert right == {"model__vocabulary": 70}
    assert open_pairs(files(**config, **right), root).model.get_piece_size() == 70
    # Its size is of no use where its special pieces are others.
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH * 5), model_prefix=str(root / "bpe"), vocab_size=24, minloglevel=2
    )
    assert "has pad_id -1, not 0" in told(files(**config), root)


# ------------------------------------------------------------------------------------ packing and positions


def test_micro_batches_too_small_are_told_with_what_is_needed(root):
    message = told(files(batch={"size": 8, "micro": 8}), root)
    need = int(re.search(r"Raise batch\.micro to (\d+) or more", message)[1])
    lengths = [sum(map(len, pair)) for pair in zip(*open_sequences(root), strict=True)]
    assert need == max(lengths)
    open_pairs(files(batch={"size": need, "micro": need}), root)


def open_sequences(root):
    train = open_pairs(files(), root).train
    return list(train.source), list(train.target)


@pytest.mark.parametrize("budget", ["4steps", "1ep"])
def test_an_epoch_of_less_than_an_update_is_told(budget, root):
    wanted = {"batch": {"size": 256 * 64, "micro": 256}, "data__train_tokens": 256 * 64, "budget": budget}
    right = advised(told(files(**wanted), root))
    assert right["batch__size"] == right["data__train_tokens"] == 256 * len(open_pairs(files(), root).train)
    right["batch"] = {"size": right.pop("batch__size"), "micro": 256}
    assert open_pairs(files(**{**wanted, **right}), root).counts["train"] == SIZES["train"]


def test_the_positions_that_are_proposed_are_enough_for_all_sets(root):
    write(root, "test", [" ".join(ENGLISH[:n]) for n in (2, 4)], GERMAN[:2])
    write(root, "validation", [" ".join(ENGLISH[:n]) for n in (1, 2, 3)], GERMAN[:3])
    small = {"model__positions": 24, "data__max_length": 24, "data__max_output": 24}
    message = told(files(**small), root)
    assert message.startswith("test has a sentence of")
    open_pairs(files(**{**small, **advised(message)}), root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__max_length": 3}, "Left out are 18 long: raise data.max_length 3."),
        ({"data__min_length": 100}, "Left out are 18 short: lower data.min_length 100."),
        ({"data__target_language": "en"}, "Left out are 18 same: provide translations"),
    ],
)
def test_why_no_pair_is_left_is_told_with_its_key(changes, message, root):
    assert message in told(files(**changes), root)


def test_an_empty_set_has_no_neighbours():
    assert nearest_neighbours([], Pairs(["a"], ["b"])) == []
    assert nearest_neighbours(["a"], Pairs([], [])) == [""]
    assert nearest_neighbours(["", "a c"], Pairs(["", "a"], ["x", "b"])) == ["x", "b"]


def test_a_failure_is_told_again(root):
    write(root, "train", ENGLISH[:-1], GERMAN)
    for look in (open_pairs, open_pairs, identify):
        with pytest.raises(DataError, match=r"train\.en has 17 lines, but .*train\.de has 18"):
            look(files(), root)
    write(root, "train", ENGLISH, GERMAN)
    assert identify(files(), root) == open_pairs(files(), root).fingerprint
