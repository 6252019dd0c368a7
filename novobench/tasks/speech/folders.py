"""Plain trees of recordings, each with a file of its transcript next to it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from novobench.errors import DataError, one_line
from novobench.tasks.sources import data_folder, list_folder, listing_errors, missing_split, text_lines
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.listings import AUDIO_SUFFIXES, FileSource, Listing, split_remedy, storable

log = logging.getLogger(__name__)

TRANSCRIPT_SUFFIXES = (".txt", ".lab")
"""Of the file with a recording's transcript. If a recording has both, the first counts."""


class FolderSource(FileSource):
    """`<split>/…/<name>.wav` (or .flac, .mp3, .ogg, .opus, …) with `<name>.txt` or `<name>.lab` next to it, in folders
    of any depth; suffixes of any case.

    A recording without a transcript is a bad utterance. Hidden files and folders are ignored. The split `.` is the
    whole folder.
    """

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        root = data_folder(data_root, config.path, config.name, "recordings with transcripts (a.wav and a.txt)")
        folder = root / split
        if not folder.is_dir():
            splits = [name for name in list_folder(root) if (root / name).is_dir()]
            raise missing_split(str(root), split, splits, split_remedy(split, splits, config))
        self.listings, self.paths = [], []
        without_recording: list[Path] = []
        with listing_errors(folder):
            for current, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                names = sorted(name for name in files if not name.startswith("."))
                without_recording += self._add_folder(folder, Path(current), names)
        if not self.listings:
            raise DataError(
                f"{folder} holds no recording ({', '.join(AUDIO_SUFFIXES)}). Put each next to its transcript, e.g. "
                "a.wav and a.txt."
            )
        if without_recording:
            first = without_recording[0]
            log.warning("%s", one_line(f"{len(without_recording)} .lab files have no recording, e.g. {first}."))

    def _add_folder(self, root: Path, folder: Path, names: list[str]) -> list[Path]:
        """List the recordings of one folder; return its `.lab` files without a recording."""
        recordings: dict[str, str] = {}
        transcripts: dict[str, str] = {}
        for name in names:
            stem, suffix = os.path.splitext(name)
            for suffixes, chosen in ((AUDIO_SUFFIXES, recordings), (TRANSCRIPT_SUFFIXES, transcripts)):
                if suffix.lower() not in suffixes:
                    continue
                rank = suffixes.index(suffix.lower())
                if stem not in chosen or rank < suffixes.index(os.path.splitext(chosen[stem])[1].lower()):
                    chosen[stem] = name
        for stem, name in recordings.items():
            path = folder / name
            text = " ".join(text_lines(folder / transcripts[stem])).strip() if stem in transcripts else ""
            fault = "" if stem in transcripts else f"it has no transcript ({'/'.join(TRANSCRIPT_SUFFIXES)} of its name)"
            identity = (folder / stem).relative_to(root).as_posix()
            self.listings.append(Listing(storable(identity), text, str(path), fault=fault))
            self.paths.append(path)
        return [
            folder / name
            for stem, name in transcripts.items()
            if name.lower().endswith(".lab") and stem not in recordings
        ]


def _raise(error: OSError) -> None:
    raise error
