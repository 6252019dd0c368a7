"""`novobench check`: whether an optimizer or a task keeps its contract, one line per point."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from novobench.config_loading import parse_overrides
from novobench.console import console, counted
from novobench.errors import ConfigError
from novobench.optim import registry, third_party
from novobench.tasks.catalog import task_config

if TYPE_CHECKING:
    from novobench.training.conformance.checks import Verdict

_STYLES = {"ok": "green", "failed": "bold red", "not applicable": "dim"}


def optimizer(name: str, options: Sequence[str], lr: float | None, *, compiled: bool) -> int:
    """Check an optimizer by name or path; returns the exit code. compiled: also compile its step, for about a minute.

    Raises ConfigError if there is no such optimizer, or for options that it does not have.
    """
    try:
        entry = registry.get(name)
        registry.check_package(entry)
    except (LookupError, registry.MissingPackageError) as error:
        raise ConfigError(str(error.args[0])) from None
    import torch

    from novobench.training.conformance.checks import verdicts
    from novobench.training.conformance.optimizer import CHECKS, COMPILED
    from novobench.training.conformance.subject import Subject

    torch.set_num_threads(1)
    subject = Subject(name, lr, parse_overrides(options))
    subject.config()
    print(f"{name} at lr {subject.rate:g}" + (f", code {entry.code}" if entry.code else ""))
    checks = [*CHECKS, COMPILED] if compiled else CHECKS
    return _report(verdicts(checks, subject, third_party.load(entry.factory)), registry.label(name))


def task(name: str) -> int:
    """Check a task by the name of its folder, at laptop scale; returns the exit code.

    Raises ConfigError if there is no such task.
    """
    task_config(name, "check task")
    import torch

    from novobench.training.conformance.checks import verdicts
    from novobench.training.conformance.task import TASK_CHECKS
    from novobench.training.conformance.task_subject import TaskSubject

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return _report(verdicts(TASK_CHECKS, TaskSubject(name, Path(folder))), f"The task {name}")


def _report(found: Iterable[Verdict], name: str) -> int:
    """Print each verdict as it comes; returns the exit code."""
    out = console()
    counts = dict.fromkeys(_STYLES, 0)
    causes: dict[str, str] = {}
    for verdict in found:
        counts[verdict.kind] += 1
        out.print(_line(verdict, causes), soft_wrap=True)
        if verdict.kind == "failed":
            causes.setdefault(verdict.text, verdict.check.title)
            if verdict.check.essential:
                out.print("Nothing else can be checked before that.")
    failed = counts["failed"]
    rest = f"{counts['ok']} ok, {counts['not applicable']} not applicable"
    if failed:
        out.print(f"{name}: {counted(failed, 'check')} failed, {rest}.", soft_wrap=True)
    else:
        out.print(f"{name} passes: {rest}.", soft_wrap=True)
    return int(failed > 0)


def _line(verdict: Verdict, causes: Mapping[str, str]) -> Text:
    """causes: what has already happened -> the check that it failed first, which has the advice."""
    check: Any = verdict.check
    line = Text(f"{verdict.kind.upper() if verdict.kind == 'failed' else verdict.kind:<15} ", _STYLES[verdict.kind])
    line.append(check.title, "default")
    if verdict.text:
        line.append(f": {verdict.text}", "default")
    if verdict.kind == "failed":
        indented = f"\n{'':<16}"
        if cause := causes.get(verdict.text):
            line.append(f"{indented}As above: {cause}.", "default")
        else:
            line.append(f"{indented}{check.why}{indented}{check.advice}", "default")
    return line
