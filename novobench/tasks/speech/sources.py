"""The interchangeable sources of recordings and transcripts: built in, trees, folders, manifests, hub."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError, kind_and_message
from novobench.tasks.hub import missing_column, open_hub, row_digests, row_source, split_label
from novobench.tasks.sources import listing_key, missing_split
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.folders import FolderSource
from novobench.tasks.speech.librispeech import LibriSpeechSource
from novobench.tasks.speech.listings import (
    EncodedSource,
    Headers,
    Listing,
    Source,
    fingerprint,
    split_remedy,
    storable,
)
from novobench.tasks.speech.manifests import ManifestSource
from novobench.tasks.speech.recordings import Recording
from novobench.tasks.speech.tables import TEXT_COLUMNS, TableSource
from novobench.tasks.tables import table_file


def open_source(config: SpeechDataConfig, data_root: Path, split: str) -> Source:
    """One split of the configured source. Raises DataError, naming the folder or file, if it cannot be opened."""
    kinds: dict[str, Callable[[SpeechDataConfig, Path, str], Source]] = {
        "espeak": EspeakSource,
        "librispeech": LibriSpeechSource,
        "folder": FolderSource,
        "manifest": _open_manifest,
        "hub": HubSource,
    }
    return kinds[config.source](config, data_root, split)


def _open_manifest(config: SpeechDataConfig, data_root: Path, split: str) -> Source:
    """`<split>.json`, else `<split>.csv` or `<split>.tsv`."""
    folder = data_root / (config.path or config.name)
    is_json = os.path.isfile(folder / f"{split}.json") or not os.path.isdir(folder)
    kind = ManifestSource if is_json or table_file(folder, split) is None else TableSource
    return kind(config, data_root, split)


class EspeakSource:
    """The built-in corpus; see `builtin`."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        from novobench.tasks.speech import builtin

        splits = builtin.corpus()
        if split not in splits:
            remedy = split_remedy(split, list(splits), config)
            raise missing_split("The built-in corpus", split, list(splits), remedy)
        spoken, self.rate = splits[split], builtin.SAMPLE_RATE
        self.audio, self.offsets = spoken.audio, spoken.offsets
        self.listings = [
            Listing(name, text, f"built-in corpus [{split}]")
            for name, text in zip(spoken.ids, spoken.texts, strict=True)
        ]
        self.fingerprint = self.cache_key = spoken.sha256[:16]

    def headers(self) -> Headers:
        values = np.ones((len(self.listings), 3), dtype=np.int64)
        values[:, 0], values[:, 1] = np.diff(self.offsets), self.rate
        return Headers(values, {})

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        return self.audio[self.offsets[index] : self.offsets[index + 1]].astype(np.float32) / 32768.0, self.rate


class HubSource(EncodedSource):
    """A Hugging Face data set: a hub id, or a folder of parquet files. Its columns are LibriSpeech's: `audio`, `text`,
    which may have another usual name such as `sentence`, and `id`, which may be absent. A row holds a recording or the
    name of its file; soundfile decodes it."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        import datasets

        where = self.where = split_label(config.path, split)
        settings = "data.hub_config, data.train_splits or data.split_names"
        table = open_hub(config.path, config.hub_config, data_root, split, {"audio": ""}, settings)
        text = next((name for name in TEXT_COLUMNS if name in table.column_names), None)
        if text is None:
            remedy = f"Call the transcripts {TEXT_COLUMNS[0]}, or one of {', '.join(TEXT_COLUMNS[1:])}."
            raise missing_column(where, "'text'", table.column_names, remedy, "text")
        columns = ["audio", text, *(["id"] if "id" in table.column_names else [])]
        try:
            self.table = table.cast_column("audio", datasets.Audio(decode=False))
            rows = table.with_format(None)
            texts, ids = list(rows[text]), list(rows["id"]) if "id" in columns else [None] * len(table)
            file_names = self._file_names()
        except Exception as error:  # datasets and Arrow raise many types
            types = ", ".join(f"{column}: {table.features[column]}" for column in columns)
            raise DataError(
                f"{where} has no columns of recordings, transcripts and ids, but {types} ({kind_and_message(error)})."
            ) from None
        self.folder, self.split = data_root / config.path, split
        self.listings = [
            _listing(f"row-{row}" if name is None else str(name), text, f"{where} row {row}")
            for row, (name, text) in enumerate(zip(ids, texts, strict=True))
        ]
        content = "".join(f"{listing.id} {listing.text}\n" for listing in self.listings)
        tables = [(name, os.stat(name).st_mtime_ns) for name in (each["filename"] for each in table.cache_files)]
        files = listing_key([self.folder / name for name in file_names]) if file_names else ""
        self.cache_key = hashlib.sha256(
            f"{tables} {split} {content}{files}".encode("utf-8", "surrogatepass")
        ).hexdigest()[:16]

    def _file_names(self) -> list[str]:
        """The files named by rows that hold no bytes."""
        import pyarrow.compute as pc

        column = self.table.data.column("audio")
        lengths = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0)
        return [path for path in pc.struct_field(column, "path").filter(pc.equal(lengths, 0)).to_pylist() if path]

    @cached_property
    def fingerprint(self) -> str:
        """All rows are read once per machine."""
        return fingerprint(self.listings, row_digests(self.table, "audio", self.folder, self.split, self.where))

    def recording(self, index: int) -> Recording:
        return row_source(self.table[int(index)]["audio"], self.folder)


def _listing(name: str, text: Any, where: str) -> Listing:
    fault = "" if text is None or isinstance(text, str) else f"its text is {reprlib.repr(text)} and must be a string"
    return Listing(storable(name), "" if text is None or fault else text, where, fault=fault)
