"""scripts/gpu_proof: which steps start, when they are stopped, what is saved, and how another machine continues.

The steps here are short shell commands. `test_gpu_rehearsal.py` runs the real ones on a CPU.
"""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from gpu_proof import archive, job, places, proof
from gpu_proof.proof import GRACE, RESERVE, Proof
from gpu_proof.steps import Step, available_data, steps
from novobench.cli import _parser
from novobench.places import ROOT
from novobench.suite.experiment import experiment_names, load_experiment

DATA = {"AN4": None, "wikitext-2": None, "multi30k": None, "cifar10": None}


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """An empty repository for the script to work in."""
    enter(tmp_path / "tree", monkeypatch)
    monkeypatch.setattr(job, "GRACE", 1)
    monkeypatch.setattr(proof, "GRACE", 1)
    monkeypatch.setattr(proof, "RESERVE", 0)
    return tmp_path / "tree"


def enter(tree, monkeypatch):
    tree.mkdir()
    for name, path in {"ROOT": tree, "BUILD": tree / "build", "LOGS": tree / "runs" / "gpu_proof"}.items():
        monkeypatch.setattr(places, name, path)


def shell(name, text, forecast=1, limit=20, **settings):
    return Step(name, ("sh", "-c", text), forecast, limit, **settings)


MACHINE = {"hardware": "1 × card", "packages": {}, "python": "3", "cuda": "13", "code": "abc", "dirty": False}


def prove(tree, *todo, minutes=1.0, only=()):
    """One call with these steps. Their outcomes are in `state["steps"]` and `skipped`."""
    call = Proof(todo, "gpu", tree / "out", time.monotonic(), minutes)
    call.only = only
    call.state["machines"].append({**MACHINE, "nvidia_smi": ""})
    call.run()
    call.save()
    return call


def states(call):
    return {name: outcome["state"] for name, outcome in call.state["steps"].items()}


def names(tree):
    with tarfile.open(tree / "out" / "gpu_proof.tar") as tar:
        return tar.getnames()


def test_every_step_is_a_command_that_exists(tree):
    for rehearsal in (False, True):
        for step in steps("gpu", DATA, ROOT, rehearsal=rehearsal):
            words = list(step.command)
            if "novobench" in words:
                _parser().parse_args(words[words.index("novobench") + 1 :])  # exits on an invalid argument
            else:
                assert "pytest" in words or words[1] == "scripts/build_apex.py"
            assert all((ROOT / word).exists() for word in words if word.startswith(("tests/", "scripts/")))
            assert step.forecast <= step.limit
    named = {step.name: step for step in steps("gpu", DATA, ROOT)}
    assert {name for step in named.values() for name in step.prepares} < set(named)
    commands = " ".join(word for step in named.values() for word in step.command)
    for name in experiment_names():
        assert f" {name} " in commands or load_experiment(name).group != "tables"


def test_nine_minutes_reach_to_the_first_table_and_three_to_the_other_benches(tree):
    named = {step.name: step for step in steps("gpu", DATA, ROOT)}
    order = [name for name in named if not named[name].prepares]
    first = order[: order.index("table4") + 1]
    assert {"tests_novograd", "bench_optimizer"} < set(first)
    assert {f"throughput_{task}" for task in ("image", "speech", "translation", "language")} < set(first)
    start = 15  # seconds until the first step, with cold imports
    assert start + sum(named[name].forecast for name in first) <= 540 - GRACE - RESERVE
    assert order[len(first) : len(first) + 2] == ["bench_clipped", "bench_sweep"]
    assert start + named["bench_clipped"].forecast + named["bench_sweep"].forecast <= 180 - GRACE - RESERVE
    assert named["apex"].limit <= named["tests_novograd"].limit  # they run at the same time


