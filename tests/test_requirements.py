"""The packages that novobench declares, and what is wrong with an installed one."""

import importlib.metadata
import json
import sys

import pytest

from novobench import requirements
from novobench.requirements import Requirement


@pytest.fixture
def metadata(tmp_path, monkeypatch):
    """`metadata(requires, direct_url)`: novobench as installed from a wheel, outside a checkout."""

    def install(requires=(), direct_url=None):
        folder = tmp_path / "site" / "novobench-0.1.0.dist-info"
        folder.mkdir(parents=True)
        lines = ["Metadata-Version: 2.4", "Name: novobench", "Version: 0.1.0"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires), ""]))
        if direct_url is not None:
            (folder / "direct_url.json").write_text(direct_url)
        monkeypatch.syspath_prepend(str(folder.parent))

    monkeypatch.setattr(requirements, "PYPROJECT", tmp_path / "pyproject.toml")
    return install


@pytest.mark.parametrize("blocked", [[], ["packaging"], ["packaging", "pip"]])
def test_versions_are_compared_if_packaging_or_pip_is_installed(blocked, monkeypatch):
    for name in blocked:  # importing a module that is None in sys.modules fails
        for module in [each for each in sys.modules if each == name or each.startswith(f"{name}.")] + [name]:
            monkeypatch.setitem(sys.modules, module, None)
    compared = "pip" not in blocked
    assert requirements.fits("2.4.0", ">=2.4,<2.5")
    assert requirements.fits("2.4+cu128", ">= 2.4 , < 2.5")
    assert requirements.fits("2.10.3", ">=2.5")
    assert requirements.fits("2.3.9", ">=2.4,<2.5") is not compared
    assert requirements.fits("2.5rc1", ">=2.4,<2.5") is not compared


def test_an_unreadable_version_fits():
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
def test_parsing_a_requirement(text, expected):
    assert requirements._parse(text, "") == Requirement(*expected)


def test_a_checkout_declares_what_pyproject_names():
    names = {each.name for each in requirements.declared()}
    assert {"torch", "transformers", "sacrebleu", "omegaconf", "rich", "filelock", "espeakng-loader", "wandb"} <= names
    assert not {"pytest", "ruff"} & names
    assert requirements.in_checkout()


def test_an_installed_package_declares_what_its_metadata_names(metadata, tmp_path):
    metadata(
        ["torch>=2.11", "rich>=14; extra == 'suite'", "pytest>=9; extra == 'test'", "wandb>=0.20; extra == 'wandb'"]
    )
    expected = [("torch", ""), ("rich", "suite"), ("wandb", "wandb")]
    assert [(each.name, each.extra) for each in requirements.declared()] == expected
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'another'\ndependencies = ['x']\n")
    assert [(each.name, each.extra) for each in requirements.declared()] == expected
    assert not requirements.in_checkout()


def test_a_damaged_pyproject(metadata, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(requirements.UnknownRequirements, match=r"pyproject.toml cannot be read: .*Restore it\."):
        requirements.declared()
    assert requirements.in_checkout()


def test_neither_checkout_nor_metadata(tmp_path, monkeypatch):
    def not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(requirements, "PYPROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(importlib.metadata, "requires", not_found)
    monkeypatch.setattr(importlib.metadata, "distribution", not_found)
    with pytest.raises(
        requirements.UnknownRequirements, match=r"no installed metadata and no pyproject\.toml\. Run: pip"
    ):
        requirements.declared()


FROM_GIT = {"url": "https://example.org/novobench", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}


@pytest.mark.parametrize(
    ("direct_url", "url"),
    [
        (json.dumps({"url": "file:///src/novobench", "dir_info": {}}), "file:///src/novobench"),
        (json.dumps({"url": "file:///novobench-0.1.0.whl", "archive_info": {}}), "file:///novobench-0.1.0.whl"),
        (json.dumps(FROM_GIT), "git+https://example.org/novobench@c0ffee"),
        (json.dumps({**FROM_GIT, "url": "file:///src/novobench"}), "file:///src/novobench"),
        (None, "git+<URL of its repository>"),
        ("{", "git+<URL of its repository>"),
        ("[]", "git+<URL of its repository>"),
    ],
)
def test_the_command_that_installs_the_suite_names_where_novobench_came_from(metadata, direct_url, url):
    metadata(direct_url=direct_url)
    assert requirements.install_command("suite") == f"pip install 'novobench[suite] @ {url}'"


def test_the_commands_in_a_checkout():
    assert requirements.install_command("suite") == "make setup"
    assert requirements.install_command("wandb") == "pip install -e '.[wandb]'"


def test_what_is_wrong_with_a_package(monkeypatch):
    assert requirements.problem(Requirement("pytest", ">=1", "")) == ""
    assert requirements.problem(Requirement("no-such-package", "", "")) == "is not installed"
    version = importlib.metadata.version("pytest")
    assert requirements.problem(Requirement("pytest", "<1", "")) == f"{version} is installed, but <1 is needed"
    monkeypatch.setattr(requirements, "_is_importable", lambda module: False)
    assert "is installed, but its module _pytest is missing" in requirements.problem(Requirement("pytest", "", ""))
