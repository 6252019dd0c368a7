"""Training pairs as tokens: cleaned by NeMo's rules, and stored in the cache as arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sentencepiece as spm

from novobench.errors import DataError
from novobench.files import derived_folder
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.model import UNKNOWN
from novobench.tasks.translation.sources import Pairs, Split
from novobench.tasks.translation.tokenizer import encode, load_bpe, read_bpe, train_bpe

_VERSION = 1
"""Raised when the same text gives other arrays."""
_MAX_UNKNOWN = 0.01
"""Share of unknown tokens above which a given BPE model was trained on other text."""
_CHUNK = 100_000
"""Pairs tokenized at once."""


class TokenArrays:
    """Token sequences, concatenated in one memory-mapped array. Pickled as their path."""

    def __init__(self, folder: Path, side: str) -> None:
        self.folder, self.side = folder, side
        self.tokens = np.load(folder / f"{side}.npy", mmap_mode="r")
        self.ends = np.load(folder / f"{side}_ends.npy")

    def __reduce__(self) -> tuple[Callable[..., TokenArrays], tuple[Path, str]]:
        return TokenArrays, (self.folder, self.side)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        """int64 [length]."""
        start = self.ends[index - 1] if index else 0
        return np.asarray(self.tokens[start : self.ends[index]], dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [sequences]."""
        return np.diff(self.ends, prepend=0)


@dataclass(frozen=True)
class TrainingPairs:
    """Cleaned training pairs in tokens, each with both sentence marks, and their tokenizer."""

    source: TokenArrays
    target: TokenArrays
    model: spm.SentencePieceProcessor
    counts: dict[str, int]
    """`found`: pairs of the split; `left_out_<reason>`: pairs; `<side>_pieces` and `unknown_pieces`: tokens."""
    fingerprint: str


def prepare(split: Split, config: TranslationDataConfig, vocabulary: int, data_root: Path) -> TrainingPairs:
    """The split's pairs in tokens; cached by text, cleaning rules and BPE.

    Raises DataError if a given BPE model has another vocabulary or does not fit the text, if the text is too small to
    train one of this size, or if no pair is left.
    """
    given_bpe = read_bpe(config, vocabulary, data_root)
    key = _key(split, config, vocabulary, given_bpe)

    def build(folder: Path) -> None:
        pairs = split.read()
        if not any(map(all, zip(*pairs, strict=True))):
            raise DataError(f"{split.name} has only empty pairs. Download the text again.")
        bpe = given_bpe or train_bpe(pairs, vocabulary, config, split.name)
        (folder / "bpe.model").write_bytes(bpe)
        _write_arrays(folder, pairs, load_bpe(bpe), config, split.name)

    folder = derived_folder(f"translation/pieces-{key}", build)
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    tokens = counts["source_pieces"] + counts["target_pieces"]
    if given_bpe and counts["unknown_pieces"] > _MAX_UNKNOWN * tokens:
        raise DataError(
            f"BPE model {config.bpe_model} does not fit {split.name}: {100 * counts['unknown_pieces'] / tokens:.1f} % "
            "of the tokens are unknown. Use the model that was trained on this text, or set data.bpe_model to '' to "
            "train one."
        )
    model = load_bpe((folder / "bpe.model").read_bytes())
    return TrainingPairs(TokenArrays(folder, "source"), TokenArrays(folder, "target"), model, counts, key)


def identify(split: Split, config: TranslationDataConfig, vocabulary: int, data_root: Path) -> str:
    """`TrainingPairs.fingerprint`, without tokenizing anything."""
    return _key(split, config, vocabulary, read_bpe(config, vocabulary, data_root))


def _key(split: Split, config: TranslationDataConfig, vocabulary: int, given_bpe: bytes | None) -> str:
    rules = {key: asdict(config)[key] for key in ("min_length", "max_length", "max_difference", "max_ratio")}
    trained_bpe = [vocabulary, config.character_coverage, config.split_digits]
    bpe = hashlib.sha256(given_bpe).hexdigest() if given_bpe else trained_bpe
    identity = json.dumps([_VERSION, spm.__version__, split.fingerprint(), rules, bpe])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _write_arrays(
    folder: Path, pairs: Pairs, model: spm.SentencePieceProcessor, config: TranslationDataConfig, name: str
) -> None:
    dtype = np.uint16 if model.get_piece_size() <= 2**16 else np.uint32
    sequences: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    ends: tuple[list[int], list[int]] = ([], [])
    counts = {"found": len(pairs.sources), **{f"left_out_{reason}": 0 for reason in _REMEDIES}, "unknown_pieces": 0}
    for start in range(0, len(pairs.sources), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        for pair in zip(encode(model, pairs.sources[chunk]), encode(model, pairs.targets[chunk]), strict=True):
            reason = rejection(*pair, config)
            if reason:
                counts[f"left_out_{reason}"] += 1
                continue
            for side, tokens in enumerate(pair):
                sequences[side].append(np.array(tokens, dtype=dtype))
                ends[side].append(len(tokens) + (ends[side][-1] if ends[side] else 0))
                counts["unknown_pieces"] += tokens.count(UNKNOWN)
    if not ends[0]:
        left_out = {reason: n for reason in _REMEDIES if (n := counts[f"left_out_{reason}"])}
        reasons = "; ".join(
            f"{n:,} {reason}: {_REMEDIES[reason].format(config=config)}" for reason, n in left_out.items()
        )
        raise DataError(f"{name}: none of {counts['found']:,} pairs is left. Left out are {reasons}.")
    for side, word in enumerate(("source", "target")):
        np.save(folder / f"{word}.npy", np.concatenate(sequences[side]))
        np.save(folder / f"{word}_ends.npy", np.array(ends[side], dtype=np.int64))
        counts[f"{word}_pieces"] = ends[side][-1]
    (folder / "counts.json").write_text(json.dumps(counts))


_REMEDIES = {
    "empty": "complete the text",
    "short": "lower data.min_length {config.min_length}",
    "long": "raise data.max_length {config.max_length}",
    "unequal": "raise data.max_difference {config.max_difference} or data.max_ratio {config.max_ratio}",
    "same": "provide translations, as source and target are the same text",
}
"""Why a pair is left out -> how to keep it."""


def rejection(source: Sequence[int], target: Sequence[int], config: TranslationDataConfig) -> str:
    """Why NeMo's cleaning rules leave out a pair of tokens with both sentence marks; empty if they keep it."""
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
