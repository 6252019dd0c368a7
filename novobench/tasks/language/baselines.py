"""Perplexities of n-gram models, reported with each network's as baselines that need no training.

The unigram model adds 1 to each count. The others are interpolated Kneser-Ney models with one absolute discount per
order (Chen & Goodman, 1999): an n-gram's count is replaced by the number of different words before it. Their estimate
of the discount is 0 for an order in which no n-gram occurs once, as in a text of one repeated line, and new n-grams
would have probability 0; the discount is then 1/2, as in KenLM where it cannot be estimated.

N tokens of a text, V words. An n-gram is one integer, its words the digits of a number in base V.
"""

from __future__ import annotations

import logging
import math

import numpy as np

log = logging.getLogger(__name__)

_FALLBACK_DISCOUNT = 0.5

Counts = tuple[np.ndarray, np.ndarray]
"""Sorted n-grams, and how often each occurs."""


def perplexities(train: np.ndarray, text: np.ndarray, vocabulary_size: int) -> dict[str, float]:
    """`unigram`, `kneser_ney_2` and `kneser_ney_3` perplexity of all tokens of `text`, preceded by `<eos>` (word 0).

    The last is left out, with a warning, if its n-grams do not fit into 64 bits (above 2,097,151 words). `train` and
    `text` are word ids, int32 [N].
    """
    smoothed_counts = np.bincount(train, minlength=vocabulary_size)[text] + 1
    results = {"unigram": _perplexity(smoothed_counts / (len(train) + vocabulary_size))}
    for order in (2, 3):
        if vocabulary_size**order >= 2**63:
            message = "No perplexity of Kneser-Ney %d-grams: %d words do not fit into 64 bits."
            log.warning(message, order, vocabulary_size)
        else:
            results[f"kneser_ney_{order}"] = _perplexity(kneser_ney(train, text, vocabulary_size, order))
    return results


def kneser_ney(train: np.ndarray, text: np.ndarray, vocabulary_size: int, order: int) -> np.ndarray:
    """Probability of each token of `text` given the `order - 1` tokens before it, float64 [N].

    `vocabulary_size`^`order` must be below 2^63.
    """
    levels = [np.unique(_ngrams(train, vocabulary_size, order), return_counts=True)]
    for length in range(order - 1, 0, -1):  # below the top order: the number of different words before the n-gram
        levels.insert(0, np.unique(levels[0][0] % vocabulary_size**length, return_counts=True))
    probability = np.full(len(text), 1 / vocabulary_size)
    padded = np.concatenate([np.zeros(order - 1, text.dtype), text])
    for length, level in enumerate(levels, 1):
        ngrams = _ngrams(padded[order - length :], vocabulary_size, length)
        probability = _interpolated(level, ngrams, vocabulary_size, probability)
    return probability


def _ngrams(tokens: np.ndarray, vocabulary_size: int, length: int) -> np.ndarray:
    count = max(len(tokens) - length + 1, 0)
    ngrams = np.zeros(count, np.int64)
    for offset in range(length):
        ngrams = ngrams * vocabulary_size + tokens[offset : count + offset]
    return ngrams


def _interpolated(level: Counts, ngrams: np.ndarray, vocabulary_size: int, lower: np.ndarray) -> np.ndarray:
    """(max(count − d, 0) + d · types after the context · lower) / count of the context; `lower` if that count is 0."""
    level_ngrams, counts = level
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = once / (once + 2 * twice) if once else _FALLBACK_DISCOUNT
    contexts, place = np.unique(level_ngrams // vocabulary_size, return_inverse=True)
    context_counts, context_types = np.bincount(place, counts), np.bincount(place)
    count = _look_up(level_ngrams, counts, ngrams)
    total, types = (_look_up(contexts, values, ngrams // vocabulary_size) for values in (context_counts, context_types))
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = (np.maximum(count - discount, 0) + discount * types * lower) / total
    return np.where(total > 0, mixed, lower)


def _look_up(keys: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The value of each query; 0 for a query that is not a key. `keys` are sorted."""
    if not len(keys):  # the text is shorter than an n-gram
        return np.zeros(len(queries))
    place = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[place] == queries, values[place], 0)


def _perplexity(probability: np.ndarray) -> float:
    return math.exp(-float(np.log(probability).mean()))
