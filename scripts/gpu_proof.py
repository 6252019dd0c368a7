"""All that only a GPU can show, within the minutes there are: tests on CUDA, step times, training speed, tables.

    scripts/gpu_proof.sh [--minutes 9] [--resume TAR] [FOLDER]

The steps stand in order of worth. A step starts if its forecast fits into what is left of the minutes, and is ended at
its limit; a failure stops no other step. What time is left then goes to a table that has to be cut off: its finished
cells count. What does not fit is named and left for the next time.

Results go where novobench's commands put them: results/gpu and runs/gpu. After each step FOLDER (default: results/gpu)
receives gpu_proof.tar, at most 16 MiB: both folders without checkpoints, the logs cut short, and which steps are done.
With `--resume` another machine starts from it: finished steps stay finished, and so do finished cells.

It needs no network and no .git (NOVOBENCH_CODE then names the commit, as novobench/training/environment.py says).
`--wheels` names a folder of wheels with the packages that are missing here. Exit code 0: nothing failed; 1: a step
failed or hung; 2: it cannot run here.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu_proof"
"""What belongs to this machine alone: installed wheels, apex, unpacked data, caches. Never part of the tar."""
LOGS = ROOT / "runs" / "gpu_proof"
STATE = "gpu_proof.json"
SUMMARY = "gpu_proof.md"

TAR = "gpu_proof.tar"
TAR_BYTES = 16 * 2**20 - 1
LOG_BYTES = 2**16
"""Of a log in the tar: a quarter from its start, the rest from its end."""
PREDICTIONS = 20
"""Kept of each split if the tar would be too large: as many as results/<scale>/examples.json shows."""
GRACE = 12
"""Seconds from asking a command to end until it is killed."""
RESERVE = 8
"""Seconds for the last tar and the summary."""
SUMMARY_CHARACTERS = 10_000
"""Of what is printed last, for whoever sees the end of the output alone."""

MACHINE = """
import json, torch
from novobench.training import environment
print(json.dumps({"cuda": torch.version.cuda if torch.cuda.is_available() else None, **environment.describe()}))
"""


class CannotRun(Exception):
    """One line for the user; exit code 2."""


# ---------------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Step:
    """A command, done when it has ended with exit code 0."""

    name: str
    words: tuple[str, ...]
    forecast: int
    """Seconds, on one H100 with 16 CPU cores; in a rehearsal, on two cores."""
    limit: int
    """Seconds after which it is ended."""
    least: int = 0
    """Seconds for which it is worth starting, because what it has finished when it is ended counts; 0: its forecast."""
    missing: str = ""
    """Why it cannot run here."""
    trains: bool = False
    """It proves nothing while `tests_novograd` fails."""
    shares: bool = False
    """It times nothing, so preparations may run at the same time."""
    serves: tuple[str, ...] = ()
    """It prepares this machine for these steps, so it is never done for another machine."""
    variables: Mapping[str, str] = field(default_factory=dict)


def steps(scale: str, data: Mapping[str, Path | None], apex: Path | None, *, rehearsal: bool = False) -> list[Step]:
    """What there is to do, preparations first, then the most valuable first.

    `data` are the data sets at hand, each with the archive that holds it or None if it is unpacked; `apex` is a
    checkout of apex. A rehearsal runs the same steps on a CPU, on smaller models and on built-in data.
    """
    results = Path("results") / scale
    novobench = (sys.executable, "-m", "novobench")
    # Another machine's library versions may warn, and pytest-benchmark warns under xdist: neither is a failure.
    quiet = ("-o", "filterwarnings=default", "-p", "no:cacheprovider", "-p", "no:benchmark")
    pytest = (sys.executable, "-m", "pytest", *quiet)
    used_by: dict[str, list[str]] = {}

    def bench(name: str, *words: str, forecast: int, least: int = 0) -> Step:
        size = ("--device", "cpu", "--models", "ResNet-50v2", "--rounds", "1") if rehearsal else ("--device", "cuda")
        words = (*novobench, "bench", "optimizer", *size, *words, "--output", str(results / f"{name}.csv"))
        return Step(name, words, forecast, forecast * 3 // 2, least)

    def throughput(task: str) -> Step:
        name = f"throughput_{task}"
        size = ("--scale", "laptop", "--updates", "2") if rehearsal else ("--published",)
        words = (*novobench, "bench", "throughput", task, *size, "--checkpoint")
        return Step(name, (*words, "--output", str(results / f"{name}.csv")), 40, 80)

    def table(folder: str, experiments: str, forecast: int, rows: str) -> Step:
        name = experiments.replace(" ", "_")
        words = (*novobench, "run", *experiments.split(), "--scale", scale)
        if rehearsal:
            return Step(name, (*words, "--rows", *rows.split()), 45, 400, 10, trains=True)
        used_by.setdefault(folder, []).append(name)
        missing = "" if folder in data else f"there is no {folder} among the data"
        return Step(name, words, forecast, 2 * forecast, 45, missing, trains=True)

    kernel_tests: tuple[str, ...] = ("tests/gpu/test_novograd.py", "-m", "gpu", "-n", "8")
    memory_tests: tuple[str, ...] = ("tests/gpu/test_novograd.py", "-m", "gpu", "-k", "odd_layouts")
    timed: tuple[str, ...] = ()
    clipped: tuple[str, ...] = ("NovoGrad", "SGD(fused)", "Adam(fused)")
    swept: tuple[str, ...] = ("--models", "Transformer-big", "ResNet-50v2")
    settings = 60
    if rehearsal:
        kernel_tests = memory_tests = ("tests/optim/test_fused.py", "-k", "unaligned")
        timed, clipped = ("--only", "NovoGrad"), ("NovoGrad",)
        swept, settings = (), 15  # in Triton's interpreter it is ended long before it is done
    memcheck = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    todo = [
        Step("tests_novograd", (*pytest, *kernel_tests), 80, 140, shares=True),
        bench("bench_optimizer", *timed, forecast=75),
        bench("bench_sweep", "--sweep", *swept, forecast=settings, least=settings),
        bench("bench_clipped", "--unscale-and-clip", "--only", *clipped, forecast=40),
        throughput("language"),
        throughput("translation"),
        throughput("image"),
        throughput("speech"),
        table("AN4", "table4", 75, "t4_adam"),
        table("wikitext-2", "table7 figure2", 240, "t7_adam f2_adam"),
        table("AN4", "table5 figure1", 120, "t5_512"),
        table("multi30k", "table6", 240, "t6_adam"),
        Step(
            "memory_check", (*memcheck, *pytest, "-x", *memory_tests), 40, 60, shares=True,
            missing="" if _which(memcheck[0]) else "compute-sanitizer is not on the PATH",
            variables={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        ),
        table("cifar10", "table1", 300, "t1_sgd_100"),
        table("cifar10", "table3", 150, "t3_novograd_32k"),
        table("cifar10", "table2", 240, "t2_novograd_32k"),
        Step("tests_cells", (*pytest, "tests/gpu/test_cells.py", "-m", "gpu", "-n", "6"), 100, 200, trains=True),
    ]  # fmt: skip
    build = (sys.executable, "scripts/build_apex.py", str(apex), str(BUILD / "apex"))
    missing = "" if apex else "--apex names no checkout of github.com/NVIDIA/apex"
    prepare = [Step("apex", build, 60, 110, missing=missing, serves=("bench_optimizer",))]
    for folder, names in used_by.items():
        if archive := data.get(folder):
            words = ("tar", "-xzf", str(archive), "--no-same-owner", "-C", str(BUILD / "data"))
            prepare.append(Step(f"unpack_{folder}", words, 10, 60, serves=tuple(names)))
    return prepare + todo


def data_at_hand(folder: Path) -> dict[str, Path | None]:
    """Data sets in a folder: those that are unpacked (None), and those in a `.tar.gz` that holds one folder."""
    found: dict[str, Path | None] = {}
    for path in sorted(folder.glob("*")):
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                first = archive.next()
            if first is not None:
                found.setdefault(PurePosixPath(first.name).parts[0], path)
        elif path.is_dir():
            found[path.name] = None
    return found


def _path() -> str:
    """Where commands are looked for: this Python's own folder first, CUDA's last."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/cuda/bin"])


