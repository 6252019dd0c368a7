"""Greedy decoding of CTC outputs, and errors over a corpus by jiwer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from itertools import groupby
from typing import NamedTuple

import jiwer

from novobench.errors import DataError
from novobench.tasks.metric import Metric


def greedy(outputs: Sequence[int], alphabet: str) -> str:
    """The best output of each frame as text: repeats merged, then blanks (`len(alphabet)`) dropped, then the words with
    single spaces between them."""
    letters = (alphabet[output] for output, _ in groupby(outputs) if output != len(alphabet))
    return " ".join("".join(letters).split())


class Errors(NamedTuple):
    """Sums over a corpus; those of several processes add up."""

    words: float
    substitutions: float
    insertions: float
    deletions: float
    letters: float
    letter_errors: float

    def metrics(self) -> dict[str, Metric]:
        """Rates in percent of the references' words and letters, spaces included."""
        words, letters = round(self.words), round(self.letters)
        wrong = self.substitutions + self.insertions + self.deletions
        return {
            "wer": Metric(100 * wrong / max(words, 1), words, "%"),
            "substitutions": Metric(100 * self.substitutions / max(words, 1), words, "%"),
            "insertions": Metric(100 * self.insertions / max(words, 1), words, "%"),
            "deletions": Metric(100 * self.deletions / max(words, 1), words, "%"),
            "cer": Metric(100 * self.letter_errors / max(letters, 1), letters, "%"),
        }


def errors(references: list[str], hypotheses: list[str]) -> Errors:
    """Of hypotheses against their references. Raises DataError for a reference without a word: there is no rate."""
    if not references:
        return Errors(0, 0, 0, 0, 0, 0)
    empty = sum(not reference.strip() for reference in references)
    if empty:
        raise DataError(f"{empty} of {len(references)} references have no word: there is no word error rate over them.")
    words = jiwer.process_words(references, hypotheses)
    letters = jiwer.process_characters(references, hypotheses)
    return Errors(
        words.hits + words.substitutions + words.deletions,
        words.substitutions,
        words.insertions,
        words.deletions,
        letters.hits + letters.substitutions + letters.deletions,
        letters.substitutions + letters.insertions + letters.deletions,
    )


def described() -> dict[str, str]:
    """How the numbers are made, for the record."""
    how = f"greedy, corpus level, jiwer {metadata.version('jiwer')}"
    return {"wer": how, "cer": how}
