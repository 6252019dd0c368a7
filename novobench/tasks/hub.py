"""Data sets of the Hugging Face hub, and local folders of parquet files with the same columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from novobench.errors import DataError, suggestion


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