def _which(command: str) -> str | None:
    return shutil.which(command, path=_path())


# ---------------------------------------------------------------------------------------------- running them


class Job:
    """A step that runs, in a process group of its own."""

    def __init__(self, step: Step, environment: Mapping[str, str]) -> None:
        self.step, self.started, self.ended = step, time.monotonic(), False
        self.log = LOGS / f"{step.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            log.write(f"$ {shlex.join(step.words)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                step.words,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=ROOT, env={**environment, **step.variables}, process_group=0,
            )  # fmt: skip

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def wait(self, until: float) -> tuple[str, str]:
        """What became of it, "done", "failed" or "ended", and why; it is ended at the moment `until`."""
        try:
            code = self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            reason = f"ended after {self.seconds:.0f} s"
            self.end()
            return "ended", reason
        self.end()  # children that it left behind
        return ("done", "") if code == 0 else ("failed", f"exit code {code}")

    def end(self) -> None:
        """Interrupt the command, so that it can keep what it has; then kill it with all its children."""
        if self.ended:
            return
        self.ended = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Proof:
    """One call: its steps, its time, and what is done, in this call or before."""

    def __init__(self, todo: Sequence[Step], scale: str, folder: Path, started: float, minutes: float) -> None:
        self.steps, self.scale, self.folder, self.started = todo, scale, folder, started
        self.end_at = started + 60 * minutes
        self.only: Sequence[str] = ()
        self.environment: Mapping[str, str] = os.environ
        self.results = ROOT / "results" / scale
        self.state = read_state(self.results / STATE)
        self.left_out: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        """Preparations that run."""
        self.prepared: set[str] = set()
        """Preparations that were started in this call."""
        self.bad: list[str] = []

    def left(self) -> float:
        """Seconds that a step may take if it starts now."""
        return self.end_at - time.monotonic() - GRACE - RESERVE

    def pending(self) -> list[Step]:
        """Steps that are not done, or that were asked for by name; at the end those that overran their limit."""
        states = {name: found["state"] for name, found in self.state["steps"].items()}
        todo = [step for step in self.steps if not step.serves]
        todo = [s for s in todo if (s.name in self.only if self.only else states.get(s.name) != "done")]
        return sorted(todo, key=lambda step: states.get(step.name) == "ended")

    def preparations(self, names: Sequence[str]) -> list[Step]:
        """Those that serve one of the named steps and were not yet started."""
        return [s for s in self.steps if set(s.serves) & set(names) and s.name not in self.prepared and not s.missing]

    def against(self, step: Step, *, whole: bool) -> str:
        """Why the step cannot start now, to be done as a `whole` or for its `least`; empty if it can."""
        if step.missing:
            return step.missing
        tests = self.state["steps"].get("tests_novograd", {})
        if step.trains and tests.get("state") == "failed" and step.name not in self.only:
            return "tests_novograd failed"
        needed = step.forecast if whole else step.least or step.forecast
        needed += sum(preparation.forecast for preparation in self.preparations([step.name]))
        left = self.left()
        return "" if needed <= left else f"needs {needed} s, {max(0, int(left))} s are left"

    def run(self) -> None:
        """Take the steps in order, as far as time reaches."""
        pending = self.pending()
        try:
            for whole in (True, False):
                for step in list(pending):
                    if reason := self.against(step, whole=whole):
                        self.left_out[step.name] = reason
                        continue
                    self.left_out.pop(step.name, None)
                    self.prepare(step, [s.name for s in pending if not s.missing])
                    pending.remove(step)
                    self.take(step)
            for name, reason in self.left_out.items():
                self.say(f"{name}: left out, {reason}")
        finally:
            for job in self.jobs.values():
                job.end()

    def prepare(self, step: Step, pending: Sequence[str]) -> None:
        """Start preparations beside a step that times nothing; have none running beside one that does."""
        for preparation in self.preparations(pending if step.shares else [step.name]):
            if preparation.forecast <= self.left():
                self.say(f"{preparation.name}: started")
                self.prepared.add(preparation.name)
                self.jobs[preparation.name] = Job(preparation, self.environment)
        for name, job in list(self.jobs.items()):
            if not step.shares or step.name in job.step.serves:
                state, reason = job.wait(min(job.started + job.step.limit, time.monotonic() + self.left()))
                del self.jobs[name]
                self.say(f"{name}: {state} after {job.seconds:.0f} s {reason}")
                if state != "done":
                    print(tail(job.log, 15), flush=True)

    def take(self, step: Step) -> None:
        """Run a step and note what became of it."""
        self.say(f"{step.name}: started, forecast {step.forecast} s")
        left = self.left()
        job, state, reason = Job(step, self.environment), "cut", "interrupted"
        try:
            state, reason = job.wait(job.started + min(step.limit, left))
            if state == "ended" and left < step.limit:
                state = "cut"
        finally:
            job.end()
            found = {"state": state, "seconds": round(job.seconds, 1), "reason": reason}
            self.state["steps"][step.name] = {**found, "machine": len(self.state["machines"]) - 1}
            self.say(f"{step.name}: {state} in {found['seconds']:.0f} s {reason}")
            if state == "failed" or (state == "ended" and not step.least):
                self.bad.append(step.name)
                print(tail(job.log, 15), flush=True)
            self.keep()

    def keep(self) -> None:
        """State, summary and tar, as things stand."""
        write(self.results / STATE, (json.dumps(self.state, indent=1) + "\n").encode())
        write(self.results / SUMMARY, self.summary().encode())
        pack(self.scale, self.folder / TAR)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:4.0f} s] {text.rstrip()}", flush=True)

    def summary(self) -> str:
        """What became of each step, and what was measured, as Markdown."""
        lines = ["# What was shown on a GPU", ""]
        for number, machine in enumerate(self.state["machines"]):
            packages = machine["packages"]
            versions = f"torch {packages.get('torch')}, CUDA {machine['cuda']}, Python {machine['python']}"
            code = machine["code"] + (" with changes" if machine["dirty"] else "")
            lines.append(f"Machine {number}: {machine['hardware']}, {versions}, code {code}. {machine['nvidia_smi']}")
        lines += ["", "```", f"{'step':24} {'state':8} {'seconds':>7} machine  reason"]
        for step in self.steps:
            found = self.state["steps"].get(step.name)
            if step.serves:
                continue
            if found:
                again = f"; again: {self.left_out[step.name]}" if step.name in self.left_out else ""
                text = f"{found['state']:8} {found['seconds']:7.0f} {found['machine']:7}  {found['reason']}{again}"
            else:
                text = f"{'left out':8} {'':7} {'':7}  {self.left_out.get(step.name, 'to do')}"
            lines.append(f"{step.name:24} {text}".rstrip())
        for name in self.bad:
            lines += ["", f"{name} failed:", failures(LOGS / f"{name}.log")]
        return "\n".join([*lines, "```", *figures(self.results)]) + "\n"


