"""Checks of a task: its files and what its `config.py` declares, see `tasks/base_config.py`."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from novobench import places
from novobench.config import SCALES
from novobench.config_loading import read_yaml
from novobench.tasks.base_config import DataConfig
from novobench.training.conformance.checks import Check, Failed, NotApplicable, check
from novobench.training.conformance.task_subject import TaskSubject

DECLARATIONS: list[Check] = []


@check(
    DECLARATIONS,
    "its folder has config.py, model.py and task.py, and configs for each scale",
    why="Commands find a task by its config.py, a training by its task.py, and people by the same names in each task.",
    advice="Copy the layout of novobench/tasks/image and of configs/image.",
    essential=True,
)
def has_files(subject: TaskSubject) -> str | None:
    if lacking := [name for name in ("config.py", "model.py", "task.py") if not (subject.path / name).is_file()]:
        raise Failed(f"it lacks {', '.join(lacking)}")
    files = {scale: places.workspace().task_config(subject.name, scale) for scale in SCALES}
    absent = [scale for scale, file in files.items() if not file.is_file()]
    if "laptop" in absent:
        raise Failed(f"there is no {places.display_path(files['laptop'])}")
    return f"but none for {' and '.join(absent)}" if absent else None


@check(
    DECLARATIONS,
    "config.py declares what others read",
    why="The fields of a config, its checks and its data sets come from there; see novobench/tasks/base_config.py.",
    advice="Declare RECIPE_VERSION, MODEL, DATA, BUILT_IN, SHIPPED and validate(config).",
    essential=True,
)
def declares(subject: TaskSubject) -> None:
    declared = subject.declared
    names = ("RECIPE_VERSION", "MODEL", "DATA", "BUILT_IN", "SHIPPED", "validate")
    if lacking := [name for name in names if not hasattr(declared, name)]:
        raise Failed(f"it does not declare {', '.join(lacking)}")
    version = declared.RECIPE_VERSION
    if type(version) is not int or version < 1:
        raise Failed(f"RECIPE_VERSION is {version!r}, not a whole number from 1")
    for name in ("MODEL", "DATA"):
        kind = getattr(declared, name)
        if not (inspect.isclass(kind) and dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]
            raise Failed(f"{name} is not a frozen dataclass")
        try:
            kind()
        except TypeError as error:
            raise Failed(f"{name}() raises TypeError: {error}") from None
    if not issubclass(declared.DATA, DataConfig):
        raise Failed("DATA is no subclass of DataConfig")
    fields = {spec.name for spec in dataclasses.fields(declared.DATA)}
    required = [
        name
        for kind in declared.DATA.__mro__
        if kind.__module__ == DataConfig.__module__
        for name in inspect.get_annotations(kind)
    ]
    if lacking := [name for name in required if name not in fields]:
        raise Failed(f"DATA has no field {', '.join(lacking)}")
    shipped = declared.SHIPPED
    if not isinstance(shipped, Mapping) or not all(isinstance(paths, tuple) for paths in shipped.values()):
        raise Failed(f"SHIPPED is {shipped!r}, not a mapping of names to tuples of paths")
    if () not in shipped.values():
        raise Failed(f"SHIPPED has no data set without paths, which the source {declared.BUILT_IN!r} builds")
    if not callable(declared.validate):
        raise Failed("validate is no function")


@check(
    DECLARATIONS,
    "each field of its config has a docstring",
    why="Docstrings are the reference of the keys: unit, default and source.",
    advice="Write a string below each field that says what it means.",
)
def documents_fields(subject: TaskSubject) -> None:
    for kind in (subject.declared.MODEL, subject.declared.DATA):
        if undocumented := [f"{kind.__name__}.{name}" for name in _without_docstring(kind)]:
            raise Failed(f"{', '.join(undocumented)} has none")


def _without_docstring(kind: type) -> Iterator[str]:
    """The fields that a class declares itself, without a string below."""
    tree = ast.parse(Path(inspect.getsourcefile(kind) or "").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
                has = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and not has:
                    yield statement.target.id


@check(
    DECLARATIONS,
    "config.py imports no torch",
    why="plan, config and every error in a config answer without it, in less than a second.",
    advice="Import what needs torch in model.py, data.py or task.py.",
)
def needs_no_torch(subject: TaskSubject) -> None:
    code = (
        "import importlib, sys, novobench.tasks; novobench.tasks.__path__[:] = sys.argv[2:]; "
        "importlib.import_module(f'novobench.tasks.{sys.argv[1]}.config'); sys.exit('torch' in sys.modules)"
    )
    folders = list(importlib.import_module("novobench.tasks").__path__)
    if subprocess.run([sys.executable, "-c", code, subject.name, *folders], capture_output=True).returncode:
        raise Failed("torch is imported with it")


@check(
    DECLARATIONS,
    "its configs resolve",
    why="Every experiment of the task starts from them.",
    advice="Mend the key that the error names.",
    essential=True,
)
def resolves(subject: TaskSubject) -> None:
    for scale in SCALES:
        if places.workspace().task_config(subject.name, scale).is_file():
            subject.config(scale)
    data = subject.config().data
    if data.source != subject.declared.BUILT_IN:
        raise Failed(
            f"the laptop config has the source {data.source!r}, not {subject.declared.BUILT_IN!r}, the built-in"
        )


@check(
    DECLARATIONS,
    "compare has a recipe for it",
    why="novobench compare reads the columns that decide, the schedule and the budget of each task there.",
    advice="Give the task's section of configs/compare.yaml `columns:`, as the other tasks have.",
)
def can_be_compared(subject: TaskSubject) -> None:
    workspace = places.workspace()
    file = workspace.find(workspace.root / "configs" / "compare.yaml")
    recipes = read_yaml(file) if file.is_file() else {}
    if subject.name not in recipes:
        raise NotApplicable(f"configs/compare.yaml has no section {subject.name}, so compare refuses the task")
    columns = recipes[subject.name].get("columns")
    keys = {"key", "split", "metric", "label"}
    if not isinstance(columns, list) or not columns or not all(keys <= column.keys() for column in columns):
        raise Failed(f"its section has no columns with {', '.join(sorted(keys))}")


@check(
    DECLARATIONS,
    "data of one's own can be measured",
    why="novobench data and --data take sizes and classes of a user's files from there.",
    advice="Offer measure(draft) in measure.py; novobench/tasks/inspection.py is its contract.",
)
def measures_data(subject: TaskSubject) -> None:
    if not (subject.path / "measure.py").is_file():
        raise NotApplicable("it has no measure.py, so --data is refused")
    measure = getattr(importlib.import_module(f"novobench.tasks.{subject.name}.measure"), "measure", None)
    if not callable(measure) or len(inspect.signature(measure).parameters) != 1:
        raise Failed("measure.py has no function measure(draft)")
