"""Where files are: the workspace, the data sets, the cache. Needs the standard library alone.

The same rules hold for every path that a user sets: an empty one counts as unset, `~` is the home directory, and a
relative one starts at the workspace, whatever the current folder is.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from novobench.errors import NovobenchError

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The folder that holds the package: a checkout, or `site-packages`."""


def is_checkout(folder: Path) -> bool:
    """Whether `folder` is a copy of novobench's repository, with or without `pyproject.toml` and history."""
    folders = (folder / "novobench", folder / "experiments")
    return (folder / "configs" / "deviations.yaml").is_file() and all(each.is_dir() for each in folders)


def shipped_root() -> Path:
    """The folder of the `configs/` and `experiments/` that come with the code: a wheel carries them in the package."""
    return ROOT if is_checkout(ROOT) else PACKAGE


@dataclass(frozen=True)
class Workspace:
    """The folders that commands read configs and experiments from, and write runs and results to.

    A file that the workspace lacks is read from `shipped`. In a checkout the two are the same.
    """

    root: Path
    shipped: Path = field(default_factory=shipped_root)

    def find(self, path: Path) -> Path:
        """`path` if it exists, else the shipped file that has the same place in `shipped` as `path` has in `root`.

        Returns `path` if neither exists.
        """
        if path.exists() or not path.is_relative_to(self.root):
            return path
        shipped = self.shipped / path.relative_to(self.root)
        return shipped if shipped.exists() else path

    def experiment(self, name: str) -> Path:
        """The YAML file of an experiment."""
        return self.find(self.root / "experiments" / f"{name}.yaml")

    def experiment_files(self) -> list[Path]:
        """The YAML files of all experiments."""
        return self._files("experiments", "*.yaml")

    def task_config(self, task: str, scale: str) -> Path:
        """The YAML file of a task at a scale."""
        return self.find(self.root / "configs" / task / f"{scale}.yaml")

    def config_files(self) -> list[Path]:
        """The YAML files of all tasks, both those of tuned rates included."""
        tuned = (self.shipped / "configs").glob("*/tuned-*.yaml")
        return sorted({*self._files("configs", "*/*.yaml"), *tuned})

    def tuned_rates(self, task: str, scale: str) -> Path:
        """The YAML file to which `novobench search` writes the rates that it found for a task at a scale."""
        return self.root / "configs" / task / f"tuned-{scale}.yaml"

    def tuned_rate_files(self, task: str, scale: str) -> list[Path]:
        """The existing YAML files of tuned rates: the shipped one, then `tuned_rates`, whose rates win."""
        own = self.tuned_rates(task, scale)
        paths = dict.fromkeys((self.shipped / own.relative_to(self.root), own))
        return [path for path in paths if path.exists()]

    def runs(self, scale: str) -> Path:
        """The folder of the run folders of a scale."""
        return self.root / "runs" / scale

    def results(self, scale: str) -> Path:
        """The folder of the records, tables and figures of a scale."""
        return self.root / "results" / scale

    def _files(self, folder: str, pattern: str) -> list[Path]:
        bases = (self.shipped, self.root)
        names = {path.relative_to(base) for base in bases for path in (base / folder).glob(pattern)}
        return [self.find(self.root / name) for name in sorted(names)]


def workspace() -> Workspace:
    """The workspace of this process.

    It is the checkout that the package is imported from. For an installed package it is the checkout that holds the
    current folder, else the current folder itself.
    """
    if is_checkout(ROOT):
        return Workspace(ROOT)
    current = Path.cwd()
    return Workspace(next(filter(is_checkout, (current, *current.parents)), current))


def display_path(path: Path) -> str:
    """A path as a user writes it: relative to the workspace if it is inside."""
    try:
        return str(path.resolve().relative_to(workspace().root))
    except ValueError:
        return str(path)


DATA, CACHE = "NOVOBENCH_DATA", "NOVOBENCH_CACHE"
"""Environment variables: the folder of the data sets, and the folder of the data derived from them."""


def data_root(configured: str = "") -> Path:
    """The folder of the read-only data sets: $NOVOBENCH_DATA, else `configured` (the key `data_root`), else `data`."""
    value = _environment_variable(DATA)
    return _absolute(value, f"${DATA}") if value else _absolute(configured.strip() or "data", "data_root")


def cache_root() -> Path:
    """The folder of derived data: $NOVOBENCH_CACHE, else `~/.cache/novobench`.

    Without a home directory, or with one that is not writable, it is `.cache/novobench` in the workspace.
    """
    if value := _environment_variable(CACHE):
        return _absolute(value, f"${CACHE}")
    user_home = home()
    if user_home is not None and _is_writable(user_home / ".cache" / "novobench"):
        return user_home / ".cache" / "novobench"
    return workspace().root / ".cache" / "novobench"


def home() -> Path | None:
    """The user's home directory; None if it is unknown or does not exist, as in some containers and batch systems."""
    name = os.environ.get("HOME", "").strip()
    if not name:
        try:
            import pwd

            name = pwd.getpwuid(os.getuid()).pw_dir
        except ImportError:  # Windows
            name = os.path.expanduser("~")
        except KeyError:  # a user id without a user name
            return None
    path = Path(name)
    return path if path.is_absolute() and path != _substitute_home() and os.path.isdir(path) else None


def _substitute_home() -> Path:
    """What HOME is set to when there is no home directory. It need not exist."""
    return workspace().root / ".cache" / "home"


_DISTRIBUTED = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK",
)  # fmt: skip


def prepare_environment() -> None:
    """Change the environment of this command, and of the processes that it starts, to one that libraries can handle.

    Adds what libraries rely on if it is missing: a current folder, a home directory and a user name. Removes the
    variables that make a process one of a distributed group: a command never is, and the processes of a distributed
    training get their own when they are started.
    """
    for name in _DISTRIBUTED:
        os.environ.pop(name, None)
    try:
        os.getcwd()
    except OSError:  # the folder was removed, or its disk was
        if not is_checkout(ROOT):
            raise NovobenchError("The current folder no longer exists. Change to another one.") from None
        os.chdir(ROOT)
    os.environ["HOME"] = str(home() or _substitute_home())
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a user name, as in containers
        os.environ["USER"] = f"user{os.getuid()}" if hasattr(os, "getuid") else "user"


def check_writable(folder: Path) -> None:
    """Create `folder` if necessary and write a temporary file into it. Raises OSError if that fails.

    The file has a unique name or none, so that commands may check at the same time and a killed one leaves nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as file:
        file.write(bytes(4096))


def supports_locks(folder: Path) -> bool:
    """Whether files in a writable folder can be locked; some network file systems have no locks."""
    try:
        import fcntl
    except ImportError:  # Windows locks files in another way
        return True
    with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _environment_variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _absolute(path: str, source: str) -> Path:
    """An absolute path with symbolic links resolved. Raises NovobenchError for `~` without a home directory."""
    if path == "~" or path.startswith("~/"):
        user_home = home()
        if user_home is None:
            raise NovobenchError(
                f"{source} is '{path}', but there is no home directory. Set HOME, or give an absolute path."
            )
        path = str(user_home) + path[1:]
    elif path.startswith("~"):
        path = os.path.expanduser(path)  # unchanged if there is no such user: then it is an ordinary name
    return Path(os.path.realpath(workspace().root / path))


def _is_writable(folder: Path) -> bool:
    """Whether `folder` is writable or can be created, judged by its nearest existing parent."""
    nearest = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
