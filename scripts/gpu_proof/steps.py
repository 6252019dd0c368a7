"""The steps of a GPU proof: commands with forecasts and limits, in order of value."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gpu_proof import places


@dataclass(frozen=True)
class Step:
    """A command. It is done once it has ended with exit code 0."""

    name: str
    command: tuple[str, ...]
    forecast: int
    """Expected seconds on one H100 with 16 CPU cores; in a rehearsal, on two cores."""
    limit: int
    """Seconds after which it is ended."""
    least: int = 0
    """Seconds that make a start worthwhile, if partial work counts; 0: the whole forecast."""
    missing: str = ""
    """Why it cannot run here; empty if it can."""
    trains: bool = False
    """Whether it trains, which is pointless while `tests_novograd` fails."""
    tolerates_load: bool = False
    """Whether preparations may run at the same time, because it measures no time."""
    prepares: tuple[str, ...] = ()
    """Steps for which it prepares this machine. Every machine needs its own preparations."""
    variables: Mapping[str, str] = field(default_factory=dict)


def steps(scale: str, data: Mapping[str, Path | None], apex: Path | None, *, rehearsal: bool = False) -> list[Step]:
    """All steps: preparations, then the others in order of value.

    `data` maps each available data set to its archive, or to None if it is unpacked. `apex` is a checkout of apex. A
    rehearsal runs the same steps on a CPU, with smaller models and built-in data.
    """
    results = Path("results") / scale
    novobench = (sys.executable, "-m", "novobench")
    # Warnings of other library versions, and of pytest-benchmark under xdist, are not failures.
    quiet = ("-o", "filterwarnings=default", "-p", "no:cacheprovider", "-p", "no:benchmark")
    pytest = (sys.executable, "-m", "pytest", *quiet)
    used_by: dict[str, list[str]] = {}
    patience = 10 if rehearsal else 2  # limit / forecast; CPUs may be busy

    def bench(name: str, *options: str, forecast: int, least: int = 0) -> Step:
        size = (
            ("--device", "cpu", "--models", "ResNet-50v2", "--rounds", "1")
            if rehearsal
            else ("--device", "cuda", "--rounds", "9")
        )
        command = (*novobench, "bench", "optimizer", *size, *options, "--output", str(results / f"{name}.csv"))
        return Step(name, command, forecast, least + 30 if least else patience * forecast, least)

    def throughput(task: str, forecast: int) -> Step:
        name = f"throughput_{task}"
        size = ("--scale", "laptop", "--updates", "2") if rehearsal else ("--published",)
        command = (*novobench, "bench", "throughput", task, *size, "--checkpoint")
        return Step(name, (*command, "--output", str(results / f"{name}.csv")), forecast, patience * forecast)

    def table(folder: str, experiments: str, forecast: int, rows: str) -> Step:
        name = experiments.replace(" ", "_")
        # Few cells at a time, so that some have finished when the step is cut short.
        # The seed of earlier tars. Named as a range, it counts as trained if results/ have it.
        command = (*novobench, "run", *experiments.split(), "--scale", scale, "--seeds", "0-0", "--jobs", "3")
        if rehearsal:
            return Step(name, (*command, "--rows", *rows.split()), 45, patience * 45, 10, trains=True)
        used_by.setdefault(folder, []).append(name)
        missing = "" if folder in data else f"the data set {folder} is missing"
        return Step(name, command, forecast, patience * forecast, 45, missing, trains=True)

    kernel_tests: tuple[str, ...] = ("tests/gpu/test_novograd.py", "-m", "gpu", "-n", "8")
    memory_tests: tuple[str, ...] = ("tests/gpu/test_novograd.py", "-m", "gpu", "-k", "odd_layouts")
    other_tests = ("tests/gpu", "--ignore", "tests/gpu/test_novograd.py", "-m", "gpu", "-n", "6")
    timed: tuple[str, ...] = ()
    clipped: tuple[str, ...] = ("NovoGrad", "SGD(fused)", "Adam(fused)")
    swept: tuple[str, ...] = ("--models", "Transformer-big", "ResNet-50v2")
    settings = 60
    if rehearsal:
        kernel_tests = memory_tests = ("tests/optim/test_fused.py", "-k", "unaligned")
        timed, clipped = ("--only", "NovoGrad"), ("NovoGrad",)
        swept, settings = (), 15  # Triton's interpreter is too slow to finish it
    memcheck = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    todo = [
        Step("tests_novograd", (*pytest, *kernel_tests), 60, 140, tolerates_load=True),
        bench("bench_optimizer", *timed, forecast=65),
        throughput("language", 35),
        throughput("translation", 60),
        throughput("image", 40),
        throughput("speech", 75),
        table("AN4", "table4", 160, "t4_adam"),
        bench("bench_clipped", "--unscale-and-clip", "--only", *clipped, forecast=35),
        bench("bench_sweep", "--sweep", *swept, forecast=settings, least=settings),
        Step("tests_others", (*pytest, *other_tests), 100, 200, trains=True),
        table("wikitext-2", "table7 figure2", 480, "t7_adam f2_adam"),
        table("AN4", "table5 figure1", 250, "t5_512"),
        table("multi30k", "table6", 540, "t6_adam"),
        Step(
            "memory_check", (*memcheck, *pytest, "-x", *memory_tests), 40, 60, tolerates_load=True,
            missing="" if which(memcheck[0]) else "compute-sanitizer is not on the PATH",
            variables={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        ),
        table("cifar10", "table1", 660, "t1_sgd_100"),
        table("cifar10", "table3", 300, "t3_novograd_32k"),
        table("cifar10", "table2", 540, "t2_novograd_32k"),
    ]  # fmt: skip
    build = (sys.executable, "scripts/build_apex.py", str(apex), str(places.BUILD / "apex"))
    missing = "" if apex else "--apex does not name a checkout of github.com/NVIDIA/apex"
    prepare = [Step("apex", build, 60, 110, missing=missing, prepares=("bench_optimizer",))]
    for folder, names in used_by.items():
        if archive := data.get(folder):
            command = ("tar", "-xzf", str(archive), "--no-same-owner", "-C", str(places.BUILD / "data"))
            prepare.append(Step(f"unpack_{folder}", command, 10, 60, prepares=tuple(names)))
    return prepare + todo


def available_data(folder: Path) -> dict[str, Path | None]:
    """The data sets in a folder: unpacked ones (None), and `.tar.gz` archives of one folder each."""
    archives: dict[str, Path | None] = {}
    for path in sorted(folder.glob("*")):
        if path.name.endswith(".tar.gz"):
            try:
                with tarfile.open(path) as archive:
                    first = archive.next()
            except tarfile.TarError as error:
                raise places.CannotRun(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
            if first is not None:
                archives.setdefault(PurePosixPath(first.name).parts[0], path)
        elif path.is_dir():
            archives[path.name] = None
    return archives


def search_path() -> str:
    """The search path of commands: this Python's folder first, CUDA's last."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/cuda/bin"])


def which(command: str) -> str | None:
    return shutil.which(command, path=search_path())
