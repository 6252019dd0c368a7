"""Encoded splits: counts, cache, identity, and one clear message for a text that does not fit the config."""

import dataclasses
import os

import numpy as np
import pytest

from novobench.config_loading import parse_overrides
from novobench.errors import DataError
from novobench.places import ROOT
from novobench.suite.experiment import load_experiment
from novobench.suite.row_configs import row_config
from novobench.tasks.language.config import LanguageDataConfig, LanguageModelConfig
from novobench.tasks.language.corpus import check_length, checked_counts, open_corpus
from novobench.tasks.language.data import (
    LanguageData,
)
from tests.tasks.language.texts import TEXT, TINY, tiny, write

DATA = ROOT / os.environ.get("NOVOBENCH_DATA", "data")


def test_glosses_are_the_expected_text():
    config = LanguageDataConfig(source="glosses", name="glosses", minimum_count=5)
    config = dataclasses.replace(config, train_tokens=263572, valid_tokens=14816, test_tokens=14195)
    corpus = open_corpus(config, None)
    model = LanguageModelConfig(vocabulary_size=4806, cutoffs=[])
    assert checked_counts(corpus, config, model)["train"] == 263572
    baselines = corpus.baselines["test"]
    assert baselines["unknown"] == pytest.approx(9.517, abs=0.001)
    assert baselines["unigram"] == pytest.approx(330.4, abs=0.1)
    assert baselines["kneser_ney_3"] < baselines["kneser_ney_2"] < 103.3
    counts = np.bincount(corpus.tokens["train"])
    assert (np.diff(counts[1:]) <= 0).all()  # frequent words first, as the adaptive softmax requires
    assert counts.min() >= 5
    lines = " ".join(corpus.vocabulary[token] for token in corpus.tokens["train"][:40]).split(" <eos> ")
    assert lines[0] == "a living thing that has ( or can develop ) the ability to act or function <unk>"
    held_out = set(" ".join(corpus.vocabulary[t] for t in corpus.tokens["test"]).split(" <eos> "))
    train = " ".join(corpus.vocabulary[t] for t in corpus.tokens["train"]).split(" <eos> ")
    assert len(held_out & set(train)) / len(held_out) < 0.02  # some short definitions occur twice


def test_a_corpus_is_cached_and_a_damaged_cache_is_built_again(root, tmp_path, monkeypatch):
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
def test_a_bad_file_has_a_message_of_one_line(changes, message, root):
    write(root / "wiki", **changes)
    with pytest.raises(DataError, match=message) as raised:
        open_corpus(TINY, root)
    assert "\n" not in str(raised.value)


def test_a_text_too_short_for_an_update_is_an_error(root):
    corpus = open_corpus(TINY, root)
    tokens = len(corpus.tokens["train"])
    for streams, segment in ((1, tokens - 1), (5, tokens // 5 - 1)):
        check_length(corpus, tiny(segment_length=segment), streams)
        with pytest.raises(DataError, match=rf"has {tokens} train tokens .* data\.segment_length {segment + 1} tokens"):
            check_length(corpus, tiny(segment_length=segment + 1), streams)


def test_moving_a_line_to_the_next_split_makes_another_text(root):
    write(root / "wiki", train="a b\nvalid\nb a\n", valid="b\n", test="a\n")
    first = open_corpus(TINY, root).tokens
    write(root / "wiki", train="a b\n", valid="b a\nvalid\nb\n", test="a\n")
    with pytest.raises(
        DataError, match=r"wiki\.valid\.tokens holds 1 words that the training text lacks, e.g. 'valid'"
    ):
        open_corpus(TINY, root)
    assert len(first["train"]) == 8


def test_counts_must_equal_the_config(root):
    corpus = open_corpus(TINY, root)
    words = LanguageModelConfig(vocabulary_size=len(corpus.vocabulary), cutoffs=[])
    right = tiny(train_tokens=len(corpus.tokens["train"]), valid_tokens=8, test_tokens=6)
    assert checked_counts(corpus, right, words)["test"] == 6
    with pytest.raises(DataError, match=r"\(files wiki\) has 6 test tokens with <eos>, but data\.test_tokens is 7"):
        checked_counts(corpus, dataclasses.replace(right, test_tokens=7), words)
    wrong = LanguageModelConfig(vocabulary_size=50, cutoffs=[10, 40])
    with pytest.raises(
        DataError, match=r"18 word types for the softmax's clusters, but model\.cutoffs is \[10, 40\]"
    ) as raised:
        checked_counts(corpus, dataclasses.replace(right, valid_tokens=9), wrong)
    options = str(raised.value).partition("Complete the data, or add: --set ")[2]
    expected = {"data.valid_tokens": 8, "model.vocabulary_size": len(corpus.vocabulary), "model.cutoffs": []}
    assert parse_overrides(options.split()) == expected


@pytest.mark.parametrize("changes", [{"probe_tokens": 10_000}, {"evaluation_streams": 50}])
def test_counts_proposed_for_short_texts_are_valid(changes, root):
    corpus = open_corpus(TINY, root)
    words = LanguageModelConfig(vocabulary_size=len(corpus.vocabulary), cutoffs=[])
    with pytest.raises(DataError, match=f"data.{next(iter(changes))} is") as raised:
        checked_counts(corpus, tiny(**changes), words)
    options = parse_overrides(str(raised.value).partition("Complete the data, or add: --set ")[2].split())
    right = tiny(**{**changes, **{key.removeprefix("data."): value for key, value in options.items()}})
    assert checked_counts(corpus, right, words)["train"] == right.train_tokens
    assert right.probe_tokens <= right.train_tokens
    assert right.evaluation_streams <= min(right.valid_tokens, right.test_tokens)


def test_data_are_identified_without_baselines(root, monkeypatch):
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
    changes |= {"model.vocabulary_size": len(open_corpus(TINY, root).vocabulary), "model.cutoffs": []}
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
    counts = checked_counts(corpus, config.data, config.model)
    assert counts == {"train": 2_088_628, "valid": 217_646, "test": 245_569, "words": 33_278}
    for split, types in (("valid", 13_776), ("test", 14_142)):
        assert len(np.unique(corpus.tokens[split])) == types + 1  # and <eos>
