"""From text to pieces: the joint BPE model, and the cleaned training pairs as arrays, built once and cached.

The authors used YouTokenToMe; this is sentencepiece's BPE with the same special ids, without Unicode normalisation.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece as spm

from novobench.errors import DataError
from novobench.files import derived_folder
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.model import BEGIN, END, PAD, UNKNOWN
from novobench.tasks.translation.text import Pairs, Split

_VERSION = 1
"""Raised when this file makes other arrays of the same text."""
_MOST_UNKNOWN = 0.01
"""Share of unknown pieces from which a given BPE model counts as one of other text."""
_CHUNK = 100_000
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
    counts = json.loads((folder / "counts.json").read_text())
    if given and counts["unknown_pieces"] > _MOST_UNKNOWN * (counts["source_pieces"] + counts["target_pieces"]):
        share = 100 * counts["unknown_pieces"] / (counts["source_pieces"] + counts["target_pieces"])
        raise DataError(
            f"BPE model {config.bpe_model} does not fit {split.name}: {share:.1f} % of the pieces are unknown to it. "
            "Give the model that was trained on this text, or leave data.bpe_model empty to train one."
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
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]
        raise DataError(
            f"No BPE of {vocabulary} pieces can be trained on {name}: {reason} Set model.vocabulary or "
            "data.character_coverage."
        ) from None
    return content.getvalue()


def load_bpe(content: bytes) -> spm.SentencePieceProcessor:
    """A processor from a model's bytes."""
    return spm.SentencePieceProcessor(model_proto=content)


def _given_model(config: TranslationDataConfig, vocabulary: int, data_root: Path) -> bytes | None:
    if not config.bpe_model:
        return None
    path = data_root / config.bpe_model
    try:
        content = path.read_bytes()
        model = load_bpe(content)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it is no sentencepiece model"
        raise DataError(f"Cannot read the BPE model {path}: {reason}. Set data.bpe_model.") from None
    if model.get_piece_size() != vocabulary:
        raise DataError(
            f"BPE model {path} has {model.get_piece_size()} pieces, but model.vocabulary is {vocabulary}. Set it to "
            f"{model.get_piece_size()}, or give another model."
        )
    for word, expected in _SPECIAL.items():
        if getattr(model, word)() != expected:
            raise DataError(
                f"BPE model {path} has {word} {getattr(model, word)()}, not {expected}. Train it with "
                f"{' '.join(f'--{w}={i}' for w, i in _SPECIAL.items())}."
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
        told = ", ".join(f"{counts[f'left_out_{reason}']:,} {reason}" for reason in reasons)
        raise DataError(f"{name}: no pair is left of {counts['found']:,} ({told}). Loosen data.max_length and others.")
    for side, word in enumerate(("source", "target")):
        np.save(folder / f"{word}.npy", np.concatenate(pieces[side]))
        np.save(folder / f"{word}_ends.npy", np.array(ends[side], dtype=np.int64))
        counts[f"{word}_pieces"] = ends[side][-1]
    (folder / "counts.json").write_text(json.dumps(counts))


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
