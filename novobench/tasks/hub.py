"""Data sets of the Hugging Face hub, and local folders of parquet files with the same columns."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError, kind_and_message, one_line, suggestion
from novobench.files import derived_folder, write_json
from novobench.tasks.sources import content_digests, listed, listing_key

log = logging.getLogger(__name__)

_BATCH_ROWS = 256
"""Rows with images or recordings that are read at once."""
_TEXT_ROWS = 10_000
"""Rows of text that are read at once."""
_TEXT_TYPES = ("string", "large_string", "string_view")
_UNREADABLE_PATH = re.compile(r"::|[\x00-\x1f\x7f]")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


def open_hub(
    path: str, configuration: str, data_root: Path, split: str, columns: Mapping[str, str], settings: str
) -> Any:
    """A split as a `datasets.Dataset`: of the folder `path` under the data root if it exists, else of that hub id.

    `columns` are the required columns, each with the config key that names it (empty if no key does); `settings` are
    the config keys that choose the split. Raises DataError if the data set cannot be opened or lacks a column; the
    message says which splits or columns it has.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # it prints each error before it raises it
    where, local = split_label(path, split), data_root / path
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
        if type(error) is ValueError:  # no such split or configuration; the message lists the existing ones
            raise DataError(f"{where}: {one_line(error)} Set {settings}.") from None
        failure = f"Cannot open split '{split}' of data set '{path}'"
        if type(error).__name__ in ("EmptyDatasetError", "DataFilesNotFoundError"):
            raise DataError(
                f"{failure}: {local if is_local else path} holds no data files. It needs files of the splits, e.g. "
                f"{split}-00000-of-00001.parquet."
            ) from error
        if is_local:
            raise DataError(f"{failure}: {_root_cause(error)}. Check the files in {local}.") from error
        raise DataError(
            f"{failure}: {_root_cause(error)}. Check data.path and the network, or put its parquet files in a folder "
            f"{path} under the data root {data_root}."
        ) from error
    for column, key in columns.items():
        if column not in table.column_names:
            raise missing_column(where, f"'{column}'", table.column_names, f"Set {key or 'data.path'}.", column)
    return table


def split_names(path: str, configuration: str, data_root: Path) -> list[str]:
    """The splits of a folder of data files under the data root, or of a hub data set. Raises DataError."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns

    local = data_root / path
    try:
        if path and local.is_dir():
            base = glob.escape(str(local.resolve()))
            files = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
            return [str(name) for name in files]
        _check_hub_id(path, data_root)
        return [str(name) for name in datasets.get_dataset_split_names(path, configuration or None)]
    except DataError:
        raise
    except Exception as error:
        where = f"folder {local}" if local.is_dir() else f"data set '{path}'"
        raise DataError(
            f"Cannot find the splits of {where}: {_root_cause(error)}. Check data.path and the network, or put files "
            f"in a known layout there (`novobench/tasks/BRING_YOUR_DATA.md`)."
        ) from error


def split_label(path: str, split: str) -> str:
    """A split of a data set for messages, `uoft-cs/cifar10[train]`."""
    return f"{path}[{split}]"


def missing_column(where: str, column: str, columns: Sequence[str], remedy: str, name: str = "") -> DataError:
    """The error for a table without a `column`, which lists its `columns`; for `name` the nearest one is suggested."""
    hint = suggestion(name, list(columns)) if name else ""
    return DataError(f"{where} has no column {column}.{hint} It holds: {listed(columns)}. {remedy}")


def check_text(feature: Any, column: str, where: str, remedy: str) -> None:
    """Raise DataError unless a column (or a field of one) of type `feature` holds text.

    `column` names it in the message, e.g. `column 'text'`; `remedy` is a sentence with the keys to set.
    """
    dtype = getattr(feature, "dtype", "lists or mappings")
    if dtype not in _TEXT_TYPES:
        raise DataError(f"{where}: {column} holds {dtype}, not text. {remedy}")


def column_values(table: Any, column: str, where: str) -> Iterator[Any]:
    """The values of a column, row by row. Raises DataError for text that is not UTF-8."""
    try:
        for rows in table.iter(batch_size=_TEXT_ROWS):
            yield from rows[column]
    except UnicodeDecodeError:
        raise DataError(f"{where}: column '{column}' has text that is not UTF-8. Write the data set again.") from None


def _check_hub_id(path: str, data_root: Path) -> None:
    """Raise DataError for a path that is neither a folder under the data root nor a possible hub id. The library would
    otherwise open a folder of the working directory."""
    local = data_root / path
    if not path:
        raise DataError(f"data.path is empty: set it to a folder under the data root {data_root}, or to a hub id.")
    if local.exists():
        raise DataError(f"{local} is not a folder: set data.path to the folder with the data set's files.")
    if not _HUB_ID.fullmatch(path):
        raise DataError(
            f"No data folder {local}, and '{path}' cannot be a hub id (name, or owner/name). Set data.path."
        )
    if Path(path).exists():
        raise DataError(
            f"No data folder {local}, although {Path(path).absolute()} exists: relative paths start at the data root. "
            "Set NOVOBENCH_DATA or data_root, or set data.path to the absolute path."
        )


def _open_folder(folder: Path, split: str) -> Any:
    """The split of a folder's files, as `datasets` finds it. The library's cache of folders is separate from its cache
    of hub data sets, so that a folder is never taken for the hub's data set of the same name."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns

    folder = folder.resolve()
    where = str(folder)
    if _UNREADABLE_PATH.search(where):
        raise DataError(
            f"The library `datasets` cannot read the path {where}: it has '::' or a control character. Rename the "
            "folder."
        )
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "folders" / hashlib.sha256(os.fsencode(where)).hexdigest()[:16]
    settings: dict[str, Any] = {"split": split, "cache_dir": str(cache)}
    if glob.has_magic(where):  # the library would read the path as a pattern and open other folders
        base = glob.escape(where)
        files = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
        settings["data_files"] = {name: [glob.escape(path) for path in paths] for name, paths in files.items()}
    try:
        return datasets.load_dataset(where, **settings)
    except Exception as error:
        if type(error) is ValueError or isinstance(error, datasets.exceptions.DataFilesNotFoundError):
            raise
        if damage := _damage(folder):
            raise DataError(damage) from error
    shutil.rmtree(cache, ignore_errors=True)  # it may be damaged
    return datasets.load_dataset(where, **settings)


