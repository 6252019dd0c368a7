"""Optimizers named by a file, `./file.py:Class`: how they are loaded, and the digest of their code."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from novobench.optim import registry
from novobench.optim.third_party import load
from novobench.places import ROOT

MINE = """
import torch
from .neighbor import RATE
import neighbor_too

class MyOptimizer(torch.optim.SGD):
    def __init__(self, params, lr=RATE):
        super().__init__(params, lr=lr)

def make(params, lr):
    return MyOptimizer(params, lr)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, which is not on Python's path."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "neighbor.py").write_text("RATE = 0.25\n")
    (tmp_path / "neighbor_too.py").write_text("")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("neighbor_too", None)
    registry._from_path.cache_clear()


def problem(name: str) -> str:
    with pytest.raises(registry.UnknownOptimizerError) as refusal:
        registry.get(name)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_file_of_the_current_folder_is_loaded_once_with_its_neighbors(folder):
    mine = load("./mine.py:MyOptimizer")
    assert mine.__init__.__defaults__ == (0.25,)
    (folder / "below").mkdir()
    for path in ("mine.py", str(folder / "mine.py"), "below/../mine.py"):
        assert load(f"{path}:MyOptimizer") is mine


def test_a_file_below_the_home_folder(folder, monkeypatch):
    (folder / "home").mkdir()
    (folder / "home" / "theirs.py").write_text("import torch\nTheirs = torch.optim.SGD\n")
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert load("~/theirs.py:Theirs").__name__ == "SGD"


def test_files_of_one_name_in_two_folders_are_two_modules(folder):
    for name, factor in (("one", 1), ("two", 2)):
        (folder / name).mkdir()
        (folder / name / "same.py").write_text(f"def make(params): return {factor}\n")
    assert [load(f"{name}/same.py:make")([]) for name in ("one", "two", "one")] == [1, 2, 1]


def test_a_file_cannot_shadow_a_library(folder):
    (folder / "timm.py").write_text("raise RuntimeError('the wrong one')")
    load("./mine.py:MyOptimizer")
    assert load("timm.optim:Lamb").__name__ == "Lamb"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./mien.py:MyOptimizer", r"there is no file ./mien.py in the current folder, .* Did you mean './mine.py'\?"),
        ("nowhere/mine.py:MyOptimizer", "there is no file nowhere/mine.py in the current folder, .*"),
        ("/nowhere/mine.py:X", r"there is no file /nowhere/mine.py\."),
        ("./mine.py:MyOptimiser", r"./mine.py has no attribute 'MyOptimiser'. Did you mean 'MyOptimizer'\?"),
        ("./mine.py:Zebra", r"./mine.py has no attribute 'Zebra'. It has MyOptimizer\."),
        ("./mine.py:", "write package.module:Class or ./file.py:Class."),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(folder, name, message):
    assert re.fullmatch(f"optimizer '{re.escape(name)}' cannot be used: {message}", problem(name))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("\n\nundefined", "NameError: name 'undefined' is not defined (broken.py line 3)."),
        ("\ndef f(:", "SyntaxError: invalid syntax (broken.py line 2)."),
        ("import neighbor\nimport faulty", "ZeroDivisionError: division by zero (faulty.py line 2)."),
        ("import sys\nsys.exit(3)", "ImportError: SystemExit: 3 (broken.py line 2)."),
    ],
)
def test_an_error_of_the_import_has_its_line(folder, code, message, capsys):
    (folder / "broken.py").write_text(code)
    (folder / "faulty.py").write_text("\n1 / 0")
    assert problem("./broken.py:X") == f"optimizer './broken.py:X' cannot be used: {message}"
    assert capsys.readouterr() == ("", "")
    (folder / "broken.py").write_text("X = __import__('torch').optim.SGD")  # corrected, it loads
    assert load("./broken.py:X").__name__ == "SGD"


def test_the_digest_is_of_the_file_that_defines_the_class(folder):
    digest = hashlib.sha256(MINE.encode()).hexdigest()[:10]
    assert registry.get("./mine.py:MyOptimizer").code == digest
    assert registry.get("mine.py:make").code == digest
    (folder / "other.py").write_text("from .mine import MyOptimizer as Renamed\n")
    assert registry.get("./other.py:Renamed").code == digest
    assert len(registry.get("torch.optim:RMSprop").code) == 10
    assert {entry.code for entry in registry.entries()} == {""}


def test_an_edit_of_the_same_length_and_second_is_seen(folder):
    """Python's bytecode files do not tell them apart."""
    program = "import sys; from novobench.optim import third_party; print(third_party.load('./rate.py:make')())"
    seen = []
    for rate in (1, 2):
        (folder / "rate.py").write_text(f"def make(): return {rate}\n")
        os.utime(folder / "rate.py", (1e9, 1e9))
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        seen.append(done.stdout.strip())
    assert seen == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("novograd", "novograd"),
        ("package.module:MyOptimizer", "MyOptimizer"),
        ("../a b/file.py:Mine", "Mine"),
    ],
)
def test_the_label_is_the_class(name, label):
    assert registry.label(name) == label
