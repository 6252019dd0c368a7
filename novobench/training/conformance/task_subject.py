"""A task to check, at laptop scale on the CPU."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from novobench import places
from novobench.config import CellConfig
from novobench.config_loading import override
from novobench.tasks import base, catalog

UPDATES = 4
_SETTINGS = {
    "seed": 0,
    "budget": f"{UPDATES}steps",
    "purpose": "search",
    "optimizer.name": "adamw",
    "optimizer.lr": 1e-3,
    "runtime.curve_points": 1,
    "runtime.checkpoint_every": UPDATES // 2,
    "runtime.log_every": 1,
}


@dataclass(frozen=True)
class TaskSubject:
    """A task to check."""

    name: str
    folder: Path
    """An empty folder for the run of a cell."""

    @cached_property
    def declared(self) -> Any:
        """The module `config`."""
        return importlib.import_module(f"novobench.tasks.{self.name}.config")

    @property
    def path(self) -> Path:
        return Path(self.declared.__file__).parent

    def config(self, scale: str = "laptop", **changes: Any) -> CellConfig:
        """A cell of a few updates; `changes` are dotted keys with `__` for the dot."""
        tree = catalog.load_task(self.name, places.workspace().task_config(self.name, scale))
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        where = f"configs/{self.name}/{scale}.yaml"
        device = {"runtime.accelerator": "cpu"} if scale == "laptop" else {}
        settings = {"task": self.name, **_SETTINGS, **device, **dotted}
        return catalog.resolve(override(tree, settings, where), where)

    @cached_property
    def built(self) -> tuple[base.TaskModule, base.TaskData]:
        """Module and data, set up."""
        module, data = base.build(self.config())
        data.setup("fit")
        return module, data
