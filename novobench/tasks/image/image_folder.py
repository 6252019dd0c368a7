"""Lists an ImageFolder tree `<root>/<split>/<class>/…/<image>`: its splits, its classes and their files."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path

from novobench.errors import DataError
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.sources import listing_errors, printable

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
_HELD_OUT_NAMES = ("test", "val", "valid", "validation", "dev", "eval")
"""Usual names of splits that are not for training."""
_STRAY_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "__pycache__")
"""What archives, network drives, file systems and interpreters leave in a tree, besides hidden entries."""


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden and stray ones. Raises DataError if it cannot be
    listed."""
    with listing_errors(folder), os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _is_folder(entry) and not entry.name.startswith(".") and entry.name not in _STRAY_FOLDERS
        )


def unused_splits(config: ImageDataConfig, data_root: Path) -> list[str]:
    """Folders of a tree that have the name of a held-out split and that the config does not use."""
    if config.source != "folder":
        return []
    splits = subfolders(data_root / (config.path or config.name))
    used = (config.train_split, config.test_split, config.search_split)
    return [name for name in _HELD_OUT_NAMES if name in splits and name not in used]


def class_folders(split: Path) -> dict[str, str]:
    """Name of each class -> its folder.

    Names are composed (NFC), so that a class is the same whether its folder was named on macOS or elsewhere. Raises
    DataError for two folders of one name, and for a broken link.
    """
    with listing_errors(split), os.scandir(split) as entries:
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path) and not entry.name.startswith("."):
                raise DataError(
                    f"{printable(entry.path)} is a link to {printable(os.readlink(entry.path))}, which does not exist: "
                    "a class may be missing. Restore the target, or remove the link."
                )
    folders: dict[str, str] = {}
    by_lower_case: dict[str, str] = {}
    for folder in subfolders(split):
        name = unicodedata.normalize("NFC", folder)
        if name in folders:
            raise DataError(
                f"{printable(split)} has two folders whose names look the same and differ in their Unicode form: "
                f"{folders[name]!a} and {folder!a}. Put their images into one."
            )
        folders[name] = folder
        if other := by_lower_case.get(name.casefold()):
            log.warning(
                "%s has classes that differ only in upper and lower case: %s and %s. If they are one class, put their "
                "images into one folder.", printable(split), printable(other), printable(name),
            )  # fmt: skip
        by_lower_case[name.casefold()] = name
    return folders


def image_files(folder: Path) -> tuple[list[str], list[str]]:
    """Files under `folder` with an image suffix, and the other files; paths relative to `folder`, sorted.

    Links are followed, except those that lead back to a folder above them.
    """
    images: list[str] = []
    others: list[str] = []
    with listing_errors(folder):
        ancestors = [_identity(parent) for parent in folder.absolute().parents]
    pending = [("", ancestors)]
    while pending:
        relative, ancestors = pending.pop()
        current = folder / relative
        with listing_errors(current):
            identity = _identity(current)
            with os.scandir(current) as listing:
                entries = list(listing)
        if identity in ancestors:
            log.warning("Skipped %s: it leads back to a folder above it.", printable(current))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _STRAY_FOLDERS:
                continue
            name = f"{relative}/{entry.name}" if relative else entry.name
            if _is_folder(entry):
                pending.append((name, [*ancestors, identity]))
            else:
                (images if entry.name.lower().endswith(IMAGE_SUFFIXES) else others).append(name)
    return sorted(images), sorted(others)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or a target that may not be read
        return False
