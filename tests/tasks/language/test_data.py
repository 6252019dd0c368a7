"""Text from glosses, files and hub files: the same ids from each, contiguous streams, every token scored once."""

import dataclasses
import gzip
import math
import os
import re
from collections import Counter, defaultdict

import datasets
import numpy as np
import pytest
import torch

from novobench.config_loading import parse_overrides
from novobench.errors import DataError
from novobench.places import ROOT
from novobench.suite.experiment import load_experiment, row_config
from novobench.tasks.language.baselines import kneser_ney, perplexities
from novobench.tasks.language.config import EvaluationProtocol, LanguageDataConfig, LanguageModelConfig
from novobench.tasks.language.corpus import check_length, checked_counts, open_corpus
from novobench.tasks.language.data import IGNORED, EvaluationText, StreamOrder, TrainingStreams, probe
from novobench.tasks.language.task import LanguageData
from novobench.tasks.sampling import SampleKey

DATA = ROOT / os.environ.get("NOVOBENCH_DATA", "data")
TEXT = {
    "train": " \n = The <unk> Title = \n \n the cat sat on the mat , The end\n b b c c\u2028d \n the cat ate 1 fish\n",
    "valid": " \n the mat sat on the <unk>\n",
    "test": " the cat\n c d",  # no line end
}


def write(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in {**TEXT, **changes}.items():
        (folder / f"wiki.{split}.tokens").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "wiki")
    return tmp_path


TINY = LanguageDataConfig(source="files", name="wiki")


def tiny(**changes):
    return dataclasses.replace(TINY, **changes)


# ------------------------------------------------------------------------------------ the built-in text


def test_glosses_are_the_expected_text():
    config = LanguageDataConfig(source="glosses", name="glosses", minimum_count=5)
    config = dataclasses.replace(config, train_tokens=263572, valid_tokens=14816, test_tokens=14195)
    corpus = open_corpus(config, None)
    model = LanguageModelConfig(vocabulary_size=4806, cutoffs=[])
    assert checked_counts(corpus, config, model)["train"] == 263572
    found = corpus.baselines["test"]
    assert found["unknown"] == pytest.approx(9.517, abs=0.001)
    assert found["unigram"] == pytest.approx(330.4, abs=0.1)
    assert found["kneser_ney_3"] < found["kneser_ney_2"] < 103.3
    counts = np.bincount(corpus.tokens["train"])
    assert (np.diff(counts[1:]) <= 0).all()  # frequent words first, which adaptive softmax needs
    assert counts.min() >= 5
    lines = " ".join(corpus.words[token] for token in corpus.tokens["train"][:40]).split(" <eos> ")
    assert lines[0] == "a living thing that has ( or can develop ) the ability to act or function <unk>"
    held_out = set(" ".join(corpus.words[t] for t in corpus.tokens["test"]).split(" <eos> "))
    train = " ".join(corpus.words[t] for t in corpus.tokens["train"]).split(" <eos> ")
    assert len(held_out & set(train)) / len(held_out) < 0.02  # short definitions do recur


def test_a_share_of_the_training_text_keeps_the_held_out_text():
    config = LanguageDataConfig(source="glosses", name="glosses", minimum_count=1000)
    whole, quarter = (open_corpus(dataclasses.replace(config, train_share=share), None) for share in (1, 0.25))
    assert len(quarter.tokens["train"]) == pytest.approx(len(whole.tokens["train"]) / 4, rel=0.05)
    assert len(quarter.tokens["test"]) == len(whole.tokens["test"])


