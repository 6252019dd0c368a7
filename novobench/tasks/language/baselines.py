"""What counting words achieves: perplexities of n-gram models, to be read beside every network's.

The unigram model adds 1 to each count. The others are interpolated Kneser-Ney models with one absolute discount an
order (Chen & Goodman, 1999): an n-gram's count gives way to how many different words it was seen after. Their estimate
of the discount is 0 for an order in which nothing was counted once, as in a text of one repeated line, and what was not
seen would be impossible; the discount is then 1/2, as KenLM's where it cannot be estimated.

N tokens of the training text, V words. An n-gram is one integer, its words the digits of a number in base V.
"""

from __future__ import annotations

import logging
import math

import numpy as np

log = logging.getLogger(__name__)

_FALLBACK_DISCOUNT = 0.5

Counts = tuple[np.ndarray, np.ndarray]
"""Sorted n-grams, and how often each was counted."""


def perplexities(train: np.ndarray, text: np.ndarray, words: int) -> dict[str, float]:
    """`unigram`, `kneser_ney_2` and `kneser_ney_3` perplexity of all tokens of `text`, after `<eos>` (word 0); without
    the last, and a warning, where its n-grams do not fit into 64 bits (above 2,097,151 words)."""
    found = {"unigram": _perplexity((np.bincount(train, minlength=words)[text] + 1) / (len(train) + words))}
    for order in (2, 3):
        if words**order >= 2**63:
            log.warning("No perplexity of Kneser-Ney %d-grams: %d words are too many for 64 bits.", order, words)
        else:
            found[f"kneser_ney_{order}"] = _perplexity(kneser_ney(train, text, words, order))
    return found


def kneser_ney(train: np.ndarray, text: np.ndarray, words: int, order: int) -> np.ndarray:
    """Probability of each token of `text` after the `order - 1` before it; `words`^`order` must be below 2^63."""
    counts = np.unique(_ngrams(train, words, order), return_counts=True)
    levels = [counts]
    for length in range(order - 1, 0, -1):  # what counts below the top: different words seen before
        kinds = np.unique(levels[0][0] % words**length, return_counts=True)
        levels.insert(0, kinds)
    probability = np.full(len(text), 1 / words)
    padded = np.concatenate([np.zeros(order - 1, text.dtype), text])
    for length, level in enumerate(levels, 1):
        probability = _interpolated(level, _ngrams(padded[order - length :], words, length), words, probability)
    return probability


def _ngrams(tokens: np.ndarray, words: int, length: int) -> np.ndarray:
    count = max(len(tokens) - length + 1, 0)
    grams = np.zeros(count, np.int64)
    for place in range(length):
        grams = grams * words + tokens[place : count + place]
    return grams


def _interpolated(level: Counts, grams: np.ndarray, words: int, lower: np.ndarray) -> np.ndarray:
    """(max(count − d, 0) + d · kinds after the context · lower) / count of the context, or `lower` if that is 0."""
    known, counts = level
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = once / (once + 2 * twice) if once else _FALLBACK_DISCOUNT
    contexts, place = np.unique(known // words, return_inverse=True)
    totals, kinds = np.bincount(place, counts), np.bincount(place)
    count = _looked_up(known, counts, grams)
    total, kind = (_looked_up(contexts, values, grams // words) for values in (totals, kinds))
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = (np.maximum(count - discount, 0) + discount * kind * lower) / total
    return np.where(total > 0, mixed, lower)


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if not len(keys):  # of a text shorter than an n-gram
        return np.zeros(len(wanted))
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def _perplexity(probability: np.ndarray) -> float:
    return math.exp(-float(np.log(probability).mean()))
