"""The built-in corpus."""

from pathlib import Path

import pytest

from novobench.errors import DataError
from novobench.tasks.translation.builtin import COUNT, corpus
from novobench.tasks.translation.data import open_pairs
from tests.tasks.translation.small import SEARCH, TEST, TRAIN, corpus_config

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_corpus_has_distinct_sentences_of_both_languages():
    pairs = corpus()
    assert len({english for english, _ in pairs}) == COUNT == len(pairs)
    assert all(line.endswith(".") and line[0].isupper() for pair in pairs for line in pair)


def test_the_splits_of_the_corpus_do_not_overlap():
    splits = open_pairs(corpus_config(), Path())
    train = set(splits.model.decode([x.tolist() for x in splits.train.source]))
    test, search = set(splits.tests["test"].text.sources), set(splits.search.text.sources)
    assert (len(train), len(search), len(test)) == (TRAIN, SEARCH, TEST)
    assert not train & test
    assert not train & search
    assert not test & search


def test_a_different_spelling_of_num2words_is_reported(monkeypatch):
    monkeypatch.setattr("novobench.tasks.translation.builtin._SHA256", "0" * 64)
    monkeypatch.setattr("novobench.tasks.translation.builtin.generate", lambda: "One.\tEins.\n")
    corpus.cache_clear()
    with pytest.raises(DataError, match="num2words spells the built-in corpus differently.*num2words==0.5.14"):
        corpus()
    monkeypatch.undo()
    corpus.cache_clear()