def test_another_version_of_the_glosses_is_refused(monkeypatch):
    monkeypatch.setattr("novobench.tasks.language.builtin._SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"imagenet_synset_to_definition\.txt is not the expected text .*191e227d"):
        open_corpus(LanguageDataConfig(source="glosses", name="glosses"), None)


# ------------------------------------------------------------------------------------ files and hub


def test_files_follow_the_published_vocabulary_rules(root):
    corpus = open_corpus(TINY, root)
    assert corpus.words[:3] == ["<eos>", "the", "="]  # frequency, equals in the order of the text
    assert "The" in corpus.words  # case is kept
    assert "d" in corpus.words  # split at any white space …
    assert "\u2028" not in "".join(corpus.words)
    assert (corpus.tokens["train"] == 0).sum() == 6  # … but a line ends at \n alone, and blank lines count
    said = [corpus.words[token] for token in corpus.tokens["valid"]]
    assert said == ["<eos>", "the", "mat", "sat", "on", "the", "<unk>", "<eos>"]
    assert [corpus.words[token] for token in corpus.tokens["test"]] == ["the", "cat", "<eos>", "c", "d", "<eos>"]
    assert len(corpus.words) == len(set(TEXT["train"].split())) + 1


def test_rare_words_become_unknown(root):
    corpus = open_corpus(tiny(minimum_count=2), root)
    assert set(corpus.words) == {"<eos>", "<unk>", "=", "the", "The", "cat", "b", "c"}
    assert [corpus.words[token] for token in corpus.tokens["test"]] == ["the", "cat", "<eos>", "c", "<unk>", "<eos>"]
    assert corpus.baselines["test"]["unknown"] == pytest.approx(100 / 6)


def test_hub_rows_give_what_the_files_give(root):
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


def test_it_is_read_from_the_cache_and_a_damaged_cache_is_built_again(root, tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    first = open_corpus(TINY, root)
    built = []
    original = np.save
    monkeypatch.setattr(np, "save", lambda path, array: (built.append(path), original(path, array)))
    assert open_corpus(TINY, root).fingerprint == first.fingerprint
    assert not built
    (path,) = (tmp_path / "cache" / "language").glob("*/train.npy")
    path.write_bytes(path.read_bytes()[:-4])
    assert open_corpus(TINY, root).fingerprint == first.fingerprint
    assert len(built) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ""}, r"wiki\.train\.tokens holds no word"),
        ({"test": " \n \n"}, r"wiki\.test\.tokens holds no word"),
        ({"valid": b"the cat\nthe c\xe4t\n"}, r"wiki\.valid\.tokens line 2 is not UTF-8 \(byte 0xe4\)"),
        (
            {"valid": "the cat\nthe dog , the dog\n"},
            r"wiki\.valid\.tokens holds 1 words .* e\.g\. 'dog' \(2 times, first in line 2",
        ),
        (
            {"train": TEXT["train"] + "<eos>\n"},
            r"wiki\.train\.tokens has the word <eos> in 1 of its lines, first in line 7",
        ),
    ],
)
def test_a_bad_file_is_told_in_one_line(changes, message, root):
    write(root / "wiki", **changes)
    with pytest.raises(DataError, match=message) as told:
        open_corpus(TINY, root)
    assert "\n" not in str(told.value)


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
def test_files_of_other_names_are_taken(names, root):
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
def test_files_that_are_not_sure_to_be_meant_are_told(names, message, tmp_path):
    (tmp_path / "wiki").mkdir()
    for name in names:
        (tmp_path / "wiki" / name).write_text("a b\n")
    with pytest.raises(DataError, match=re.escape(message)):
        open_corpus(TINY, tmp_path)


def test_the_three_texts_are_of_one_kind(root):
    """`train.txt` beside `wiki.train.tokens`: the kind is taken of which all three are there."""
    for split in ("train", "valid", "test"):
        (root / "wiki" / f"{split}.txt").write_text("a b\n")
    assert "cat" in open_corpus(TINY, root).words
    (root / "wiki" / "wiki.test.tokens").unlink()
    assert open_corpus(TINY, root).words == ["<eos>", "a", "b"]


def pipe(folder):
    os.mkfifo(folder / "wiki.test.tokens")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            lambda folder: (folder / "wiki.test.tokens").mkdir(),
            r"No such text: .* The folder holds: wiki\.test\.tokens/,",
        ),
        (lambda folder: (folder / "wiki.test.tokens").symlink_to("gone"), "it is a link to gone, which is missing"),
        (pipe, "it is a pipe or a device"),
        (lambda folder: (folder / ".test.txt").write_text("a\n"), r"No such text: .* The folder holds: wiki\.train"),
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
def test_what_is_no_text_is_told(place, message, root):
    (root / "wiki" / "wiki.test.tokens").unlink()
    place(root / "wiki")
    with pytest.raises(DataError, match=message) as told:
        open_corpus(TINY, root)
    assert "Did you mean 'wiki.train" not in str(told.value)


@pytest.mark.parametrize("path", ["a" * 300, "a\0b", "wiki/wiki.train.tokens"])
def test_a_path_that_is_no_folder_is_told(path, root):
    with pytest.raises(DataError, match="No data folder .*(data root|a file has this name).*NOVOBENCH_DATA"):
        open_corpus(tiny(path=path), root)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("minimum_count", [1, 2])
