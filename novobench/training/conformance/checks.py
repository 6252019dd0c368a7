"""What `novobench check` runs: small functions with a title, and the verdict of each in words."""

from __future__ import annotations

import contextlib
import inspect
import io
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from novobench.errors import NovobenchError, one_line
from novobench.optim import third_party


class Failed(Exception):
    """What happened, as a clause without a full stop."""


class NotApplicable(Exception):
    """Why a check says nothing about its subject, as a clause."""


@dataclass(frozen=True)
class Check:
    """One property that novobench relies on."""

    title: str
    """The property, as a clause."""
    why: str
    """Why it matters, as a sentence."""
    advice: str
    """What to do if it is missing, as a sentence."""
    function: Callable[[Any], str | None]
    """Takes the subject. Returns a remark, if there is one. Raises `Failed`, `NotApplicable`, or any other error, which
    counts as failed."""
    essential: bool = False
    """Whether the other checks make no sense if this one fails."""

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclass(frozen=True)
class Verdict:
    """What a check says about its subject."""

    check: Check
    kind: Literal["ok", "failed", "not applicable"]
    text: str = ""
    """ok: a remark, or nothing. failed: what happened. not applicable: why."""


def check(checks: list[Check], title: str, why: str, advice: str, **more: bool) -> Callable[[Any], Any]:
    """Append the decorated function to `checks`. The other arguments are the fields of `Check`."""

    def appended(function: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
        checks.append(Check(title, why, advice, function, **more))
        return function

    return appended


def verdicts(checks: Sequence[Check], subject: Any, source: Any = None) -> Iterator[Verdict]:
    """The verdict of each check, one after the other; none after an essential one that failed.

    source: the class, function or module that is checked. An error names the line of its file.
    """
    for each in checks:
        verdict = verdict_of(each, subject, source)
        yield verdict
        if verdict.kind == "failed" and each.essential:
            return


def verdict_of(check: Check, subject: Any, source: Any = None) -> Verdict:
    """The verdict of one check. What third-party code prints is dropped: each check may build it several times."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), third_party.guarded():
            return Verdict(check, "ok", check.function(subject) or "")
    except NotApplicable as reason:
        return Verdict(check, "not applicable", str(reason))
    except Failed as reason:
        return Verdict(check, "failed", one_line(reason))
    except NovobenchError as error:
        return Verdict(check, "failed", one_line(error).rstrip("."))
    except Exception as error:
        return Verdict(check, "failed", one_line(f"{third_party.type_and_message(error)}{_place(error, source)}"))


def _place(error: BaseException, source: Any) -> str:
    """` (mine.py line 12)`: the innermost line of the source's own file in a traceback, else the innermost line."""
    while error.__cause__ is not None:
        error = error.__cause__
    try:
        own = inspect.getsourcefile(inspect.unwrap(source)) if source is not None else None
    except TypeError:  # it is built in
        own = None
    frames = traceback.extract_tb(error.__traceback__)
    chosen = [frame for frame in frames if frame.filename == own] or list(frames)
    return f" ({Path(chosen[-1].filename).name} line {chosen[-1].lineno})" if chosen else ""
