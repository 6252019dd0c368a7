"""Word ids follow the published vocabulary code; words without an id are named."""

import pytest
import torch

from novobench.errors import DataError
from novobench.tasks.language.corpus import open_corpus
from novobench.tasks.language.vocabulary import word_frequencies
from tests.tasks.language.texts import TEXT, TINY, tiny, write


def test_files_follow_the_published_vocabulary_rules(root):
    corpus = open_corpus(TINY, root)
    assert corpus.vocabulary[:3] == ["<eos>", "the", "="]  # by frequency, ties in the order of the text
    assert "The" in corpus.vocabulary  # case is kept
    assert "d" in corpus.vocabulary  # split at any white space …
    assert "\u2028" not in "".join(corpus.vocabulary)
    assert (corpus.tokens["train"] == 0).sum() == 6  # … but only \n ends a line, and blank lines count
    said = [corpus.vocabulary[token] for token in corpus.tokens["valid"]]
    assert said == ["<eos>", "the", "mat", "sat", "on", "the", "<unk>", "<eos>"]
    assert [corpus.vocabulary[token] for token in corpus.tokens["test"]] == ["the", "cat", "<eos>", "c", "d", "<eos>"]
    assert len(corpus.vocabulary) == len(set(TEXT["train"].split())) + 1


def test_rare_words_become_unknown(root):
    corpus = open_corpus(tiny(minimum_count=2), root)
    assert set(corpus.vocabulary) == {"<eos>", "<unk>", "=", "the", "The", "cat", "b", "c"}
    assert [corpus.vocabulary[token] for token in corpus.tokens["test"]] == [
        "the",
        "cat",
        "<eos>",
        "c",
        "<unk>",
        "<eos>",
    ]
    assert corpus.baselines["test"]["unknown"] == pytest.approx(100 / 6)


def test_characters_are_not_normalized(root):
    """No Unicode normalization: é as one character and as two are different words; NUL is part of a word."""
    words = ["caf\u00e9", "cafe\u0301", "\ufb01n", "fin", "a\0b", "zero\u200bwidth"]
    write(root / "wiki", train=" ".join(words) + "\n", valid=words[1] + "\n", test=words[2] + "\n")
    for corpus in (open_corpus(TINY, root), open_corpus(TINY, root)):  # encoded now, and from the cache
        assert corpus.vocabulary == ["<eos>", *words]
        assert corpus.tokens["valid"].tolist() == [2, 0]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("minimum_count", [1, 2])
def test_a_text_that_contains_eos_is_an_error(split, minimum_count, root):
    write(root / "wiki", **{split: "the cat\nthe <eos> cat <eos>\nthe <eos>\n"})
    with pytest.raises(
        DataError, match=rf"wiki\.{split}\.tokens has the word <eos> in 2 of its lines, first in line 2"
    ):
        open_corpus(tiny(minimum_count=minimum_count), root)


@pytest.mark.parametrize(
    ("train", "minimum_count", "advised"),
    [
        ("a a b b b\n", 1, 3),
        ("a a b b b\n", 2, 3),  # a text without rare words needs more
        ("a a b\n", 1, 2),
        ("a a <unk> <unk> <unk>\n", 1, 2),
    ],
)
def test_the_advice_about_unknown_words_works(train, minimum_count, advised, root):
    write(root / "wiki", train=train, valid="a\n", test="c\n")
    with pytest.raises(DataError, match=rf"test\.tokens holds 1 words .*set data\.minimum_count={advised} to read"):
        open_corpus(tiny(minimum_count=minimum_count), root)
    corpus = open_corpus(tiny(minimum_count=advised), root)
    assert corpus.vocabulary[corpus.tokens["test"][0]] == "<unk>"


def test_random_words_have_the_frequencies_of_text():
    """Compared with published counts, and with shares measured on WikiText-2's training text."""
    frequencies = word_frequencies(267_735)
    assert float(frequencies[-1] * 103_227_021) == pytest.approx(3, rel=0.1)  # WikiText-103's minimum count
    drawn = frequencies * 2_088_628
    three_times = 1 - torch.exp(-drawn) * (1 + drawn + drawn**2 / 2)
    assert float(three_times.sum()) == pytest.approx(33_278, rel=0.05)  # word types of WikiText-2, which does the same
    for first, share in ((100, 0.514), (1000, 0.703), (5000, 0.868), (10_000, 0.929)):
        assert float(frequencies[:first].sum()) == pytest.approx(share, abs=0.03)
