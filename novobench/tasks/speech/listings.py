"""What a source lists, and what all sources of encoded recordings share: headers, samples and the fingerprint.

A source lists its utterances (`Listing`: id, transcript, name of the recording) and reads one recording at a time.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from novobench.files import derived_folder
from novobench.tasks.sources import VALIDATION_NAMES, content_digests, listing_key
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.recordings import BadRecording, Recording, Segment, header, read

_HEADERS_VERSION = 2
"""Raised when `Headers.values` change their meaning, so that cached headers are read again."""
_UNREADABLE = (0, -1, 0)
AUDIO_SUFFIXES = (
    ".flac", ".wav", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".sph", ".m4a", ".aac", ".wma", ".webm",
)  # fmt: skip
"""Of recordings, in lower case. If there are several of a name, the first suffix of this list wins. libsndfile cannot
decode the last four: such files are listed as bad utterances."""


class Listing(NamedTuple):
    """One utterance as its source lists it."""

    id: str
    text: str
    name: str
    """Of the recording, for error messages."""
    segment: Segment | None = None
    """The part of the recording that the transcript belongs to; None: all of it."""
    fault: str = ""
    """Why the utterance cannot be used, if the source already knows."""


class Headers(NamedTuple):
    """What the headers of whole recordings say."""

    values: np.ndarray
    """Samples, sample rate (Hz) and channels, int64 [n, 3]."""
    faults: dict[int, str]
    """Index of a recording whose header cannot be read -> the reason."""


class Source(Protocol):
    """One split of a data set."""

    listings: list[Listing]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over ids, transcripts and the bytes of the recordings."""

    @property
    def cache_key(self) -> str:
        """Changes when a recording may have changed. What is derived from the recordings is cached under it."""

    def headers(self) -> Headers:
        """The headers of all recordings."""

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        """Samples of the utterance, float32 [S] or [S, channels], and the sample rate in Hz. Raises BadRecording."""


class EncodedSource:
    """A source whose recordings soundfile decodes."""

    listings: list[Listing]
    cache_key: str

    @abstractmethod
    def recording(self, index: int) -> Recording:
        """The encoded recording."""

    def headers(self) -> Headers:
        """Read once per machine and cached: a large data set has hundreds of thousands.

        Headers that could not be read are tried again each time, because the cause may be gone.
        """

        def build(folder: Path) -> None:
            values = np.full((len(self.listings), 3), _UNREADABLE, dtype=np.int64)
            for index in range(len(values)):
                try:
                    values[index] = header(self.recording(index))
                except BadRecording:
                    continue
            np.save(folder / "headers.npy", values)

        folder = derived_folder(f"speech/headers-{_HEADERS_VERSION}-{self.cache_key}", build)
        values, faults = np.load(folder / "headers.npy"), {}
        for index in np.flatnonzero((values == _UNREADABLE).all(axis=1)).tolist():
            try:
                values[index] = header(self.recording(index))
            except BadRecording as error:
                faults[index] = str(error)
        return Headers(values, faults)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Samples of each whole recording, int64 [n]."""
        return EncodedSource.headers(self).values[:, 0]

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        return read(self.recording(index), int(self.lengths[index]), self.listings[index].segment)


class FileSource(EncodedSource):
    """A source whose recordings are files."""

    paths: list[Path]
    """The recording of each listing."""

    def recording(self, index: int) -> Path:
        return self.paths[index]

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        return listing_key(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        files = list(dict.fromkeys(self.paths))
        row_of = {path: row for row, path in enumerate(files)}
        digests = content_digests(files)
        return fingerprint(self.listings, digests[[row_of[path] for path in self.paths]])


def fingerprint(listings: Sequence[Listing], digests: np.ndarray) -> str:
    """16 hex digits over utterances and the digests of their recordings, uint8 [n, bytes]."""
    digest = hashlib.sha256()
    for listing, recording in zip(listings, digests, strict=True):
        digest.update(f"{listing.id} {listing.text}".strip().encode("utf-8", "surrogatepass") + recording.tobytes())
    return digest.hexdigest()[:16]


def storable(name: str) -> str:
    """`name` as text that can be written as UTF-8. Other bytes, as in file names of other encodings, are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def split_remedy(split: str, splits: list[str], config: SpeechDataConfig) -> str:
    """What to do about a `split` that is not among the `splits` of the source: a sentence with the config key to set,
    and a split with the same role if the source has one."""
    alike = next((name for name in splits if _role(name) == _role(split)), "NAME")
    if split in config.train_splits:
        return f"Set data.train_splits, e.g. data.train_splits=[{alike}]."
    set_name = next((name for name, source_name in config.split_names.items() if source_name == split), split)
    return (
        f"If it has another name there, set data.split_names={{{set_name}: {alike}}}; or set data.search_set, "
        "data.dev_sets or data.test_sets."
    )


def _role(split: str) -> str:
    """`dev` for dev-clean, valid, validation.other and val; the first word of any other split."""
    word = re.split(r"[^a-z]", split.lower())[0]
    return "dev" if word in (*VALIDATION_NAMES, "development") else word
