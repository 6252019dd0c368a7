"""Imports all that a training needs. Forkservers preload this module, so processes forked from them need not.

An error here would end a forkserver with a traceback. It is dropped: the process that needs the package imports it
again and reports it.
"""

import contextlib
import importlib

with contextlib.suppress(Exception):
    from novobench.tasks.catalog import task_names
    from novobench.training import cell  # noqa: F401

    for name in task_names():
        with contextlib.suppress(Exception):
            importlib.import_module(f"novobench.tasks.{name}.task")
