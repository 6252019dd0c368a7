"""Invalid inputs end in one clear line and exit code 1 or 2, and finished work is kept."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from novobench.places import ROOT
from novobench.training.run_folder import RunFolder
from tests.cells import disk_full_from_update_5, result


@pytest.fixture
def small(workspace):
    """The small experiment with its SGD row alone."""
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["rows"] = [row for row in content["rows"] if row["id"] == "sgd"]
    path.write_text(yaml.safe_dump(content))
    return workspace


def only_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("novobench: ")
    assert "Traceback" not in err
    return lines[0]


# ------------------------------------------------------------------------------- arguments and configs: exit code 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "smal"], ["no experiment 'smal'", "Did you mean 'small'", "novobench list experiments"]),
        (["run", "small", "--scale", "labtop"], ["no scale 'labtop'", "Did you mean 'laptop'"]),
        (["plan", "small", "--scale", "gpu"], ["no row has a cell at gpu scale"]),
        (["run", "small", "--set", "optimizer.lrr=1"], ["small.yaml row 'sgd'", "optimizer.lrr", "Did you mean 'lr'"]),
        (["run", "small", "--rows", "sgdd"], ["small has no row 'sgdd'", "Did you mean 'sgd'"]),
        (["run", "small", "--set", "optimizer.lr=fast"], ["optimizer.lr", "fast"]),
        (["run", "small", "--set", "optimizer.lr"], ["'optimizer.lr' is not an override", "key=value"]),
        (["run", "small", "--set", "optimizer.name=sgdd"], ["optimizer.name", "Did you mean 'sgd'"]),
        (["run", "small", "--set", "optimizer.name=no.such:Thing"], ["optimizer.name", "no.such"]),
        (["run", "small", "--set", "optimizer.name=torch.optim:Nothing"], ["optimizer.name", "Nothing"]),
        (["run", "small", "--set", "optimizer.options.momentun=0.9"], ["momentun", "Did you mean 'momentum'"]),
        (["run", "small", "--set", "budget=10weeks"], ["budget '10weeks'", "100ep"]),
        (["run", "small", "--set", "batch.size=33"], ["batch.size 33 is not batch.micro 16", "runtime.devices"]),
        (["run", "small", "--set", "runtime.devices=3"], ["batch.size 32", "3 device(s)"]),
        (["run", "small", "--set", "schedule.name=cosin"], ["schedule.name", "cosin"]),
        (["run", "small", "--set", "schedule.milestones=[0.7,0.3]", "schedule.name=multistep"], ["schedule"]),
        (["run", "small", "--set", "data.source=disk"], ["data.source", "disk"]),
        (["run", "small", "--set", "optimizer.decay_factors={'@norn': 0}"], ["@norn"]),
        (["search", "small"], ["no row with `tuned:`"]),
    ],
    ids=lambda value: " ".join(value[1:4]) if value[0] in ("run", "plan", "search") else "",
)
def test_invalid_arguments(arguments, expected, small, novobench):
    code, _, err = novobench(*arguments)
    assert code in (1, 2)
    if "@norn" not in arguments[-1]:  # needs the network, so the cell reports it
        assert code == 2
        line = only_line(err)
    else:
        line = err.splitlines()[0]
    for word in expected:
        assert word in line, line
    assert not list((small / "runs").glob("*/*/record.json"))


def test_unknown_command_and_option():
    done = subprocess.run([sys.executable, "-m", "novobench", "trian"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "invalid choice: 'trian'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rows": [{"id": "a", "label": "A"}, {"id": "a", "label": "B"}]}, "two rows are called 'a'"),
        ({"rows": [{"id": "a", "label": "A", "paper": {"top2": 1}}]}, "Did you mean 'top1'"),
        ({"rows": [{"id": "a", "lable": "A"}]}, "lable"),
        ({"task": "images"}, "Did you mean 'image'"),
        ({"columns": [{"key": "top1"}]}, "columns"),
        ({"titel": "x"}, "titel"),
    ],
)
def test_an_invalid_experiment_file(change, expected, small, novobench):
    path = small / "experiments" / "small.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    code, _, err = novobench("plan", "small")
    assert code == 2
    line = only_line(err)
    assert expected in line
    assert "small.yaml" in line


def test_tuned_rates_that_are_missing(workspace, novobench):
    (workspace / "configs" / "image" / "tuned-laptop.yaml").write_text("novograd-b23: {optimizer.lr: 1.0}\n")
    code, _, err = novobench("run", "small")
    assert code == 2
    assert "no tuned rates 'novograd-b32'" in only_line(err)
    assert "Did you mean 'novograd-b23'" in err
    assert "Run: novobench search" in err


# ------------------------------------------------------------------------------------ data: exit code 1


@pytest.fixture
def tree(small):
    """An ImageFolder tree of two classes, 40 training and 8 test images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        for label in ("cat", "dog"):
            folder = small / "data" / "pets" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.jpg")
    return small / "data" / "pets"


