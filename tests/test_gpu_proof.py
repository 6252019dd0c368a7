"""The script for a GPU: what it starts, when it stops it, what it keeps, and that another machine goes on from there.

The steps here are short shell commands; `test_gpu_rehearsal.py` runs the real ones, on a CPU.
"""

import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from novobench.cli import _parser
from novobench.config import ROOT

DATA = {"AN4": None, "wikitext-2": None, "multi30k": None, "cifar10": None}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The module, at work in an empty tree."""
    spec = importlib.util.spec_from_file_location("gpu_proof", ROOT / "scripts" / "gpu_proof.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_proof", module)
    spec.loader.exec_module(module)
    tree = tmp_path / "tree"
    for name, path in {"ROOT": tree, "BUILD": tree / "build", "LOGS": tree / "runs" / "gpu_proof"}.items():
        monkeypatch.setattr(module, name, path)
    monkeypatch.setattr(module, "GRACE", 1)
    monkeypatch.setattr(module, "RESERVE", 0)
    return module


def shell(script, name, text, forecast=1, limit=20, **settings):
    return script.Step(name, ("sh", "-c", text), forecast, limit, **settings)


MACHINE = {"hardware": "1 × card", "packages": {}, "python": "3", "cuda": "13", "code": "abc", "dirty": False}


def prove(script, *steps, minutes=1.0, only=()):
    """One call with these steps; `proof.state["steps"]` and `proof.left_out` say what became of them."""
    proof = script.Proof(steps, "gpu", script.ROOT / "out", time.monotonic(), minutes)
    proof.only = only
    proof.state["machines"].append({**MACHINE, "nvidia_smi": ""})
    proof.run()
    proof.keep()
    return proof


def states(proof):
    return {name: found["state"] for name, found in proof.state["steps"].items()}


def names(script):
    with tarfile.open(script.ROOT / "out" / "gpu_proof.tar") as tar:
        return tar.getnames()


def test_every_step_is_a_command_that_exists(script):
    for rehearsal in (False, True):
        for step in script.steps("gpu", DATA, ROOT, rehearsal=rehearsal):
            words = list(step.words)
            if "novobench" in words:
                _parser().parse_args(words[words.index("novobench") + 1 :])  # ends the process if a word is wrong
            else:
                assert "pytest" in words or words[1] == "scripts/build_apex.py"
            assert all((ROOT / word).exists() for word in words if word.startswith(("tests/", "scripts/")))
            assert step.forecast <= step.limit
    steps = {step.name: step for step in script.steps("gpu", DATA, ROOT)}
    assert {name for step in steps.values() for name in step.serves} < set(steps)
    asked = " ".join(word for name in steps for word in steps[name].words)
    for experiment in sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml")):
        assert f" {experiment} " in asked


def test_nine_minutes_reach_to_the_first_table_and_three_to_another(script):
    steps = {step.name: step for step in script.steps("gpu", DATA, ROOT)}
    order = [name for name in steps if not steps[name].serves]
    first = order[: order.index("table4") + 1]
    assert {"tests_novograd", "bench_optimizer", "bench_clipped", "bench_sweep"} < set(first)
    assert {f"throughput_{task}" for task in ("image", "speech", "translation", "language")} < set(first)
    start = 15  # what machine_facts takes where nothing was imported before
    assert start + sum(steps[name].forecast for name in first) <= 540 - script.GRACE - script.RESERVE
    assert all(start + steps[name].forecast <= 180 - script.GRACE - script.RESERVE for name in ("table5_figure1",))
    assert steps["apex"].limit <= steps["tests_novograd"].limit  # it runs beside them


def test_what_does_not_fit_is_named_and_left_for_the_next_time(script):
    long, short = shell(script, "long", "echo ran >>ran", forecast=90), shell(script, "short", "true")
    script.ROOT.mkdir()
    proof = prove(script, long, short)
    assert states(proof) == {"short": "done"}
    assert "needs 90 s" in proof.left_out["long"]
    assert "long                     left out" in (script.ROOT / "results/gpu/gpu_proof.md").read_text()
    proof = prove(script, long, short, minutes=2)
    assert states(proof) == {"short": "done", "long": "done"}
    prove(script, long, short, minutes=2)
    assert (script.ROOT / "ran").read_text() == "ran\n"
    prove(script, long, short, minutes=2, only=["long"])  # asked for by name: once more
    assert (script.ROOT / "ran").read_text() == "ran\nran\n"


def test_what_fits_whole_goes_before_what_can_be_cut(script):
    script.ROOT.mkdir()
    table = shell(script, "table", "echo table >>order; sleep 60", forecast=100, limit=200, least=1)
    slow = shell(script, "slow", "echo slow >>order; sleep 60", limit=1)
    small = shell(script, "small", "echo small >>order")
    proof = prove(script, table, slow, small, minutes=6 / 60)
    assert (script.ROOT / "order").read_text().split() == ["slow", "small", "table"]
    assert states(proof) == {"slow": "ended", "small": "done", "table": "cut"}
    assert proof.bad == ["slow"]
    assert [step.name for step in proof.pending()] == ["table", "slow"]  # which will hardly be done the next time


def test_a_failure_stops_nothing_but_training_on_kernels_that_are_wrong(script):
    script.ROOT.mkdir()
    steps = (
        shell(script, "tests_novograd", "echo FAILED tests/gpu/test_novograd.py::test_it; [ -e mended ]"),
        shell(script, "bench", "true"),
        shell(script, "table", "true", trains=True),
    )
    proof = prove(script, *steps)
    assert states(proof) == {"tests_novograd": "failed", "bench": "done"}
    assert proof.left_out == {"table": "tests_novograd failed"}
    assert proof.bad == ["tests_novograd"]
    assert "FAILED tests/gpu/test_novograd.py::test_it" in proof.summary()
    (script.ROOT / "mended").touch()
    proof = prove(script, *steps)
    assert states(proof) == {"tests_novograd": "done", "bench": "done", "table": "done"}
    assert proof.bad == []


def test_a_step_is_ended_at_its_limit_with_its_children(script):
    script.ROOT.mkdir()
    deaf = (
        "trap '' INT; (trap '' INT TERM; while :; do date +%s%N >alive; sleep 0.05; done) & while :; do sleep 1; done"
    )
    begun = time.monotonic()
    proof = prove(script, shell(script, "deaf", deaf, limit=1), shell(script, "next", "true"))
    assert time.monotonic() - begun < 10
    assert states(proof) == {"deaf": "ended", "next": "done"}
    assert proof.bad == ["deaf"]
    last = (script.ROOT / "alive").read_text()
    time.sleep(0.3)
    assert (script.ROOT / "alive").read_text() == last


def test_a_step_that_is_interrupted_keeps_what_it_has(script):
    """It gets an interrupt first. Where what it has by then counts, an end by time is no failure."""
    script.ROOT.mkdir()
    text = "trap 'echo kept >kept; exit 1' INT; while :; do sleep 0.1; done"
    step = shell(script, "table", text, forecast=100, limit=200, least=2)
    proof = prove(script, step, minutes=4 / 60)
    assert states(proof) == {"table": "cut"}
    assert proof.bad == []
    assert (script.ROOT / "kept").read_text() == "kept\n"
    assert [step.name for step in proof.pending()] == ["table"]


def test_preparations_run_beside_what_times_nothing(script):
    """`times` would see it run; a preparation may fail; on the next machine it is made again, if a step needs it."""
    script.ROOT.mkdir()
    build = shell(script, "build", "echo >building; sleep 1; rm building; echo >>built; false", serves=("times",))
    tests = shell(script, "tests", "until [ -e building ]; do sleep 0.05; done", shares=True)
    times = shell(script, "times", "[ ! -e building ] && [ -e built ]")
    idle = shell(script, "idle", "echo >idle", serves=("elsewhere",))
    proof = prove(script, build, idle, tests, times)
    assert states(proof) == {"tests": "done", "times": "done"}
    assert not (script.ROOT / "idle").exists()
    prove(script, build, idle, tests, times)
    assert (script.ROOT / "built").read_text() == "\n"


def cell(script, name, finished, **files):
    folder = script.ROOT / "runs" / "gpu" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "1.pt").write_text("heavy")
    files |= {"log.txt": "log", "metrics.jsonl": "{}\n", "lock": ""}
    if finished:
        files["record.json"] = "{}"
    for file, text in files.items():
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())


def predictions(lines):
    return gzip.compress(b"".join(os.urandom(40).hex().encode() + b"\n" for _ in range(lines)))


def test_the_tar_and_a_machine_that_goes_on_from_it(script, tmp_path, monkeypatch):
    cell(script, "finished", True, **{"predictions-test.jsonl.gz": predictions(100)})
    cell(script, "half", False)
    bench = shell(script, "bench", "mkdir -p results/gpu; echo a,b >results/gpu/bench.csv; yes line | head -c 999999")
    table = shell(script, "table", "false")
    prove(script, bench, table)
    assert names(script) == [
        "results/gpu/bench.csv", "results/gpu/gpu_proof.json", "results/gpu/gpu_proof.md",
        "runs/gpu/finished/log.txt", "runs/gpu/finished/metrics.jsonl", "runs/gpu/finished/predictions-test.jsonl.gz",
        "runs/gpu/finished/record.json", "runs/gpu/half/log.txt",
        "runs/gpu_proof/bench.log", "runs/gpu_proof/table.log",
    ]  # fmt: skip
    tar = script.ROOT / "out" / "gpu_proof.tar"
    before = {path.relative_to(script.ROOT): path.read_bytes() for path in (script.ROOT / "runs").rglob("*.*")}
    monkeypatch.setattr(script, "ROOT", tmp_path / "other")
    monkeypatch.setattr(script, "LOGS", tmp_path / "other" / "runs" / "gpu_proof")
    script.unpack(tar, "gpu")
    cut = "runs/gpu_proof/bench.log"
    for name in names_of(tar):
        if name.startswith("runs/") and name != cut:
            assert (script.ROOT / name).read_bytes() == before[Path(name)]
    assert (script.ROOT / cut).stat().st_size < 2 * script.LOG_BYTES
    assert (script.ROOT / cut).read_bytes()[-1000:] == before[Path(cut)][-1000:]
    proof = prove(script, bench, table)
    assert list(proof.state["steps"]) == ["bench", "table"]
    assert proof.state["steps"]["bench"]["machine"] == 0  # the first one's
    assert proof.state["steps"]["table"]["machine"] == 1
    assert len(proof.state["machines"]) == 2


def names_of(tar):
    with tarfile.open(tar) as file:
        return file.getnames()


def test_the_tar_stays_below_its_limit(script, monkeypatch, capsys):
    """Predictions are cut to what the results show, then logs are left out; what is still too large is not written."""
    cell(script, "finished", True, **{"predictions-test.jsonl.gz": predictions(5000)})
    monkeypatch.setattr(script, "TAR_BYTES", 100_000)
    proof = prove(script, shell(script, "loud", "head -c 50000 /dev/urandom"))
    tar = script.ROOT / "out" / "gpu_proof.tar"
    assert tar.stat().st_size < 100_000
    assert "runs/gpu_proof/loud.log" in names(script)
    with tarfile.open(tar) as file:
        kept = file.extractfile("runs/gpu/finished/predictions-test.jsonl.gz").read()
    whole = (script.ROOT / "runs/gpu/finished/predictions-test.jsonl.gz").read_bytes()
    assert gzip.decompress(kept).splitlines() == gzip.decompress(whole).splitlines()[:20]
    monkeypatch.setattr(script, "TAR_BYTES", 20_000)
    proof.keep()
    assert tar.stat().st_size < 20_000
    assert "runs/gpu_proof/loud.log" not in names(script)
    last = tar.read_bytes()
    monkeypatch.setattr(script, "TAR_BYTES", 100)
    proof.keep()
    assert tar.read_bytes() == last
    assert "not written" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["../outside", "runs/gpu/../../outside", "/tmp/outside", "novobench/cli.py", "runs/gpu/link"]
)
def test_a_tar_that_writes_elsewhere_is_refused(name, script, tmp_path):
    tar = tmp_path / "evil.tar"
    with tarfile.open(tar, "w") as file:
        good, evil = tarfile.TarInfo("results/gpu/records.csv"), tarfile.TarInfo(name)
        file.addfile(good, io.BytesIO())
        if name.endswith("link"):
            evil.type, evil.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(evil, io.BytesIO())
    with pytest.raises(script.CannotRun, match="Nothing was unpacked"):
        script.unpack(tar, "gpu")
    assert not script.ROOT.exists()


def test_data_come_as_folders_or_archives(script, tmp_path):
    (tmp_path / "data" / "wikitext-2").mkdir(parents=True)
    with tarfile.open(tmp_path / "data" / "some.tar.gz", "w:gz") as file:
        file.add(tmp_path / "data" / "wikitext-2", "multi30k")
    data = script.data_at_hand(tmp_path / "data")
    assert data == {"wikitext-2": None, "multi30k": tmp_path / "data" / "some.tar.gz"}
    steps = {step.name: step for step in script.steps("gpu", data, None)}
    assert steps["unpack_multi30k"].serves == ("table6",)
    assert steps["table7_figure2"].missing == ""
    assert steps["table4"].missing == "there is no AN4 among the data"
    assert steps["apex"].missing.startswith("--apex")


def run_script(*words, cwd=ROOT, **variables):
    words = [str(cwd / "scripts" / "gpu_proof.sh"), *words]
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd="/")


def test_it_says_in_one_line_why_it_cannot_run(tmp_path):
    (tmp_path / "no.tar").write_text("no tar")
    for words, reason in (
        ((str(tmp_path),), "no CUDA device"),
        (("--rehearse",), "in a copy of the tree"),
        (("--only", "table9"), "there is no step table9"),
        (("--resume", str(tmp_path / "no.tar")), "no.tar"),
        (("--wheels", str(tmp_path)), "no wheel"),
    ):
        if words == ("--rehearse",) and not (ROOT / ".git").exists():
            continue
        done = run_script(*words)
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert reason in line
    assert not list(tmp_path.glob("gpu_proof*"))


def test_the_list_needs_nothing(tmp_path):
    """No torch, no GPU, no time: the standard library."""
    (tmp_path / "torch.py").write_text("raise ImportError")
    done = run_script("--list", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "bench_optimizer" in done.stdout
    assert "there is no cifar10 among the data" in run_script("--list", "--data", str(tmp_path)).stdout


def test_an_end_from_outside_is_kept_too(tmp_path, script):
    """SIGTERM ends the step that runs; state and tar are written."""
    code = f"""
import sys, time, signal
sys.path.insert(0, {str(ROOT / "scripts")!r})
import gpu_proof as script
from pathlib import Path
tree = Path({str(tmp_path)!r}) / "tree"
script.ROOT, script.LOGS, script.GRACE = tree, tree / "runs" / "gpu_proof", 1
tree.mkdir()
signal.signal(signal.SIGTERM, script._interrupt)
proof = script.Proof([script.Step("long", ("sleep", "60"), 1, 99)], "gpu", tree / "out", time.monotonic(), 9)
proof.state["machines"].append({ {**MACHINE, "nvidia_smi": ""} })
proof.run()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "long: started" in process.stdout.readline()
    while not (tmp_path / "tree" / "runs" / "gpu_proof" / "long.log").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in err
    assert "long: cut" in out
    state = json.loads((tmp_path / "tree" / "results" / "gpu" / "gpu_proof.json").read_text())
    assert state["steps"]["long"]["reason"] == "interrupted"
    assert (tmp_path / "tree" / "out" / "gpu_proof.tar").exists()
