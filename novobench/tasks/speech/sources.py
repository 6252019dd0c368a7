"""What the four interchangeable sources of recordings and transcripts share, the built-in corpus and the hub.

A source lists what it holds (`Listing`: id, transcript, place) and reads one recording at a time; `corpus` makes of it
the utterances that can be used.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from novobench.errors import DataError, kind_and_message, suggestion
from novobench.files import derived_folder
from novobench.tasks.hub import open_hub, row_digests, row_source
from novobench.tasks.sources import content_digests, listing_key
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.recordings import BadRecording, Recording, Segment, header, read


class Listing(NamedTuple):
    """One utterance as its source names it."""

    id: str
    text: str
    name: str
    """Of the recording, for error messages."""
    segment: Segment | None = None
    """The part of the recording that the transcript is of; None: all."""
    fault: str = ""
    """Why it cannot be used, where the source knows already."""


class Headers(NamedTuple):
    """What the headers of whole recordings say."""

    known: np.ndarray
    """Samples, sample rate and channels, int64 [n, 3]."""
    faults: dict[int, str]
    """Why those of some recordings cannot be read."""


class Source(Protocol):
    """One split as it lies on disk."""

    listings: list[Listing]
    fingerprint: str
    """16 hex digits over ids, transcripts and what the recordings' files hold."""
    cache_key: str
    """Another one when a recording may have changed: what is derived from recordings is kept under it."""

    def headers(self) -> Headers:
        """Of all recordings."""

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        """float32 [S] or [S, channels] of the utterance, and the sample rate. Raises BadRecording."""


_HEADERS_VERSION = 2
"""Raised when headers hold something else, so that kept ones are read anew."""
_UNREADABLE = (0, -1, 0)


def fingerprint(listings: Sequence[Listing], digests: np.ndarray) -> str:
    """16 hex digits over utterances and the digests of their recordings [n, bytes]."""
    digest = hashlib.sha256()
    for listing, recording in zip(listings, digests, strict=True):
        digest.update(f"{listing.id} {listing.text}".strip().encode("utf-8", "surrogatepass") + recording.tobytes())
    return digest.hexdigest()[:16]


def storable(name: str) -> str:
    """A name as text that can be written as UTF-8: what is not, as in file names of other encodings, is escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def no_folder(folder: Path, config: SpeechDataConfig, holds: str) -> DataError:
    return DataError(
        f"No data folder {folder} for '{config.name}' (data.path under the data root). Put {holds} there, set "
        "NOVOBENCH_DATA or data_root to where they are, or use data.source=hub."
    )


def no_split(what: str, split: str, there: list[str], config: SpeechDataConfig) -> DataError:
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

    def headers(self) -> Headers:
        known = np.ones((len(self.listings), 3), dtype=np.int64)
        known[:, 0], known[:, 1] = np.diff(self.offsets), self.rate
        return Headers(known, {})

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        return self.audio[self.offsets[index] : self.offsets[index + 1]].astype(np.float32) / 32768.0, self.rate


# ---------------------------------------------------------------------------------------------- files


class Encoded:
    """Recordings that soundfile decodes."""

    listings: list[Listing]
    cache_key: str

    @abstractmethod
    def recording(self, index: int) -> Recording:
        """The encoded one."""

    def headers(self) -> Headers:
        """Read once a machine and kept: a large data set has hundreds of thousands. Those that could not be read are
        tried again each time: the reason may have passed, and a user wants to know it."""

        def build(folder: Path) -> None:
            found = np.full((len(self.listings), 3), _UNREADABLE, dtype=np.int64)
            for index in range(len(found)):
                try:
                    found[index] = header(self.recording(index))
                except BadRecording:
                    continue
            np.save(folder / "headers.npy", found)

        folder = derived_folder(f"speech/headers-{_HEADERS_VERSION}-{self.cache_key}", build)
        known, faults = np.load(folder / "headers.npy"), {}
        for index in np.flatnonzero((known == _UNREADABLE).all(axis=1)).tolist():
            try:
                known[index] = header(self.recording(index))
            except BadRecording as error:
                faults[index] = str(error)
        return Headers(known, faults)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Samples of each whole recording."""
        return Encoded.headers(self).known[:, 0]

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        return read(self.recording(index), int(self.lengths[index]), self.listings[index].segment)


class Paths(Encoded):
    """Recordings in files."""

    paths: list[Path]

    def recording(self, index: int) -> Path:
        return self.paths[index]

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        return listing_key(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        files = list(dict.fromkeys(self.paths))
        places = {path: place for place, path in enumerate(files)}
        digests = content_digests(files)
        return fingerprint(self.listings, digests[[places[path] for path in self.paths]])


# ---------------------------------------------------------------------------------------------- hub


class HubSource(Encoded):
    """A Hugging Face data set with LibriSpeech's columns (`audio`, `text`, `id`): a hub id, or a folder of parquet
    files. Rows hold recordings, or name their files; soundfile decodes them."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        import datasets

        where = self.where = f"{config.path}[{split}]"
        columns = dict.fromkeys(("audio", "text", "id"), "")
        settings = "data.hub_config, data.train_splits or data.split_names"
        found = open_hub(config.path, config.hub_config, data_root, split, columns, settings)
        try:
            self.table = found.cast_column("audio", datasets.Audio(decode=False))
            ids, texts = (list(found.with_format(None)[column]) for column in ("id", "text"))
            named = self._named()
        except Exception as error:  # datasets and Arrow raise many types
            kinds = ", ".join(f"{column}: {found.features[column]}" for column in columns)
            raise DataError(
                f"{where} has no columns of recordings, transcripts and ids, but {kinds} ({kind_and_message(error)})."
            ) from None
        self.folder, self.split = data_root / config.path, split
        self.listings = [
            _row(f"row-{row}" if name is None else str(name), text, f"{where} row {row}")
            for row, (name, text) in enumerate(zip(ids, texts, strict=True))
        ]
        content = "".join(f"{listing.id} {listing.text}\n" for listing in self.listings)
        tables = [(name, os.stat(name).st_mtime_ns) for name in (each["filename"] for each in found.cache_files)]
        files = listing_key([self.folder / path for path in named]) if named else ""
        self.cache_key = hashlib.sha256(
            f"{tables} {split} {content}{files}".encode("utf-8", "surrogatepass")
        ).hexdigest()[:16]

    def _named(self) -> list[str]:
        """The files that rows without bytes name."""
        import pyarrow.compute as pc

        column = self.table.data.column("audio")
        lengths = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0)
        return [path for path in pc.struct_field(column, "path").filter(pc.equal(lengths, 0)).to_pylist() if path]

    @cached_property
    def fingerprint(self) -> str:
        """All rows are read once a machine."""
        return fingerprint(self.listings, row_digests(self.table, "audio", self.folder, self.split, self.where))

    def recording(self, index: int) -> Recording:
        return row_source(self.table[int(index)]["audio"], self.folder)


def _row(name: str, text: Any, where: str) -> Listing:
    fault = "" if text is None or isinstance(text, str) else f"its text is {reprlib.repr(text)} and must be a string"
    return Listing(storable(name), "" if text is None or fault else text, where, fault=fault)
