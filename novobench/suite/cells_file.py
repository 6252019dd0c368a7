"""`cells.json`: what cells (training runs) were trained with, and the digests of their results.

What the seeds of a training have in common stands in the file once, under `trainings`, and so does each environment.
A cell names both by digests of their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from novobench.config import seed_of
from novobench.files import json_lines
from novobench.suite.checked_files import check_entry, damaged, parse_object

SCHEMA = 3
"""Version of the file; `earlier_layout.py` reads versions 1 and 2."""
ENTRY_KEYS = {"config": dict, "environment": dict, "fingerprint": str, "updates": int}
"""Keys that readers need in an entry."""
_OF_TRAINING = ("config", "updates", "epochs", "purpose", "fingerprint", "counts", "scoring")
"""Keys of an entry that are stored once for all seeds with the same values; the seed is not stored in the config."""
_SECTIONS: dict[str, dict[str, type]] = {
    "environments": {},
    "trainings": {key: kind for key, kind in ENTRY_KEYS.items() if key != "environment"},
    "cells": {"training": str, "environment": str, "digest": str},
}
"""Part of the file -> the keys that each of its entries needs."""


def parse(path: Path, content: bytes | None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Cell -> its entry, and cell -> its digest. Raises NovobenchError, which names the file, if the file is damaged.

    A cell whose training or environment is not in the file has no entry.
    """
    sections = _sections(path, content)
    entries, digests = {}, {}
    for cell, stored in sections["cells"].items():
        training = sections["trainings"].get(stored["training"])
        environment = sections["environments"].get(stored["environment"])
        if training is not None and environment is not None:
            config = {**training["config"], "seed": seed_of(cell)}
            own = {key: value for key, value in stored.items() if key not in _SECTIONS["cells"]}
            entries[cell] = {**training, "config": config, "environment": environment, **own}
            digests[cell] = stored["digest"]
    return entries, digests


def is_of_this_version(path: Path, content: bytes | None) -> bool:
    """Whether a file has sections. Earlier versions hold the entries of the cells and nothing else."""
    if content is None:
        return True
    file = parse_object(path, content)
    return not file or isinstance(file.get("schema"), int)


def _sections(path: Path, content: bytes | None) -> dict[str, dict[str, dict[str, Any]]]:
    file = {} if content is None else parse_object(path, content)
    if not file:
        return {name: {} for name in _SECTIONS}
    if file["schema"] != SCHEMA:
        raise damaged(path, f"it has schema {file['schema']}, and this novobench reads {SCHEMA}")
    for name, keys in _SECTIONS.items():
        if not isinstance(file.get(name), dict):
            raise damaged(path, f"it lacks its {name}")
        for id, entry in file[name].items():
            try:
                check_entry(entry, keys)
            except ValueError as error:
                raise damaged(path, f"the entry of {id} {error}") from None
    return {name: file[name] for name in _SECTIONS}


def content_of(entries: Mapping[str, dict[str, Any]], digests: Mapping[str, str]) -> bytes:
    """The content of the file with these cells. The same cells give the same bytes."""
    environments: dict[str, Any] = {}
    trainings: dict[str, Any] = {}
    cells = {}
    for cell, entry in sorted(entries.items()):
        config = {key: value for key, value in entry["config"].items() if key != "seed"}
        training = {key: entry[key] for key in _OF_TRAINING if key in entry} | {"config": config}
        cells[cell] = {
            "training": _add(trainings, training),
            "environment": _add(environments, entry["environment"]),
            **{key: value for key, value in entry.items() if key not in (*_OF_TRAINING, "environment")},
            "digest": digests[cell],
        }
    sections = {"environments": dict(sorted(environments.items())), "trainings": dict(sorted(trainings.items()))}
    return (json_lines({"schema": SCHEMA, **sections, "cells": cells}) + "\n").encode()


def _add(section: dict[str, Any], content: Any) -> str:
    """Add a content to a section unless it is there; returns its digest, by which cells name it."""
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
    section[key] = content
    return key
