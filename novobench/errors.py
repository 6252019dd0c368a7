"""The errors that end in one clear line instead of a traceback."""


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
