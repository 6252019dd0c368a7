"""The utterances of a source that can be used.

What does not depend on the source is done here: transcripts are converted to the alphabet, lengths are taken from the
headers, segments are cut, and a bad utterance either raises an error that names it, or is left out and counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from novobench.errors import DataError, one_line
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.features import min_samples
from novobench.tasks.speech.listings import Listing, Source
from novobench.tasks.speech.recordings import BadRecording
from novobench.tasks.speech.transcripts import in_alphabet

log = logging.getLogger(__name__)

_MAX_AMPLITUDE = 1e15
"""The power of larger samples overflows float32."""


class Utterances:
    """The usable utterances of one or more splits, in the order of their sources.

    `name` is the set's (`train`, `dev-clean`), for messages. Raises DataError for a bad utterance, unless
    `data.on_bad_utterance` is `skip`, and if no utterance is left.
    """

    texts: list[str]
    """Transcripts in the letters of the alphabet."""
    lengths: np.ndarray
    """Samples, int64 [n]."""
    listed: int
    """Utterances of the sources, the bad ones included."""
    cache_key: str
    """Changes when a recording may have changed."""

    def __init__(self, sources: Sequence[Source], config: SpeechDataConfig, name: str) -> None:
        self.config, self.sources = config, sources
        self.listed = sum(len(source.listings) for source in sources)
        self.cache_key = "-".join(source.cache_key for source in sources)
        self.texts = []
        self._places: list[tuple[Source, int]] = []
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
                    length, rate, channels = headers.values[index].tolist()
                    _check_recording(length, rate, channels, config.features)
                    if listing.segment:
                        _, length = listing.segment.within(length, rate)
                        _check_length(length, config.features)
                except ValueError as error:
                    self._reject(listing, str(error), name)
                else:
                    self._places.append((source, index))
                    self.texts.append(text)
                    lengths.append(length)
            _warn_of_duplicate_ids(source.listings, name)
        self.lengths = np.array(lengths, dtype=np.int64)
        if not self.texts:
            raise DataError(
                f"'{name}' of data '{config.name}' has no usable utterance: all {self.listed} are bad. The log gives "
                "the reason for each."
            )

    def __len__(self) -> int:
        return len(self.texts)

    def listing(self, index: int) -> Listing:
        source, place = self._places[index]
        return source.listings[place]

    def read(self, index: int) -> Tensor | None:
        """Samples, float32 [S]. None for a bad recording if bad recordings are skipped, else DataError."""
        source, place = self._places[index]
        try:
            samples, rate = source.samples(place)
            _check_recording(len(samples), rate, samples[:1].size, self.config.features)
            if not np.abs(samples).max() < _MAX_AMPLITUDE:
                raise BadRecording("it has samples that are not finite numbers (NaN, infinite or above 1e15)")
            if len(samples) != self.lengths[index]:
                kind = f"ends after {len(samples)} of" if len(samples) < self.lengths[index] else "has more than"
                raise BadRecording(f"it {kind} {self.lengths[index]} samples")
        except BadRecording as error:
            self._reject(source.listings[place], f"it cannot be read: {error}", "")
            return None
        return torch.from_numpy(samples)

    def _reject(self, listing: Listing, reason: str, split: str) -> None:
        where = f"{listing.name} (utterance {listing.id}{' of ' + split if split else ''})"
        if self.config.on_bad_utterance == "error":
            raise DataError(f"{where}: {reason}. Fix it, or set data.on_bad_utterance=skip to leave it out.")
        log.warning("%s", one_line(f"Left out {where}: {reason}."))


def _hint(listing: Listing) -> str:
    name = listing.name.lower()
    if name.endswith(".raw"):
        return "; a .raw file has no header, convert it, e.g. to WAV"
    return "; convert it, e.g. ffmpeg -i IN OUT.wav" if name.endswith((".m4a", ".aac", ".wma", ".webm")) else ""


def _warn_of_duplicate_ids(listings: Sequence[Listing], split: str) -> None:
    """Predictions and dither depend on the id."""
    counts = Counter(listing.id for listing in listings)
    duplicates = [listing for listing in listings if counts[listing.id] > 1]
    if duplicates:
        ids = list(dict.fromkeys(listing.id for listing in duplicates))
        names = ", ".join(listing.name for listing in duplicates if listing.id == ids[0])
        log.warning(
            "%s", one_line(f"{len(ids)} ids of {split} belong to several utterances, e.g. {ids[0]} to {names}.")
        )


def _check_recording(samples: int, rate: int, channels: int, config: FeatureConfig) -> None:
    if rate != config.sample_rate:
        raise BadRecording(
            f"its sample rate is {rate}, but data.features.sample_rate is {config.sample_rate}; convert it, e.g. "
            f"sox IN -r {config.sample_rate} OUT"
        )
    if channels != 1:
        raise BadRecording(f"it has {channels} channels, but must have one; mix them, e.g. sox IN -c 1 OUT")
    _check_length(samples, config)


def _check_length(samples: int, config: FeatureConfig) -> None:
    if samples < min_samples(config):
        hint = "" if samples else ": if its header lacks the length, convert it, e.g. sox --ignore-length IN OUT"
        raise BadRecording(f"it has {samples} samples, but features need at least {min_samples(config)}{hint}")
