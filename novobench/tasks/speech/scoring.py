"""Greedy decoding of CTC outputs, and corpus-level error rates by jiwer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from itertools import groupby
from typing import NamedTuple

import jiwer

from novobench.errors import DataError
from novobench.tasks.metric import Metric


def greedy(outputs: Sequence[int], alphabet: str) -> str:
    """The best output of each frame as text: repeats are merged, blanks (`len(alphabet)`) dropped, and words separated
    by single spaces."""
    letters = (alphabet[output] for output, _ in groupby(outputs) if output != len(alphabet))
    return " ".join("".join(letters).split())


class Errors(NamedTuple):
    """Counts over a corpus. The counts of several processes are added."""

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
    """Errors of hypotheses against their references. Raises DataError for a reference without a word."""
    if not references:
        return Errors(0, 0, 0, 0, 0, 0)
    empty = sum(not reference.strip() for reference in references)
    if empty:
        raise DataError(f"{empty} of {len(references)} references have no words, so there is no word error rate.")
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
    """Metric -> how it is computed, for the record."""
    how = f"greedy, corpus level, jiwer {metadata.version('jiwer')}"
    return {"wer": how, "cer": how}
