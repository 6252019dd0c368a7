"""Files are complete or absent, locks exclude other processes, and leftovers of killed processes are removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock._unix
import pytest

from novobench import files
from novobench.errors import NovobenchError
from novobench.files import derived_folder, lock, readable_os_errors, remove_leftovers, write_bytes

GONE = 2**22 + 1
"""A process id above the maximum of Linux."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------ locks


def without_locks(monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(filelock._unix.fcntl, "flock", flock)


@pytest.mark.parametrize("kind", [None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_lock_excludes_others_and_calls_waiting_once(tmp_path, monkeypatch, kind):
    if kind:
        without_locks(monkeypatch, kind)
    events: list[str] = []
    held = threading.Event()

    def first() -> None:
        with lock(tmp_path / "new" / "lock"):
            held.set()
            time.sleep(0.2)
            events.append("first leaves")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with lock(tmp_path / "new" / "lock", lambda: events.append("second waits")):
        events.append("second enters")
    thread.join()
    assert events == ["second waits", "first leaves", "second enters"]


def test_the_lock_of_a_killed_process_is_taken_over_without_file_locks(tmp_path, monkeypatch):
    without_locks(monkeypatch, errno.ENOLCK)
    (tmp_path / "lock").touch()  # created on a file system with locks
    code = "import os, sys, filelock; lock = filelock.SoftFileLock(sys.argv[1]); lock.acquire(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "lock.held"], check=False).returncode == 9
    assert (tmp_path / "lock.held").exists()
    with lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "lock.held").exists()


@pytest.mark.parametrize("what", ["folder", "link", "file above", "link above"])
def test_a_lock_that_cannot_be_created_is_one_line(tmp_path, what):
    path = tmp_path / "above" / "lock"
    if what == "folder":
        path.mkdir(parents=True)
    elif what == "link":
        path.parent.mkdir()
        path.symlink_to("nowhere/at/all")
    elif what == "file above":
        path.parent.write_text("a file")
    else:
        path.parent.symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(NovobenchError, match=rf"^Cannot lock {path}: .*Remove what is in its place, then"), lock(path):
        pass


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (errno.ENOSPC, "Free space or make"), (errno.EROFS, "Free space or make"), (errno.EMFILE, "Allow more open"),
        (errno.ENOMEM, "Free memory"), (errno.EIO, "Check the disk"), (errno.ENAMETOOLONG, "Shorten the path"),
    ],
)  # fmt: skip
def test_the_remedy_fits_the_error(tmp_path, kind, advice):
    with (
        pytest.raises(NovobenchError, match=rf"Cannot write .*x: {os.strerror(kind)}. {advice}.*finished work is kept"),
        readable_os_errors(tmp_path / "x", "write"),
    ):
        raise OSError(kind, os.strerror(kind))
    elsewhere = tmp_path.parent / "data.wav"
    message = rf"{os.strerror(kind)} \({elsewhere}\)\. "
    with pytest.raises(NovobenchError, match=message), readable_os_errors(tmp_path / "x", "write"):
        raise OSError(kind, os.strerror(kind), str(elsewhere))


# ------------------------------------------------------------------------------------ leftovers


def temporary(folder: Path, name: str, pid: int, machine: str, age: float = 0.0, size: int | None = 3) -> Path:
    """A temporary file, or a folder if `size` is None, as another process writes it."""
    path = folder / f".{name}.{pid}@{machine}.abc_123.tmp"
    if size is None:
        path.mkdir(parents=True)
        (path / "part.npy").write_bytes(b"xxx")
    else:
        path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_only_files_that_nobody_writes_are_removed(tmp_path):
    here, day = files._machine(), 24 * 3600
    removed = [
        temporary(tmp_path, "a.ckpt", GONE, here),
        temporary(tmp_path, "corpus-1", GONE, here, size=None),
        temporary(tmp_path, "b.csv", os.getpid(), "elsewhere-1", age=day + 60),
        temporary(tmp_path, "c\nd", 10**30, here),
    ]
    kept = [
        temporary(tmp_path, "a.ckpt", os.getpid(), here),
        temporary(tmp_path, "b.csv", GONE, "elsewhere-1", age=day - 60),
        tmp_path / ".gitignore",
        tmp_path / "a.ckpt",
        tmp_path / f".a.ckpt.{GONE}.tmp",
    ]
    for path in kept[2:]:
        path.touch()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert not any(path.exists() for path in removed)


def test_only_leftovers_of_a_name_are_removed(tmp_path):
    one, two = (temporary(tmp_path, name, GONE, files._machine()) for name in ("one", "two"))
    remove_leftovers(tmp_path, "one")
    assert list(tmp_path.iterdir()) == [two]
    assert not one.exists()
    remove_leftovers(tmp_path / "nowhere")


WRITE = """
import os, sys
from pathlib import Path
from novobench import files
os.replace = lambda *_: os._exit(9)
if sys.argv[1] == "file":
    files.write_bytes(Path(sys.argv[2]), bytes(1000))
else:
    files.derived_folder(sys.argv[2], lambda folder: files.write_bytes(folder / "x.npy", bytes(1000)))
"""


def test_a_file_that_a_kill_left_is_removed(tmp_path):
    path = tmp_path / ("é" * 120)  # the longest file name
    done = subprocess.run([sys.executable, "-c", WRITE, "file", path], check=False)
    assert done.returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.stat().st_size == 1000
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
    write_bytes(path, b"whole")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"whole"]