PETS = [
    "data.source=folder", "data.name=pets", "data.path=pets", "data.train_size=36", "data.search_size=4",
    "data.test_size=8", "data.image_size=8", "data.resize_size=8", "model.in_channels=3", "model.classes=2",
    "batch.size=16", "batch.micro=16", "budget=2ep",
]  # fmt: skip


@pytest.fixture
def run_pets(tree, novobench):
    return lambda *more: novobench("run", "small", "--set", f"data_root={tree.parent}", *PETS, *more)


def test_the_tree_trains(tree, run_pets):
    code, out, err = run_pets()
    assert (code, err) == (0, "")
    assert "test: top1" in out


def reason(err: str) -> str:
    """The line of the failed cell; the summary follows."""
    first, summary = (line for line in err.splitlines() if line)
    assert "1 of 1 cells failed; the others are finished and kept" in summary
    assert "Traceback" not in err
    return first


def test_missing_data(tree, run_pets):
    shutil.rmtree(tree)
    code, _, err = run_pets()
    assert code == 1
    assert f"No data folder {tree}" in reason(err)
    assert "NOVOBENCH_DATA" in err


def test_a_missing_split(tree, run_pets):
    (tree / "val").rename(tree / "valid")
    code, _, err = run_pets()
    assert code == 1
    assert "no split 'val'. Did you mean 'valid'" in reason(err)


def test_a_corrupt_image(tree, run_pets):
    path = tree / "train" / "dog" / "07.jpg"
    path.write_bytes(path.read_bytes()[:200])
    code, _, err = run_pets()
    assert code == 1
    assert f"{path} cannot be decoded" in reason(err)
    assert "data.on_bad_image=skip" in err


def test_a_corrupt_image_in_a_loader_worker(tree, run_pets):
    path = tree / "train" / "dog" / "07.jpg"
    path.write_bytes(b"")
    code, _, err = run_pets("runtime.workers=1")
    assert code == 1
    assert f"{path} cannot be decoded" in reason(err)


def test_a_corrupt_image_can_be_skipped(tree, run_pets):
    (tree / "train" / "dog" / "07.jpg").write_bytes(b"not an image")
    (tree / "val" / "cat" / "02.jpg").write_bytes(b"")
    whole = ("data.search_size=0", "data.train_size=40", "batch.size=40", "batch.micro=8")  # every image, every epoch
    code, _, err = run_pets("data.on_bad_image=skip", *whole)
    assert (code, err) == (0, "")
    cell = next((tree.parent.parent / "runs" / "laptop").glob("image-*"))
    assert "dog/07.jpg" in (cell / "log.txt").read_text()
    record = json.loads((cell / "record.json").read_text())
    assert record["skipped_samples"] == 2  # once in each of two epochs
    assert record["metrics"]["test"]["skipped"]["value"] == 1
    assert record["metrics"]["test"]["top1"]["n"] == 7


def test_no_image_at_all_that_can_be_decoded(tree, run_pets):
    for path in (tree / "val").glob("*/*.jpg"):
        path.write_bytes(b"")
    code, _, err = run_pets("data.on_bad_image=skip")
    assert code == 1
    assert "No evaluation image of 'pets' can be decoded" in reason(err)


def test_an_empty_class(tree, run_pets):
    for path in (tree / "train" / "cat").iterdir():
        path.unlink()
    code, _, err = run_pets()
    assert code == 1
    assert f"{tree / 'train' / 'cat'} is an empty class" in reason(err)


def test_data_of_another_size(tree, run_pets):
    (tree / "train" / "cat" / "00.jpg").unlink()
    code, _, err = run_pets()
    assert code == 1
    assert "has 35 train images, but data.train_size is 36" in reason(err)


def test_data_that_changed_since_the_checkpoint(tree, run_pets):
    code, _, err = run_pets()
    assert code == 0
    folder = next((tree.parent.parent / "runs" / "laptop").glob("image-sgd-*"))
    (folder / "record.json").unlink()
    (tree / "train" / "cat" / "00.jpg").rename(tree / "train" / "cat" / "99.jpg")
    code, _, err = run_pets()
    assert code == 1
    assert "changed since its checkpoint at update 4" in reason(err)
    assert str(folder) in err


# ------------------------------------------------------------------------------------ the run: exit code 1


