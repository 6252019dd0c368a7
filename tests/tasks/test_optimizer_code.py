"""Optimizers named by their paths: a config holds a digest of their code, so an edited class trains new cells."""

import hashlib
import json

import pytest

from novobench.config import cell_id
from novobench.config_loading import check_overridable, load_tree, override
from novobench.errors import ConfigError
from novobench.optim import registry
from novobench.tasks.catalog import resolve
from novobench.training import cell
from tests.cells import small_cell, small_config

CODE = "import torch\nclass Mine(torch.optim.SGD): pass\n"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    registry._from_path.cache_clear()
    yield tmp_path / "mine.py"
    registry._from_path.cache_clear()


def digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:10]


def edit(file) -> None:
    """Change the code, and let this process read it as a new one would."""
    file.write_text(f"{CODE}# edited\n")
    registry._from_path.cache_clear()


def test_an_edit_changes_the_id(file):
    before = small_config(optimizer__name="./mine.py:Mine")
    edit(file)
    after = small_config(optimizer__name="./mine.py:Mine")
    assert (before.optimizer.code, after.optimizer.code) == (digest(CODE), digest(f"{CODE}# edited\n"))
    assert cell_id(before).startswith("image-Mine-s0-")
    assert cell_id(before) != cell_id(after)


def test_an_edit_of_the_others_changes_the_id(file):
    changes = {"optimizer__name": "novograd_adamw", "optimizer__others__name": "./mine.py:Mine"}
    before = small_config(**changes)
    edit(file)
    after = small_config(**changes)
    assert before.optimizer.others.code == digest(CODE)
    assert before.optimizer.code == ""
    assert cell_id(before) != cell_id(after)


def test_registered_names_have_no_code():
    assert small_config().optimizer.code == small_config().optimizer.others.code == ""


@pytest.mark.parametrize("key", ["optimizer.code", "optimizer.others.code", "optimizer[code]"])
def test_no_override_sets_it(key):
    with pytest.raises(ConfigError, match="it is a digest of the file that optimizer"):
        check_overridable({key: "0123456789"}, "--set")
    with pytest.raises(ConfigError, match="'optimizer.code' is 0123456789, but the source file of .* has none"):
        small_config(optimizer={"code": "0123456789"})


def test_a_planned_training_is_refused_after_an_edit(file):
    """The process that trains it would run the edited class under the id of the first one."""
    folder = small_cell(file.parent / "run", optimizer__name="./mine.py:Mine", budget="1steps")
    tree = load_tree(folder.config)
    assert resolve(tree, "file") == resolve(override(tree, {"optimizer.code": ""}, "file"), "file")
    edit(file)
    with pytest.raises(ConfigError, match=f"'optimizer.code' is {digest(CODE)}, but .* was edited after this training"):
        cell.run(folder.path)
    assert not folder.finished


def test_a_run_says_which_code_it_ran(file):
    folder = small_cell(file.parent / "run", optimizer__name="./mine.py:Mine", budget="1steps", purpose="search")
    cell.run(folder.path)
    assert json.loads(folder.environment.read_text())["optimizer_code"] == {"./mine.py:Mine": digest(CODE)}
