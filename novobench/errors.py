"""The errors that end in one clear line instead of a traceback."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

MAX_LENGTH = 2000
"""Characters of an error's message: what a person reads, and a pipe holds (64 KiB) before somebody does."""


class NovobenchError(Exception):
    """Something failed that the user can mend: the message says what, with which value, why, and what to do.

    The command line prints it as one line and exits with `exit_code`; `--debug` shows the traceback.
    """

    exit_code = 1


class ConfigError(NovobenchError):
    """The words were wrong: an unknown key, a misspelt optimizer, a batch that does not multiply out."""

    exit_code = 2


class DataError(NovobenchError):
    """Data is missing, corrupt or not what the config says; the message names the file."""


class TrainingError(NovobenchError):
    """A training cannot go on: non-finite gradients, a changed data set, another process at work."""


def suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    """` Did you mean 'lr'?` for a near miss, else an empty string (to append to an error message)."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def one_line(message: object) -> str:
    """A message, or an error, as one line of printable characters that is at most `MAX_LENGTH` long.

    Line breaks and other white space become a space; control characters, terminal escape sequences and lone surrogates
    become their escapes (`\\x1b`), so that no message can move the cursor or fail to be printed.
    """
    text = " ".join(str(message).split())
    text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 200]} … {text[-150:]}"


def kind_and_message(error: BaseException) -> str:
    """`ValueError: its message`, in one line without a last full stop; the kind alone where there is no message."""
    return one_line(f"{type(error).__name__}: {one_line(error)}").rstrip(".: ")


_CURES = {
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
    """What to tell the user of any error that ended a command; the message of a `NovobenchError` tells by itself."""
    if isinstance(error, NovobenchError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # Python's, and torch's of a GPU
        return (
            f"Out of memory ({kind_and_message(error)}). Close other programs, lower --jobs, or make batches smaller."
        )
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "novobench":
        return (
            f"The package '{error.name.partition('.')[0]}' is not installed. Run: make setup, or pip install "
            "'novobench[suite]'. `novobench doctor` shows what else is missing."
        )
    if isinstance(error, ImportError):
        return f"A package cannot be loaded: {kind_and_message(error)}. `novobench doctor` shows what does not fit."
    if isinstance(error, OSError) and error.errno is not None:
        about = f"{error.filename}: " if error.filename is not None else ""
        cure = _CURES.get(error.errno, "Run the same command again: finished work is kept.")
        return f"{about}{error.strerror}. {cure}"
    return (
        f"internal error: {kind_and_message(error)} ({_place(error)}). This is a bug: run the same command with "
        "--debug for its traceback, and report it."
    )


def _place(error: Exception) -> str:
    """The last line of novobench's own code on the way to an error, `suite/plan.py:12`."""
    package = Path(__file__).resolve().parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    if not own:
        return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    return f"{Path(own[-1].filename).relative_to(package)}:{own[-1].lineno}"
