"""The utterances of a source that can be used.

Everything that all sources share is done here once: transcripts are brought to the alphabet, lengths are taken from the
files' headers, segments are cut, and what is bad is an error that names it, or is left out and counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from novobench.errors import DataError, one_line
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.features import shortest
from novobench.tasks.speech.librispeech import LibriSpeechSource
from novobench.tasks.speech.manifests import ManifestSource
from novobench.tasks.speech.recordings import BadRecording
from novobench.tasks.speech.sources import EspeakSource, HubSource, Listing, Source
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
                    if listing.fault:
                        raise ValueError(listing.fault)
                    text = in_alphabet(listing.text, config.alphabet)
                    if index in headers.faults:
                        raise ValueError(f"the recording cannot be read: {headers.faults[index]}{_hint(listing)}")
                    length, rate, channels = headers.known[index].tolist()
                    _check_recording(length, rate, channels, config.features)
                    if listing.segment:
                        _, length = listing.segment.within(length, rate)
                        _check_length(length, config.features)
                except ValueError as error:
                    self._bad(listing, str(error), name)
                else:
                    self.places.append((source, index))
                    self.texts.append(text)
                    lengths.append(length)
            _tell_twice(source.listings, name)
        self.lengths = np.array(lengths, dtype=np.int64)
        if not self.texts:
            raise DataError(
                f"'{name}' of data '{config.name}' holds no utterance that can be used: all {self.found} are bad, each "
                "for the reason in the log."
            )

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
            _check_recording(len(samples), rate, samples[:1].size, self.config.features)
            if not np.abs(samples).max() < _LOUDEST:
                raise BadRecording("it has samples that are not finite numbers (NaN, infinite or above 1e15)")
            if len(samples) != self.lengths[index]:
                found = f"ends after {len(samples)} of" if len(samples) < self.lengths[index] else "has more than"
                raise BadRecording(f"it {found} {self.lengths[index]} samples")
        except BadRecording as error:
            self._bad(source.listings[place], f"it cannot be read: {error}", "")
            return None
        return torch.from_numpy(samples)

    def _bad(self, listing: Listing, why: str, split: str) -> None:
        where = f"{listing.name} (utterance {listing.id}{' of ' + split if split else ''})"
        if self.config.on_bad_utterance == "error":
            raise DataError(f"{where}: {why}. Mend it, or set data.on_bad_utterance=skip to go on without it.")
        log.warning("%s", one_line(f"Left out {where}: {why}."))


def _hint(listing: Listing) -> str:
    raw = listing.name.lower().endswith(".raw")
    return "; a .raw file has no header, convert it, e.g. to WAV" if raw else ""


def _tell_twice(listings: Sequence[Listing], split: str) -> None:
    """Predictions and dither go by the id."""
    counted = Counter(listing.id for listing in listings)
    twice = [listing for listing in listings if counted[listing.id] > 1]
    if twice:
        ids = list(dict.fromkeys(listing.id for listing in twice))
        first = ", ".join(listing.name for listing in twice if listing.id == ids[0])
        log.warning(
            "%s", one_line(f"{len(ids)} ids of {split} belong to several utterances, e.g. {ids[0]} to {first}.")
        )


def _check_recording(samples: int, rate: int, channels: int, config: FeatureConfig) -> None:
    if rate != config.sample_rate:
        raise BadRecording(
            f"its sample rate is {rate} and data.features.sample_rate {config.sample_rate}; convert it, e.g. "
            f"sox IN -r {config.sample_rate} OUT"
        )
    if channels != 1:
        raise BadRecording(f"it has {channels} channels and one is needed; mix them, e.g. sox IN -c 1 OUT")
    _check_length(samples, config)


def _check_length(samples: int, config: FeatureConfig) -> None:
    if samples < shortest(config):
        hint = "" if samples else ": where its header lacks the length, convert it, e.g. sox --ignore-length IN OUT"
        raise BadRecording(f"it has {samples} samples, and {shortest(config)} are the least that make a frame{hint}")


def open_source(config: SpeechDataConfig, data_root: Path, split: str) -> Source:
    """One split of the configured source. Raises DataError, naming the folder or file, if it is not there."""
    kinds: dict[str, Any] = {
        "espeak": EspeakSource,
        "librispeech": LibriSpeechSource,
        "manifest": ManifestSource,
        "hub": HubSource,
    }
    return kinds[config.source](config, data_root, split)
