"""Recordings and transcripts from four interchangeable sources, as each lies on disk.

A source lists what it holds (`Listing`: id, transcript, place) and reads one recording at a time; `corpus` makes of it
the utterances that can be used.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import soundfile

from novobench.errors import DataError, suggestion
from novobench.files import derived_folder
from novobench.tasks.hub import open_hub
from novobench.tasks.sources import content_digests, listing_key
from novobench.tasks.speech.config import SpeechDataConfig

log = logging.getLogger(__name__)

_TOLD_SECONDS = 0.1
"""A manifest's duration that is wrong by more than this is told."""
_ROUNDED_SECONDS = 0.01
"""How far a segment may reach over its recording's end: manifests round seconds."""


class Segment(NamedTuple):
    """A part of a recording, in seconds, as a manifest has them."""

    offset: Any
    duration: Any = None
    """None: to the recording's end."""

    def within(self, samples: int, rate: int) -> tuple[int, int]:
        """First sample and number of samples, cut to integers as NeMo's AudioSegment does. Raises ValueError if it is
        no part of a recording of so many samples."""
        for key, value in self._asdict().items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if (value is not None or key == "offset") and not (number and value >= 0):
                raise ValueError(f"its {key} is {value!r} and must be 0 seconds or more")
        seconds = samples / rate
        if self.offset >= seconds:
            raise ValueError(f"its offset {self.offset:g} s is behind the end of the recording, at {seconds:g} s")
        start = int(self.offset * rate)
        if self.duration is None:
            return start, samples - start
        if self.offset + self.duration > seconds + _ROUNDED_SECONDS:
            raise ValueError(
                f"its offset {self.offset:g} s and duration {self.duration:g} s reach over the end of the recording, "
                f"at {seconds:g} s"
            )
        return start, min(int(self.duration * rate), samples - start)


class Listing(NamedTuple):
    """One utterance as its source names it."""

    id: str
    text: str
    name: str
    """Of the recording, for error messages."""
    segment: Segment | None = None
    """The part of the recording that the transcript is of; None: all."""


class Source(Protocol):
    """One split as it lies on disk."""

    listings: list[Listing]
    fingerprint: str
    """16 hex digits over ids, transcripts and what the recordings' files hold."""
    cache_key: str
    """Another one when a recording may have changed: what is derived from recordings is kept under it."""

    def headers(self) -> np.ndarray:
        """Samples, sample rate and channels of each whole recording, int64 [n, 3]; `UNREADABLE` where they cannot be
        told."""

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        """float32 [S] or [S, channels] of the utterance, and the sample rate. Raises what soundfile raises."""


UNREADABLE = (0, -1, 0)
UNREADABLE_ERRORS = (soundfile.SoundFileError, OSError, TypeError, ValueError)
"""What soundfile raises of what it cannot open; TypeError: a file without a header."""
_HEADERS_VERSION = 2
"""Raised when headers hold something else, so that kept ones are read anew."""
_LIKELY_SAMPLES_PER_BYTE = 100
"""Speech has 0.5 to 10 samples a byte; a header that promises more is not believed, the recording is decoded."""
_BLOCK = 1 << 20
_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".sph")
"""Of recordings in a LibriSpeech tree; where a name has two, the first of these counts."""


def fingerprint(listings: Sequence[Listing], digests: np.ndarray) -> str:
    """16 hex digits over utterances and the digests of their recordings [n, bytes]."""
    digest = hashlib.sha256()
    for listing, recording in zip(listings, digests, strict=True):
        digest.update(f"{listing.id} {listing.text}".strip().encode("utf-8", "surrogatepass") + recording.tobytes())
    return digest.hexdigest()[:16]


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
                    found[index] = _header(self.file(index))
                except UNREADABLE_ERRORS:
                    found[index] = UNREADABLE
            np.save(folder / "headers.npy", found)

        folder = derived_folder(f"speech/headers-{_HEADERS_VERSION}-{self.cache_key}", build)
        return np.load(folder / "headers.npy")

    @cached_property
    def lengths(self) -> np.ndarray:
        """Samples of each whole recording."""
        return _Encoded.headers(self)[:, 0]

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        length, segment = int(self.lengths[index]), self.listings[index].segment
        with soundfile.SoundFile(self.file(index)) as sound:
            start, count = segment.within(length, sound.samplerate) if segment else (0, length)
            if sound.frames != length:  # the header does not know, or the file has changed
                whole = _decoded(self.file(index))
                return whole[start : start + count if segment else None], sound.samplerate
            sound.seek(start)
            return sound.read(count, dtype="float32"), sound.samplerate


