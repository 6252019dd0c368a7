"""The command line of the script."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import gpu_proof
from gpu_proof import archive, places
from gpu_proof.proof import Proof
from gpu_proof.steps import Step, available_data, search_path, steps

SUMMARY_CHARACTERS = 10_000
"""Length of the summary printed at the end, for readers who see only the end of the output."""
MACHINE = """
import json, torch
from novobench.training import environment
print(json.dumps({"cuda": torch.version.cuda if torch.cuda.is_available() else None, **environment.describe()}))
"""


def environment_for(data: Path, rehearsal: bool) -> dict[str, str]:
    """The environment of every step: no network, separate caches, compiled kernels (interpreted in a rehearsal)."""
    imports = [places.ROOT, places.BUILD / "apex", places.BUILD / "site", *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PATH": search_path(),
        "PYTHONPATH": os.pathsep.join(map(str, imports)),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "160",
        "TRITON_INTERPRET": "1" if rehearsal else "0",
        "TRITON_CACHE_DIR": str(places.BUILD / "triton"),
        "MPLCONFIGDIR": str(places.BUILD / "matplotlib"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "NOVOBENCH_DATA": str(data),
        "NOVOBENCH_CACHE": str(places.BUILD / "cache"),
    }


def install(wheels: Path) -> None:
    """Install wheels for the steps of this script only."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise places.CannotRun(f"--wheels {wheels}: this folder holds no wheels.")
    options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(places.BUILD / "site"), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise places.CannotRun(f"--wheels {wheels}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")


def data_folder(source: Path, data: Mapping[str, Path | None]) -> Path:
    """The folder of all data sets: `source`, or a folder of this machine if some of them must be unpacked."""
    if not any(data.values()):
        return source
    folder = places.BUILD / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (name for name, packed in data.items() if packed is None):
        with suppress(FileExistsError):
            (folder / name).symlink_to(source / name)
    return folder


def machine_facts(environment: Mapping[str, str], rehearsal: bool) -> dict[str, Any]:
    """Hardware, versions and code, as in the records of cells, and what nvidia-smi reports."""
    command = [sys.executable, "-c", MACHINE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=places.ROOT, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise places.CannotRun(f"novobench does not start here: {reason}")
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["cuda"] is None and not rehearsal:
        raise places.CannotRun("torch finds no CUDA device, and every step needs one.")
    fields = "driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,temperature.gpu"
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        values = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
        return {**facts, "nvidia_smi": f"{fields}: {values}" if values else ""}
    return {**facts, "nvidia_smi": ""}


def print_steps(todo: Sequence[Step]) -> None:
    """Print the steps and their forecasts."""
    for step in todo:
        what = step.missing or shlex.join(step.command).replace(sys.executable, "python")
        print(f"{step.name:24} {step.forecast:4} s, at most {step.limit:4} s  {what}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu_proof.sh", description=(gpu_proof.__doc__ or "").splitlines()[0])
    text = f"receives {places.TAR} (default: results/gpu)"
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--minutes", type=float, default=9.0, help="time budget of the whole call (default: 9)")
    text = f"start from the {places.TAR} of an earlier call"
    parser.add_argument("--resume", type=Path, metavar="TAR", help=text)
    text = "run only these steps, even if they are done"
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help=text)
    parser.add_argument("--list", action="store_true", help="print the steps and their forecasts, and exit")
    text = "write results/gpu/gpu_proof.md again from the other files there, and exit"
    parser.add_argument("--summary", action="store_true", help=text)
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that this machine lacks")
    text = "the data sets, as folders or .tar.gz archives (default: $NOVOBENCH_DATA)"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    parser.add_argument("--apex", type=Path, metavar="DIR", help="a checkout of NVIDIA's apex, to build and time")
    text = "run small versions of the steps on a CPU, in a copy of the repository without .git"
    parser.add_argument("--rehearse", action="store_true", help=text)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that fit; return the exit code."""
    started = time.monotonic()
    arguments = parse(argv)
    scale = "laptop" if arguments.rehearse else "gpu"
    if arguments.rehearse and (places.ROOT / ".git").exists():
        raise places.CannotRun("--rehearse overwrites results/laptop: run it in a copy of the repository without .git.")
    source = (arguments.data or Path(os.environ.get("NOVOBENCH_DATA", places.ROOT / "data"))).resolve()
    data = available_data(source)
    apex = arguments.apex.resolve() if arguments.apex and arguments.apex.is_dir() else None
    todo = steps(scale, data, apex, rehearsal=arguments.rehearse)
    if unknown := set(arguments.only) - {step.name for step in todo if not step.prepares}:
        raise places.CannotRun(f"--only: unknown step {', '.join(sorted(unknown))}; see --list.")
    if arguments.list:
        print_steps(todo)
        return 0
    folder = (arguments.folder or places.ROOT / "results" / scale).resolve()
    if arguments.summary:
        Proof(todo, scale, folder, started, 0).write_summary()
        return 0
    if arguments.resume:
        archive.unpack(arguments.resume, scale)
    if arguments.wheels:
        install(arguments.wheels)
    environment = environment_for(data_folder(source, data), arguments.rehearse)
    facts = machine_facts(environment, arguments.rehearse)
    proof = Proof(todo, scale, folder, started, arguments.minutes)
    proof.only, proof.environment = arguments.only, environment
    proof.state["machines"].append(facts)
    try:
        proof.save()
    except OSError as error:
        raise places.CannotRun(f"{error.filename} cannot be written: {error.strerror}.") from error
    proof.report(f"{facts['hardware']}, code {facts['code']}; {max(0, proof.seconds_left()):.0f} s for steps")
    try:
        proof.run()
    finally:
        proof.save()
        print(proof.summary()[:SUMMARY_CHARACTERS])
        print(f"Written: {folder / places.TAR}")
    return 1 if proof.failed else 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # even if the parent ignores SIGINT, which ends the steps
    try:
        sys.exit(main())
    except places.CannotRun as error:
        print(f"gpu_proof: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
