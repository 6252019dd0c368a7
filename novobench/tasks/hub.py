"""Data sets of the Hugging Face hub, and local folders of parquet files with the same columns."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError, suggestion
from novobench.files import derived_folder, write_json
from novobench.tasks.sources import content_digests, listing_key

log = logging.getLogger(__name__)

_ROWS = 256
"""Rows read at a time."""


def open_hub(
    path: str, configuration: str, data_root: Path, split: str, columns: Mapping[str, str], settings: str
) -> Any:
    """A split as a `datasets.Dataset`: of the folder `path` under the data root if there is one, else of that hub id.

    `columns` are those it must have, each with the config key that names it (empty: the data set's own word for it);
    `settings` are the config keys that choose the split. Raises DataError, with what there is instead, if the data set
    cannot be opened or lacks a column.
    """
    import datasets

    datasets.disable_progress_bars()
    where, local = f"{path}[{split}]", data_root / path
    try:
        if path and local.is_dir():
            table = datasets.load_dataset(str(local), split=split)
        else:
            table = datasets.load_dataset(path, configuration or None, split=split)
    except ValueError as error:  # no such split or configuration; the message lists those that there are
        raise DataError(f"{where}: {' '.join(str(error).split())} Set {settings}.") from None
    except Exception as error:  # the hub, the network and the parquet reader have many ways to fail
        raise DataError(
            f"Cannot open split '{split}' of data set '{path}': {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}. Check data.path and the network, or put its parquet files in a "
            "folder under the data root."
        ) from None
    there = table.column_names
    for column, key in columns.items():
        if column not in there:
            hint = f" Set {key}." if key else " Set data.path."
            raise DataError(
                f"{where} has no column '{column}'.{suggestion(column, there)} It holds: {', '.join(there)}.{hint}"
            )
    return table


def row_source(row: Mapping[str, Any] | None, folder: Path) -> bytes | Path | None:
    """What an undecoded Image or Audio row holds: bytes, or the file it names (relative to `folder`), or nothing."""
    if row is None:
        return None
    if row.get("bytes"):
        return bytes(row["bytes"])
    return folder / row["path"] if row.get("path") else None


def row_digests(table: Any, column: str, folder: Path, split: str) -> np.ndarray:
    """BLAKE2b of what each row of an undecoded Image or Audio column holds, uint8 [rows, 16]; zeros for nothing.

    `folder` and `split` are what the table was opened with. The bytes are read once a machine, in batches: the digests
    are kept in the cache until a file of the table, or one that a row names, changes.
    """
    table, rows = table.select_columns([column]), len(table)
    kept = [Path(each["filename"]) for each in table.cache_files]

    def read() -> tuple[np.ndarray, list[tuple[int, str]]]:
        log.info("Reading %d rows once, to know the data set by its content.", rows)
        digests, named = np.zeros((rows, 16), dtype=np.uint8), []
        for start in range(0, rows, _ROWS):
            for index, row in enumerate(table[start : start + _ROWS][column], start):
                held = row_source(row, folder)
                if isinstance(held, bytes):
                    digests[index] = np.frombuffer(hashlib.blake2b(held, digest_size=16).digest(), dtype=np.uint8)
                elif held is not None:
                    named.append((index, str(held)))
        return digests, named

    def build(target: Path) -> None:
        digests, named = read()
        np.save(target / "digests.npy", digests)
        write_json(target / "named.json", named)

    if kept:
        key = hashlib.sha256(repr((listing_key(kept), split, column, rows, str(folder))).encode()).hexdigest()[:16]
        found = derived_folder(f"contents/table-{key}", build)
        digests, named = np.load(found / "digests.npy"), json.loads((found / "named.json").read_text(encoding="utf-8"))
    else:  # a table in memory is of no file that could be looked up
        digests, named = read()
    if named:
        digests[[index for index, _ in named]] = content_digests([Path(path) for _, path in named])
    return digests