def test_a_text_that_marks_the_ends_of_its_lines_is_told(split, minimum_count, root):
    write(root / "wiki", **{split: "the cat\nthe <eos> cat <eos>\nthe <eos>\n"})
    with pytest.raises(
        DataError, match=rf"wiki\.{split}\.tokens has the word <eos> in 2 of its lines, first in line 2"
    ):
        open_corpus(tiny(minimum_count=minimum_count), root)


@pytest.mark.parametrize(
    ("train", "minimum_count", "advised"),
    [
        ("a a b b b\n", 1, 3),
        ("a a b b b\n", 2, 3),  # the words of a text without rare ones need more
        ("a a b\n", 1, 2),
        ("a a <unk> <unk> <unk>\n", 1, 2),
    ],
)
def test_the_advice_about_unknown_words_helps(train, minimum_count, advised, root):
    write(root / "wiki", train=train, valid="a\n", test="c\n")
    with pytest.raises(DataError, match=rf"test\.tokens holds 1 words .*set data\.minimum_count={advised} to read"):
        open_corpus(tiny(minimum_count=minimum_count), root)
    corpus = open_corpus(tiny(minimum_count=advised), root)
    assert corpus.words[corpus.tokens["test"][0]] == "<unk>"


def test_a_share_that_leaves_nothing_is_told(root):
    with pytest.raises(DataError, match=r"data\.train_share 0\.1 leaves no word of the 6 lines of .*train\.tokens"):
        open_corpus(tiny(train_share=0.1), root)


