"""`results/<scale>/`: each cell is one unit however a command ends, and all damage is reported."""

import csv
import dataclasses
import json
import shutil
import threading
import time

import pytest

from novobench import files
from novobench.errors import NovobenchError
from novobench.places import ROOT, display_path
from novobench.suite.forecast import measured_speeds
from novobench.suite.results import Results
from tests.suite.finished import FILES, TOP1, collected, content, finished, written_table


def top1():
    """Row -> value in the table's CSV."""
    rows, _ = written_table()
    return {row: line["top1"] for row, line in rows.items()}


class Killed(BaseException):
    """What ends a command in these tests."""


@pytest.fixture
def collect_until_killed(monkeypatch):
    """`collect_until_killed(name, folder)` collects a run folder and is killed after the file `name` was written."""
    replace = files.os.replace

    def collect(name, folder):
        def replace_and_die(source, target):
            replace(source, target)
            if target.name == name:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", replace_and_die)
            with pytest.raises(Killed):
                collected(folder)

    return collect


@pytest.fixture
def _slow_writes(monkeypatch):
    """Results are written 0.1 s after they were read."""
    write = Results.write

    def write_slowly(self):
        time.sleep(0.1)
        write(self)

    monkeypatch.setattr(Results, "write", write_slowly)


# ------------------------------------------------------------------------------------ killed


@pytest.mark.parametrize("last", FILES[:3])
def test_a_new_cell_that_a_kill_left_incomplete(results, collect_until_killed, last):
    sgd, novograd = finished("small", "sgd", TOP1), finished("small", "novograd", TOP1)
    collected(sgd, novograd)
    undisturbed = content(results)
    shutil.rmtree(results)
    collected(sgd)
    collect_until_killed(last, novograd)
    assert measured_speeds(Results.load("laptop"))
    rows = top1()
    assert (rows["sgd"], rows["novograd"]) == ("50", "")
    (results / "small.csv").unlink()
    (results / "small.md").unlink()
    assert collected(sgd) == []  # the collection of another cell restores it
    assert content(results) == undisturbed


@pytest.mark.parametrize("last", FILES[:3])
def test_old_and_new_results_of_a_cell_never_mix(results, collect_until_killed, last):
    other = finished("small", "novograd", TOP1)
    collected(finished("small", "sgd", TOP1), other)
    again = finished("small", "sgd", {"test": {"top1": 70.0, "loss": 0.5}}, curves={"train/loss": [3.0, 0.5]})
    again.predictions("test").unlink()
    collect_until_killed(last, again)
    assert top1()["sgd"] == ""
    assert collected(other) == []
    assert top1()["sgd"] == "70"
    reread = Results.load("laptop")
    (cell,) = [cell for cell in reread.cells if "-sgd-" in cell]
    assert [point.value for point in reread.curves(cell)["train/loss"]] == [3.0, 0.5]


