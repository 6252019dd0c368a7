"""The utterances of a source that can be used.

Everything that all sources share is done here once: transcripts are brought to the alphabet, lengths are taken from the
files' headers, segments are cut, and what is bad is an error that names it, or is left out and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from novobench.errors import DataError
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.features import shortest
from novobench.tasks.speech.sources import (
    UNREADABLE,
    UNREADABLE_ERRORS,
    EspeakSource,
    HubSource,
    LibriSpeechSource,
    Listing,
    ManifestSource,
    Source,
)
from novobench.tasks.speech.transcripts import in_alphabet

log = logging.getLogger(__name__)

_LOUDEST = 1e15
"""The power of louder samples is too large for float32."""


class Utterances:
    """The utterances of one or more splits that can be used: ids, texts in the alphabet, lengths in samples."""

    def __init__(self, sources: Sequence[Source], config: SpeechDataConfig, name: str) -> None:
        self.config, self.sources = config, sources
        self.found = sum(len(source.listings) for source in sources)
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
                    _check_recording(listing, length, rate, channels, config.features)
                    if listing.segment:
                        _, length = listing.segment.within(length, rate)
                        _check_length(length, config.features)
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
            _check_recording(source.listings[place], len(samples), rate, samples[:1].size, self.config.features)
            if not np.abs(samples).max() < _LOUDEST:
                raise ValueError("it has samples that are not finite numbers (NaN, infinite or above 1e15)")
            if len(samples) != self.lengths[index]:
                raise ValueError(f"it ends after {len(samples)} of {self.lengths[index]} samples")
        except UNREADABLE_ERRORS as error:
            damage = "damaged or cut short: " if isinstance(error, soundfile.LibsndfileError) else ""
            self._bad(source.listings[place], f"it cannot be read: {damage}{str(error).rstrip('.')}", "")
            return None
        return torch.from_numpy(samples)

    def _bad(self, listing: Listing, why: str, split: str) -> None:
        where = f"{listing.name} (utterance {listing.id}{' of ' + split if split else ''})"
        if self.config.on_bad_utterance == "error":
            raise DataError(f"{where}: {why}. Mend it, or set data.on_bad_utterance=skip to go on without it.")
        log.warning("Left out %s: %s.", where, why)


def _check_recording(listing: Listing, samples: int, rate: int, channels: int, config: FeatureConfig) -> None:
    if (samples, rate, channels) == UNREADABLE:
        raw = listing.name.lower().endswith(".raw")
        hint = "; a .raw file has no header, convert it, e.g. to WAV" if raw else ""
        raise ValueError(f"the recording cannot be read: it is missing or no audio file{hint}")
    if rate != config.sample_rate:
        raise ValueError(
            f"its sample rate is {rate} and data.features.sample_rate {config.sample_rate}; convert it, e.g. "
            f"sox IN -r {config.sample_rate} OUT"
        )
    if channels != 1:
        raise ValueError(f"it has {channels} channels and one is needed; mix them, e.g. sox IN -c 1 OUT")
    _check_length(samples, config)


def _check_length(samples: int, config: FeatureConfig) -> None:
    if samples < shortest(config):
        hint = "" if samples else ": where its header lacks the length, convert it, e.g. sox --ignore-length IN OUT"
        raise ValueError(f"it has {samples} samples, and {shortest(config)} are the least that make a frame{hint}")


def open_source(config: SpeechDataConfig, data_root: Path, split: str) -> Source:
    """One split of the configured source. Raises DataError, naming the folder or file, if it is not there."""
    kinds: dict[str, Any] = {
        "espeak": EspeakSource,
        "librispeech": LibriSpeechSource,
        "manifest": ManifestSource,
        "hub": HubSource,
    }
    return kinds[config.source](config, data_root, split)