def test_a_step_that_does_not_fit_waits_for_the_next_call(tree):
    long, short = shell("long", "echo ran >>ran", forecast=90), shell("short", "true")
    call = prove(tree, long, short)
    assert states(call) == {"short": "done"}
    assert "needs 90 s" in call.skipped["long"]
    assert "long                     not run" in (tree / "results/gpu/gpu_proof.md").read_text()
    call = prove(tree, long, short, minutes=2)
    assert states(call) == {"short": "done", "long": "done"}
    prove(tree, long, short, minutes=2)
    assert (tree / "ran").read_text() == "ran\n"
    prove(tree, long, short, minutes=2, only=["long"])  # named: once more
    assert (tree / "ran").read_text() == "ran\nran\n"


def test_steps_that_fit_run_before_steps_that_can_be_cut(tree):
    table = shell("table", "echo table >>order; sleep 60", forecast=100, limit=200, least=1)
    slow = shell("slow", "echo slow >>order; sleep 60", limit=1)
    small = shell("small", "echo small >>order")
    call = prove(tree, table, slow, small, minutes=6 / 60)
    assert (tree / "order").read_text().split() == ["slow", "small", "table"]
    assert states(call) == {"slow": "ended", "small": "done", "table": "cut"}
    assert call.failed == ["slow"]
    assert [step.name for step in call.pending()] == ["table", "slow"]  # unlikely to finish next time either


def test_a_failure_of_the_kernel_tests_stops_training_alone(tree):
    todo = (
        shell("tests_novograd", "echo FAILED tests/gpu/test_novograd.py::test_it; [ -e mended ]"),
        shell("bench", "true"),
        shell("table", "true", trains=True),
    )
    call = prove(tree, *todo)
    assert states(call) == {"tests_novograd": "failed", "bench": "done"}
    assert call.skipped == {"table": "tests_novograd failed"}
    assert call.failed == ["tests_novograd"]
    assert "FAILED tests/gpu/test_novograd.py::test_it" in call.summary()
    (tree / "mended").touch()
    call = prove(tree, *todo)
    assert states(call) == {"tests_novograd": "done", "bench": "done", "table": "done"}
    assert call.failed == []


def test_a_table_that_overruns_its_limit_keeps_its_place(tree):
    """Finished cells count, so each call makes progress; other steps would only overrun again."""
    table = shell("table", "echo table >>order; sleep 60", limit=1, least=1, trains=True)
    slow = shell("slow", "echo slow >>order; sleep 60", limit=1)
    call = prove(tree, slow, table)
    assert states(call) == {"slow": "ended", "table": "cut"}
    prove(tree, slow, table)
    assert (tree / "order").read_text().split() == ["slow", "table", "table", "slow"]


def test_a_step_is_ended_at_its_limit_with_its_children(tree):
    deaf = (
        "trap '' INT; (trap '' INT TERM; while :; do date +%s%N >alive; sleep 0.05; done) & while :; do sleep 1; done"
    )
    begun = time.monotonic()
    call = prove(tree, shell("deaf", deaf, limit=1), shell("next", "true"))
    assert time.monotonic() - begun < 10
    assert states(call) == {"deaf": "ended", "next": "done"}
    assert call.failed == ["deaf"]
    last = (tree / "alive").read_text()
    time.sleep(0.3)
    assert (tree / "alive").read_text() == last


def test_an_interrupted_step_can_save_its_work(tree, heard_signals):
    """It is interrupted before it is killed. If partial work counts, running out of time is not a failure."""
    text = "trap 'echo kept >kept; exit 1' INT; while :; do sleep 0.1; done"
    step = shell("table", text, forecast=100, limit=200, least=2)
    call = prove(tree, step, minutes=4 / 60)
    assert states(call) == {"table": "cut"}
    assert call.failed == []
    assert (tree / "kept").read_text() == "kept\n"
    assert [step.name for step in call.pending()] == ["table"]


def test_preparations_run_next_to_steps_that_measure_no_time(tree):
    """`times` would notice one. A preparation may fail, and runs again on the next machine if a step needs it."""
    build = shell("build", "echo >building; sleep 1; rm building; echo >>built; false", prepares=("times",))
    tests = shell("tests", "until [ -e building ]; do sleep 0.05; done", tolerates_load=True)
    times = shell("times", "[ ! -e building ] && [ -e built ]")
    idle = shell("idle", "echo >idle", prepares=("elsewhere",))
    call = prove(tree, build, idle, tests, times)
    assert states(call) == {"tests": "done", "times": "done"}
    assert not (tree / "idle").exists()
    prove(tree, build, idle, tests, times)
    assert (tree / "built").read_text() == "\n"


