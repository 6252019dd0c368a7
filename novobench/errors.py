"""Errors that end in one clear line instead of a traceback."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from pathlib import Path

MAX_LENGTH = 2000
"""Characters of a message: short enough to read, and to fit into a pipe (64 KiB) that nobody reads yet."""


class NovobenchError(Exception):
    """A failure that the user can fix. The message says what failed, with which value, why, and what to do.

    The command line prints it as one line and exits with `exit_code`; `--debug` shows the traceback.
    """

    exit_code = 1


class ConfigError(NovobenchError):
    """Invalid arguments or config: an unknown key, a misspelled optimizer, a batch size that does not multiply out."""

    exit_code = 2


class DataError(NovobenchError):
    """Data that is missing, corrupt or different from what the config says. The message names the file."""


class TrainingError(NovobenchError):
    """A training that cannot continue: non-finite gradients, a changed data set, another process in the run folder."""


def suggestion(word: str, candidates: Sequence[str]) -> str:
    """` Did you mean 'lr'?` for a near miss, to append to a message; else an empty string."""
    import difflib

    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def one_line(message: object) -> str:
    """A message, or an error, as one line of printable characters that is at most `MAX_LENGTH` long.

    Line breaks and other white space become a space; control characters, terminal escape sequences and lone surrogates
    become their escapes (`\\x1b`), so that no message can move the cursor or fail to be printed.
    """
    text = " ".join(str(message).split())
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 200]} … {text[-150:]}"


def kind_and_message(error: BaseException) -> str:
    """`ValueError: its message` in one line, without a final full stop; only the kind if there is no message."""
    return one_line(f"{type(error).__name__}: {one_line(error)}").rstrip(".: ")


_REMEDIES = {
    errno.ENOSPC: "Free space, then run the same command again: finished work is kept.",
    errno.EDQUOT: "Free space, then run the same command again: finished work is kept.",
    errno.EMFILE: "Allow more open files (ulimit -n 4096), or lower --jobs.",
    errno.ENFILE: "Close other programs, or lower --jobs.",
    errno.EAGAIN: "The system allows no more processes (ulimit -u). Close other programs, or lower --jobs.",
    errno.ENOMEM: "Close other programs, or lower --jobs.",
    errno.EROFS: "Make it writable.",
    errno.EACCES: "Make it accessible to this user.",
}


def message_for_user(error: Exception) -> str:
    """The message of a `NovobenchError`; for any other error, what failed and what to do."""
    if isinstance(error, NovobenchError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # Python's, and torch's for GPUs
        return (
            f"Out of memory ({kind_and_message(error)}). Close other programs, lower --jobs, or make batches smaller."
        )
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "novobench":
        from novobench.requirements import SUITE, install_command

        package = error.name.partition(".")[0]
        return (
            f"The package '{package}' is not installed. Run: {install_command(SUITE)}. `novobench doctor` lists what "
            "else is missing."
        )
    if isinstance(error, ImportError):
        return f"A package cannot be imported: {kind_and_message(error)}. `novobench doctor` may show why."
    if isinstance(error, OSError) and error.errno is not None:
        file = f"{error.filename}: " if error.filename is not None else ""
        remedy = _REMEDIES.get(error.errno, "Run the same command again: finished work is kept.")
        return f"{file}{error.strerror}. {remedy}"
    return (
        f"internal error: {kind_and_message(error)} ({_location(error)}). This is a bug: run the same command with "
        "--debug for its traceback, and report it."
    )


def _location(error: Exception) -> str:
    """The innermost line of novobench's own code in an error's traceback, such as `suite/plan.py:12`."""
    package = Path(__file__).resolve().parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    if not own:
        return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    return f"{Path(own[-1].filename).relative_to(package)}:{own[-1].lineno}"
