"""One call from the command line."""

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
from gpu_proof.steps import Step, data_at_hand, search_path, steps

SUMMARY_CHARACTERS = 10_000
"""Of what is printed last, for whoever sees the end of the output alone."""
MACHINE = """
import json, torch
from novobench.training import environment
print(json.dumps({"cuda": torch.version.cuda if torch.cuda.is_available() else None, **environment.describe()}))
"""


def environment_for(data: Path, rehearsal: bool) -> dict[str, str]:
    """The variables of every step: no network, caches of its own, kernels compiled (in a rehearsal: interpreted)."""
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
    """Put the wheels where only the steps of this script see them."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise places.CannotRun(f"--wheels {wheels}: there is no wheel in this folder.")
    options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade")
    words = [sys.executable, "-m", "pip", "install", *options, "--target", str(places.BUILD / "site"), *files]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise places.CannotRun(f"--wheels {wheels}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")


def gathered(given: Path, data: Mapping[str, Path | None]) -> Path:
    """The folder where steps find all data sets: if some have to be unpacked, one that belongs to this machine."""
    if not any(data.values()):
        return given
    place = places.BUILD / "data"
    place.mkdir(parents=True, exist_ok=True)
    for name in (name for name, packed in data.items() if packed is None):
        with suppress(FileExistsError):
            (place / name).symlink_to(given / name)
    return place


def machine_facts(environment: Mapping[str, str], rehearsal: bool) -> dict[str, Any]:
    """Hardware, versions and code, as records of cells have them, and the driver's word on the GPU."""
    words = [sys.executable, "-c", MACHINE]
    done = subprocess.run(words, capture_output=True, text=True, cwd=places.ROOT, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise places.CannotRun(f"novobench does not start here: {reason}")
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["cuda"] is None and not rehearsal:
        raise places.CannotRun("torch sees no CUDA device here, and nothing can be shown without one.")
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
    parser = argparse.ArgumentParser(prog="scripts/gpu_proof.sh", description=(gpu_proof.__doc__ or "").splitlines()[0])
    text = f"receives {places.TAR} (default: results/gpu)"
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--minutes", type=float, default=9.0, help="what the whole call may take (default: 9)")
    text = f"start from the {places.TAR} of an earlier call"
    parser.add_argument("--resume", type=Path, metavar="TAR", help=text)
    text = "run these steps alone, also those that are done or, because they overran their limit, would come last"
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help=text)
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
    if arguments.rehearse and (places.ROOT / ".git").exists():
        raise places.CannotRun("--rehearse overwrites results/laptop: run it in a copy of the tree, without its .git.")
    given = (arguments.data or Path(os.environ.get("NOVOBENCH_DATA", places.ROOT / "data"))).resolve()
    data = data_at_hand(given)
    apex = arguments.apex.resolve() if arguments.apex and arguments.apex.is_dir() else None
    todo = steps(scale, data, apex, rehearsal=arguments.rehearse)
    if unknown := set(arguments.only) - {step.name for step in todo if not step.serves}:
        raise places.CannotRun(f"--only: there is no step {', '.join(sorted(unknown))}; see --list.")
    if arguments.list:
        show(todo)
        return 0
    if arguments.resume:
        archive.unpack(arguments.resume, scale)
    if arguments.wheels:
        install(arguments.wheels)
    environment = environment_for(gathered(given, data), arguments.rehearse)
    facts = machine_facts(environment, arguments.rehearse)
    folder = (arguments.folder or places.ROOT / "results" / scale).resolve()
    proof = Proof(todo, scale, folder, started, arguments.minutes)
    proof.only, proof.environment = arguments.only, environment
    proof.state["machines"].append(facts)
    try:
        proof.keep()
    except OSError as error:
        raise places.CannotRun(f"{error.filename} cannot be written: {error.strerror}.") from error
    proof.say(f"{facts['hardware']}, code {facts['code']}; {max(0, proof.left()):.0f} s for steps")
    try:
        proof.run()
    finally:
        proof.keep()
        print(proof.summary()[:SUMMARY_CHARACTERS])
        print(f"Written: {folder / places.TAR}")
    return 1 if proof.bad else 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # also where it was started with SIGINT ignored: steps are ended by it
    try:
        sys.exit(main())
    except places.CannotRun as error:
        print(f"gpu_proof: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