def _root_cause(error: BaseException) -> str:
    """The first error of a chain: the library wraps errors in others that say nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return kind_and_message(error)


def _damage(folder: Path) -> str:
    """The first damaged parquet file of a folder, and what is wrong with it; empty if all are good."""
    import pyarrow.parquet

    for path in sorted(folder.rglob("*.parquet")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):  # hidden: not data
            continue
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for _ in file.iter_batches(_BATCH_ROWS):
                    pass
        except Exception as error:
            return f"{path} cannot be read: {kind_and_message(error)}. Replace the file."
    return ""


def read_rows(table: Any, rows: Sequence[int] | range, column: str, where: str) -> list[Any]:
    """The values of a column in some rows. Raises DataError if the library's cache of the table is damaged."""
    try:
        return table[rows][column]
    except Exception as error:
        caches = sorted({str(Path(file["filename"]).parent) for file in table.cache_files})
        raise DataError(
            f"Cannot read rows {rows[0]} to {rows[-1]} of {where}: {kind_and_message(error)}. Remove the cache of the "
            f"data set ({', '.join(caches)}), then run the same command again."
        ) from error


def row_source(row: Mapping[str, Any] | None, folder: Path) -> bytes | Path | None:
    """The content of an undecoded Image or Audio row: bytes, or a file (relative to `folder`), or None."""
    if row is None:
        return None
    if row.get("bytes"):
        return bytes(row["bytes"])
    return folder / row["path"] if row.get("path") else None


def row_digests(table: Any, column: str, folder: Path, split: str, where: str) -> np.ndarray:
    """BLAKE2b of each row's content in an undecoded Image or Audio column, uint8 [rows, 16]; zeros for no content.

    `folder` and `split` are what the table was opened with; `where` names the split in messages. The bytes are read
    once per machine, in batches: the cache keeps the digests until a file of the table, or a file that a row names,
    changes.
    """
    table, rows = table.select_columns([column]), len(table)
    table_files = [Path(file["filename"]) for file in table.cache_files]

    def read() -> tuple[np.ndarray, list[tuple[int, str]]]:
        """The digests of rows with bytes, and index and path of the rows that name a file."""
        log.info("Reading %d rows once, to identify the data set by its content.", rows)
        digests, row_paths = np.zeros((rows, 16), dtype=np.uint8), []
        for start in range(0, rows, _BATCH_ROWS):
            indices = range(start, min(start + _BATCH_ROWS, rows))
            for index, row in zip(indices, read_rows(table, indices, column, where), strict=True):
                content = row_source(row, folder)
                if isinstance(content, bytes):
                    digests[index] = np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), dtype=np.uint8)
                elif content is not None:
                    row_paths.append((index, str(content)))
        return digests, row_paths

    def build(cache: Path) -> None:
        digests, row_paths = read()
        np.save(cache / "digests.npy", digests)
        write_json(cache / "named.json", row_paths)

    if table_files:
        identity = repr((listing_key(table_files), split, column, rows, str(folder)))
        cache = derived_folder(f"contents/table-{hashlib.sha256(identity.encode()).hexdigest()[:16]}", build)
        digests = np.load(cache / "digests.npy")
        row_paths = json.loads((cache / "named.json").read_text(encoding="utf-8"))
    else:  # a table in memory has no file to take a key from
        digests, row_paths = read()
    if row_paths:
        digests[[index for index, _ in row_paths]] = content_digests([Path(path) for _, path in row_paths])
    return digests
