"""Recordings and transcripts from four interchangeable sources: the same utterances from each.

A source lists what it holds (`Listing`: id, transcript, place) and reads one recording at a time. Everything that all
sources share is done here once: transcripts are brought to the alphabet, lengths are read from the files' headers and
kept in the cache, and what is bad is an error that names it, or is left out and counted.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import soundfile
import torch
from torch import Tensor

from novobench.errors import DataError, suggestion
from novobench.files import derived_folder
from novobench.tasks.hub import open_hub
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.features import shortest

log = logging.getLogger(__name__)


class Listing(NamedTuple):
    """One utterance as its source names it."""

    id: str
    text: str
    name: str
    """Of the recording, for error messages."""


class Source(Protocol):
    """One split as it lies on disk."""

    listings: list[Listing]
    fingerprint: str
    """16 hex digits over ids, transcripts and, where they are cheap to know, sizes of the recordings."""
    cache_key: str
    """Another one when a recording may have changed: what is derived from recordings is kept under it."""

    def headers(self) -> np.ndarray:
        """Samples, sample rate and channels of each recording, int64 [n, 3]; `UNREADABLE` where they cannot be told."""

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        """float32 [S] or [S, channels], and the sample rate. Raises what soundfile raises."""


UNREADABLE = (0, -1, 0)
_HEADERS_VERSION = 1
"""Raised when headers hold something else, so that kept ones are read anew."""


class Utterances:
    """The utterances of one or more splits that can be used: ids, texts in the alphabet, lengths in samples."""

    def __init__(self, sources: Sequence[Source], config: SpeechDataConfig, name: str) -> None:
        self.config, self.sources = config, sources
        self.found = sum(len(source.listings) for source in sources)
        self.fingerprint = "-".join(source.fingerprint for source in sources)
        self.cache_key = "-".join(source.cache_key for source in sources)
        self.places: list[tuple[Source, int]] = []
        self.texts: list[str] = []
        lengths: list[int] = []
        for source in sources:
            headers = source.headers()
            for index, listing in enumerate(source.listings):
                try:
                    text = in_alphabet(listing.text, config.alphabet)
                    length, rate, channels = headers[index].tolist()
                    _check_header(length, rate, channels, config.features)
                except ValueError as error:
                    self._bad(listing, str(error), name)
                else:
                    self.places.append((source, index))
                    self.texts.append(text)
                    lengths.append(length)
        self.lengths = np.array(lengths, dtype=np.int64)
        if not self.texts:
            raise DataError(f"'{name}' of data '{config.name}' holds no utterance that can be used.")

    def __len__(self) -> int:
        return len(self.texts)

    def listing(self, index: int) -> Listing:
        source, place = self.places[index]
        return source.listings[place]

    def read(self, index: int) -> Tensor | None:
        """float32 [S]; None for a recording that is bad and may be skipped."""
        source, place = self.places[index]
        try:
            samples, rate = source.samples(place)
            _check_header(len(samples), rate, samples[:1].size, self.config.features)
            if len(samples) != self.lengths[index]:
                raise ValueError(f"it ends after {len(samples)} of {self.lengths[index]} samples")
        except (soundfile.LibsndfileError, OSError, ValueError) as error:
            damage = "damaged or cut short: " if isinstance(error, soundfile.LibsndfileError) else ""
            self._bad(source.listings[place], f"it cannot be read: {damage}{str(error).rstrip('.')}", "")
            return None
        return torch.from_numpy(samples)

    def _bad(self, listing: Listing, why: str, split: str) -> None:
        where = f"{listing.name} (utterance {listing.id}{' of ' + split if split else ''})"
        if self.config.on_bad_utterance == "error":
            raise DataError(f"{where}: {why}. Mend it, or set data.on_bad_utterance=skip to go on without it.")
        log.warning("Left out %s: %s.", where, why)


def in_alphabet(text: str, alphabet: str) -> str:
    """A transcript as plain lower-case letters with single spaces: accents are taken off (import_librivox.py).

    Raises ValueError if nothing is left, or something is not in the alphabet.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = " ".join(plain.split())
    if not words:
        raise ValueError(f"its transcript '{text}' has no plain letter" if text.strip() else "it has no transcript")
    odd = sorted(set(words) - set(alphabet))
    if odd:
        raise ValueError(f"its transcript has '{odd[0]}', which is not in data.alphabet")
    return words