@pytest.mark.usefixtures("results", "_slow_writes")
def test_two_commands_that_collect_at_once():
    """Without a lock the last to write would undo the others."""
    folders = [finished("small", row, TOP1, seed=seed) for row in ("sgd", "novograd") for seed in (0, 1)]
    threads = [threading.Thread(target=collected, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Results.load("laptop").cells) == {folder.path.name for folder in folders}


# ------------------------------------------------------------------------------------ damaged


def conflict(text):
    lines = text.split("\n")
    middle = len(lines) // 2
    marked = ["<<<<<<< HEAD", lines[middle], "=======", lines[middle], ">>>>>>> other"]
    return "\n".join([*lines[:middle], *marked, *lines[middle + 1 :]])


def without_column(number):
    def damage(text):
        lines = [line.split(",") for line in text.split("\n")]
        return "\n".join(",".join(line[:number] + line[number + 1 :]) for line in lines)

    return damage


def first_line(change):
    """Change the first line of numbers."""

    def damage(text):
        header, line, others = text.split("\n", 2)
        return "\n".join([header, change(line), others])

    return damage


CSV_DAMAGES = {
    "merge": (conflict, "is a merge conflict marker, '<<<<<<<'"),
    "empty": (lambda text: "", "its header lacks"),
    "first column": (without_column(0), r"its header lacks \['schema'\]"),
    "column cell": (without_column(1), r"its header lacks \['cell'\]"),
    "another header": (lambda text: "a;b\n1;2\n", r"and has unknown columns \['a;b'\]"),
    "schema": (first_line(lambda line: "99" + line[1:]), "line 2 has schema 99, and this novobench reads 2"),
    "no schema": (first_line(lambda line: line[1:]), "line 2 has '' as schema"),
    "short line": (lambda text: text + "1,cell\n", "has 2 of "),
    "long line": (lambda text: text + ",".join("1" * 30) + "\n", "has 30 of "),
    "cut": (lambda text: text[:-5], "its last line is cut off"),
    "quote": (first_line(lambda line: line.replace(",", ',"', 1)), "columns|is not valid CSV"),
    "no number": (lambda text: text.replace("1.25", "about 1").replace("loss=4", "loss=four"), "' as value"),
    "no value": (lambda text: text.replace("1.25", "").replace("loss=4", "loss="), "has '(loss=)?' as value"),
    "twice": (first_line(lambda line: f"{line}\n{line}"), "line 3 repeats"),
    "zero bytes": (lambda text: "\0" * len(text), "its header lacks|is not valid CSV"),
}
JSON_DAMAGES = {
    "merge": (conflict, "is a merge conflict marker"),
    "empty": (lambda text: "", "it is not valid JSON"),
    "cut": (lambda text: text[:-20], "it is not valid JSON"),
    "list": (lambda text: "[]", "it does not hold an object"),
    "empty entry": (lambda text: '{"image-sgd-s0-1": {}}', "has no schema"),
    "schema": (lambda text: text.replace('"schema": ', '"schema": 9'), "has schema 9"),
}
DAMAGES = [
    pytest.param(name, damage, message, id=f"{name} {kind}")
    for name in FILES
    for kind, (damage, message) in (CSV_DAMAGES if name.endswith("csv") else JSON_DAMAGES).items()
] + [
    pytest.param("cells.json", lambda text: text.replace('"cells"', '"cell"'), "it lacks its cells", id="no cells"),
    pytest.param("cells.json", lambda text: text.replace('"digest"', '"digit"'), "lacks its digest", id="no digest"),
    pytest.param("cells.json", lambda text: text.replace('"config"', '"con"'), "lacks its config", id="no config"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_a_damaged_file_is_named_and_nothing_is_written(results, name, damage, message):
    folder = finished("small", "sgd", TOP1)
    collected(folder, finished("small", "novograd", TOP1))
    path = results / name
    path.write_text(damage(path.read_text()), newline="")
    before = content(results)
    with pytest.raises(NovobenchError, match=message) as error:
        collected(folder)
    assert display_path(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert content(results) == before


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_no_command_takes_a_damaged_file(results, novobench, verb):
    collected(finished("small", "sgd", TOP1))
    path = results / "curves.csv"
    path.write_text(conflict(path.read_text()))
    before = content(results)
    code, _, err = novobench(verb, "small", "--rows", "sgd")
    assert code == 1
    assert err.startswith(f"novobench: {display_path(path)} is damaged: line 3 is a merge conflict marker")
    assert err.count("\n") == 1
    assert content(results) == before


def test_invalid_utf_8_and_a_folder_in_place_of_a_file(results):
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    for name in FILES:
        path = results / name
        whole = path.read_bytes()
        path.write_bytes(whole + b"\xff\n")
        with pytest.raises(NovobenchError, match=f"{name} is damaged: it is not UTF-8"):
            collected(folder)
        path.unlink()
        path.mkdir()
        with pytest.raises(NovobenchError, match=f"Cannot read .*{name}: Is a directory"):
            collected(folder)
        path.rmdir()
        path.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"))  # harmless: some editors do this
        assert collected(folder) == []
        assert path.read_bytes() == whole


WHOLE_LINES = {
    "one line of records": ("records.csv", lambda lines: lines[:2] + lines[3:]),
    "records from the middle on": ("records.csv", lambda lines: lines[:4]),
    "all records": ("records.csv", lambda lines: lines[:1]),
    "one point": ("curves.csv", lambda lines: lines[:1] + lines[2:]),
    "all points": ("curves.csv", lambda lines: lines[:1]),
    "another value": ("records.csv", lambda lines: [line.replace("1.25", "1.2") for line in lines]),
    "another curve": ("curves.csv", lambda lines: [line.replace("=4", "=4.5") for line in lines]),
    "another prediction": (
        "examples.json",
        lambda lines: [line.replace('"output": 1', '"output": 2') for line in lines],
    ),
    "another fingerprint": ("cells.json", lambda lines: [line.replace("digits:0123", "digits:4567") for line in lines]),
    "no entries": ("cells.json", lambda lines: ["{}"]),
    "no examples": ("examples.json", lambda lines: ["{}"]),
}


@pytest.mark.parametrize(("name", "damage"), WHOLE_LINES.values(), ids=WHOLE_LINES)
def test_results_that_do_not_match_what_was_collected(results, workspace, name, damage):
    """They are restored from the run folder if it exists. Otherwise they are reported, and tables leave them out."""
    folder, other = finished("small", "sgd", TOP1), finished("small", "novograd", TOP1)
    collected(folder, other)
    whole = content(results)
    path = results / name
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    damaged = path.read_bytes()
    assert damaged != whole[name]
    assert collected(other) == []
    assert content(results) == whole

    path.write_bytes(damaged)
    incomplete = list(Results.load("laptop").incomplete)
    shutil.rmtree(workspace / "runs")
    (line,) = collected()
    assert all(cell in line for cell in incomplete)
    assert "their run folders no longer exist" in line
    assert "\n" not in line
    assert {**content(results), name: b""} == {**whole, name: b""}
    if name != "cells.json":  # its sections are written anew
        assert path.read_bytes() == damaged
    rows = top1()
    for row in ("sgd", "novograd"):
        assert rows[row] == ("" if any(f"-{row}-" in cell for cell in incomplete) else "50")
    assert (
        "**Warning**: left out, because their results are incomplete: seed 100." in (results / "small.md").read_text()
    )


def test_a_command_says_what_it_could_not_restore(results, workspace, novobench):
    collected(finished("small", "sgd", TOP1))
    shutil.rmtree(workspace / "runs")
    (results / "curves.csv").unlink()
    finished("small", "novograd", TOP1)
    code, out, err = novobench("run", "small", "--rows", "novograd")
    assert code == 1
    assert "Written: " in out
    assert err.startswith(f"novobench: {display_path(results)}: 1 cell is incomplete (image-sgd-s100-")
    assert err.count("\n") == 1


def test_a_missing_file_is_written_again(results):
    folders = finished("small", "sgd", TOP1), finished("small", "novograd", TOP1)
    collected(*folders)
    whole = content(results)
    for name in FILES:
        (results / name).unlink()
        assert collected(folders[0]) == []
        assert content(results) == whole


# ------------------------------------------------------------------------------------ committed and earlier results


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_committed_results_are_whole(scale):
    with (ROOT / "results" / scale / "records.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    results = Results.load(scale)
    assert results.complaint() == ""
    assert {cell: results.values(cell) for cell in results.cells} == {
        cell: {(x["split"], x["metric"]): float(x["value"]) for x in lines if x["cell"] == cell}
        for cell in {line["cell"] for line in lines}
    }


EARLIER = ROOT / "tests" / "suite" / "earlier_results"
"""A cell as novobench 0.5 wrote it: version 2 of `cells.json`, whose entries have digests."""


@pytest.fixture(params=[1, 2])
def earlier(request, results):
    """The id of a cell whose results have an earlier layout. Version 1 has no digests."""
    shutil.copytree(EARLIER, results)
    cells = json.loads((results / "cells.json").read_text())
    (cell,) = cells
    if request.param == 1:
        cells[cell]["schema"] = 1
        del cells[cell]["digests"]
        (results / "cells.json").write_text(json.dumps(cells, indent=1) + "\n")
    return cell


def check_earlier(cell):
    """The results hold what the files of the earlier layout say, in any layout."""
    results = Results.load("laptop")
    assert results.complaint() == ""
    (entry,) = json.loads((EARLIER / "cells.json").read_text()).values()
    assert (results.config(cell), results.fingerprint(cell)) == (entry["config"], entry["fingerprint"])
    with (EARLIER / "records.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert results.values(cell) == {(line["split"], line["metric"]): float(line["value"]) for line in lines}
    assert (str(results.updates(cell)), results.code(cell)) == (lines[0]["update"], lines[0]["code"])
    assert (results.hardware(cell), results.is_dirty(cell)) == ("AMD EPYC, 2 cores", False)
    assert results.claims(cell) == {}
    with (EARLIER / "curves.csv").open(newline="") as file:
        points = [(x["series"], int(x["update"]), float(x["epoch"]), float(x["seconds"]), float(x["value"]))
                  for x in csv.DictReader(file)]  # fmt: skip
    curves = results.curves(cell)
    assert sorted((name, *dataclasses.astuple(point)) for name in curves for point in curves[name]) == sorted(points)


def test_results_of_an_earlier_version_are_read_and_rewritten(results, earlier):
    check_earlier(earlier)
    assert collected(finished("small", "sgd", TOP1)) == []
    check_earlier(earlier)
    assert json.loads((results / "cells.json").read_text())["schema"] == 3
    assert json.loads((results / "examples.json").read_text())[earlier] == json.loads(
        (EARLIER / "examples.json").read_text()
    )[earlier]  # fmt: skip
    rewritten = content(results)
    assert collected() == []
    assert content(results) == rewritten


@pytest.mark.parametrize("last", FILES)
def test_a_kill_while_an_earlier_version_is_rewritten(earlier, collect_until_killed, last):
    sgd = finished("small", "sgd", TOP1)
    collect_until_killed(last, sgd)
    assert Results.load("laptop").value(earlier, "test", "loss") is not None
    assert collected(sgd) == []
    check_earlier(earlier)
    assert len(Results.load("laptop").cells) == 2


@pytest.mark.parametrize("kept", [1, 2, 6])
def test_a_cut_in_results_of_an_earlier_version(results, earlier, kept):
    """Without digests a cell cut off at its end is still noticed, since the last lines of all cells are alike."""
    path = results / "records.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:kept]) + "\n")
    for _ in range(2):  # in the earlier layout and in today's
        (line,) = collected(finished("small", "sgd", TOP1))
        assert f"1 cell is incomplete ({earlier})" in line
        assert len(path.read_text().splitlines()) > kept


# ------------------------------------------------------------------------------------ size


def test_what_seeds_have_in_common_is_stored_once(results):
    folders = [finished("small", row, TOP1, seed=seed) for row in ("sgd", "novograd") for seed in (101, 100, 102)]
    for folder in folders:
        assert collected(folder) == []
    cells = json.loads((results / "cells.json").read_text())
    assert [len(cells[section]) for section in ("environments", "trainings", "cells")] == [1, 2, 6]
    loaded = Results.load("laptop")
    assert [loaded.config(folder.path.name)["seed"] for folder in folders] == [101, 100, 102] * 2
    whole = content(results)
    shutil.rmtree(results)
    assert collected(*reversed(folders)) == []
    assert content(results) == whole


@pytest.mark.usefixtures("results")
def test_results_say_where_a_cell_comes_from():
    """At the end of its training, if code and machine changed on the way."""
    origin = {"code": "abc", "dirty": True, "hardware": "another machine, 4 cores"}
    folder = finished("small", "sgd", TOP1, seed=100, claims={"sgd-wins": "0123abcd"}, **origin)
    folder.environment.write_text(json.dumps({"python": "3", "code": "older", "dirty": False, "hardware": "a machine"}))
    assert collected(folder, finished("small", "novograd", TOP1)) == []
    results, cell = Results.load("laptop"), folder.path.name
    assert (results.code(cell), results.is_dirty(cell), results.hardware(cell)) == tuple(origin.values())
    assert results.claims(cell) == {"sgd-wins": "0123abcd"}


def test_examples_are_those_of_the_lowest_seed(results, workspace):
    """Whatever the order of the trainings; no other seed counts as damaged."""
    for seeds in ((101, 100, 102), (102, 103, 100), (100,)):
        assert collected(*(finished("small", "sgd", TOP1, seed=seed) for seed in seeds)) == []
        assert [cell.split("-s")[2][:3] for cell in json.loads((results / "examples.json").read_text())] == ["100"]
    assert Results.load("laptop").complaint() == ""
    assert len(Results.load("laptop").cells) == 4


def test_curves_are_short_and_the_record_is_not_repeated(results):
    """Of many updates every k-th is kept, with the last; a split that was only evaluated for the record has no curve,
    unless searches look at it."""
    curves = {"train/loss": [4.123456789 / i for i in range(1, 101)], "search/loss": [1.5], "test/loss": [1.25]}
    curves |= {"dev/loss": [1.0 / i for i in range(1, 101)], "probe/loss": [3.0]}
    folder = finished("small", "sgd", TOP1, curves=curves)
    assert collected(folder) == []
    stored = Results.load("laptop").curves(folder.path.name)
    updates = {series: [point.update for point in points] for series, points in stored.items()}
    assert updates == {
        "train/loss": list(range(1, 101))[::-1][::9][::-1], "dev/loss": list(range(4, 101, 4)), "search/loss": [1],
        "probe/loss": [1],
    }  # fmt: skip
    assert len(updates["train/loss"]) == 12
    assert stored["train/loss"][-1].value == 0.04123457
