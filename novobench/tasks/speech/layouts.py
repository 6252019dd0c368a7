"""Which layout the recordings of a folder have, and the names of its splits."""

from __future__ import annotations

from pathlib import Path

from novobench.tasks.sources import list_folder
from novobench.tasks.speech.config import SpeechDataConfig


def source_kind(folder: Path) -> str:
    """The `data.source` that a folder's content suggests; `hub` if there is no such folder."""
    if not folder.is_dir():
        return "hub"
    if any(name.lower().endswith(".json") for name in list_folder(folder)):
        return "manifest"
    return "hub" if next(folder.rglob("*.parquet"), None) else "librispeech"


def split_names(source: str, config: SpeechDataConfig, data_root: Path) -> list[str]:
    """The splits of a source. Raises DataError if the hub does not know them."""
    path = config.path or config.name
    if source == "hub":
        from novobench.tasks import hub

        return hub.split_names(path, config.hub_config, data_root)
    names = list_folder(data_root / path)
    if source == "manifest":
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return [name for name in names if (data_root / path / name).is_dir()]