def _check_header(samples: int, rate: int, channels: int, config: FeatureConfig) -> None:
    if (samples, rate, channels) == UNREADABLE:
        raise ValueError("the recording cannot be read: it is missing or no audio file")
    if rate != config.sample_rate:
        raise ValueError(
            f"its sample rate is {rate} and data.features.sample_rate {config.sample_rate}; convert it, e.g. "
            f"sox IN -r {config.sample_rate} OUT"
        )
    if channels != 1:
        raise ValueError(f"it has {channels} channels and one is needed; mix them, e.g. sox IN -c 1 OUT")
    if samples < shortest(config):
        raise ValueError(f"it has {samples} samples, and {shortest(config)} are the least that make a frame")


def open_source(config: SpeechDataConfig, data_root: Path, split: str) -> Source:
    """One split of the configured source. Raises DataError, naming the folder or file, if it is not there."""
    kinds: dict[str, Any] = {
        "espeak": EspeakSource,
        "librispeech": LibriSpeechSource,
        "manifest": ManifestSource,
        "hub": HubSource,
    }
    return kinds[config.source](config, data_root, split)


def _no_folder(folder: Path, config: SpeechDataConfig, holds: str) -> DataError:
    return DataError(
        f"No data folder {folder} for '{config.name}' (data.path under the data root). Put {holds} there, set "
        "NOVOBENCH_DATA or data_root to where they are, or use data.source=hub."
    )


# ---------------------------------------------------------------------------------------------- built in


class EspeakSource:
    """The built-in corpus; see `builtin`."""

    def __init__(self, config: SpeechDataConfig, _: Path, split: str) -> None:
        from novobench.tasks.speech import builtin

        known = builtin.corpus()
        if split not in known:
            raise DataError(f"The built-in corpus has no split '{split}'.{suggestion(split, list(known))}")
        spoken, self.rate = known[split], builtin.SAMPLE_RATE
        self.audio, self.offsets = spoken.audio, spoken.offsets
        self.listings = [
            Listing(name, text, f"built-in corpus [{split}]")
            for name, text in zip(spoken.ids, spoken.texts, strict=True)
        ]
        self.fingerprint = self.cache_key = spoken.sha256[:16]

    def headers(self) -> np.ndarray:
        known = np.ones((len(self.listings), 3), dtype=np.int64)
        known[:, 0], known[:, 1] = np.diff(self.offsets), self.rate
        return known

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        return self.audio[self.offsets[index] : self.offsets[index + 1]].astype(np.float32) / 32768.0, self.rate


# ---------------------------------------------------------------------------------------------- files


class _Encoded:
    """Recordings in files, each of which soundfile can decode."""

    listings: list[Listing]
    cache_key: str

    @abstractmethod
    def file(self, index: int) -> str | io.BytesIO:
        """What soundfile opens."""

    def headers(self) -> np.ndarray:
        """Read once a machine and kept: a large data set has hundreds of thousands."""

        def build(folder: Path) -> None:
            found = np.empty((len(self.listings), 3), dtype=np.int64)
            for index in range(len(found)):
                try:
                    about = soundfile.info(self.file(index))
                    found[index] = about.frames, about.samplerate, about.channels
                except (soundfile.LibsndfileError, OSError):
                    found[index] = UNREADABLE
            np.save(folder / "headers.npy", found)

        folder = derived_folder(f"speech/headers-{_HEADERS_VERSION}-{self.cache_key}", build)
        return np.load(folder / "headers.npy")

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        return soundfile.read(self.file(index), dtype="float32")


class _Paths(_Encoded):
    paths: list[Path]

    def file(self, index: int) -> str:
        return str(self.paths[index])

    @property
    def cache_key(self) -> str:  # type: ignore[override]
        digest = hashlib.sha256()
        for path in self.paths:
            about = path.stat() if path.is_file() else None
            digest.update(f"{path} {about and (about.st_size, about.st_mtime_ns)}\n".encode())
        return digest.hexdigest()[:16]


