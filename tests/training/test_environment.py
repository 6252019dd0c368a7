"""Which code a record names: the commit, or what the environment says where a copy came without its history."""

import re
import subprocess
import tomllib
from importlib import metadata

import pytest

from novobench.places import ROOT
from novobench.training import environment


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("stated", "expected"),
    [("0123456789ab", ("0123456789ab", False)), ("0123456789ab-dirty", ("0123456789ab", True))],
)
def test_a_copy_without_history(stated, expected, checkout, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CODE", stated)
    assert environment.code_version() == expected


def test_a_checkout_knows_better(checkout, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CODE", "0123456789ab")

    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        done = subprocess.run(["git", "-C", checkout, *identity, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    (checkout / "novobench").mkdir()
    (checkout / "novobench" / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "a commit")
    described = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*")
    assert environment.code_version() == (git("rev-parse", "HEAD")[:12], False) == (git(*described), False)
    (checkout / "novobench" / "code.py").write_text("2")
    assert environment.code_version() == (git("rev-parse", "HEAD")[:12], True)
    assert git(*described).endswith("-dirty")


def test_the_versions_of_all_declared_packages_are_recorded():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["suite"]]
    names = {re.match(r"[\w-]+", line)[0] for line in lines}
    packages = environment.describe()["packages"]
    assert names <= packages.keys()
    assert packages == {name: metadata.version(name) for name in packages}
