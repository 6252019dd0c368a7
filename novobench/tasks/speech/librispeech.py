"""LibriSpeech's trees of recordings and transcripts."""

from __future__ import annotations

import re
from pathlib import Path

from novobench.errors import DataError
from novobench.tasks.sources import list_folder, text_lines
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.sources import Listing, Paths, no_folder, no_split, storable

_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".sph")
"""Of recordings; where a name has two, the first of these counts."""
_TRANSCRIPTS = ".trans.txt"
_DEPTH = len(("speaker", "chapter", "transcripts"))


class LibriSpeechSource(Paths):
    """`<split>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac` (or .wav, .ogg, .opus, .mp3, …) with one
    `.trans.txt` per chapter. A line without its recording, a recording without its line, and a second line with the
    same id are listed and are bad utterances. Hidden files and folders are none of it."""

    def __init__(self, config: SpeechDataConfig, data_root: Path, split: str) -> None:
        root = data_root / (config.path or config.name)
        if not root.is_dir():
            raise no_folder(root, config, "LibriSpeech's folders (train-clean-100, dev-clean, …)")
        folder = root / split
        if not folder.is_dir():
            raise no_split(f"{root} has no split '{split}'.", split, [each.name for each in _folders(root)], config)
        self.listings, self.paths = [], []
        transcribed = 0
        for speaker in _folders(folder):
            for chapter in _folders(speaker):
                transcribed += self._add_chapter(chapter)
        if not transcribed:
            raise DataError(
                f"{folder} holds no <speaker>/<chapter>/*{_TRANSCRIPTS} with transcripts.{_elsewhere(folder)}"
            )

    def _add_chapter(self, chapter: Path) -> int:
        """How many lines of transcripts it has."""
        entries = list(_visible(chapter))
        files = [path for path in entries if path.suffix.lower() in _SUFFIXES]
        files.sort(key=lambda path: _SUFFIXES.index(path.suffix.lower()), reverse=True)
        recordings = {path.stem: path for path in files}
        seen: dict[str, str] = {}
        for transcripts in (path for path in entries if path.name.endswith(_TRANSCRIPTS)):
            if not transcripts.is_file():  # reading a pipe would wait for ever
                raise DataError(f"Cannot read {transcripts}: it is no regular file.")
            for number, line in enumerate(text_lines(transcripts), 1):
                if not line.strip():
                    continue
                name, text = (*re.split(r"[ \t]", line.strip(), maxsplit=1), "")[:2]
                place = f"{transcripts.name} line {number}"
                fault = f"its id is in {seen[name]} already, and again in {place}" if name in seen else ""
                seen.setdefault(name, place)
                self._add(name, text, recordings.get(name, chapter / f"{name}.flac"), fault)
        for name, path in sorted(recordings.items()):
            if name not in seen:
                self._add(name, "", path)
        return len(seen)

    def _add(self, name: str, text: str, path: Path, fault: str = "") -> None:
        self.listings.append(Listing(storable(name), text, str(path), fault=fault))
        self.paths.append(path)


def _visible(folder: Path) -> list[Path]:
    return [folder / name for name in list_folder(folder)]


def _elsewhere(folder: Path) -> str:
    found = (path.relative_to(folder) for path in folder.rglob(f"*{_TRANSCRIPTS}"))
    shown = min((path for path in found if not any(part.startswith(".") for part in path.parts)), default=None)
    if shown is None:
        return ""
    if len(shown.parts) == _DEPTH:
        return f" {shown} has none."
    return f" It holds {shown}: set data.path and the split's name so that two folders lie between."


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]
