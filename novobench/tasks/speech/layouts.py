"""Which layout the recordings of a folder have, and the names of its splits."""

from __future__ import annotations

from pathlib import Path

from novobench.tasks.sources import list_folder, split_role
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.librispeech import TRANSCRIPTS
from novobench.tasks.speech.tables import FILE_COLUMNS, TEXT_COLUMNS
from novobench.tasks.tables import Table, table_file, table_splits


def source_kind(folder: Path) -> str:
    """The `data.source` that a folder's content suggests; `hub` if there is no such folder."""
    if not folder.is_dir():
        return "hub"
    if _manifests(folder):
        return "manifest"
    if next(folder.rglob(f"*{TRANSCRIPTS}"), None) is not None:
        return "librispeech"
    return "hub" if next(folder.rglob("*.parquet"), None) else "folder"


def split_names(source: str, config: SpeechDataConfig, data_root: Path) -> list[str]:
    """The splits of a source; `.` for a folder without any. Raises DataError if the hub does not know them."""
    path = config.path or config.name
    if source == "hub":
        from novobench.tasks import hub

        return hub.split_names(path, config.hub_config, data_root)
    if source == "manifest":
        return _manifests(data_root / path)
    folders = [name for name in list_folder(data_root / path) if (data_root / path / name).is_dir()]
    return folders if source != "folder" or any(map(split_role, folders)) else ["."]


def _manifests(folder: Path) -> list[str]:
    """The names of a folder's manifests: JSON files, and tables with columns of recordings and transcripts."""
    names = [name.removesuffix(".json") for name in list_folder(folder) if name.endswith(".json")]
    for name in table_splits(folder):
        file = table_file(folder, name)
        table = Table(file) if file is not None else None
        if table is not None and table.find(FILE_COLUMNS) is not None and table.find(TEXT_COLUMNS) is not None:
            names.append(name)
    return names
