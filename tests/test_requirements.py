"""What novobench needs, and whether it is there: read without `packaging`, compared with it."""

import importlib.metadata
import itertools

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from novobench import places, requirements
from novobench.errors import NovobenchError
from novobench.requirements import Requirement

VERSIONS = [
    "0.9", "1", "1.0", "1.0.0", "1.1", "2.4.dev1", "2.4a1", "2.4b2", "2.4rc1", "2.4.0rc2.dev3", "2.4", "2.4+cu128",
    "2.4.0", "2.4.post1", "2.4.1", "2.5.dev0", "2.5rc1", "2.5", "2.10.3", "10.0", "2026.1", "1!0.1",
]  # fmt: skip
CLAUSES = [f"{operator}{one}" for operator in ("==", "!=", ">=", "<=", ">", "<") for one in VERSIONS if "+" not in one]
CLAUSES += ["~=2.4", "~=2.4.0", "~=2.4.1", "==2.4.*", "!=2.4.*", "==2.*", "", ">=2.4,<2.5", ">= 2.4 , < 2.5"]


@pytest.mark.parametrize("clause", CLAUSES)
def test_versions_fit_as_packaging_has_it(clause):
    expected = {version: SpecifierSet(clause, prereleases=True).contains(version) for version in VERSIONS}
    assert {version: requirements.fits(version, clause) for version in VERSIONS} == expected


def test_versions_are_ordered_as_packaging_orders_them():
    for one, other in itertools.combinations(VERSIONS, 2):
        if "+" not in one + other:  # a local part never decides whether a version fits
            assert (requirements._key(one) < requirements._key(other)) == (Version(one) < Version(other)), (one, other)


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
    names = {each.name for each in requirements.of_novobench()}
    assert {"torch", "transformers", "sacrebleu", "omegaconf", "rich", "filelock", "espeakng-loader", "wandb"} <= names
    assert not {"pytest", "ruff"} & names


def test_an_installed_package_says_itself_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ROOT", tmp_path)
    texts = ["torch>=2.11", 'rich>=14; extra == "suite"', 'pytest>=9; extra == "test"', 'wandb>=0.20; extra == "wandb"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: texts)
    assert [(each.name, each.extra) for each in requirements.of_novobench()] == [
        ("torch", ""), ("rich", "suite"), ("wandb", "wandb"),
    ]  # fmt: skip
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'another'\ndependencies = ['x']\n")
    assert [each.name for each in requirements.of_novobench()] == ["torch", "rich", "wandb"]
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(NovobenchError, match=r"pyproject.toml cannot be read: .*Restore it\."):
        requirements.of_novobench()


def test_neither_checkout_nor_metadata(tmp_path, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "requires", none)
    with pytest.raises(NovobenchError, match="novobench itself is not installed"):
        requirements.of_novobench()


def test_what_is_wrong_with_a_package(monkeypatch):
    assert requirements.problem(Requirement("pytest", ">=1", "")) == ""
    assert requirements.problem(Requirement("no-such-package", "", "")) == "is not installed"
    version = importlib.metadata.version("pytest")
    assert requirements.problem(Requirement("pytest", "<1", "")) == f"{version} is installed, but <1 is needed"
    monkeypatch.setattr(requirements, "_found", lambda module: False)
    assert "is installed, but its module _pytest is not there" in requirements.problem(Requirement("pytest", "", ""))
