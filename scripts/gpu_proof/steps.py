"""What there is to do on a GPU: commands with forecasts and limits, in order of worth."""

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
    patience = 10 if rehearsal else 2  # times the forecast: how busy a CPU is nobody knows

    def bench(name: str, *words: str, forecast: int, least: int = 0) -> Step:
        size = (
            ("--device", "cpu", "--models", "ResNet-50v2", "--rounds", "1")
            if rehearsal
            else ("--device", "cuda", "--rounds", "9")
        )
        words = (*novobench, "bench", "optimizer", *size, *words, "--output", str(results / f"{name}.csv"))
        return Step(name, words, forecast, least + 30 if least else patience * forecast, least)

    def throughput(task: str, forecast: int) -> Step:
        name = f"throughput_{task}"
        size = ("--scale", "laptop", "--updates", "2") if rehearsal else ("--published",)
        words = (*novobench, "bench", "throughput", task, *size, "--checkpoint")
        return Step(name, (*words, "--output", str(results / f"{name}.csv")), forecast, patience * forecast)

    def table(folder: str, experiments: str, forecast: int, rows: str) -> Step:
        name = experiments.replace(" ", "_")
        # Few at a time, so that some are done and count when the step is cut short.
        words = (*novobench, "run", *experiments.split(), "--scale", scale, "--jobs", "3")
        if rehearsal:
            return Step(name, (*words, "--rows", *rows.split()), 45, patience * 45, 10, trains=True)
        used_by.setdefault(folder, []).append(name)
        missing = "" if folder in data else f"there is no {folder} among the data"
        return Step(name, words, forecast, patience * forecast, 45, missing, trains=True)

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
        swept, settings = (), 15  # in Triton's interpreter it is ended long before it is done
    memcheck = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    todo = [
        Step("tests_novograd", (*pytest, *kernel_tests), 60, 140, shares=True),
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
            "memory_check", (*memcheck, *pytest, "-x", *memory_tests), 40, 60, shares=True,
            missing="" if which(memcheck[0]) else "compute-sanitizer is not on the PATH",
            variables={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        ),
        table("cifar10", "table1", 660, "t1_sgd_100"),
        table("cifar10", "table3", 300, "t3_novograd_32k"),
        table("cifar10", "table2", 540, "t2_novograd_32k"),
    ]  # fmt: skip
    build = (sys.executable, "scripts/build_apex.py", str(apex), str(places.BUILD / "apex"))
    missing = "" if apex else "--apex names no checkout of github.com/NVIDIA/apex"
    prepare = [Step("apex", build, 60, 110, missing=missing, serves=("bench_optimizer",))]
    for folder, names in used_by.items():
        if archive := data.get(folder):
            words = ("tar", "-xzf", str(archive), "--no-same-owner", "-C", str(places.BUILD / "data"))
            prepare.append(Step(f"unpack_{folder}", words, 10, 60, serves=tuple(names)))
    return prepare + todo


def data_at_hand(folder: Path) -> dict[str, Path | None]:
    """Data sets in a folder: those that are unpacked (None), and those in a `.tar.gz` that holds one folder."""
    found: dict[str, Path | None] = {}
    for path in sorted(folder.glob("*")):
        if path.name.endswith(".tar.gz"):
            try:
                with tarfile.open(path) as archive:
                    first = archive.next()
            except tarfile.TarError as error:
                raise places.CannotRun(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
            if first is not None:
                found.setdefault(PurePosixPath(first.name).parts[0], path)
        elif path.is_dir():
            found[path.name] = None
    return found


def search_path() -> str:
    """Where commands are looked for: this Python's own folder first, CUDA's last."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/cuda/bin"])


def which(command: str) -> str | None:
    return shutil.which(command, path=search_path())
