"""What commands print: as much of it arrives as possible, and every error is one line."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from novobench import cli, signals
from novobench.console import console, output_problem, resilient_output
from novobench.errors import NovobenchError, message_for_user
from novobench.places import ROOT


@pytest.fixture
def output(monkeypatch):
    """`output(descriptor, encoding)` redirects the standard output of this process."""

    def goes_to(descriptor, encoding="utf-8"):
        stream = io.TextIOWrapper(io.FileIO(os.dup(1), "w"), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "__stdout__", stream)
        saved = os.dup(1)
        os.dup2(descriptor, 1)
        opened.append((saved, stream))

    opened: list[tuple[int, io.TextIOWrapper]] = []
    yield goes_to
    for saved, stream in opened:
        os.dup2(saved, 1)
        os.close(saved)
        stream.close()


def test_a_full_disk_loses_only_the_output(output):
    with open("/dev/full", "w") as full:
        output(full.fileno())
        with resilient_output() as lost:
            for _ in range(3):
                print("x" * 10_000, flush=True)
            console().print("a table")
    assert [error.errno for error in lost] == [errno.ENOSPC]
    assert output_problem(lost).startswith("Standard output could not be written: No space left on device.")


def test_a_closed_pipe_is_not_an_error(output):
    reading, writing = os.pipe()
    output(writing)
    os.close(reading)
    with resilient_output() as lost:
        print("x" * 10_000, flush=True)
    os.close(writing)
    assert [error.errno for error in lost] == [errno.EPIPE]
    assert output_problem(lost) == ""


def test_a_slow_reader_of_a_nonblocking_pipe(output):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    output(writing)

    def read():
        time.sleep(0.1)
        while count[0] < 300_001:
            count[0] += len(os.read(reading, 65536))

    count = [0]
    reader = threading.Thread(target=read)
    reader.start()
    with resilient_output() as lost:
        print("x" * 300_000, flush=True)
    reader.join(timeout=10)
    os.close(writing)
    os.close(reading)
    assert (count, lost) == ([300_001], [])


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "8 = 4 x 2 - ... |g| eps sec. 4 \\xfc \\U0001f600 \\udc80\n"),
        ("latin-1", "8 = 4 × 2 - ... |g| eps § 4 ü \\U0001f600 \\udc80\n"),
        ("utf-8", "8 = 4 × 2 – … ‖g‖ ε § 4 ü 😀 \\udc80\n"),
    ],
)
def test_characters_that_an_encoding_lacks(output, tmp_path, encoding, expected):
    with (tmp_path / "out").open("wb") as file:
        output(file.fileno(), encoding)
        with resilient_output() as lost:
            print("8 = 4 × 2 – … ‖g‖ ε § 4 ü 😀 \udc80")
    assert lost == []
    assert (tmp_path / "out").read_bytes().decode(encoding) == expected


def test_names_are_not_read_as_markup_or_emoji(capsys):
    console().print("[bold]a[/] module:x:y :smile: [/]")
    assert capsys.readouterr().out == "[bold]a[/] module:x:y :smile: [/]\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NovobenchError("said\nso"), "said\nso"),
        (MemoryError(), "Out of memory (MemoryError). Close other programs"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device. Free space"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files. Allow more open files (ulimit -n 4096)"),
        (ModuleNotFoundError("no", name="rich.table"), "The package 'rich' is not installed. Run: make setup"),
        (ImportError("undefined symbol"), "A package cannot be imported: ImportError: undefined symbol."),
        (RecursionError("maximum"), "internal error: RecursionError: maximum (nowhere). This is a bug"),
    ],
)
def test_every_error_has_a_message(error, expected):
    assert message_for_user(error).startswith(expected)


@pytest.fixture
def failing(monkeypatch):
    """`list` then raises this."""

    def raises(error):
        def listing(_):
            raise error

        monkeypatch.setattr("novobench.suite.show.listing", listing)

    return raises


def test_an_unexpected_error_is_one_line(failing, novobench):
    failing(ValueError("first\n\x1b[31msecond"))
    code, out, err = novobench("list")
    assert (code, out) == (1, "")
    assert err.startswith("novobench: internal error: ValueError: first \\x1b[31msecond (commands.py:")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "list"], ["list", "--debug"]])
def test_debug_shows_the_traceback(failing, arguments):
    failing(ValueError("first"))
    with pytest.raises(ValueError, match="first"):
        cli.main(arguments)


@pytest.mark.parametrize(
    "line",
    [
        "plan table1 --seeds 1e3", "plan table1 --seeds 0", "plan table1 --seeds -1", "run table1 --jobs 0",
        "run table1 --jobs 1000000000000000000000000000000", "plan table1 --seeds=", "nothing", "", "plan",
        "plan table1 --unknown \x1b[31m", "bench", "bench optimizer --device tpu", f"plan table1 --seeds {'9' * 5000}",
    ],
)  # fmt: skip
def test_invalid_arguments_are_one_line(novobench, line):
    code, out, err = novobench(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("novobench: ")
    assert err.count("\n") == 1
    assert len(err) < 2200
    assert "\x1b" not in err
    assert "--help" in err


@pytest.mark.parametrize(
    ("name", "message"), [("SIGINT", "interrupted"), ("SIGTERM", "stopped by"), ("SIGHUP", "stopped by")]
)
def test_a_command_that_gets_a_signal(novobench, monkeypatch, heard_signals, name, message):
    """Also if a library turns the signal into an error of its own."""

    def listing(_):
        try:
            signal.raise_signal(getattr(signal, name))
        except KeyboardInterrupt:
            raise ImportError("numpy cannot be imported") from None

    monkeypatch.setattr("novobench.suite.show.listing", listing)
    before = signal.getsignal(signal.SIGTERM)
    code, _, err = novobench("list")
    assert code == 128 + getattr(signal, name)
    assert err.startswith(f"novobench: {message}")
    assert err.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_during_a_finalizer_is_not_lost(heard_signals):
    class Last:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    last = Last()

    def lose():
        nonlocal last
        last = None
        time.sleep(5)

    with signals.stop_on_signals(), pytest.raises(KeyboardInterrupt):
        lose()


def test_an_ignored_signal_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with signals.stop_on_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


HIDDEN = """
import sys
hidden = ("rich", "omegaconf", "yaml", "filelock", "torch", "packaging", "numpy", "transformers")
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from novobench.cli import main
main()
"""


def test_doctor_needs_the_standard_library_alone():
    done = subprocess.run([sys.executable, "-c", HIDDEN, "doctor"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "")
    for name in ("rich", "omegaconf", "filelock", "torch", "numpy", "transformers"):
        assert any(line.startswith(f"FAIL  {name} ") for line in done.stdout.splitlines()), name
    assert "would stop a run" in done.stdout


def test_a_missing_package_is_named():
    done = subprocess.run([sys.executable, "-c", HIDDEN, "list"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("novobench: The package '")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("closing", [">/dev/full", ">&-", "2>&-", "| head -0", "<&- >&- 2>&-"])
def test_output_that_goes_nowhere(closing):
    line = f"{sys.executable} -m novobench list {closing}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == (1 if "full" in closing else 0)
    assert done.stderr.count("\n") == ("full" in closing)