def read_state(path: Path) -> dict[str, Any]:
    """What earlier calls did."""
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"schema": 1, "machines": [], "steps": {}, **state}


def tail(log: Path, lines: int) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(f"    {line[:300]}" for line in text.splitlines()[-lines:])


def failures(log: Path) -> str:
    """pytest's own short list, else the end of the log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    short = [line[:200] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return "\n".join(short[:12]) or tail(log, 4)


# ---------------------------------------------------------------------------------------------- what was measured


SHOWN = (
    "model", "task", "optimizer", "settings", "micro_batch", "precision", "milliseconds", "wall_milliseconds",
    "host_milliseconds", "ratio", "ratio_low", "ratio_high", "of_copy_bandwidth", "launches", "waits", "host_bound",
    "per_second", "unit", "of_peak", "of_published", "peak_gib", "resumed", "error",
)  # fmt: skip
"""Columns of a bench's CSV file."""
CONTENDERS = ("AdamW(fused)", "NovoGrad", "NovoGrad(single launch)", "apex FusedNovoGrad (paper mode)")
BEST = 3
"""Settings of the sweep that are shown of each model and optimizer."""


def figures(results: Path) -> list[str]:
    """The CSV files of the benches and the tables' Markdown, each cut to what matters."""
    lines: list[str] = []
    for path in (*sorted(results.glob("bench_*.csv")), *sorted(results.glob("throughput_*.csv"))):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if path.name.startswith("bench_"):
            rows = [row for row in rows if row["optimizer"] in CONTENDERS or row.get("error")]
        lines += ["", f"`{path.name}`", "", "```", *aligned(best(rows)), "```"]
    for path in sorted(results.glob("table*.md")):
        lines += ["", *path.read_text(encoding="utf-8").splitlines()[:14]]
    return lines


