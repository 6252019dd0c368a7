"""Damaged files of run folders: every command names them in one line, loses nothing and makes no results of them."""

import dataclasses
import json
import random
import shutil
from types import SimpleNamespace

import pytest

from novobench.suite import executors
from novobench.suite.plan import PlannedCell
from novobench.training.run_folder import RunFolder
from tests.cells import small_config
from tests.suite.finished import finished

VALUES = [None, True, -1, 0, 1e308, 10**400, "", "x", "nan", [], [1], {}, {"a": 1}, "\udcff", "../../x"]


def whole(draw, content):
    return draw.choice(
        [b"", b"\0" * len(content), b"[" * 100_000, b"null", b"[]", b'{"a": 1}', b"\xff\xfe", b"NaN", b'"']
    )


def cut(draw, content):
    return content[: draw.randrange(len(content))]


def flipped(draw, content):
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def without_a_line(draw, content):
    lines = content.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def with_another_line(draw, content):
    lines = content.splitlines(keepends=True)
    return b"".join([*lines, draw.choice([draw.choice(lines), b"<<<<<<< HEAD\n", b"\xff\n", b"[1]\n", b"null\n"])])


def another_value(draw, content):
    """Change or delete one value of a JSON file."""
    try:
        lines = [json.loads(content)]
    except ValueError:
        try:
            lines = [json.loads(line) for line in content.splitlines()]
        except ValueError:
            return whole(draw, content)
    at = draw.choice(lines)
    while True:
        key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if isinstance(at[key], dict | list) and at[key] and draw.random() < 0.8:
            at = at[key]
            continue
        if draw.random() < 0.2:
            del at[key]
        else:
            at[key] = draw.choice(VALUES)
        return "".join(json.dumps(line) + "\n" for line in lines).encode()


DAMAGES = [whole, cut, flipped, without_a_line, with_another_line, another_value]


def damage(draw, path):
    """Damage a file in some way; returns the kind of damage."""
    content = path.read_bytes()
    if draw.random() < 0.1:
        path.unlink()
        kind = draw.choice(["gone", "a folder", "a dangling link"])
        if kind == "a folder":
            path.mkdir()
        elif kind == "a dangling link":
            path.symlink_to("nowhere")
        return kind
    kind = draw.choice(DAMAGES)
    path.write_bytes(kind(draw, content))
    return kind.__name__


def try_damages(workspace, novobench, count, seed):
    (workspace / "configs" / "image" / "tuned-laptop.yaml").write_text("novograd-b32: {optimizer.lr: 0.02}\n")
    arguments = ("small", "--rows", "sgd")
    folder = finished("small", "sgd", {"search": {"top1": 40.0}, "test": {"top1": 50.0, "loss": 1.0}})
    dataclasses.replace(folder.read_record(), files=folder.digests()).write(folder.record)
    assert novobench("run", *arguments)[0] == 0
    results, kept = workspace / "results", workspace / "kept"
    shutil.copytree(folder.path, kept / "run")
    shutil.copytree(results, kept / "results")
    sealed = [path.name for path in folder.path.iterdir() if path.name in folder.digests()]
    files = sorted(path.name for path in folder.path.iterdir())
    draw, reported = random.Random(seed), 0
    for _ in range(count):
        shutil.rmtree(folder.path)
        shutil.copytree(kept / "run", folder.path)
        name = draw.choice(files)
        kind = damage(draw, folder.path / name)
        if not folder.finished:  # then it would be trained
            continue
        for verb in ("plan", "run"):
            code, _, err = novobench(verb, *arguments)
            assert code in (0, 1), (name, kind, err)
            assert "internal error" not in err, (name, kind, err)
            assert "Traceback" not in err, (name, kind, err)
        if code:
            reported += 1
            (line,) = err.strip().splitlines()
            assert name in line, (kind, line)
            assert line.isprintable()
        elif name in sealed and kind != "with_another_line":
            assert (folder.path / name).read_bytes() == (kept / "run" / name).read_bytes(), (name, kind)
        for path in (kept / "results" / "laptop").glob("records.csv"):
            if code:  # what was collected before stays
                assert (results / "laptop" / path.name).read_bytes() == path.read_bytes(), (name, kind)
        shutil.rmtree(results)
        shutil.copytree(kept / "results", results)
    return reported


def test_damaged_files_of_a_finished_cell_are_reported(workspace, novobench):
    assert try_damages(workspace, novobench, 2, 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_damaged_files_of_a_finished_cell_are_reported(seed, workspace, novobench):
    assert try_damages(workspace, novobench, 60, seed) > 30


# ------------------------------------------------------------------------------------ of a cell in training


def test_any_heartbeat_and_reason_can_be_read(tmp_path):
    """A damaged heartbeat never stops the command that watches; a sound one counts."""
    folder, draw = RunFolder(tmp_path), random.Random(0)
    process = SimpleNamespace(pid=1, exitcode=None)
    job = executors._Running(process, PlannedCell(small_config()), folder, 0.0, None, None)
    folder.write_heartbeat(3, 8)
    assert job.progress(1.0) == 3 / 8
    beat, beats = folder.path / "heartbeat.json", 0
    folder.write_failure("its reason")
    sound = {path: path.read_bytes() for path in (beat, folder.failure)}
    for _ in range(200):
        for path, content in sound.items():
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            damage(draw, path)
        assert 0 <= job.progress(2.0) <= 1
        beats += folder.read_heartbeat() is not None
        assert isinstance(folder.failure_reason(), str)
        assert folder.failure_reason() == "" or folder.failure_reason().isprintable()
    assert beats < 100