def test_a_text_too_short_for_an_update_is_told(root):
    corpus = open_corpus(TINY, root)
    tokens = len(corpus.tokens["train"])
    for streams, segment in ((1, tokens - 1), (5, tokens // 5 - 1)):
        check_length(corpus, tiny(segment_length=segment), streams)
        with pytest.raises(DataError, match=rf"has {tokens} train tokens .* data\.segment_length {segment + 1} tokens"):
            check_length(corpus, tiny(segment_length=segment + 1), streams)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(root):
    write(root / "windows", **{split: b"\xef\xbb\xbf" + t.replace("\n", "\r\n").encode() for split, t in TEXT.items()})
    assert open_corpus(tiny(path="windows"), root).fingerprint == open_corpus(TINY, root).fingerprint


def test_characters_are_left_as_they_are(root):
    """No Unicode normalisation: é in one character and in two are two words, as is a word with NUL in it."""
    words = ["caf\u00e9", "cafe\u0301", "\ufb01n", "fin", "a\0b", "zero\u200bwidth"]
    write(root / "wiki", train=" ".join(words) + "\n", valid=words[1] + "\n", test=words[2] + "\n")
    for corpus in (open_corpus(TINY, root), open_corpus(TINY, root)):  # encoded, and from the cache
        assert corpus.words == ["<eos>", *words]
        assert corpus.tokens["valid"].tolist() == [2, 0]


def test_a_row_of_several_lines_is_what_a_file_of_them_is(root):
    (root / "hub").mkdir()
    for split, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        rows = [TEXT[split].removesuffix("\n"), None] if split == "train" else [TEXT[split]]
        datasets.Dataset.from_dict({"text": rows}).to_parquet(str(root / "hub" / f"{name}-00000-of-00001.parquet"))
    write(root / "wiki", train=TEXT["train"] + "\n")  # what is missing is an empty line
    assert open_corpus(tiny(source="hub", path="hub"), root).fingerprint == open_corpus(TINY, root).fingerprint
    marked = datasets.Dataset.from_dict({"text": ["\ufeff" + TEXT["test"]]})
    marked.to_parquet(str(root / "hub" / "test-00000-of-00001.parquet"))
    assert open_corpus(tiny(source="hub", path="", name="hub"), root).fingerprint == open_corpus(TINY, root).fingerprint
    numbers = datasets.Dataset.from_dict({"text": [1, 2]})
    for name in ("train", "validation", "test"):
        numbers.to_parquet(str(root / "hub" / f"{name}-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"hub\[train\]: column 'text' is no text but int64. Set data.text_column"):
        open_corpus(tiny(source="hub", path="hub"), root)


def test_a_line_that_moves_to_the_next_split_is_another_text(root):
    write(root / "wiki", train="a b\nvalid\nb a\n", valid="b\n", test="a\n")
    first = open_corpus(TINY, root).tokens
    write(root / "wiki", train="a b\n", valid="b a\nvalid\nb\n", test="a\n")
    with pytest.raises(
        DataError, match=r"wiki\.valid\.tokens holds 1 words that the training text lacks, e.g. 'valid'"
    ):
        open_corpus(TINY, root)
    assert len(first["train"]) == 8


def test_counts_must_be_those_of_the_config(root):
    corpus = open_corpus(TINY, root)
    words = LanguageModelConfig(vocabulary_size=len(corpus.words), cutoffs=[])
    right = tiny(train_tokens=len(corpus.tokens["train"]), valid_tokens=8, test_tokens=6)
    assert checked_counts(corpus, right, words)["test"] == 6
    with pytest.raises(DataError, match=r"\(files wiki\) has 6 test tokens with <eos>, but data\.test_tokens is 7"):
        checked_counts(corpus, dataclasses.replace(right, test_tokens=7), words)
    wrong = LanguageModelConfig(vocabulary_size=50, cutoffs=[10, 40])
    with pytest.raises(
        DataError, match=r"18 word types for the softmax's clusters, but model\.cutoffs is \[10, 40\]"
    ) as told:
        checked_counts(corpus, dataclasses.replace(right, valid_tokens=9), wrong)
    options = str(told.value).partition("Complete the data, or add: --set ")[2]
    expected = {"data.valid_tokens": 8, "model.vocabulary_size": len(corpus.words), "model.cutoffs": []}
    assert parse_overrides(options.split()) == expected


@pytest.mark.parametrize("changes", [{"probe_tokens": 10_000}, {"evaluation_streams": 50}])
def test_what_is_cut_from_short_texts_is_proposed_too(changes, root):
    corpus = open_corpus(TINY, root)
    words = LanguageModelConfig(vocabulary_size=len(corpus.words), cutoffs=[])
    with pytest.raises(DataError, match=f"data.{next(iter(changes))} is") as told:
        checked_counts(corpus, tiny(**changes), words)
    options = parse_overrides(str(told.value).partition("Complete the data, or add: --set ")[2].split())
    right = tiny(**{**changes, **{key.removeprefix("data."): value for key, value in options.items()}})
    assert checked_counts(corpus, right, words)["train"] == right.train_tokens
    assert right.probe_tokens <= right.train_tokens
    assert right.evaluation_streams <= min(right.valid_tokens, right.test_tokens)


def test_data_are_identified_without_counting_words(root, monkeypatch):
    monkeypatch.setattr("novobench.tasks.language.corpus.perplexities", lambda *_: pytest.fail("counted"))
    monkeypatch.setenv("NOVOBENCH_DATA", str(root))
    experiment = load_experiment("table7")
    train = len(open_corpus(TINY, root).tokens["train"])
    changes = {"data.source": "files", "data.name": "wiki", "data.minimum_count": 1, "data.train_tokens": train}
    changes |= {
        "data.valid_tokens": 8,
        "data.test_tokens": 6,
        "data.evaluation_streams": 1,
        "data.segment_length": 1,
        "batch": {"size": 2, "micro": 2},
    }
    changes |= {"model.vocabulary_size": len(open_corpus(TINY, root).words), "model.cutoffs": []}
    data = LanguageData(row_config(experiment, experiment.row("t7_adam"), "laptop", 0, changes))
    identity = data.identify()
    monkeypatch.undo()
    monkeypatch.setenv("NOVOBENCH_DATA", str(root))
    data.setup("fit")
    assert identity == data.fingerprint
    write(root / "wiki", test=" the mat\n c d")  # the same counts
    assert data.identify() != identity


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "wikitext-2").is_dir(), reason="needs wikitext-2 under $NOVOBENCH_DATA")
def test_wikitext_2_has_its_published_counts():
    experiment = load_experiment("table7")
    config = row_config(experiment, experiment.row("t7_adam"), "gpu", 0)
    corpus = open_corpus(config.data, DATA)
    found = checked_counts(corpus, config.data, config.model)
    assert found == {"train": 2_088_628, "valid": 217_646, "test": 245_569, "words": 33_278}
    for split, types in (("valid", 13_776), ("test", 14_142)):
        assert len(np.unique(corpus.tokens[split])) == types + 1  # and <eos>


# ------------------------------------------------------------------------------------ baselines


def textbook(train, order, discount_of):
    """Interpolated Kneser-Ney with dictionaries, from Chen & Goodman's definition; a function (history, word) -> p."""
    words = max(train) + 1

    def counts(length):
        grams = Counter(tuple(train[i : i + length]) for i in range(len(train) - length + 1))
        if length == order:
            return grams
        longer = {tuple(train[i : i + length + 1]) for i in range(len(train) - length)}
        # As many as there are kinds before: from n-grams that themselves count kinds of longer ones, all the same set.
        return Counter(gram[1:] for gram in longer)

    tables = {length: counts(length) for length in range(1, order + 1)}

    def p(history, word):
        length = len(history) + 1
        table = tables[length]
        lower = 1 / words if length == 1 else p(history[1:], word)
        followers = {gram[-1]: count for gram, count in table.items() if gram[:-1] == history}
        total = sum(followers.values())
        if not total:
            return lower
        d = discount_of(table)
        return (max(followers.get(word, 0) - d, 0) + d * len(followers) * lower) / total

    return p


def leave_out(table):
    kinds = Counter(table.values())
    return kinds[1] / (kinds[1] + 2 * kinds[2]) if kinds[1] else 0.5


@pytest.mark.parametrize("order", [2, 3])
def test_kneser_ney_is_the_textbooks(order):
    rng = np.random.default_rng(0)
    train = (rng.random(400) ** 3 * 12).astype(np.int32)
    text = (rng.random(60) ** 2 * 12).astype(np.int32)
    p = textbook(train.tolist(), order, leave_out)
    padded = [0] * (order - 1) + text.tolist()
    expected = [p(tuple(padded[i : i + order - 1]), padded[i + order - 1]) for i in range(len(text))]
    np.testing.assert_allclose(kneser_ney(train, text, int(train.max()) + 1, order), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    ("train", "text"),
    [
        ([1, 1, 1, 0] * 50, [1, 1, 0, 0, 1]),  # nothing is counted once
        ([1, 2, 0] * 50, [2, 2, 1, 0]),  # nor is a word seen after more than one other
        ([1] * 300 + [0], [1, 1, 0]),
        ([1, 0], [1, 0, 0]),  # shorter than an n-gram
        ([0, 1], [0, 1]),
    ],
)
def test_a_text_of_one_repeated_line_has_finite_perplexities(train, text, order):
    p = textbook(train, order, leave_out)
    padded = [0] * (order - 1) + text
    expected = [p(tuple(padded[i : i + order - 1]), padded[i + order - 1]) for i in range(len(text))]
    found = kneser_ney(np.array(train, np.int32), np.array(text, np.int32), max(train) + 1, order)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.min() > 0
    assert all(map(math.isfinite, perplexities(np.array(train, np.int32), np.array(text, np.int32), 3).values()))


def test_kneser_ney_sums_to_one():
    rng = np.random.default_rng(1)
    train = (rng.random(500) ** 3 * 9).astype(np.int32)
    sums = defaultdict(float)
    for word in range(9):
        for history in ([3, 5], [0, 8], [8, 8]):
            sums[tuple(history)] += kneser_ney(train, np.array([*history, word], np.int32), 9, 3)[2]
    assert list(sums.values()) == pytest.approx([1.0] * 3)


def test_a_vocabulary_too_large_for_trigrams_in_64_bits_does_without_them(caplog):
    """2,097,152 words to the third power are 2^63."""
    text = np.array([0, 2_097_151, 0, 1], np.int32)
    found = perplexities(text, text, 2_097_152)
    assert set(found) == {"unigram", "kneser_ney_2"}
    assert "No perplexity of Kneser-Ney 3-grams: 2097152 words" in caplog.text


def test_the_unigram_baseline_by_hand():
    found = perplexities(np.array([0, 1, 1, 0], np.int32), np.array([1, 2], np.int32), 3)
    assert found["unigram"] == pytest.approx(math.exp(-(math.log(3 / 7) + math.log(1 / 7)) / 2))


# ------------------------------------------------------------------------------------ streams


TOKENS = np.arange(1000, dtype=np.int32)


def streams(**changes):
    return TrainingStreams(TOKENS, **{"streams": 8, "micro": 2, "length": 10, "seed": 0, **changes})


def batches(data, start=0, stop=12, rank=0, world=1):
    order = StreamOrder(8, micro=2, per_epoch=12, start=start, stop=stop, rank=rank, world=world)
    return [data.collate(data.__getitems__(keys)) for keys in order]


def test_streams_are_contiguous_pieces_of_the_text():
    said = defaultdict(list)
    for batch in batches(streams()):
        assert torch.equal(batch.targets, batch.inputs + 1)  # the text counts up
        for row in range(2):
            said[2 * batch.slot + row] += batch.inputs[row].tolist()
    for stream in range(8):
        assert said[stream] == list(range(stream * 125, stream * 125 + 120))


def test_an_epoch_is_what_the_config_declares():
    config = LanguageDataConfig(train_tokens=1000, segment_length=10)
    assert config.updates_per_epoch(8) == 12
    assert config.tokens_per_sample == 10
    wikitext = LanguageDataConfig()
    assert wikitext.updates_per_epoch(256) == (103_227_021 // 256 - 1) // 512 == 787


def test_order_is_a_function_of_the_update_alone():
    whole = batches(streams(), 0, 30)
    for start in (1, 11, 12, 17):
        part = batches(streams(), start, 30)
        for ours, theirs in zip(part, whole[4 * start :], strict=True):
            assert torch.equal(ours.inputs, theirs.inputs)
            assert (ours.slot, ours.first) == (theirs.slot, theirs.first)


def test_memory_begins_with_the_epoch():
    firsts = [batch.first for batch in batches(streams(), 0, 25)]
    assert firsts == ([True] * 4 + [False] * 44) * 2 + [True] * 4


def test_a_slot_stays_with_one_process():
    whole = batches(streams(), 3, 7)
    for world in (2, 4):
        shares = [batches(streams(), 3, 7, rank, world) for rank in range(world)]
        assert [{batch.slot % world for batch in share} for share in shares] == [{rank} for rank in range(world)]
        for share in shares:
            for batch in share:
                same = next(b for b in whole if torch.equal(b.inputs, batch.inputs))
                assert same.slot == batch.slot


def test_rotation_moves_the_start_each_epoch():
    data = streams(rotate=True)
    starts = {
        (seed, epoch): streams(rotate=True, seed=seed)[SampleKey(epoch, 0)][0] for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(set(starts.values())) == 4
    row = data[SampleKey(1, 8 * 11 + 7)]
    assert ((row[1:] - row[:-1]) % 1000 == 1).all()  # the text goes round


# ------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("pieces", [1, 3, 7])
@pytest.mark.parametrize("length", [4, 10, 64, 2000])
@pytest.mark.parametrize("world", [1, 2])
def test_every_token_is_scored_once(pieces, length, world):
    tokens = np.random.default_rng(0).integers(1, 500, 997).astype(np.int32)
    text = EvaluationText(tokens, EvaluationProtocol(target_length=length), pieces)
    said: dict[int, list[int]] = {}
    for rank in range(world):
        for batch in text.share(range(rank, len(text), world)):
            for place, inputs, targets in zip(batch.places, batch.inputs.tolist(), batch.targets.tolist(), strict=True):
                kept = [target for target in targets if target != IGNORED]
                assert targets == kept + [IGNORED] * (len(targets) - len(kept))
                assert place not in said
                said[place] = kept
                said[-place - 1] = inputs[: len(kept)]
    order = sorted(place for place in said if place >= 0)
    assert [token for place in order for token in said[place]] == tokens.tolist()
    assert [token for place in order for token in said[-place - 1]] == [0, *tokens[:-1].tolist()]


def test_more_pieces_than_tokens_are_as_many_as_there_are():
    text = EvaluationText(np.array([3, 0], np.int32), EvaluationProtocol(target_length=4), 50)
    said = [batch.targets.tolist() for rank in range(3) for batch in text.share(range(rank, len(text), 3))]
    assert said == [[[3]], [[0]]]


def test_what_a_row_says_can_be_read():
    text = EvaluationText(np.array([1, 2, 0], np.int32), EvaluationProtocol(target_length=2), 1, ["<eos>", "a", "b"])
    assert [batch.text for batch in text.share(range(1))] == [["a b"], ["<eos>"]]


def test_the_probe_of_a_text_without_lines_is_spread_over_it_too():
    tokens = np.concatenate([np.arange(1, 10_001), [0]])
    found = probe(tokens, 2000)
    assert found.tolist() == [*range(1, 501), *range(2501, 3001), *range(5001, 5501), *range(7501, 8001)]
    assert np.array_equal(probe(tokens[:300], 2000), tokens[:300])


def test_the_probe_is_spread_over_the_training_text_and_begins_with_lines():
    tokens = np.arange(1, 100_001, dtype=np.int32)
    tokens[9::10] = 0
    chosen = probe(tokens, 5000)
    assert len(chosen) == 5000
    starts = chosen[::500]
    assert ((starts - 1) % 10 == 0).all()
    assert np.abs(np.diff(starts) - 10_000).max() <= 10
