"""The errors that end in one clear line instead of a traceback."""

LONGEST = 2000
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


def suggestion(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """` Did you mean 'lr'?` for a near miss, else an empty string (to append to an error message)."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def one_line(message: object) -> str:
    """A message, or an error, as one line of printable characters that is at most `LONGEST` long.

    Line breaks and other white space become a space; control characters, terminal escape sequences and lone surrogates
    become their escapes (`\\x1b`), so that no message can move the cursor or fail to be printed.
    """
    text = " ".join(str(message).split())
    text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} … {text[-150:]}"


def kind_and_message(error: BaseException) -> str:
    """`ValueError: its message`, in one line without a last full stop; the kind alone where there is no message."""
    return one_line(f"{type(error).__name__}: {one_line(error)}").rstrip(".: ")