def _header(file: str | io.BytesIO) -> tuple[int, int, int]:
    """Samples, sample rate and channels. A recording whose header does not know its length, as one written to a pipe,
    or promises more than the file can hold, is decoded."""
    size = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else os.path.getsize(file)
    with soundfile.SoundFile(file) as sound:
        known = 0 < sound.frames <= size * _LIKELY_SAMPLES_PER_BYTE
        return sound.frames if known else len(_decoded(file)), sound.samplerate, sound.channels


class _Stream(soundfile.SoundFile):
    """Reads on without seeking, which fails behind the end of a file of unknown length."""

    def seekable(self) -> bool:
        return False


def _decoded(file: str | io.BytesIO) -> np.ndarray:
    """All samples, however many the header says that there are."""
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with _Stream(file) as sound:
        blocks = [sound.read(_BLOCK, dtype="float32")]
        while len(blocks[-1]) == _BLOCK:
            blocks.append(sound.read(_BLOCK, dtype="float32"))
    return np.concatenate(blocks)


class _Paths(_Encoded):
    paths: list[Path]

    def file(self, index: int) -> str:
        return str(self.paths[index])

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        return listing_key(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        files = list(dict.fromkeys(self.paths))
        places = {path: place for place, path in enumerate(files)}
        digests = content_digests(files)
        return fingerprint(self.listings, digests[[places[path] for path in self.paths]])


class LibriSpeechSource(_Paths):
    """`<split>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac` (or .wav, .ogg, .opus, .mp3, …) with one
    `.trans.txt` per chapter. A line without its recording, and a recording without its line, are listed and are bad
    utterances."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        root = data_root / (config.path or config.name)
        if not root.is_dir():
            raise _no_folder(root, config, "LibriSpeech's folders (train-clean-100, dev-clean, …)")
        folder = root / split
        if not folder.is_dir():
            there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            raise _no_split(f"{root} has no split '{split}'.", split, there, config)
        self.listings, self.paths = [], []
        for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
            chapter = transcripts.parent
            files = sorted(path for path in chapter.iterdir() if path.suffix.lower() in _SUFFIXES)
            files.sort(key=lambda path: _SUFFIXES.index(path.suffix.lower()), reverse=True)
            recordings = {path.stem: path for path in files}
            for line in _read_text(transcripts).split("\n"):
                name, _, text = line.strip().partition(" ")
                if name:
                    self._add(name, text, recordings.pop(name, chapter / f"{name}.flac"))
            for name, path in sorted(recordings.items()):
                self._add(name, "", path)
        if not self.listings:
            raise DataError(f"{folder} holds no <speaker>/<chapter>/*.trans.txt with transcripts.")

    def _add(self, name: str, text: str, path: Path) -> None:
        self.listings.append(Listing(name, text, str(path)))
        self.paths.append(path)


class ManifestSource(_Paths):
    """`<split>.json`, a JSON object per line with `audio_filepath` (from the manifest's folder) and `text`, as NeMo has
    them.

    With an `offset` the utterance is that part of the recording, `duration` seconds or to the end. A `duration` without
    `offset` is only what the recording is said to last: all of it is taken.
    """

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        folder = data_root / (config.path or config.name)
        if not folder.is_dir():
            raise _no_folder(folder, config, "manifests (<split>.json)")
        manifest = folder / f"{split}.json"
        if not manifest.is_file():
            there = sorted(path.stem for path in folder.glob("*.json"))
            raise _no_split(f"{folder} has no manifest '{split}.json'.", split, there, config)
        self.listings, self.paths, self.durations = [], [], []
        self.manifest = manifest
        unknown: dict[str, int] = {}
        for number, line in enumerate(_read_text(manifest).split("\n"), 1):  # U+2028 ends no line of JSON
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                path, text = folder / str(entry["audio_filepath"]), str(entry["text"] or "")
                if b"\0" in os.fsencode(path):
                    raise ValueError("a file name with a null character")
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{manifest} line {number} is no JSON object with audio_filepath and text ({type(error).__name__}: "
                    f"{error})."
                ) from None
            name, segment, duration = path.stem, None, entry.get("duration")
            if entry.get("offset") is not None:
                segment, duration = Segment(entry["offset"], duration), None
                name += f"@{segment.offset}" + (f"+{segment.duration}" if segment.duration is not None else "")
            self.paths.append(path)
            self.listings.append(Listing(name, text, str(path), segment))
            self.durations.append(duration if isinstance(duration, int | float) else math.nan)
            unknown |= dict.fromkeys(entry.keys() - {"audio_filepath", "text", "offset", "duration"}, number)
        if not self.listings:
            raise DataError(f"{manifest} is empty.")
        if unknown:
            keys = ", ".join(f"'{key}' (line {number})" for key, number in sorted(unknown.items()))
            log.warning("%s has keys that mean nothing here: %s.", manifest, keys)

    def headers(self) -> np.ndarray:
        found = super().headers()
        seconds = found[:, 0] / found[:, 1]
        wrong = np.flatnonzero((found[:, 0] > 0) & (np.abs(seconds - self.durations) > _TOLD_SECONDS))
        if len(wrong):
            log.warning(
                "%s is wrong about how long %d recordings last, e.g. %g s of %s, which lasts %g s: all of each is "
                "taken. A part of a recording needs an 'offset'.",
                self.manifest,
                len(wrong),
                self.durations[wrong[0]],
                self.listings[wrong[0]].name,
                seconds[wrong[0]],
            )
        return found


def _no_split(what: str, split: str, there: list[str], config: SpeechDataConfig) -> DataError:
    alike = next((name for name in there if _role(name) == _role(split)), None)
    if split in config.train_splits:
        mend = f"Set data.train_splits, e.g. data.train_splits=[{alike or 'NAME'}]."
    else:
        wanted = next((name for name, other in config.split_names.items() if other == split), split)
        mend = (
            f"If it has another name there, set data.split_names={{{wanted}: {alike or 'NAME'}}}; or set "
            "data.search_set, data.dev_sets or data.test_sets."
        )
    return DataError(f"{what}{suggestion(split, there)} It holds: {', '.join(there) or 'nothing'}. {mend}")


def _role(split: str) -> str:
    """`dev` for dev-clean, valid, validation.other and val."""
    word = re.split(r"[^a-z]", split.lower())[0]
    return "dev" if word in ("dev", "val", "valid", "validation", "development") else word


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
        tables = [(name, os.stat(name).st_mtime_ns) for name in (each["filename"] for each in found.cache_files)]
        self.cache_key = hashlib.sha256(f"{tables} {split} {content}".encode()).hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """All rows are read once a machine."""

        def build(folder: Path) -> None:
            digests = [hashlib.blake2b(self.file(row).getbuffer(), digest_size=16).digest() for row in range(count)]
            np.save(folder / "digests.npy", np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(count, 16))

        count = len(self.listings)
        folder = derived_folder(f"speech/contents-{self.cache_key}", build)
        return fingerprint(self.listings, np.load(folder / "digests.npy"))

    def file(self, index: int) -> io.BytesIO:
        return io.BytesIO((self.table[int(index)]["audio"] or {}).get("bytes") or b"")
