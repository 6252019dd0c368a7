"""The joint BPE tokenizer of both languages: trained by sentencepiece, or read from a file.

The authors used YouTokenToMe. This is sentencepiece's BPE with the same ids of special tokens, without Unicode
normalization.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import sentencepiece as spm

from novobench.errors import DataError, one_line
from novobench.tasks.sources import unreadable_reason
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.model import BEGIN, END, PAD, UNKNOWN
from novobench.tasks.translation.sources import Pairs

log = logging.getLogger(__name__)

_MAX_LINE_BYTES = 4192
"""sentencepiece silently leaves longer lines out of its training text."""
_MIN_COVERAGE, _MAX_COVERAGE = 0.98, 1.0
"""The shares of characters that sentencepiece can be asked to cover."""
_SPECIAL_IDS = {"pad_id": PAD, "unk_id": UNKNOWN, "bos_id": BEGIN, "eos_id": END}


class VocabularyError(DataError):
    """A text allows no vocabulary of the configured size."""

    def __init__(self, message: str, limit: int, *, too_small: bool) -> None:
        super().__init__(message)
        self.limit = limit
        """The largest size that the text allows, or the smallest if the configured one is `too_small`."""
        self.too_small = too_small


def train_bpe(pairs: Pairs, vocabulary: int, config: TranslationDataConfig, name: str) -> bytes:
    """A BPE model of `vocabulary` tokens over both languages, as the bytes of a sentencepiece model.

    `name` is the training split's, for messages. Raises VocabularyError if the text is too small for the vocabulary, or
    has more characters.
    """
    if not _MIN_COVERAGE <= config.character_coverage <= _MAX_COVERAGE:
        raise DataError(
            f"No BPE can be trained with a data.character_coverage of {config.character_coverage:g}: sentencepiece "
            f"takes {_MIN_COVERAGE:g} to {_MAX_COVERAGE:g}. Set it to one of these."
        )
    lines = [line for line in chain(pairs.sources, pairs.targets) if line]
    long = sum(len(line) > _MAX_LINE_BYTES / 4 and len(line.encode()) > _MAX_LINE_BYTES for line in lines)
    if long == len(lines):
        raise DataError(
            f"No BPE can be trained on {name}: every line has more than {_MAX_LINE_BYTES:,} bytes, so the lines are "
            "not sentences. Put one sentence on each line."
        )
    if long:
        message = "%s: %d of %d lines have more than %d bytes; the BPE is trained on the others."
        log.warning(message, name, long, len(lines), _MAX_LINE_BYTES)
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=chain(pairs.sources, pairs.targets),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            character_coverage=config.character_coverage,
            split_digits=config.split_digits,
            normalization_rule_name="identity",
            minloglevel=2,
            **_SPECIAL_IDS,  # type: ignore[arg-type]
        )
    except (RuntimeError, OSError) as error:
        cause = one_line(error)
        message = f"No BPE of {vocabulary} tokens can be trained on {name}: {_training_failure(cause, config)}"
        largest, smallest = _LARGEST.search(cause), _SMALLEST.search(cause)
        if limit := largest or smallest:
            raise VocabularyError(message, int(limit[1]), too_small=largest is None) from None
        raise DataError(message) from None
    return model.getvalue()


_LARGEST = re.compile(r"set it to a value <= (\d+)")
_SMALLEST = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
"""The limits of the vocabulary in sentencepiece's messages."""


def _training_failure(message: str, config: TranslationDataConfig) -> str:
    """What sentencepiece's `message` means here, and what to do about it."""
    if maximum := _LARGEST.search(message):
        return f"the text has at most {maximum[1]}. Use more text, or add: --set model.vocabulary={maximum[1]}"
    if minimum := _SMALLEST.search(message):
        advice = f"--set model.vocabulary={minimum[1]}"
        coverage = "" if config.character_coverage <= _MIN_COVERAGE else " Or lower data.character_coverage."
        return f"its characters and the special tokens alone are {minimum[1]}. Add: {advice} at least.{coverage}"
    if "all_chars_count" in message:
        return "the text has only blanks. Download it again."
    return f"{message.rpartition('] ')[2] or message} Set model.vocabulary or data.character_coverage."


def load_bpe(content: bytes) -> spm.SentencePieceProcessor:
    """A tokenizer from the bytes of a sentencepiece model."""
    return spm.SentencePieceProcessor(model_proto=content)


def read_bpe(config: TranslationDataConfig, vocabulary: int, data_root: Path) -> bytes | None:
    """The bytes of the sentencepiece model `data.bpe_model`; None if the config names none.

    Raises DataError if it cannot be read, or has other special ids or another vocabulary size.
    """
    if not config.bpe_model:
        return None
    path = data_root / config.bpe_model
    remedy = "Set data.bpe_model to a sentencepiece model under the data root, or to '' to train one."
    if reason := unreadable_reason(path):
        raise DataError(f"No BPE model {path}: {reason}. {remedy}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the BPE model {path}: {error.strerror or error}. {remedy}") from None
    if not content:
        raise DataError(f"The BPE model {path} is empty. Download it again. {remedy}")
    try:
        model = load_bpe(content)
        size = model.get_piece_size()
        model.id_to_piece(list(range(size)))  # the tokens of a damaged model may not be valid text
    except (RuntimeError, UnicodeDecodeError):
        raise DataError(
            f"Cannot read the BPE model {path}: it is damaged or not a sentencepiece model. {remedy}"
        ) from None
    for option, expected in _SPECIAL_IDS.items():
        if getattr(model, option)() != expected:
            options = " ".join(f"--{name}={token}" for name, token in _SPECIAL_IDS.items())
            raise DataError(
                f"BPE model {path} has {option} {getattr(model, option)()}, not {expected}. Train it with {options}, "
                "or set data.bpe_model to '' to train one here."
            )
    if size != vocabulary:
        raise DataError(
            f"BPE model {path} has {size} tokens, but model.vocabulary is {vocabulary}. Use another model, or add: "
            f"--set model.vocabulary={size}"
        )
    return content


def encode(model: spm.SentencePieceProcessor, lines: Sequence[str]) -> list[list[int]]:
    """The tokens of each line between the two sentence marks, as in NeMo for source and target."""
    return model.encode(list(lines), add_bos=True, add_eos=True, num_threads=1)
