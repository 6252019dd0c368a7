"""From text to pieces: the joint BPE model, and the cleaned training pairs as arrays, built once and cached.

The authors used YouTokenToMe; this is sentencepiece's BPE with the same special ids, without Unicode normalisation.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece as spm

from novobench.errors import DataError, one_line
from novobench.files import derived_folder
from novobench.tasks.sources import why_no_file
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.model import BEGIN, END, PAD, UNKNOWN
from novobench.tasks.translation.text import Pairs, Split

log = logging.getLogger(__name__)

_VERSION = 1
"""Raised when this file makes other arrays of the same text."""
_MOST_UNKNOWN = 0.01
"""Share of unknown pieces from which a given BPE model counts as one of other text."""
_CHUNK = 100_000
_LONGEST_LINE = 4192
"""Bytes above which sentencepiece leaves a line out of what it trains on, without a word."""
_COVERAGES = (0.98, 1.0)
"""The shares of characters that sentencepiece can be asked to cover."""
_SPECIAL = {"pad_id": PAD, "unk_id": UNKNOWN, "bos_id": BEGIN, "eos_id": END}


class Sequences:
    """Many sequences of pieces, end to end in one memory-mapped array. Pickled as its path."""

    def __init__(self, folder: Path, side: str) -> None:
        self.folder, self.side = folder, side
        self.pieces = np.load(folder / f"{side}.npy", mmap_mode="r")
        self.ends = np.load(folder / f"{side}_ends.npy")

    def __reduce__(self) -> tuple[Callable[..., Sequences], tuple[Path, str]]:
        return Sequences, (self.folder, self.side)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self.ends[index - 1] if index else 0
        return np.asarray(self.pieces[start : self.ends[index]], dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


@dataclass(frozen=True)
class Prepared:
    """Cleaned training pairs in pieces, each with both sentence marks, and the model that cut them."""

    source: Sequences
    target: Sequences
    model: spm.SentencePieceProcessor
    counts: dict[str, int]
    """`found`; pairs left out, by reason; pieces of each side."""
    fingerprint: str


def prepare(split: Split, config: TranslationDataConfig, vocabulary: int, data_root: Path) -> Prepared:
    """Training pairs in pieces: from the cache if they were made before from this text, these rules, this BPE.

    Raises DataError if a given BPE model has another vocabulary or does not fit the text, or if the text is too small
    to train one of this size.
    """
    given = _given_model(config, vocabulary, data_root)
    key = _key(split, config, vocabulary, given)

    def build(folder: Path) -> None:
        pairs = split.read()
        if not any(map(all, zip(*pairs, strict=True))):
            raise DataError(f"{split.name} has no pair that is not empty. Fetch the text again.")
        content = given or train_bpe(pairs, vocabulary, config, split.name)
        (folder / "bpe.model").write_bytes(content)
        _write_arrays(folder, pairs, load_bpe(content), config, split.name)

    folder = derived_folder(f"translation/pieces-{key}", build)
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    if given and counts["unknown_pieces"] > _MOST_UNKNOWN * (counts["source_pieces"] + counts["target_pieces"]):
        share = 100 * counts["unknown_pieces"] / (counts["source_pieces"] + counts["target_pieces"])
        raise DataError(
            f"BPE model {config.bpe_model} does not fit {split.name}: {share:.1f} % of the pieces are unknown to it. "
            "Give the model that was trained on this text, or set data.bpe_model to '' to train one."
        )
    model = load_bpe((folder / "bpe.model").read_bytes())
    return Prepared(Sequences(folder, "source"), Sequences(folder, "target"), model, counts, key)


def identify(split: Split, config: TranslationDataConfig, vocabulary: int, data_root: Path) -> str:
    """`Prepared.fingerprint` without preparing anything."""
    return _key(split, config, vocabulary, _given_model(config, vocabulary, data_root))


def _key(split: Split, config: TranslationDataConfig, vocabulary: int, given: bytes | None) -> str:
    rules = {key: asdict(config)[key] for key in ("min_length", "max_length", "max_difference", "max_ratio")}
    bpe = hashlib.sha256(given).hexdigest() if given else [vocabulary, config.character_coverage, config.split_digits]
    identity = json.dumps([_VERSION, spm.__version__, split.fingerprint(), rules, bpe])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- BPE


def train_bpe(pairs: Pairs, vocabulary: int, config: TranslationDataConfig, name: str) -> bytes:
    """A BPE model over both languages together."""
    low, high = _COVERAGES
    if not low <= config.character_coverage <= high:
        raise DataError(
            f"No BPE can be trained with a data.character_coverage of {config.character_coverage:g}: sentencepiece "
            f"takes {low:g} to {high:g}. Set it to one of these."
        )
    lines = [line for line in chain(pairs.sources, pairs.targets) if line]
    long = sum(len(line) > _LONGEST_LINE / 4 and len(line.encode()) > _LONGEST_LINE for line in lines)
    if long == len(lines):
        raise DataError(
            f"No BPE can be trained on {name}: each line has more than {_LONGEST_LINE:,} bytes, so they are no "
            "sentences. Put one sentence on a line."
        )
    if long:
        told = "%s: %d of %d lines have more than %d bytes; the BPE is trained on the others."
        log.warning(told, name, long, len(lines), _LONGEST_LINE)
    content = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=chain(pairs.sources, pairs.targets),
            model_writer=content,
            model_type="bpe",
            vocab_size=vocabulary,
            character_coverage=config.character_coverage,
            split_digits=config.split_digits,
            normalization_rule_name="identity",
            minloglevel=2,
            **_SPECIAL,  # type: ignore[arg-type]
        )
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"No BPE of {vocabulary} pieces can be trained on {name}: {_why_untrained(one_line(error), config)}"
        ) from None
    return content.getvalue()


def _why_untrained(told: str, config: TranslationDataConfig) -> str:
    """What sentencepiece's message means here, and what to do about it."""
    if most := re.search(r"set it to a value <= (\d+)", told):
        return f"it has {most[1]} at most. Use more text, or add: --set model.vocabulary={most[1]}"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", told):
        advice = f"--set model.vocabulary={least[1]}"
        coverage = "" if config.character_coverage <= _COVERAGES[0] else " Or lower data.character_coverage."
        return f"its characters alone are {least[1]} with the special pieces. Add: {advice} at least.{coverage}"
    if "all_chars_count" in told:
        return "it has no character but blanks. Fetch the text again."
    return f"{told.rpartition('] ')[2] or told} Set model.vocabulary or data.character_coverage."


