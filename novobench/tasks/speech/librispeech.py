"""LibriSpeech's trees of recordings and transcripts."""

from __future__ import annotations

import re
from pathlib import Path

from novobench.errors import DataError
from novobench.tasks.sources import data_folder, list_folder, missing_split, text_lines
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.listings import AUDIO_SUFFIXES, FileSource, Listing, split_remedy, storable

TRANSCRIPTS = ".trans.txt"
_DEPTH = len(("speaker", "chapter", "transcripts"))


class LibriSpeechSource(FileSource):
    """`<split>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac` (or .wav, .ogg, .opus, .mp3, …) with one
    `.trans.txt` per chapter.

    A line without its recording, a recording without its line, and a second line with the same id are listed with a
    fault. Hidden files and folders are ignored.
    """

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        contents = "LibriSpeech's folders (train-clean-100, dev-clean, …)"
        root = data_folder(data_root, config.path, config.name, contents)
        folder = root / split
        if not folder.is_dir():
            splits = [each.name for each in _subfolders(root)]
            raise missing_split(str(root), split, splits, split_remedy(split, splits, config))
        self.listings, self.paths = [], []
        transcribed = 0
        for speaker in _subfolders(folder):
            for chapter in _subfolders(speaker):
                transcribed += self._add_chapter(chapter)
        if not transcribed:
            raise DataError(
                f"{folder} holds no <speaker>/<chapter>/*{TRANSCRIPTS} with transcripts.{_misplaced(folder)}"
            )

    def _add_chapter(self, chapter: Path) -> int:
        """List a chapter's utterances; return how many ids its transcripts hold."""
        entries = list(_visible(chapter))
        files = [path for path in entries if path.suffix.lower() in AUDIO_SUFFIXES]
        files.sort(key=lambda path: AUDIO_SUFFIXES.index(path.suffix.lower()), reverse=True)
        recordings = {path.stem: path for path in files}
        first_line: dict[str, str] = {}
        for transcripts in (path for path in entries if path.name.endswith(TRANSCRIPTS)):
            if not transcripts.is_file():  # reading a pipe would block
                raise DataError(f"Cannot read {transcripts}: it is not a regular file.")
            for number, line in enumerate(text_lines(transcripts), 1):
                if not line.strip():
                    continue
                name, text = (*re.split(r"[ \t]", line.strip(), maxsplit=1), "")[:2]
                place = f"{transcripts.name} line {number}"
                fault = f"its id is in {first_line[name]} and again in {place}" if name in first_line else ""
                first_line.setdefault(name, place)
                self._add(name, text, recordings.get(name, chapter / f"{name}.flac"), fault)
        for name, path in sorted(recordings.items()):
            if name not in first_line:
                self._add(name, "", path)
        return len(first_line)

    def _add(self, name: str, text: str, path: Path, fault: str = "") -> None:
        self.listings.append(Listing(storable(name), text, str(path), fault=fault))
        self.paths.append(path)


def _visible(folder: Path) -> list[Path]:
    return [folder / name for name in list_folder(folder)]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _misplaced(folder: Path) -> str:
    """A sentence that names a transcript file at another depth; empty if the folder has none."""
    transcripts = (path.relative_to(folder) for path in folder.rglob(f"*{TRANSCRIPTS}"))
    visible = (path for path in transcripts if not any(part.startswith(".") for part in path.parts))
    example = min(visible, default=None)
    if example is None:
        return ""
    if len(example.parts) == _DEPTH:
        return f" {example} is empty."
    return f" It holds {example}: set data.path and the split's name so that two folders lie between."
