"""Data sets of the Hugging Face hub, and local folders of parquet files with the same columns."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError, kind_and_message, one_line, suggestion
from novobench.files import derived_folder, write_json
from novobench.tasks.sources import content_digests, listing_key

log = logging.getLogger(__name__)

_ROWS = 256
"""Rows read at a time."""
_UNREADABLE = re.compile(r"::|[\x00-\x1f\x7f]")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


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
    datasets.logging.set_verbosity(logging.CRITICAL)  # it prints each error before it raises it
    where, local = f"{path}[{split}]", data_root / path
    is_local = bool(path) and local.is_dir()
    if not is_local:
        _check_hub_id(path, data_root)
    try:
        if is_local:
            table = _open_folder(local, split)
        else:
            table = datasets.load_dataset(path, configuration or None, split=split)
    except DataError:
        raise
    except Exception as error:  # the hub, the network and the readers of files have many ways to fail
        if type(error) is ValueError:  # no such split or configuration; the message lists those that there are
            raise DataError(f"{where}: {one_line(error)} Set {settings}.") from None
        told = f"Cannot open split '{split}' of data set '{path}'"
        if type(error).__name__ in ("EmptyDatasetError", "DataFilesNotFoundError"):
            raise DataError(
                f"{told}: {local if is_local else path} holds no data files. It needs files of the splits, e.g. "
                f"{split}-00000-of-00001.parquet."
            ) from error
        if is_local:
            raise DataError(f"{told}: {_cause(error)}. Check the files in {local}.") from error
        raise DataError(
            f"{told}: {_cause(error)}. Check data.path and the network, or put its parquet files in a folder {path} "
            f"under the data root {data_root}."
        ) from error
    there = table.column_names
    for column, key in columns.items():
        if column not in there:
            hint = f" Set {key}." if key else " Set data.path."
            raise DataError(
                f"{where} has no column '{column}'.{suggestion(column, there)} It holds: {', '.join(there)}.{hint}"
            )
    return table


def _check_hub_id(path: str, data_root: Path) -> None:
    """Raise DataError for a path that is neither a folder under the data root nor may be a hub id. The library would
    take a folder of the working directory for one."""
    local = data_root / path
    if not path:
        raise DataError(f"data.path is empty: set it to a folder under the data root {data_root}, or to a hub id.")
    if local.exists():
        raise DataError(f"{local} is no folder: set data.path to the folder in which the data set's files lie.")
    if not _HUB_ID.fullmatch(path):
        raise DataError(
            f"No data folder {local}, and '{path}' cannot be a hub id (name, or owner/name). Set data.path."
        )
    if Path(path).exists():
        raise DataError(
            f"No data folder {local}, though there is {Path(path).absolute()}: folders are looked for under the data "
            "root alone. Set NOVOBENCH_DATA or data_root, or data.path to the whole path."
        )


def _open_folder(folder: Path, split: str) -> Any:
    """The split of a folder's files, as `datasets` finds it. What it keeps of them lies apart from what it keeps of the
    hub's data sets, so that no folder is ever taken for a hub's data set of its name."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns

    folder = folder.resolve()
    where = str(folder)
    if _UNREADABLE.search(where):
        raise DataError(
            f"The library `datasets` cannot read the path {where}: it has '::' or a control character. Rename the "
            "folder."
        )
    kept = Path(datasets.config.HF_DATASETS_CACHE) / "folders" / hashlib.sha256(os.fsencode(where)).hexdigest()[:16]
    settings: dict[str, Any] = {"split": split, "cache_dir": str(kept)}
    if glob.has_magic(where):  # the library would take other folders for this one
        base = glob.escape(where)
        files = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
        settings["data_files"] = {name: [glob.escape(file) for file in found] for name, found in files.items()}
    try:
        return datasets.load_dataset(where, **settings)
    except Exception as error:
        if type(error) is ValueError or isinstance(error, datasets.exceptions.DataFilesNotFoundError):
            raise
        if damage := _damage(folder):
            raise DataError(damage) from error
    shutil.rmtree(kept, ignore_errors=True)  # it may be damaged
    return datasets.load_dataset(where, **settings)


def _cause(error: BaseException) -> str:
    """What went wrong at the bottom: the library wraps errors in others that say nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return kind_and_message(error)


def _damage(folder: Path) -> str:
    """Which of a folder's parquet files is damaged, and how; empty if none is."""
    import pyarrow.parquet

    for path in sorted(folder.rglob("*.parquet")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):  # none of the data
            continue
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for _ in file.iter_batches(_ROWS):
                    pass
        except Exception as error:
            return f"{path} cannot be read: {kind_and_message(error)}. Replace the file."
    return ""


def read_rows(table: Any, rows: Sequence[int] | range, column: str, where: str) -> list[Any]:
    """A column's values in some rows. Raises DataError where what `datasets` keeps of the table is damaged."""
    try:
        return table[rows][column]
    except Exception as error:
        kept = sorted({str(Path(each["filename"]).parent) for each in table.cache_files})
        raise DataError(
            f"Cannot read rows {rows[0]} to {rows[-1]} of {where}: {kind_and_message(error)}. Remove what is kept of "
            f"the data set ({', '.join(kept)}), then run the same command again."
        ) from error


def row_source(row: Mapping[str, Any] | None, folder: Path) -> bytes | Path | None:
    """What an undecoded Image or Audio row holds: bytes, or the file it names (relative to `folder`), or nothing."""
    if row is None:
        return None
    if row.get("bytes"):
        return bytes(row["bytes"])
    return folder / row["path"] if row.get("path") else None


def row_digests(table: Any, column: str, folder: Path, split: str, where: str) -> np.ndarray:
    """BLAKE2b of what each row of an undecoded Image or Audio column holds, uint8 [rows, 16]; zeros for nothing.

    `folder` and `split` are what the table was opened with; `where` says it in messages. The bytes are read once a
    machine, in batches: the digests are kept in the cache until a file of the table, or one that a row names, changes.
    """
    table, rows = table.select_columns([column]), len(table)
    kept = [Path(each["filename"]) for each in table.cache_files]

    def read() -> tuple[np.ndarray, list[tuple[int, str]]]:
        log.info("Reading %d rows once, to know the data set by its content.", rows)
        digests, named = np.zeros((rows, 16), dtype=np.uint8), []
        for start in range(0, rows, _ROWS):
            chosen = range(start, min(start + _ROWS, rows))
            for index, row in zip(chosen, read_rows(table, chosen, column, where), strict=True):
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
