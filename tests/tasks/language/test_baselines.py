"""N-gram perplexities, compared with a textbook implementation."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from novobench.tasks.language.baselines import kneser_ney, perplexities


def textbook(train, order, discount_of):
    """Interpolated Kneser-Ney with dictionaries, from Chen & Goodman's definition: a function (history, word) -> p."""
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
def test_kneser_ney_equals_the_textbook(order):
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
        ([1, 1, 1, 0] * 50, [1, 1, 0, 0, 1]),  # no n-gram occurs once
        ([1, 2, 0] * 50, [2, 2, 1, 0]),  # and each word follows only one other
        ([1] * 300 + [0], [1, 1, 0]),
        ([1, 0], [1, 0, 0]),  # shorter than an n-gram
        ([0, 1], [0, 1]),
    ],
)
def test_a_text_of_one_repeated_line_has_finite_perplexities(train, text, order):
    p = textbook(train, order, leave_out)
    padded = [0] * (order - 1) + text
    expected = [p(tuple(padded[i : i + order - 1]), padded[i + order - 1]) for i in range(len(text))]
    probabilities = kneser_ney(np.array(train, np.int32), np.array(text, np.int32), max(train) + 1, order)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)
    assert probabilities.min() > 0
    assert all(map(math.isfinite, perplexities(np.array(train, np.int32), np.array(text, np.int32), 3).values()))


def test_kneser_ney_sums_to_one():
    rng = np.random.default_rng(1)
    train = (rng.random(500) ** 3 * 9).astype(np.int32)
    sums = defaultdict(float)
    for word in range(9):
        for history in ([3, 5], [0, 8], [8, 8]):
            sums[tuple(history)] += kneser_ney(train, np.array([*history, word], np.int32), 9, 3)[2]
    assert list(sums.values()) == pytest.approx([1.0] * 3)


def test_trigrams_that_do_not_fit_into_64_bits_are_left_out(caplog):
    """2,097,152 words to the third power are 2^63."""
    text = np.array([0, 2_097_151, 0, 1], np.int32)
    results = perplexities(text, text, 2_097_152)
    assert set(results) == {"unigram", "kneser_ney_2"}
    assert "No perplexity of Kneser-Ney 3-grams: 2097152 words" in caplog.text


def test_the_unigram_baseline_by_hand():
    results = perplexities(np.array([0, 1, 1, 0], np.int32), np.array([1, 2], np.int32), 3)
    assert results["unigram"] == pytest.approx(math.exp(-(math.log(3 / 7) + math.log(1 / 7)) / 2))