def best(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """All rows, or of a sweep the fastest settings and the first ones, which are the default."""
    taken: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        taken.setdefault((row["model"], row["optimizer"]) if row.get("settings") else ("", ""), []).append(row)
    others = taken.pop(("", ""), [])
    for group in taken.values():
        ranked = sorted(group[1:], key=lambda row: float(row["ratio"] or "inf"))
        others += [group[0], *ranked[:BEST]]
    return others


def aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows as text, the columns that are SHOWN and not empty."""
    names = [name for name in SHOWN if any(row.get(name) for row in rows)]
    cells = [names, *([_short(row.get(name) or "") for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _short(text: str) -> str:
    with suppress(ValueError):
        return f"{float(text):.4g}"
    return text[:60]


# ---------------------------------------------------------------------------------------------- the tar


def pack(scale: str, target: Path) -> None:
    """Write the tar, whole or not at all; the larger things are cut short until it is small enough."""
    for predictions, logs in ((None, True), (PREDICTIONS, True), (PREDICTIONS, False)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
            for path in kept(scale, logs):
                content = shortened(path, predictions)
                member = tarfile.TarInfo(path.relative_to(ROOT).as_posix())
                member.size, member.mtime = len(content), int(path.stat().st_mtime)
                tar.addfile(member, io.BytesIO(content))
        if buffer.tell() <= TAR_BYTES:
            write(target, buffer.getvalue())
            return
    print(f"{target}: not written, {buffer.tell():,} bytes are more than {TAR_BYTES:,}.", flush=True)


def kept(scale: str, logs: bool) -> Iterator[Path]:
    """The files that belong into the tar. A cell without a record starts anew elsewhere: only its log goes along."""
    results, runs = ROOT / "results" / scale, ROOT / "runs" / scale
    yield from sorted(path for path in results.rglob("*") if path.is_file() and path.name != TAR)
    for cell in sorted(path for path in runs.glob("*") if path.is_dir()):
        finished = (cell / "record.json").exists()
        for path in sorted(path for path in cell.iterdir() if path.is_file() and path.name != "lock"):
            if (finished or path.name in ("log.txt", "failure.json")) and (logs or path.name != "log.txt"):
                yield path
    if logs:
        yield from sorted(LOGS.glob("*.log"))


def shortened(path: Path, predictions: int | None) -> bytes:
    """A file's content; of a log both ends, of predictions the first ones."""
    content = path.read_bytes()
    if path.name == "log.txt" or path.suffix == ".log":
        first = LOG_BYTES // 4
        if len(content) > LOG_BYTES:
            return content[:first] + b"\n[...]\n" + content[first - LOG_BYTES :]
    elif predictions is not None and path.name.startswith("predictions-"):
        lines = gzip.decompress(content).splitlines(keepends=True)[:predictions]
        return gzip.compress(b"".join(lines), mtime=0)
    return content


def unpack(source: Path, scale: str) -> None:
    """Put the files of an earlier tar in place. One that would write anywhere else is refused as a whole."""
    try:
        with tarfile.open(source) as tar:
            members = tar.getmembers()
            places = [("results", scale), ("runs", scale), ("runs", LOGS.name)]
            for member in members:
                parts = PurePosixPath(member.name).parts
                if not member.isreg() or ".." in parts or parts[:2] not in places:
                    raise CannotRun(f"{source} is no tar of this script: it holds {member.name}. Nothing was unpacked.")
            tar.extractall(ROOT, members, filter="data")
    except (OSError, tarfile.TarError) as error:
        reason = str(error).splitlines()[0]
        raise CannotRun(f"--resume {source}: {reason}. Give a {TAR} that an earlier call wrote.") from error


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


# ---------------------------------------------------------------------------------------------- one call


def environment_for(data: Path, rehearsal: bool) -> dict[str, str]:
    """The variables of every step: no network, caches of its own, kernels compiled (in a rehearsal: interpreted)."""
    places = [ROOT, BUILD / "apex", BUILD / "site", *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PATH": _path(),
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "160",
        "TRITON_INTERPRET": "1" if rehearsal else "0",
        "TRITON_CACHE_DIR": str(BUILD / "triton"),
        "MPLCONFIGDIR": str(BUILD / "matplotlib"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "NOVOBENCH_DATA": str(data),
        "NOVOBENCH_CACHE": str(BUILD / "cache"),
    }


def install(wheels: Path) -> None:
    """Put the wheels where only the steps of this script see them."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise CannotRun(f"--wheels {wheels}: there is no wheel in this folder.")
    options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade")
    words = [sys.executable, "-m", "pip", "install", *options, "--target", str(BUILD / "site"), *files]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"--wheels {wheels}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")


def machine_facts(environment: Mapping[str, str], rehearsal: bool) -> dict[str, Any]:
    """Hardware, versions and code, as records of cells have them, and the driver's word on the GPU."""
    done = subprocess.run([sys.executable, "-c", MACHINE], capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CannotRun(f"novobench does not start here: {reason}")
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["cuda"] is None and not rehearsal:
        raise CannotRun("This machine has no CUDA device that torch can use, and nothing can be shown without one.")
    asked = "driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,temperature.gpu"
    with suppress(OSError, subprocess.TimeoutExpired):
        words = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        told = subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.strip()
        return {**facts, "nvidia_smi": f"{asked}: {told}" if told else ""}
    return {**facts, "nvidia_smi": ""}


def show(todo: Sequence[Step]) -> None:
    """The steps and their forecasts."""
    for step in todo:
        what = step.missing or shlex.join(step.words).replace(sys.executable, "python")
        print(f"{step.name:24} {step.forecast:4} s, at most {step.limit:4} s  {what}")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu_proof.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=f"receives {TAR} (default: results/gpu)")
    parser.add_argument("--minutes", type=float, default=9.0, help="what the whole call may take (default: 9)")
    parser.add_argument("--resume", type=Path, metavar="TAR", help=f"start from this {TAR} of an earlier call")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps, also if they are done")
    parser.add_argument("--list", action="store_true", help="name the steps with their forecasts; run none")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that are missing here")
    text = "data sets, folders or .tar.gz (default: $NOVOBENCH_DATA)"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    parser.add_argument("--apex", type=Path, metavar="DIR", help="a checkout of NVIDIA's apex, built and timed too")
    text = "small forms of the steps on a CPU, in a copy of the tree without .git"
    parser.add_argument("--rehearse", action="store_true", help=text)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run what fits; returns the exit code."""
    started = time.monotonic()
    arguments = parse(words)
    scale = "laptop" if arguments.rehearse else "gpu"
    if arguments.rehearse and (ROOT / ".git").exists():
        raise CannotRun("--rehearse overwrites results/laptop: run it in a copy of the tree, without its .git.")
    given = (arguments.data or Path(os.environ.get("NOVOBENCH_DATA", ROOT / "data"))).resolve()
    data = data_at_hand(given)
    unpacked = {name for name, archive in data.items() if archive is None}
    apex = arguments.apex.resolve() if arguments.apex and arguments.apex.is_dir() else None
    todo = steps(scale, data, apex, rehearsal=arguments.rehearse)
    if unknown := set(arguments.only) - {step.name for step in todo if not step.serves}:
        raise CannotRun(f"--only: there is no step {', '.join(sorted(unknown))}; see --list.")
    if arguments.list:
        show(todo)
        return 0
    if arguments.resume:
        unpack(arguments.resume, scale)
    if arguments.wheels:
        install(arguments.wheels)
    place = given
    if any(data.values()):  # archives: everything in one folder of our own
        place = BUILD / "data"
        place.mkdir(parents=True, exist_ok=True)
        for name in unpacked:
            with suppress(FileExistsError):
                (place / name).symlink_to(given / name)
    environment = environment_for(place, arguments.rehearse)
    facts = machine_facts(environment, arguments.rehearse)
    folder = (arguments.folder or ROOT / "results" / scale).resolve()
    proof = Proof(todo, scale, folder, started, arguments.minutes)
    proof.only, proof.environment = arguments.only, environment
    proof.state["machines"].append(facts)
    try:
        proof.keep()
    except OSError as error:
        raise CannotRun(f"{error.filename} cannot be written: {error.strerror}.") from error
    proof.say(f"{facts['hardware']}, code {facts['code']}; {max(0, proof.left()):.0f} s for steps")
    try:
        proof.run()
    finally:
        proof.keep()
        print(proof.summary()[:SUMMARY_CHARACTERS])
        print(f"Written: {folder / TAR}")
    return 1 if proof.bad else 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # also where it was started with SIGINT ignored: steps are ended by it
    try:
        sys.exit(main())
    except CannotRun as error:
        print(f"gpu_proof: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
