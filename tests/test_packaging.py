"""The wheel and the sdist: what they hold, and novobench installed from them, with its suite and without."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from novobench import requirements
from novobench.files import read_csv
from novobench.places import ROOT

SITE_PACKAGES = Path(importlib.util.find_spec("torch").origin).parents[1]
"""Where the packages of this environment are installed."""

YAML_FILES = {
    str(path.relative_to(ROOT)) for name in ("configs", "experiments") for path in (ROOT / name).rglob("*.yaml")
}
MODULES = {str(path.relative_to(ROOT)) for path in (ROOT / "novobench").rglob("*.py")}


# ---------------------------------------------------------------------------------------------- declared packages


def third_party_imports():
    """Top-level modules that novobench imports anywhere in its code, without its own and the standard library's."""
    names = set()
    for path in (ROOT / "novobench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    return names - {"novobench"} - set(sys.stdlib_module_names)


def test_every_imported_package_is_declared_and_every_declared_package_of_the_suite_is_imported():
    distributions = importlib.metadata.packages_distributions()
    imported = {distributions.get(name, [name])[0].lower() for name in third_party_imports()}
    declared = {each.name.lower(): each.extra for each in requirements.declared()}
    assert imported - declared.keys() == {"triton"}  # comes with torch
    needed = {name for name, extra in declared.items() if extra in (requirements.BASE, requirements.SUITE)}
    assert needed - imported == {"timm"}  # novobench reads text files of it


def test_pinned_versions_fit():
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().lower().splitlines() if "==" in line
    )
    for package in requirements.declared():
        if package.name != "wandb":  # nothing that is tested or committed needs it
            assert requirements.fits(pinned[package.name.lower()], package.versions), package


# ---------------------------------------------------------------------------------------------- project files


def test_project_files_name_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## [{version}] – " in (ROOT / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:1905.11286"


def test_the_workflow_uses_targets_of_the_makefile_and_supported_pythons():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = {words[1] for step in steps if (words := step.get("run", "").split())[:1] == ["make"]}
    assert targets == {"lint", "test", "wheel"}
    assert targets <= set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert oldest in workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]


def test_hooks_run_tools_of_the_lint_extra():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lint"]
    assert tools == {Requirement(each).name for each in lint}


# ---------------------------------------------------------------------------------------------- built packages


def run(*words, cwd, **variables):
    """A command in `cwd` that sees nothing of this process's imports; returns the finished process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NOVOBENCH"))}
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    [sdist] = folder.glob("*.tar.gz")
    words = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, sdist)
    done = run(sys.executable, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_contents_of_the_sdist(built):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert names >= YAML_FILES | MODULES | {"LICENSE", "README.md", "pyproject.toml", "novobench/py.typed"}
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {"tests", "results", "runs", "data", "scripts", ".git", ".venv"}


@pytest.mark.slow
def test_contents_of_the_wheel(built):
    [path] = built.glob("*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    info = f"novobench-{importlib.metadata.version('novobench')}.dist-info"
    assert names >= MODULES | {f"novobench/{name}" for name in YAML_FILES}
    assert names >= {"novobench/py.typed", f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"}
    assert {name.partition("/")[0] for name in names} == {"novobench", info}


# ---------------------------------------------------------------------------------------------- installed packages


def install(wheel, venv, packages):
    """novobench from a wheel, in a new virtual environment that also imports from the folder `packages`."""
    assert run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=wheel.parent).returncode == 0
    words = ("-m", "pip", "--python", venv / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    done = run(sys.executable, *words, cwd=wheel.parent)
    assert done.returncode == 0, done.stderr
    [site_packages] = venv.glob("lib/python*/site-packages")
    (site_packages / "packages.pth").write_text(f"{packages}\n")
    return venv / "bin"


@pytest.fixture(scope="module")
def with_suite(built, tmp_path_factory):
    """The `bin` folder of an environment with novobench and all that its suite needs."""
    [wheel] = built.glob("*.whl")
    return install(wheel, tmp_path_factory.mktemp("suite") / "venv", SITE_PACKAGES)


@pytest.fixture(scope="module")
def base_only(built, tmp_path_factory):
    """The `bin` folder of an environment with novobench, torch and what torch needs."""
    [wheel] = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("base")
    (folder / "packages").mkdir()
    for name in closure("torch"):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = folder / "packages" / top
            if not top.endswith(".pth") and not link.exists():
                link.symlink_to(distribution.locate_file(top))
    return install(wheel, folder / "venv", folder / "packages")


def closure(name):
    """A distribution and all that it needs, by name, as far as it is installed."""
    names, todo = set(), [name]
    while todo:
        current = todo.pop()
        try:
            needs = importlib.metadata.requires(current) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if current not in names:
            names.add(current)
            todo += [
                each.name for each in map(Requirement, needs) if not each.marker or each.marker.evaluate({"extra": ""})
            ]
    return names


@pytest.mark.slow
def test_the_suite_runs_in_an_empty_folder(with_suite, tmp_path):
    folder, cache = tmp_path / "empty", {"NOVOBENCH_CACHE": str(tmp_path / "cache")}
    folder.mkdir()
    done = run(with_suite / "novobench", "list", cwd=folder, **cache)
    assert (done.returncode, done.stderr) == (0, "")
    assert "table1" in done.stdout
    assert list(folder.iterdir()) == []

    done = run(with_suite / "novobench", "run", "table1", "--rows", "t1_sgd_100", cwd=folder, **cache)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "results" / "laptop" / "table1.md").exists()
    [cell] = {line["cell"] for line in read_csv(folder / "results" / "laptop" / "records.csv")}
    assert cell in {line["cell"] for line in read_csv(ROOT / "results" / "laptop" / "records.csv")}
    assert (folder / "runs" / "laptop" / cell / "record.json").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["results", "runs"]


@pytest.mark.slow
def test_doctor_finds_the_suite(with_suite, tmp_path):
    done = run(with_suite / "novobench", "doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nAll well.\n")
    assert list(tmp_path.iterdir()) == []


STEP = """
import torch
from novobench.optim import NovoGrad
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = torch.ones(3)
NovoGrad([weight], lr=0.1).step()
assert weight[0] < 1
import novobench
print(novobench.__file__)
"""


@pytest.mark.slow
def test_the_base_install_has_the_optimizers(base_only, tmp_path):
    done = run(base_only / "python", "-c", STEP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(base_only.parent)


@pytest.mark.slow
def test_the_base_install_says_how_to_get_the_suite(base_only, tmp_path):
    assert run(base_only / "python", "-c", "import omegaconf", cwd=tmp_path).returncode == 1
    done = run(base_only / "novobench", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(base_only / "novobench", "doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nok    torch " in done.stdout
    assert "\nnote  suite not installed" in done.stdout
    command = "pip install 'novobench[suite] @ file:///"
    assert f"\nnovobench.optim is ready. To run experiments, install the suite: {command}" in done.stdout
    for words in (["list"], ["run", "table1"], ["plan", "table1"], ["search", "table1"], ["bench", "throughput"]):
        done = run(base_only / "novobench", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr.startswith("novobench: The package '")
        assert f"' is not installed. Run: {command}" in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
