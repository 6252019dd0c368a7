"""`novobench check`: verdicts as lines, and the exit code."""

import pytest

from novobench.errors import ConfigError
from novobench.optim import registry
from novobench.suite import check

GOOD = """
import torch
class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.01, weight_decay=0.0, momentum=0.9):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum)
"""
PRINTS = GOOD + "        print('hello')\n"
FAULTY = GOOD + "    def step(self, closure=None):\n        super().step(closure)\n"
UNBUILDABLE = GOOD.replace("super()", "1 / 0; super()")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry._from_path.cache_clear()
    yield tmp_path / "mine.py"
    registry._from_path.cache_clear()


def run(file, code: str, *options: str, lr: float | None = None) -> int:
    file.write_text(code)
    return check.optimizer("./mine.py:Mine", options, lr, compiled=False)


def test_a_class_that_passes(file, capsys):
    assert run(file, PRINTS) == 0
    out, err = capsys.readouterr()
    first, *lines, last = out.splitlines()
    assert first.startswith("./mine.py:Mine at lr 0.01, code ")
    assert {line[:15].strip() for line in lines} == {"ok", "not applicable"}
    assert last == "Mine passes: 18 ok, 1 not applicable."
    assert "hello" not in out + err


def test_a_class_that_fails(file, capsys):
    assert run(file, FAULTY, lr=0.02) == 1
    out = capsys.readouterr().out
    assert "./mine.py:Mine at lr 0.02" in out
    [number] = [n for n, line in enumerate(out.splitlines()) if line.startswith("FAILED")]
    what, why, advice = out.splitlines()[number : number + 3]
    assert what == "FAILED          its step takes a closure: it returns None, not the closure's loss, 1.979"
    assert why.startswith("                torch's contract")
    assert advice.startswith("                Begin with")
    assert out.endswith("Mine: 1 check failed, 17 ok, 1 not applicable.\n")


def test_nothing_else_is_checked_if_it_cannot_be_built(file, capsys):
    assert run(file, UNBUILDABLE) == 1
    out = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero (mine.py line 5)" in out
    assert "Nothing else can be checked before that." in out
    assert "Mine: 1 check failed, 0 ok, 0 not applicable." in out


def test_one_cause_is_explained_once(file, capsys):
    code = GOOD + "    def step(self, closure=None):\n        raise RuntimeError('no step')\n"
    assert run(file, code) == 1
    out = capsys.readouterr().out
    assert out.count("RuntimeError: no step (mine.py line 7)") > 5
    assert out.count("As above: it learns.") == out.count("RuntimeError: no step (mine.py line 7)") - 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("momentun=0.5", "there is no key 'options.momentun'. Did you mean 'momentum'"),
        ("momentum=high", "'options.momentum': Value 'high' of type 'str' could not be converted to Float"),
        ("momentum", "'momentum' is not an override: write key=value"),
    ],
)
def test_wrong_options_are_refused(file, option, message):
    with pytest.raises(ConfigError, match=message):
        run(file, GOOD, option)


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="'adamm' is not registered. Did you mean 'adam'"):
        check.optimizer("adamm", [], None, compiled=False)
    with pytest.raises(ConfigError, match="there is no task 'imge'. Did you mean 'image'"):
        check.task("imge")
