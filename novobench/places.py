"""Where things lie: the checkout, the data sets, the cache. Needs the standard library alone.

One meaning everywhere: a path that is empty counts as not given, `~` is the home directory, and a relative path starts
at the checkout, from wherever a command is started.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from novobench.errors import NovobenchError

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the package: the checkout, or `site-packages`."""


@dataclass(frozen=True)
class Workspace:
    """The folders that commands read configs and experiments from, and write runs and results to."""

    root: Path

    @property
    def configs(self) -> Path:
        """Its own configs, else those that come with the code."""
        return self._folder("configs")

    @property
    def experiments(self) -> Path:
        """Its own experiments, else those that come with the code."""
        return self._folder("experiments")

    def _folder(self, name: str) -> Path:
        own = self.root / name
        return own if own.is_dir() else ROOT / name

    def task_config(self, task: str, scale: str) -> Path:
        """The YAML file of a task at a scale."""
        return self.configs / task / f"{scale}.yaml"

    def tuned_rates(self, task: str, scale: str) -> Path:
        """The YAML file of the rates that `novobench search` found for a task at a scale."""
        return self.configs / task / f"tuned-{scale}.yaml"

    def runs(self, scale: str) -> Path:
        """The folder of the run folders of a scale."""
        return self.root / "runs" / scale

    def results(self, scale: str) -> Path:
        """The folder of the records, tables and figures of a scale."""
        return self.root / "results" / scale


def workspace() -> Workspace:
    """The workspace of this process."""
    return Workspace(ROOT)


def display_path(path: Path) -> str:
    """A path as a user writes it: relative to the workspace where it lies inside."""
    try:
        return str(path.resolve().relative_to(workspace().root))
    except ValueError:
        return str(path)


DATA, CACHE = "NOVOBENCH_DATA", "NOVOBENCH_CACHE"
"""Environment variables: the folder of data sets, and that of what is derived from them."""


def data_root(configured: str = "") -> Path:
    """Where read-only data sets lie: $NOVOBENCH_DATA, else `configured` (the key `data_root`), else `data`."""
    given = _variable(DATA)
    return _placed(given, f"${DATA}") if given else _placed(configured.strip() or "data", "data_root")


def cache_root() -> Path:
    """Where derived data lie: $NOVOBENCH_CACHE, else `~/.cache/novobench`.

    Where there is no home directory, or it cannot be written: `.cache/novobench` of the checkout.
    """
    if given := _variable(CACHE):
        return _placed(given, f"${CACHE}")
    at_home = home()
    if at_home is not None and _may_write(at_home / ".cache" / "novobench"):
        return at_home / ".cache" / "novobench"
    return workspace().root / ".cache" / "novobench"


def home() -> Path | None:
    """The user's home directory; None where none is named or it does not exist: containers, services, batch systems."""
    named = os.environ.get("HOME", "").strip()
    if not named:
        try:
            import pwd

            named = pwd.getpwuid(os.getuid()).pw_dir
        except ImportError:  # Windows
            named = os.path.expanduser("~")
        except KeyError:  # a number without a name
            return None
    found = Path(named)
    return found if found.is_absolute() and found != _SUBSTITUTE and os.path.isdir(found) else None


_SUBSTITUTE = ROOT / ".cache" / "home"


_RANKS = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK",
)  # fmt: skip


def prepare_environment() -> None:
    """Make the environment of this command, and of the processes it starts, one that libraries can live with.

    It gets what they take for granted, where that is missing: a current folder, a home directory, the name of a user.
    And it loses what makes them take a process for one of several: a command is none, whoever started it, and the
    processes of one training are told their numbers when they are started.
    """
    for name in _RANKS:
        os.environ.pop(name, None)
    try:
        os.getcwd()
    except OSError:  # it was removed, or is on a disk that went away
        os.chdir(ROOT)
    os.environ["HOME"] = str(home() or _SUBSTITUTE)
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # a number without a name, as containers have it
        os.environ["USER"] = f"user{os.getuid()}" if hasattr(os, "getuid") else "user"


def require_checkout() -> None:
    """Raises NovobenchError where the package lies without experiments and configs: installed, not cloned."""
    missing = [name for name in ("configs", "experiments") if not (workspace().root / name).is_dir()]
    if missing:
        raise NovobenchError(
            f"There is no {' and no '.join(f'{name}/' for name in missing)} in {ROOT}, beside the package: it was "
            "installed without its checkout, which this command needs. Clone the repository and run `make setup` "
            "there; without it there are novobench.optim and `novobench bench optimizer`."
        )


def check_writable(folder: Path) -> None:
    """Make `folder` if need be and find out whether something can be kept there. Raises OSError if not.

    The file has no name, or one of its own, so that commands that look at the same time do not meet, and nothing is
    left of one that is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as file:
        file.write(bytes(4096))


def supports_locks(folder: Path) -> bool:
    """Whether files in a folder that can be written can be locked; some network file systems have no locks."""
    try:
        import fcntl
    except ImportError:  # Windows, which has others
        return True
    with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _placed(given: str, where: str) -> Path:
    """An absolute path, symbolic links resolved. Raises NovobenchError for a `~` that names nobody's home."""
    if given == "~" or given.startswith("~/"):
        own = home()
        if own is None:
            raise NovobenchError(
                f"{where} is '{given}', but there is no home directory. Set HOME, or write the path out."
            )
        given = str(own) + given[1:]
    elif given.startswith("~"):
        expanded = os.path.expanduser(given)
        if expanded != given:  # else there is no such user, and it is a name like any other
            given = expanded
    return Path(os.path.realpath(workspace().root / given))


def _may_write(folder: Path) -> bool:
    """Whether `folder` can be written, or made: looks at the nearest folder above it that exists."""
    nearest = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
