"""NeMo's manifests: a JSON object per line."""

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
from novobench.tasks.sources import text_lines
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.recordings import Segment
from novobench.tasks.speech.sources import Headers, Listing, Paths, no_folder, no_split, storable

log = logging.getLogger(__name__)

_TOLD_SECONDS = 0.1
"""A manifest's duration that is wrong by more than this is told."""
_KEYS = ("audio_filepath", "text", "offset", "duration")


class ManifestSource(Paths):
    """`<split>.json`, a JSON object per line with `audio_filepath` (from the manifest's folder) and `text`, as NeMo has
    them.

    With an `offset` the utterance is that part of the recording, `duration` seconds or to the end. A `duration` without
    `offset` is only what the recording is said to last: all of it is taken. A line that is no such object is an
    error of the file; a value of a wrong type makes a bad utterance.
    """

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        folder = data_root / (config.path or config.name)
        if not folder.is_dir():
            raise no_folder(folder, config, "manifests (<split>.json)")
        self.manifest = folder / f"{split}.json"
        if not self.manifest.is_file():
            there = sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))
            raise no_split(f"{folder} has no manifest '{split}.json'.", split, there, config)
        self.listings, self.paths = [], []
        self.durations: list[Any] = []
        """As they are given, where they are to be compared with the recording."""
        unknown: dict[str, int] = {}
        for number, line in enumerate(text_lines(self.manifest), 1):
            if line.strip():
                entry = self._entry(line, number)
                self._add(entry, folder, number)
                unknown |= dict.fromkeys(entry.keys() - set(_KEYS), number)
        if not self.listings:
            raise DataError(f"{self.manifest} is empty.")
        if unknown:
            keys = ", ".join(f"'{key}' (line {number})" for key, number in sorted(unknown.items()))
            log.warning("%s", one_line(f"{self.manifest} has keys that mean nothing here: {keys}."))

    def _entry(self, line: str, number: int) -> dict[str, Any]:
        try:
            entry = json.loads(line, strict=False, object_pairs_hook=_without_doubles)
            if not isinstance(entry, dict):
                raise ValueError(f"it is {reprlib.repr(entry)}")
            missing = next((key for key in _KEYS[:2] if key not in entry), None)
            if missing:
                near = suggestion(missing, [key for key in entry if key not in _KEYS])
                raise ValueError(f"it has no '{missing}'.{near}" if near else f"it has no '{missing}'")
        except (ValueError, RecursionError) as error:
            told = str(error) if type(error) is ValueError else kind_and_message(error)
            hint = ""
            if isinstance(error, json.JSONDecodeError) or line.lstrip().startswith("["):
                hint = " Each line must be one object: write a JSON array or indented objects with jq -c."
            raise DataError(
                f"{self.manifest} line {number} is no JSON object with audio_filepath and text ({told}).{hint}"
            ) from None
        return entry

    def _add(self, entry: dict[str, Any], folder: Path, number: int) -> None:
        given, text, duration = entry["audio_filepath"], entry["text"], entry.get("duration")
        name, faults = f"{self.manifest} line {number}", []
        if _may_name_a_file(given):
            path = folder / os.path.expanduser(given)
            name = str(path)
        else:
            path = folder / type(given).__name__
            faults.append(f"its audio_filepath is {reprlib.repr(given)} and must be the name of a file")
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
        found = super().headers()
        seconds = found.known[:, 0] / found.known[:, 1]
        told = np.array([_seconds(duration) for duration in self.durations])
        wrong = np.flatnonzero((found.known[:, 0] > 0) & (np.abs(seconds - told) > _TOLD_SECONDS))
        if len(wrong):
            log.warning(
                "%s",
                one_line(
                    f"{self.manifest} is wrong about how long {len(wrong)} recordings last, e.g. "
                    f"{reprlib.repr(self.durations[wrong[0]])} s of {self.listings[wrong[0]].name}, which lasts "
                    f"{seconds[wrong[0]]:g} s: all of each is taken. A part of a recording needs an 'offset'."
                ),
            )
        return found


def _may_name_a_file(given: Any) -> bool:
    try:
        return isinstance(given, str) and 0 not in os.fsencode(given or "\0")
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which Python would take the last of several values with one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {next(repr(key) for key in keys if keys.count(key) > 1)} twice")
    return found


def _seconds(duration: Any) -> float:
    """NaN where nothing is said, infinite for what is no number of seconds."""
    if duration is None:
        return math.nan
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        return math.inf
    try:
        return float(duration)
    except OverflowError:
        return math.inf
