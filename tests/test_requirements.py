"""What novobench needs, and whether it is there."""

import importlib.metadata
import sys

import pytest

from novobench import places, requirements
from novobench.errors import NovobenchError
from novobench.requirements import Requirement


@pytest.mark.parametrize("blocked", [[], ["packaging"], ["packaging", "pip"]])
def test_versions_are_compared_where_something_can(blocked, monkeypatch):
    for name in blocked:  # an import of what is None in sys.modules fails
        for module in [each for each in sys.modules if each == name or each.startswith(f"{name}.")] + [name]:
            monkeypatch.setitem(sys.modules, module, None)
    compared = "pip" not in blocked
    assert requirements.fits("2.4.0", ">=2.4,<2.5")
    assert requirements.fits("2.4+cu128", ">= 2.4 , < 2.5")
    assert requirements.fits("2.10.3", ">=2.5")
    assert requirements.fits("2.3.9", ">=2.4,<2.5") is not compared
    assert requirements.fits("2.5rc1", ">=2.4,<2.5") is not compared


def test_a_version_that_cannot_be_read_fits():
    assert requirements.fits("unknown", ">=2")
    assert requirements.fits("2.0", "@ https://example.org/x.whl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch>=2.11", ("torch", ">=2.11", "")),
        ("rich", ("rich", "", "")),
        ("omegaconf<2.5,>=2.4; extra == 'suite'", ("omegaconf", "<2.5,>=2.4", "suite")),
        ('a-b.c_d[x,y] (>=1) ; python_version < "4" and extra == "test"', ("a-b.c_d", ">=1", "test")),
        ("a @ https://example.org/a.whl", ("a", "", "")),
    ],
)
def test_a_requirement_is_read(text, expected):
    assert requirements._read(text, "") == Requirement(*expected)


def test_all_that_pyproject_names_is_asked_for():
    names = {each.name for each in requirements.declared()}
    assert {"torch", "transformers", "sacrebleu", "omegaconf", "rich", "filelock", "espeakng-loader", "wandb"} <= names
    assert not {"pytest", "ruff"} & names


def test_an_installed_package_says_itself_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ROOT", tmp_path)
    texts = ["torch>=2.11", 'rich>=14; extra == "suite"', 'pytest>=9; extra == "test"', 'wandb>=0.20; extra == "wandb"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: texts)
    assert [(each.name, each.extra) for each in requirements.declared()] == [
        ("torch", ""), ("rich", "suite"), ("wandb", "wandb"),
    ]  # fmt: skip
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'another'\ndependencies = ['x']\n")
    assert [each.name for each in requirements.declared()] == ["torch", "rich", "wandb"]
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(NovobenchError, match=r"pyproject.toml cannot be read: .*Restore it\."):
        requirements.declared()


def test_neither_checkout_nor_metadata(tmp_path, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "requires", none)
    with pytest.raises(NovobenchError, match="novobench itself is not installed"):
        requirements.declared()


def test_what_is_wrong_with_a_package(monkeypatch):
    assert requirements.problem(Requirement("pytest", ">=1", "")) == ""
    assert requirements.problem(Requirement("no-such-package", "", "")) == "is not installed"
    version = importlib.metadata.version("pytest")
    assert requirements.problem(Requirement("pytest", "<1", "")) == f"{version} is installed, but <1 is needed"
    monkeypatch.setattr(requirements, "_found", lambda module: False)
    assert "is installed, but its module _pytest is not there" in requirements.problem(Requirement("pytest", "", ""))
