"""Words and their ids: the vocabulary of a training text, and texts as word ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from novobench.errors import DataError
from novobench.tasks.language.sources import Text

END, UNKNOWN = "<eos>", "<unk>"
_KNEE, _STEEPER = 11_000, 0.76
"""Rank from which words become rarer faster than by Zipf's law, and by how much the exponent grows there."""


def build_vocabulary(counts: Counter[str], minimum_count: int) -> list[str]:
    """`<eos>`, then the words by frequency, ties in the order of the text, as the published vocabulary code.

    Words that are counted less than `minimum_count` times become `<unk>`.
    """
    kept: Counter[str] = Counter()
    for word, count in counts.items():
        kept[word if count >= minimum_count else UNKNOWN] += count
    return [END, *(word for word, _ in kept.most_common())]


def encode(text: Text, ids: dict[str, int], minimum_count: int, lowest_count: int) -> np.ndarray:
    """A text as word ids, int32, with `<eos>` (0) after each line.

    `lowest_count` is the count of the training text's rarest word. Raises DataError for a word without an id.
    """
    missing = -1 if minimum_count == 1 else ids.get(UNKNOWN, -1)

    def stream() -> Iterator[int]:
        for line in text.lines:
            for word in line.split():
                yield ids.get(word, missing)
            yield 0

    tokens = np.fromiter(stream(), np.int32)
    if (tokens < 0).any():
        new_words = Counter(word for line in text.lines for word in line.split() if word not in ids)
        word, count = new_words.most_common(1)[0]
        line_number = next(number for number, line in enumerate(text.lines, 1) if word in line.split())
        # <unk> exists if the training text has it, or a word that is rarer than the minimum.
        enough = 2 if UNKNOWN in ids else lowest_count + 1
        raise DataError(
            f"{text.name} holds {len(new_words):,} words that the training text lacks, e.g. '{word}' ({count} times, "
            f"first in line {line_number}). Use files of one data set, or set data.minimum_count={enough} to read such "
            f"words as {UNKNOWN}."
        )
    return tokens


def check_line_ends(text: Text) -> None:
    """Raise DataError for a text that has `<eos>` itself: its lines would end twice, or in the middle."""
    lines = [number for number, line in enumerate(text.lines, 1) if END in line and END in line.split()]
    if lines:
        raise DataError(
            f"{text.name} has the word {END} in {len(lines):,} of its lines, first in line {lines[0]}. It marks the "
            "end of a line and is added to each: remove it from the files."
        )


def word_frequencies(vocabulary_size: int) -> Tensor:
    """The frequency of each word type in English text, most frequent first: float64 [vocabulary_size], sum 1.

    Zipf's law with its bend (Ferrer-i-Cancho and Solé, 2001): 1 / (r · (1 + r / 11,000)^0.76) at rank r. Both numbers
    are fitted to the shares of WikiText-2's first 100, 1,000, 5,000 and 10,000 word types, to the number of types that
    occur three times in it, and to WikiText-103's rarest words, which occur three times in 103,227,021 tokens. The
    clusters of the adaptive softmax at 20,000, 40,000 and 200,000 of 267,735 words then have 94, 2.6, 3.0 and 0.3 % of
    the tokens. The plain law, 1 / r, would give the rarest words 29 occurrences and the rare clusters 20 %.
    """
    rank = torch.arange(1, vocabulary_size + 1, dtype=torch.float64)
    frequencies = 1 / (rank * (1 + rank / _KNEE) ** _STEEPER)
    return frequencies / frequencies.sum()
