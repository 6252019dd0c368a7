"""BLEU as the paper reports it, and the nearest-neighbour baseline.

SacreBLEU is BLEU on plain text, split into words by sacreBLEU's `13a` rules, or by the rules `data.tokenize` for
languages that `13a` cannot split. "Token-BLEU" is the same BLEU on text split by the rules of NVIDIA's fairseq port,
which NeMo passes to sacreBLEU under the name `fairseq`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

from novobench.errors import DataError
from novobench.tasks.translation.sources import Pairs


def sacrebleu(outputs: Sequence[str], *references: Sequence[str], tokenize: str = "13a") -> float:
    """BLEU of plain text, 0-100, against one or more sets of references, with sacreBLEU's default settings except for
    its tokenizer."""
    return _plain_metric(tokenize).corpus_score(list(outputs), [list(lines) for lines in references]).score


def token_bleu(outputs: Sequence[str], *references: Sequence[str]) -> float:
    """BLEU of text split by `fairseq_words`, 0-100."""
    return _words_metric().corpus_score(_split(outputs), [_split(lines) for lines in references]).score


def signatures(tokenize: str = "13a") -> dict[str, str]:
    """How each score is computed, for the record: sacreBLEU's signature. Raises DataError if the tokenizer needs a
    package that is not installed."""
    metrics = {"sacrebleu": _plain_metric(tokenize), "tokenbleu": _words_metric()}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # a signature has the number of references only after a score
    return {
        name: metric.get_signature().format().replace("tok:none", "tok:fairseq_words")
        for name, metric in metrics.items()
    }


def _plain_metric(tokenize: str) -> BLEU:
    try:
        return BLEU(tokenize=tokenize)
    except (RuntimeError, ImportError):
        extra = tokenize.partition("-")[0]
        raise DataError(
            f"'data.tokenize' {tokenize} needs packages that are not installed. Run: pip install 'sacrebleu[{extra}]', "
            "or set data.tokenize=char."
        ) from None


def _words_metric() -> BLEU:
    return BLEU(tokenize="none", force=True)


def _split(lines: Sequence[str]) -> list[str]:
    return [fairseq_words(line) for line in lines]


# ---------------------------------------------------------------------------------------------- words


_DOT = "\ua66e"
"""A letter that replaces each dot of a run of dots, so that no other rule splits the run."""


@cache
def _rules() -> list[tuple[re.Pattern[str], Any]]:
    """Patterns and their replacements, in order of application."""
    numerals = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "No")
    rules: list[tuple[str, Any]] = [
        (r"\s+", " "),
        (r"[\x00-\x1f]", ""),
        (rf"([^\s.'`,\-\w]|[_{numerals}])", r" \1 "),  # punctuation stands alone
        (r"(\w)-(?=\w)", r"\1 @-@ "),
        (r"\.{2,}", lambda run: f" {_DOT * len(run[0])} "),
        (r"(\D),", r"\1 , "),  # a comma stands alone, except between digits
        (r",(\D)", r" , \1"),
        (r"(\d),$", r"\1 ,"),
        (r"([\W\d])'([\W\d])", r"\1 ' \2"),  # an apostrophe stays with letters that follow it
        (r"(\W)'(.)", r"\1 ' \2"),
        (r"(.)'([\W\d])", r"\1 ' \2"),
        (r"(.)'(.)", r"\1 '\2"),
        (r"([\W\d])'s", r"\1 's"),
        (r"(?<=\S)\.(?=\s|$)", " ."),  # a dot that ends a word, abbreviations included
        (r"\.' ?$", " . ' "),
        (_DOT, "."),
    ]
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


def fairseq_words(line: str) -> str:
    """The words of a line, separated by blanks.

    The rules are those of Moses' tokenizer without its list of abbreviations, in the order of NVIDIA's port of fairseq.
    Special characters are not replaced by HTML entities, which changes no score.
    """
    line = line.strip()
    for pattern, replacement in _rules():
        line = pattern.sub(replacement, line)
    return " ".join(line.split())


# ---------------------------------------------------------------------------------------------- neighbours


def nearest_neighbours(sources: Sequence[str], memory: Pairs) -> list[str]:
    """For each source, the translation of the most similar source in `memory`; empty strings if `memory` is empty.

    Similarity is Dice's coefficient over distinct words. Of equal ones the first wins.
    """
    if not sources or not memory.sources:
        return [""] * len(sources)
    from scipy.sparse import csr_array

    words: dict[str, int] = {}

    def table(lines: Sequence[str]) -> csr_array:
        """1 where a line has a word, [lines, words]."""
        rows = [sorted({words.setdefault(w, len(words)) for w in line.lower().split()}) for line in lines]
        ends = np.cumsum([0, *map(len, rows)])
        columns = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
        return csr_array((np.ones(len(columns), dtype=np.int32), columns, ends), shape=(len(rows), len(words)))

    keys = table(memory.sources)
    queries = table(sources)
    keys.resize(keys.shape[0], len(words))
    shared = (queries @ keys.T).toarray()
    sizes = queries.sum(axis=1)[:, None] + keys.sum(axis=1)[None, :]
    return [memory.targets[i] for i in np.argmax(2 * shared / np.maximum(sizes, 1), axis=1)]
