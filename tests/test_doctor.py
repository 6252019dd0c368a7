"""`novobench doctor` in a checkout, in a base install, and where packages or metadata are missing."""

import importlib.metadata

import pytest

from novobench import places, requirements
from novobench.requirements import Requirement

SUITE = [Requirement(name, "", "suite") for name in ("rich", "omegaconf", "scipy", "no-such-package")]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`installed(*requirements)`: novobench as installed from a wheel that needs these packages."""

    def install(*declared):
        monkeypatch.setattr(requirements, "PYPROJECT", tmp_path / "pyproject.toml")
        monkeypatch.setattr(requirements, "declared", lambda: list(declared))
        monkeypatch.setattr(requirements, "_installed_from", lambda: "file:///src")

    return install


def test_all_is_well_here(workspace, novobench):
    code, out, _ = novobench("doctor")
    assert code == 0, out
    assert out.endswith("\nAll well.\n")
    assert "\nok    torch " in out
    assert sorted(path.name for path in workspace.iterdir()) == ["configs", "experiments"]  # it leaves no trace


def test_a_missing_package_stops_runs_of_the_suite(workspace, novobench, installed):
    installed(Requirement("torch", "", ""), *SUITE)
    code, out, _ = novobench("doctor")
    assert code == 1
    command = "Run: pip install 'novobench[suite] @ file:///src'"
    assert f"FAIL  no-such-package is not installed. {command}\n" in out
    assert out.endswith("\n1 problem would stop a run.\n")


def test_the_base_install_is_complete_without_the_suite(workspace, novobench, installed):
    missing = [Requirement(f"no-such-package-{number}", "", "suite") for number in range(4)]
    installed(Requirement("torch", "", ""), *missing, *SUITE)
    code, out, _ = novobench("doctor")
    assert code == 0
    assert "FAIL" not in out
    names = ", ".join(each.name for each in (*missing, SUITE[-1]))
    assert f"\nnote  suite not installed; 5 of its 8 packages missing: {names}\n" in out
    verdict = out.splitlines()[-1]
    assert verdict.startswith("novobench.optim is ready.")
    assert verdict.endswith("install the suite: pip install 'novobench[suite] @ file:///src'")


def test_the_base_install_needs_torch(workspace, novobench, installed):
    installed(Requirement("torch", "<1", ""), Requirement("no-such-package", "", "suite"))
    code, out, _ = novobench("doctor")
    assert code == 1
    assert "is installed, but <1 is needed. Run: pip install 'novobench @ file:///src'" in out


def test_an_optional_package_is_a_note(workspace, novobench, installed):
    installed(
        Requirement("torch", "", ""), Requirement("rich", "", "suite"), Requirement("no-such-package", "", "extra")
    )
    code, out, _ = novobench("doctor")
    assert code == 0
    optional = "note  no-such-package is not installed (optional). Run: pip install 'novobench[extra] @ file:///src'"
    assert optional in out
    assert out.endswith("\nAll well.\n")


def test_a_package_without_metadata(workspace, novobench, tmp_path, monkeypatch):
    def not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(requirements, "PYPROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(importlib.metadata, "requires", not_found)
    monkeypatch.setattr(importlib.metadata, "distribution", not_found)
    code, out, _ = novobench("doctor")
    assert code == 1
    assert "FAIL  The requirements of novobench are unknown" in out


def test_a_workspace_without_experiments(tmp_path, novobench, monkeypatch):
    monkeypatch.setattr(places, "workspace", lambda: places.Workspace(tmp_path, shipped=tmp_path))
    code, out, _ = novobench("doctor")
    assert code == 1
    assert f"FAIL  no experiments in {tmp_path}" in out


def test_whether_an_mps_daemon_runs(workspace, novobench, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(workspace))
    assert "note  no MPS daemon: cells on one GPU take turns." in novobench("doctor")[1]
    (workspace / "control").touch()
    assert f"ok    MPS daemon at {workspace}: cells on one GPU run at the same time" in novobench("doctor")[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "MPS" not in novobench("doctor")[1]