def test_a_loss_that_is_not_finite(small, novobench):
    code, _, err = novobench("run", "small", "--set", "optimizer.lr=1e38", "runtime.max_nonfinite=2")
    assert code == 1
    assert "Gradients were not finite in 2 updates in a row" in reason(err)
    assert "Lower optimizer.lr" in err


@pytest.mark.parametrize("name", ["results", "runs"])
def test_a_folder_that_cannot_be_written(name, small, novobench):
    (small / name).write_text("a file where a folder should be")  # as read-only, and so for root too
    code, _, err = novobench("run", "small")
    assert code == 1
    line = only_line(err)
    assert f"Cannot write into {small / name / 'laptop'}" in line or f"Cannot write {small / name}" in line, line
    assert "finished work is kept" in line


def test_a_read_only_results_folder(small, novobench):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; the test above shows the same path")
    (small / "results").mkdir(mode=0o500)
    code, _, err = novobench("run", "small")
    assert code == 1
    assert "Permission denied" in only_line(err)


def test_a_full_disk(small, novobench, monkeypatch):
    """The disk is full when the table is written: the trained cell is kept, and the next run only writes the table."""
    from novobench import files

    original = os.fsync

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".probe") or "probe" in os.readlink(
            f"/proc/self/fd/{descriptor}"
        ):
            return original(descriptor)
        if "results" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        return original(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    code, _, err = novobench("run", "small")
    assert code == 1
    assert "No space left on device. Free space" in only_line(err)
    assert not list((small / "results" / "laptop").glob(".records*"))  # no torn file
    monkeypatch.undo()
    assert len(list((small / "runs" / "laptop").glob("*/record.json"))) == 1


def test_a_disk_that_fills_up_in_a_training(small, novobench, monkeypatch):
    """Neither checkpoint, log nor reason can be written: the error is printed, and the same command resumes."""
    arguments = ["run", "small", "--set", "runtime.checkpoint_every=3"]
    with monkeypatch.context() as patch:
        patch.setattr("novobench.training.worker.train", disk_full_from_update_5)
        code, _, err = novobench(*arguments)
    assert code == 1
    assert "File too large. Free space or make the folder writable" in reason(err)
    folder = next((small / "runs" / "laptop").glob("image-sgd-*"))
    assert not (folder / "failure.json").exists()
    assert [path.name for path in folder.rglob(".*")] == []
    assert not list(folder.glob("heartbeat.[0-9]*"))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["update-000000003.ckpt"]
    assert novobench(*arguments)[0] == 0
    killed = result(RunFolder(folder))
    shutil.rmtree(small / "runs")
    assert novobench(*arguments)[0] == 0
    assert result(RunFolder(folder)) == killed


def test_a_killed_worker(small, novobench):
    """The process of the cell dies during training: the error says so, and the same command resumes."""
    runs = small / "runs" / "laptop"
    done = threading.Event()

    def kill():
        while not done.is_set():
            for path in runs.glob("*/heartbeat.json"):
                with_pid = json.loads(path.read_text())
                if list(path.parent.glob("checkpoints/*.ckpt")):
                    os.kill(with_pid["pid"], signal.SIGKILL)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    arguments = ["run", "small", "--set", "budget=400steps", "runtime.checkpoint_every=20"]
    code, out, err = novobench(*arguments)
    done.set()
    thread.join()
    assert code == 1
    assert "was killed by signal 9 (SIGKILL), as the system does when memory runs out. Run the same" in reason(err)
    assert "command again to resume from its checkpoint" in reason(err)
    code, out, err = novobench(*arguments)
    assert (code, err) == (0, "")
    assert "test: top1" in out


def test_a_cell_that_stalls(small, novobench):
    code, _, err = novobench("run", "small", "--set", "runtime.stall_minutes=0.0001", "budget=4000steps")
    assert code == 1
    assert "no progress for 0.0001 minutes (runtime.stall_minutes)" in reason(err)


def test_two_runs_at_once(small, tmp_path):
    """Both succeed, and the cell is trained once."""
    code = (
        "import sys, pathlib\n"
        "from novobench import places\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "places.workspace = lambda: places.Workspace(root)\n"
        "from novobench.cli import main\n"
        "if __name__ == '__main__':\n    main(['run', 'small', '--set', 'budget=60steps'])\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    arguments = [sys.executable, str(script), str(small)]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    folder = next((small / "runs" / "laptop").glob("image-sgd-*"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates = [line["update"] for line in lines if line["split"] == "train"]
    assert updates == sorted(set(updates))
    assert len(updates) == 60
    assert "is being trained by process" in (folder / "log.txt").read_text()


def test_debug_shows_the_traceback(small, capsys):
    from novobench.cli import main
    from novobench.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["plan", "smal", "--debug"])