def cell(tree, name, finished, **files):
    folder = tree / "runs" / "gpu" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "1.pt").write_text("heavy")
    files |= {"log.txt": "log", "metrics.jsonl": "{}\n", "lock": ""}
    if finished:
        files["record.json"] = "{}"
    for file, text in files.items():
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())


def predictions(lines):
    return gzip.compress(b"".join(os.urandom(40).hex().encode() + b"\n" for _ in range(lines)))


def test_another_machine_continues_from_the_tar(tree, tmp_path, monkeypatch):
    cell(tree, "finished", True, **{"predictions-test.jsonl.gz": predictions(100)})
    cell(tree, "half", False)
    bench = shell("bench", "mkdir -p results/gpu; echo a,b >results/gpu/bench.csv; yes line | head -c 999999")
    table = shell("table", "false")
    prove(tree, bench, table)
    assert names(tree) == [
        "results/gpu/bench.csv", "results/gpu/gpu_proof.json", "results/gpu/gpu_proof.md",
        "runs/gpu/finished/log.txt", "runs/gpu/finished/metrics.jsonl", "runs/gpu/finished/predictions-test.jsonl.gz",
        "runs/gpu/finished/record.json", "runs/gpu/half/log.txt",
        "runs/gpu_proof/bench.log", "runs/gpu_proof/table.log",
    ]  # fmt: skip
    tar = tree / "out" / "gpu_proof.tar"
    before = {path.relative_to(tree): path.read_bytes() for path in (tree / "runs").rglob("*.*")}
    packed, cut = names(tree), "runs/gpu_proof/bench.log"
    other = tmp_path / "other"
    enter(other, monkeypatch)
    archive.unpack(tar, "gpu")
    for name in packed:
        if name.startswith("runs/") and name != cut:
            assert (other / name).read_bytes() == before[Path(name)]
    assert (other / cut).stat().st_size < 2 * archive.LOG_BYTES
    assert (other / cut).read_bytes()[-1000:] == before[Path(cut)][-1000:]
    call = prove(other, bench, table)
    assert list(call.state["steps"]) == ["bench", "table"]
    assert call.state["steps"]["bench"]["machine"] == 0  # the first machine
    assert call.state["steps"]["table"]["machine"] == 1
    assert len(call.state["machines"]) == 2


def test_the_tar_stays_below_its_limit(tree, monkeypatch, capsys):
    """Predictions are cut to the number in the results, then logs are dropped. A larger tar is not written."""
    cell(tree, "finished", True, **{"predictions-test.jsonl.gz": predictions(5000)})
    monkeypatch.setattr(archive, "TAR_BYTES", 100_000)
    call = prove(tree, shell("loud", "head -c 50000 /dev/urandom"))
    tar = tree / "out" / "gpu_proof.tar"
    assert tar.stat().st_size < 100_000
    assert "runs/gpu_proof/loud.log" in names(tree)
    with tarfile.open(tar) as file:
        packed = file.extractfile("runs/gpu/finished/predictions-test.jsonl.gz").read()
    whole = (tree / "runs/gpu/finished/predictions-test.jsonl.gz").read_bytes()
    assert gzip.decompress(packed).splitlines() == gzip.decompress(whole).splitlines()[:20]
    monkeypatch.setattr(archive, "TAR_BYTES", 20_000)
    call.save()
    assert tar.stat().st_size < 20_000
    assert "runs/gpu_proof/loud.log" not in names(tree)
    last = tar.read_bytes()
    monkeypatch.setattr(archive, "TAR_BYTES", 100)
    call.save()
    assert tar.read_bytes() == last
    assert "not written" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["../outside", "runs/gpu/../../outside", "/tmp/outside", "novobench/cli.py", "runs/gpu/link"]
)
def test_a_tar_that_writes_elsewhere_is_rejected(name, tree, tmp_path):
    tar = tmp_path / "evil.tar"
    with tarfile.open(tar, "w") as file:
        good, evil = tarfile.TarInfo("results/gpu/records.csv"), tarfile.TarInfo(name)
        file.addfile(good, io.BytesIO())
        if name.endswith("link"):
            evil.type, evil.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(evil, io.BytesIO())
    with pytest.raises(places.CannotRun, match="Nothing was unpacked"):
        archive.unpack(tar, "gpu")
    assert not list(tree.iterdir())