class LibriSpeechSource(_Paths):
    """`<split>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac` with one `.trans.txt` a chapter. A line without
    its recording, and a recording without its line, are listed and are bad utterances."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        root = data_root / (config.path or config.name)
        if not root.is_dir():
            raise _no_folder(root, config, "LibriSpeech's folders (train-clean-100, dev-clean, …)")
        folder = root / split
        if not folder.is_dir():
            there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            raise DataError(
                f"{root} has no split '{split}'.{suggestion(split, there)} It holds: {', '.join(there) or 'nothing'}. "
                "Set data.train_splits, data.search_set, data.dev_sets or data.test_sets."
            )
        self.listings, self.paths = [], []
        digest = hashlib.sha256()
        for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
            sizes = {path.stem: path.stat().st_size for path in transcripts.parent.glob("*.flac")}
            for line in _read_text(transcripts).splitlines():
                name, _, text = line.strip().partition(" ")
                if not name:
                    continue
                self._add(Listing(name, text, f"{transcripts.parent / name}.flac"), sizes.pop(name, -1), digest)
            for name, size in sorted(sizes.items()):
                self._add(Listing(name, "", f"{transcripts.parent / name}.flac"), size, digest)
        if not self.listings:
            raise DataError(f"{folder} holds no <speaker>/<chapter>/*.trans.txt with transcripts.")
        self.fingerprint = digest.hexdigest()[:16]

    def _add(self, listing: Listing, size: int, digest: Any) -> None:
        self.listings.append(listing)
        self.paths.append(Path(listing.name))
        digest.update(f"{f'{listing.id} {listing.text}'.strip()} {size}\n".encode())


class ManifestSource(_Paths):
    """`<split>.json`, a JSON object a line with `audio_filepath` (from the manifest's folder) and `text`, as NeMo has
    them."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        folder = data_root / (config.path or config.name)
        if not folder.is_dir():
            raise _no_folder(folder, config, "manifests (<split>.json)")
        manifest = folder / f"{split}.json"
        if not manifest.is_file():
            there = sorted(path.stem for path in folder.glob("*.json"))
            raise DataError(
                f"No manifest {manifest}.{suggestion(split, there)} There are: {', '.join(there) or 'none'}. "
                "Set data.train_splits, data.search_set, data.dev_sets or data.test_sets."
            )
        self.listings, self.paths = [], []
        digest = hashlib.sha256()
        for number, line in enumerate(_read_text(manifest).splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                audio, text = str(entry["audio_filepath"]), str(entry["text"] or "")
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{manifest} line {number} is no JSON object with audio_filepath and text ({type(error).__name__}: "
                    f"{error})."
                ) from None
            path = folder / audio
            self.paths.append(path)
            self.listings.append(Listing(path.stem, text, str(path)))
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{path.stem} {text} {size}\n".encode())
        if not self.listings:
            raise DataError(f"{manifest} is empty.")
        self.fingerprint = digest.hexdigest()[:16]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}). Convert it, e.g. with iconv.") from None


# ---------------------------------------------------------------------------------------------- hub


class HubSource(_Encoded):
    """A Hugging Face data set with LibriSpeech's columns (`audio`, `text`, `id`): a hub id, or a folder of parquet
    files. The recordings are decoded by soundfile."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        import datasets

        where = f"{config.path}[{split}]"
        columns = dict.fromkeys(("audio", "text", "id"), "")
        settings = "data.hub_config, data.train_splits or data.split_names"
        found = open_hub(config.path, config.hub_config, data_root, split, columns, settings)
        self.table = found.cast_column("audio", datasets.Audio(decode=False))
        ids, texts = found.with_format(None)["id"], found.with_format(None)["text"]
        self.listings = [
            Listing(str(name), text or "", f"{where} row {row}")
            for row, (name, text) in enumerate(zip(ids, texts, strict=True))
        ]
        content = "".join(f"{listing.id} {listing.text}\n" for listing in self.listings)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
        tables = [(name, os.stat(name).st_mtime_ns) for name in (each["filename"] for each in found.cache_files)]
        self.cache_key = hashlib.sha256(f"{tables} {split} {content}".encode()).hexdigest()[:16]

    def file(self, index: int) -> io.BytesIO:
        return io.BytesIO((self.table[int(index)]["audio"] or {}).get("bytes") or b"")
