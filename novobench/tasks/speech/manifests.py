"""NeMo's manifests: one JSON object per line."""

from __future__ import annotations

import json
import logging
import math
import os
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError, kind_and_message, one_line, suggestion
from novobench.tasks.sources import data_folder, missing_split, text_lines
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.listings import FileSource, Headers, Listing, split_remedy, storable
from novobench.tasks.speech.recordings import Segment

log = logging.getLogger(__name__)

_DURATION_TOLERANCE_S = 0.1
"""A duration in a manifest that is off by more than this is logged."""
_KEYS = ("audio_filepath", "text", "offset", "duration")


class ManifestSource(FileSource):
    """`<split>.json`, one JSON object per line with `audio_filepath` (relative to the manifest's folder) and `text`.

    With an `offset`, the utterance is that part of the recording: `duration` seconds of it, or all to its end. A
    `duration` without `offset` only describes the recording, which is taken whole. A line that is not such an object is
    an error of the file; a value of a wrong type makes a bad utterance.
    """

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        folder = data_folder(data_root, config.path, config.name, "manifests (<split>.json)")
        self.manifest = folder / f"{split}.json"
        if not self.manifest.is_file():
            splits = sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))
            where = f"{folder} (manifests <split>.json)"
            raise missing_split(where, split, splits, split_remedy(split, splits, config))
        self.listings, self.paths = [], []
        self.durations: list[Any] = []
        """Of each listing, as in the manifest; None if it need not be compared with the recording."""
        unknown_keys: dict[str, int] = {}
        for number, line in enumerate(text_lines(self.manifest), 1):
            if line.strip():
                entry = self._entry(line, number)
                self._add(entry, folder, number)
                unknown_keys |= dict.fromkeys(entry.keys() - set(_KEYS), number)
        if not self.listings:
            raise DataError(f"{self.manifest} is empty.")
        if unknown_keys:
            keys = ", ".join(f"'{key}' (line {number})" for key, number in sorted(unknown_keys.items()))
            log.warning("%s", one_line(f"{self.manifest} has keys that are ignored: {keys}."))

    def _entry(self, line: str, number: int) -> dict[str, Any]:
        """One line as an object with the required keys."""
        try:
            entry = json.loads(line, strict=False, object_pairs_hook=_without_duplicates)
            if not isinstance(entry, dict):
                raise ValueError(f"it is {reprlib.repr(entry)}")
            missing = next((key for key in _KEYS[:2] if key not in entry), None)
            if missing:
                near = suggestion(missing, [key for key in entry if key not in _KEYS])
                raise ValueError(f"it has no '{missing}'.{near}" if near else f"it has no '{missing}'")
        except (ValueError, RecursionError) as error:
            reason = str(error) if type(error) is ValueError else kind_and_message(error)
            hint = ""
            if isinstance(error, json.JSONDecodeError) or line.lstrip().startswith("["):
                hint = " Each line must be one object: convert a JSON array or indented objects with jq -c."
            raise DataError(
                f"{self.manifest} line {number} is not a JSON object with audio_filepath and text ({reason}).{hint}"
            ) from None
        return entry

    def _add(self, entry: dict[str, Any], folder: Path, number: int) -> None:
        audio, text, duration = entry["audio_filepath"], entry["text"], entry.get("duration")
        name, faults = f"{self.manifest} line {number}", []
        if _is_file_name(audio):
            path = folder / os.path.expanduser(audio)
            name = str(path)
        else:
            path = folder / type(audio).__name__
            faults.append(f"its audio_filepath is {reprlib.repr(audio)} and must be the name of a file")
        if text is not None and not isinstance(text, str):
            faults.append(f"its text is {reprlib.repr(text)} and must be a string")
        identity, segment = path.stem, None
        if entry.get("offset") is not None:
            segment, duration = Segment(entry["offset"], duration), None
            identity += f"@{reprlib.repr(segment.offset)}"
            identity += f"+{reprlib.repr(segment.duration)}" if segment.duration is not None else ""
        text = text if isinstance(text, str) else ""
        self.paths.append(path)
        self.listings.append(Listing(storable(identity), text, name, segment, "; ".join(faults)))
        self.durations.append(duration)

    def headers(self) -> Headers:
        headers = super().headers()
        seconds = headers.values[:, 0] / headers.values[:, 1]
        stated = np.array([_seconds(duration) for duration in self.durations])
        readable = headers.values[:, 0] > 0
        wrong = np.flatnonzero(readable & (np.abs(seconds - stated) > _DURATION_TOLERANCE_S))
        if len(wrong):
            log.warning(
                "%s",
                one_line(
                    f"{self.manifest} has wrong durations for {len(wrong)} recordings, e.g. "
                    f"{reprlib.repr(self.durations[wrong[0]])} s for {self.listings[wrong[0]].name}, which lasts "
                    f"{seconds[wrong[0]]:g} s: all of each is taken. A part of a recording needs an 'offset'."
                ),
            )
        return headers


def _is_file_name(value: Any) -> bool:
    try:
        return isinstance(value, str) and 0 not in os.fsencode(value or "\0")
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Python would silently keep the last of several values with the same key."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {next(repr(key) for key in keys if keys.count(key) > 1)} twice")
    return entry


def _seconds(duration: Any) -> float:
    """NaN for None, infinity for a value that is not a number of seconds."""
    if duration is None:
        return math.nan
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        return math.inf
    try:
        return float(duration)
    except OverflowError:
        return math.inf