def test_data_sets_are_folders_or_archives(tree, tmp_path):
    (tmp_path / "data" / "wikitext-2").mkdir(parents=True)
    with tarfile.open(tmp_path / "data" / "some.tar.gz", "w:gz") as file:
        file.add(tmp_path / "data" / "wikitext-2", "multi30k")
    data = available_data(tmp_path / "data")
    assert data == {"wikitext-2": None, "multi30k": tmp_path / "data" / "some.tar.gz"}
    named = {step.name: step for step in steps("gpu", data, None)}
    assert named["unpack_multi30k"].prepares == ("table6",)
    assert named["table7_figure2"].missing == ""
    assert named["table4"].missing == "the data set AN4 is missing"
    assert named["apex"].missing.startswith("--apex")


def test_the_committed_summary_is_current():
    """After a change of results/gpu: scripts/gpu_proof.sh --summary."""
    summary = Proof(steps("gpu", {}, None), "gpu", ROOT, 0.0, 0.0).summary()
    assert (ROOT / "results" / "gpu" / "gpu_proof.md").read_text(encoding="utf-8") == summary


def run_script(*words, cwd=ROOT, **variables):
    words = [str(cwd / "scripts" / "gpu_proof.sh"), *words]
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd="/")


def test_one_line_says_why_it_cannot_run(tmp_path):
    (tmp_path / "no.tar").write_text("no tar")
    for words, reason in (
        ((str(tmp_path),), "no CUDA device"),
        (("--rehearse",), "in a copy of the repository"),
        (("--only", "table9"), "unknown step table9"),
        (("--resume", str(tmp_path / "no.tar")), "no.tar"),
        (("--wheels", str(tmp_path)), "no wheels"),
    ):
        if words == ("--rehearse",) and not (ROOT / ".git").exists():
            continue
        done = run_script(*words)
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert reason in line
    assert not list(tmp_path.glob("gpu_proof*"))


def test_the_list_needs_the_standard_library_alone(tmp_path):
    """Neither torch nor a GPU."""
    (tmp_path / "torch.py").write_text("raise ImportError")
    done = run_script("--list", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "bench_optimizer" in done.stdout
    assert "the data set cifar10 is missing" in run_script("--list", "--data", str(tmp_path)).stdout


def test_sigterm_ends_the_running_step_and_saves_its_outcome(tree):
    """State and tar are written."""
    code = f"""
import signal, time
from pathlib import Path
from gpu_proof import job, places
from gpu_proof.__main__ import _interrupt
from gpu_proof.proof import Proof
from gpu_proof.steps import Step
places.ROOT = Path({str(tree)!r})
places.LOGS = places.ROOT / "runs" / "gpu_proof"
job.GRACE = 1
signal.signal(signal.SIGTERM, _interrupt)
call = Proof([Step("long", ("sleep", "60"), 1, 99)], "gpu", places.ROOT / "out", time.monotonic(), 9)
call.state["machines"].append({ {**MACHINE, "nvidia_smi": ""} })
call.run()
"""
    words, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert "long: started" in process.stdout.readline()
    while not (tree / "runs" / "gpu_proof" / "long.log").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in err
    assert "long: cut" in out
    state = json.loads((tree / "results" / "gpu" / "gpu_proof.json").read_text())
    assert state["steps"]["long"]["reason"] == "interrupted"
    assert (tree / "out" / "gpu_proof.tar").exists()