def test_the_next_build_removes_what_a_killed_one_left(cache):
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", WRITE, "folder", "room/a-1"], check=False).returncode == 9
        assert len([path for path in (cache / "room").iterdir() if path.name.startswith(".")]) == 1
    other = temporary(cache / "room", "a-2", GONE, files._machine(), size=None)  # its builder removes it
    assert built().name == "a-1"
    assert sorted(path.name for path in (cache / "room").iterdir()) == sorted([other.name, "a-1", "a-1.lock"])


# ------------------------------------------------------------------------------------ derived data


def built(times: list[int] | None = None, name: str = "room/a-1") -> Path:
    def build(folder: Path) -> None:
        (folder / "x.txt").write_text("content")
        (folder / "y.txt").write_text("more")
        if times is not None:
            times.append(1)

    folder = derived_folder(name, build)
    assert ((folder / "x.txt").read_text(), (folder / "y.txt").read_text()) == ("content", "more")
    return folder


def test_a_complete_folder_is_built_once_and_read_without_a_lock(cache, monkeypatch):
    times: list[int] = []
    folder = built(times)
    monkeypatch.setattr(
        files, "lock", lambda *_: pytest.fail("a complete folder needs no lock, which a read-only cache could not give")
    )
    assert built(times) == folder == cache / "room" / "a-1"
    assert times == [1]
    assert folder.stat().st_mode & 0o777 == 0o755


LISTS = ["[]", "null", "{}", "3", '"x"', '{"x.txt": 1}', '{"x.txt": null, "y.txt": null}', '{"../a-1.lock": ""}', "{",
         "[" * 100_000, '{"x.txt"' + ":{" * 5]  # fmt: skip


@pytest.mark.parametrize(
    "listed", [*LISTS, b"\xff", "only one", "none", "unlisted", "flipped", "cut", "gone", "pipe", "folder"]
)
def test_a_damaged_folder_is_built_again(listed, cache):
    folder = built()
    where = folder / "x.txt"
    match listed:
        case "only one":
            whole = (folder / "files.json").read_text().splitlines(keepends=True)
            (folder / "files.json").write_text("".join(whole[:1] + whole[2:]))
        case "none":
            (folder / "files.json").unlink()
        case "unlisted":
            (folder / "z.txt").touch()
        case "flipped":
            where.write_text("c0ntent")
        case "cut":
            where.write_text("")
        case "gone" | "pipe" | "folder":
            where.unlink()
            if listed == "pipe":
                os.mkfifo(where)
            elif listed == "folder":
                where.mkdir()
        case bytes():
            (folder / "files.json").write_bytes(listed)
        case _:
            (folder / "files.json").write_text(listed)
    times: list[int] = []
    built(times)
    assert times == [1]
    assert sorted(os.listdir(cache / "room")) == ["a-1", "a-1.lock"]
    built(times)
    assert times == [1]


@pytest.mark.parametrize("what", ["file", "link", "dangling link", "pipe"])
def test_something_else_in_its_place_is_replaced(what, cache, tmp_path):
    folder = cache / "room" / "a-1"
    folder.parent.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").touch()
    if what == "file":
        folder.write_text("x")
    elif what == "pipe":
        os.mkfifo(folder)
    else:
        folder.symlink_to(tmp_path / ("other" if what == "link" else "nowhere"))
    built()
    assert folder.is_dir()
    assert not folder.is_symlink()
    assert (tmp_path / "other" / "kept").exists()


@pytest.mark.parametrize("above", ["", "room"])
def test_a_file_in_place_of_a_parent_folder(above, cache):
    (cache / above).parent.mkdir(parents=True, exist_ok=True)
    (cache / above).write_text("x")
    with pytest.raises(NovobenchError, match=r"Cannot lock .*room/a-1.lock: .*Remove what is in its place"):
        built()
    (cache / above).unlink()
    built()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.EIO, "Input/output error", "/data/x.png"),
            r"Input/output error \(/data/x.png\). Check the disk",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left on device. Free space"),
        (MemoryError("Unable to allocate 3 TiB"), r"needs more memory than is available \(Unable to allocate 3 TiB\)"),
        (MemoryError(), r"needs more memory than is available \(out of memory\)"),
        (NovobenchError("its own words"), "^its own words$"),
    ],
)
def test_a_failed_build_leaves_nothing_and_can_be_repeated(error, message, cache):
    def fail(folder: Path) -> None:
        (folder / "x.txt").write_text("half")
        raise error

    with pytest.raises(NovobenchError, match=message):
        derived_folder("room/a-1", fail)
    assert os.listdir(cache / "room") == ["a-1.lock"]
    built()


def test_a_training_and_a_collection_remove_leftovers(tmp_path, empty_workspace):
    from novobench.suite import collection
    from novobench.suite.results import Results
    from novobench.training import cell
    from tests.cells import small_cell

    folder = small_cell(tmp_path / "cell")
    folder.record.write_text("{}")  # finished: nothing is trained
    folder.checkpoints.mkdir()
    (tmp_path / "results" / "laptop").mkdir(parents=True)
    leftovers = [temporary(where, "x", GONE, files._machine()) for where in (folder.path, folder.checkpoints)]
    cell.run(folder.path)
    leftovers.append(temporary(tmp_path / "results" / "laptop", "cells.json", GONE, files._machine()))
    collection.collect([], Results.load("laptop"))
    assert not any(path.exists() for path in leftovers)