def load_bpe(content: bytes) -> spm.SentencePieceProcessor:
    """A processor from a model's bytes."""
    return spm.SentencePieceProcessor(model_proto=content)


def _given_model(config: TranslationDataConfig, vocabulary: int, data_root: Path) -> bytes | None:
    if not config.bpe_model:
        return None
    path = data_root / config.bpe_model
    instead = "Set data.bpe_model to a sentencepiece model under the data root, or to '' to train one."
    if reason := why_no_file(path):
        raise DataError(f"No BPE model {path}: {reason}. {instead}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the BPE model {path}: {error.strerror or error}. {instead}") from None
    if not content:
        raise DataError(f"The BPE model {path} is empty. Fetch it again. {instead}")
    try:
        model = load_bpe(content)
        size = model.get_piece_size()
        model.id_to_piece(list(range(size)))  # the pieces of a damaged model may be no text
    except (RuntimeError, UnicodeDecodeError):
        raise DataError(
            f"Cannot read the BPE model {path}: it is damaged or no sentencepiece model. {instead}"
        ) from None
    for word, expected in _SPECIAL.items():
        if getattr(model, word)() != expected:
            raise DataError(
                f"BPE model {path} has {word} {getattr(model, word)()}, not {expected}. Train it with "
                f"{' '.join(f'--{w}={i}' for w, i in _SPECIAL.items())}, or set data.bpe_model to '' to train one here."
            )
    if size != vocabulary:
        raise DataError(
            f"BPE model {path} has {size} pieces, but model.vocabulary is {vocabulary}. Give another model, or add: "
            f"--set model.vocabulary={size}"
        )
    return content


def encode(model: spm.SentencePieceProcessor, lines: Sequence[str]) -> list[list[int]]:
    """Pieces of each line between the two sentence marks, as NeMo has them on either side."""
    return model.encode(list(lines), add_bos=True, add_eos=True, num_threads=1)


# ---------------------------------------------------------------------------------------------- arrays


def _write_arrays(
    folder: Path, pairs: Pairs, model: spm.SentencePieceProcessor, config: TranslationDataConfig, name: str
) -> None:
    kind = np.uint16 if model.get_piece_size() <= 2**16 else np.uint32
    pieces: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    ends: tuple[list[int], list[int]] = ([], [])
    reasons = ("empty", "short", "long", "unequal", "same")
    counts = {"found": len(pairs.sources), **{f"left_out_{reason}": 0 for reason in reasons}, "unknown_pieces": 0}
    for start in range(0, len(pairs.sources), _CHUNK):
        part = slice(start, start + _CHUNK)
        for both in zip(encode(model, pairs.sources[part]), encode(model, pairs.targets[part]), strict=True):
            reason = why_left_out(*both, config)
            if reason:
                counts[f"left_out_{reason}"] += 1
                continue
            for side, ids in enumerate(both):
                pieces[side].append(np.array(ids, dtype=kind))
                ends[side].append(len(ids) + (ends[side][-1] if ends[side] else 0))
                counts["unknown_pieces"] += ids.count(UNKNOWN)
    if not ends[0]:
        left_out = {reason: counts[f"left_out_{reason}"] for reason in reasons if counts[f"left_out_{reason}"]}
        told = "; ".join(
            f"{n:,} {reason}: {_LOOSENING[reason].format(config=config)}" for reason, n in left_out.items()
        )
        raise DataError(f"{name}: no pair is left of {counts['found']:,}. Left out are {told}.")
    for side, word in enumerate(("source", "target")):
        np.save(folder / f"{word}.npy", np.concatenate(pieces[side]))
        np.save(folder / f"{word}_ends.npy", np.array(ends[side], dtype=np.int64))
        counts[f"{word}_pieces"] = ends[side][-1]
    (folder / "counts.json").write_text(json.dumps(counts))


_LOOSENING = {
    "empty": "complete the text",
    "short": "lower data.min_length {config.min_length}",
    "long": "raise data.max_length {config.max_length}",
    "unequal": "raise data.max_difference {config.max_difference} or data.max_ratio {config.max_ratio}",
    "same": "give a translation, as source and target are one text",
}
"""What brings pairs back that were left out, by the reason."""


def why_left_out(source: Sequence[int], target: Sequence[int], config: TranslationDataConfig) -> str:
    """NeMo's cleaning rules, on pieces with both sentence marks; empty if the pair stays."""
    short, long = sorted((len(source), len(target)))
    if short <= 2:
        return "empty"
    if short < config.min_length:
        return "short"
    if long > config.max_length:
        return "long"
    if long - short > config.max_difference or (long - 2) > config.max_ratio * (short - 2):
        return "unequal"
    return "same" if list(source) == list(target) else ""
