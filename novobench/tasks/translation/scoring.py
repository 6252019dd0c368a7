"""BLEU as the paper reports it, and what memory alone reaches.

SacreBLEU is BLEU on plain text, cut into words by sacreBLEU's `13a` rules, or by those that `data.tokenize` names for
languages that `13a` cannot cut. "Token-BLEU" is the same BLEU
on text cut by the rules of NVIDIA's fairseq port, which NeMo passes to sacreBLEU under the name `fairseq`.
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
from novobench.tasks.translation.text import Pairs


def sacrebleu(outputs: Sequence[str], *references: Sequence[str], tokenize: str = "13a") -> float:
    """BLEU of plain text, 0-100, against one or more sets of references: sacreBLEU's default settings but for its
    tokenizer."""
    return _plain_metric(tokenize).corpus_score(list(outputs), [list(x) for x in references]).score


def token_bleu(outputs: Sequence[str], *references: Sequence[str]) -> float:
    """BLEU of text cut by `fairseq_words`, 0-100."""
    return _words_metric().corpus_score(_cut(outputs), [_cut(x) for x in references]).score


def signatures(tokenize: str = "13a") -> dict[str, str]:
    """How each score was computed, for the record: sacreBLEU's signature. Raises DataError if the tokenizer needs a
    package that is not there."""
    found = {"sacrebleu": _plain_metric(tokenize), "tokenbleu": _words_metric()}
    for metric in found.values():
        metric.corpus_score(["a"], [["a"]])  # only after a score does a signature tell the number of references
    return {
        name: metric.get_signature().format().replace("tok:none", "tok:fairseq_words") for name, metric in found.items()
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


def _cut(lines: Sequence[str]) -> list[str]:
    return [fairseq_words(line) for line in lines]


# ---------------------------------------------------------------------------------------------- words


_DOT = "\ua66e"
"""A letter that stands for each dot of a run of them, so that no other rule cuts the run."""


@cache
def _rules() -> list[tuple[re.Pattern[str], Any]]:
    """Patterns and what replaces them, in this order."""
    numerals = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "No")
    rules: list[tuple[str, Any]] = [
        (r"\s+", " "),
        (r"[\x00-\x1f]", ""),
        (rf"([^\s.'`,\-\w]|[_{numerals}])", r" \1 "),  # signs stand alone
        (r"(\w)-(?=\w)", r"\1 @-@ "),
        (r"\.{2,}", lambda run: f" {_DOT * len(run[0])} "),
        (r"(\D),", r"\1 , "),  # a comma stands alone, but between digits
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

    The rules are those of Moses' tokenizer without its list of abbreviations, in the order of NVIDIA's port of
    fairseq. Special characters are not written as HTML entities, which changes no score.
    """
    line = line.strip()
    for pattern, replacement in _rules():
        line = pattern.sub(replacement, line)
    return " ".join(line.split())


# ---------------------------------------------------------------------------------------------- neighbours


def nearest_neighbours(sources: Sequence[str], known: Pairs) -> list[str]:
    """For each source, the translation of the known source that shares most words with it (Dice's coefficient over
    distinct words; the first of equals); empty where nothing is known."""
    if not sources or not known.sources:
        return [""] * len(sources)
    from scipy.sparse import csr_array

    words: dict[str, int] = {}

    def table(lines: Sequence[str]) -> csr_array:
        rows = [sorted({words.setdefault(w, len(words)) for w in line.lower().split()}) for line in lines]
        ends = np.cumsum([0, *map(len, rows)])
        columns = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
        return csr_array((np.ones(len(columns), dtype=np.int32), columns, ends), shape=(len(rows), len(words)))

    memory = table(known.sources)
    asked = table(sources)
    memory.resize(memory.shape[0], len(words))
    shared = (asked @ memory.T).toarray()
    sizes = asked.sum(axis=1)[:, None] + memory.sum(axis=1)[None, :]
    return [known.targets[i] for i in np.argmax(2 * shared / np.maximum(sizes, 1), axis=1)]
