"""The directions of imports, what must work without torch, and what the package holds."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from novobench.places import ROOT

PACKAGE = ROOT / "novobench"
MODULES = sorted(PACKAGE.rglob("*.py"))
GROUND = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "cli", "commands"}
"""The modules that lie in `novobench/` itself: they import one another and nothing above them."""
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "optim": set(),
    "tasks": GROUND | {"optim"},
    "training": GROUND | {"optim", "tasks"},
    "bench": GROUND | {"optim", "tasks", "training"},
    "suite": GROUND | {"optim", "tasks", "training"},
    "commands": GROUND | {"bench", "suite"},
    "cli": GROUND | {"commands"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""What each room may import of novobench, besides itself."""


NOVOGRAD = PACKAGE / "optim" / "novograd"
KERNELS = NOVOGRAD / "kernels.py"
SCREEN_LINES = 40


def room(module: str) -> str:
    """`novobench.optim.lars` -> `optim`."""
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """Full names of the novobench modules that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("novobench.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        assert room(name) == own or room(name) in MAY_IMPORT[own], f"{path.name} imports {name}"


def test_tasks_do_not_import_each_other():
    shared = {path.stem for path in PACKAGE.glob("tasks/*.py")}
    for path in PACKAGE.glob("tasks/*/*.py"):
        for name in imports(path):
            if room(name) == "tasks":
                assert name.split(".")[2] in {path.parent.name} | shared, f"{path} imports {name}"


def test_training_names_no_task():
    tasks = [path.parent.name for path in PACKAGE.glob("tasks/*/config.py")]
    for path in PACKAGE.glob("training/*.py"):
        for name in imports(path):
            assert not any(name.startswith(f"novobench.tasks.{task}") for task in tasks), f"{path} imports {name}"


def module_file(name: str) -> Path | None:
    """The file of a module, or of the module that holds the imported name; None outside novobench."""
    for candidate in (name, name.rpartition(".")[0]):
        path = ROOT / Path(*candidate.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def test_only_tests_import_modules_inside_the_novograd_package():
    """All other code uses its public names, so its modules can be reorganized."""
    outside = [path for path in MODULES if NOVOGRAD not in path.parents] + sorted((ROOT / "scripts").rglob("*.py"))
    for path in outside:
        for name in imports(path):
            below = name.removeprefix("novobench.optim.novograd.").split(".")
            inside = name.startswith("novobench.optim.novograd.") and (NOVOGRAD / f"{below[0]}.py").is_file()
            assert not inside, f"{path.relative_to(ROOT)} imports {name}"


def test_no_import_circle():
    """Imports inside functions and for type checkers count, too."""
    graph = {path: {module_file(name) for name in imports(path)} - {path, None} for path in MODULES}
    assert graph[NOVOGRAD / "optimizer.py"] > {NOVOGRAD / "dispatch.py", NOVOGRAD / "backend.py"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files of a circle


@pytest.mark.parametrize(
    ("module", "importers"),
    [("kernels", {"cuda", "launch_plan"}), ("launch_plan", {"cuda", "compiled"})],
    ids=["kernels", "launch_plan"],
)
def test_only_the_backends_that_launch_kernels_import_them(module, importers):
    kernels = NOVOGRAD / f"{module}.py"
    assert {path.stem for path in MODULES if kernels in map(module_file, imports(path))} == importers


def test_the_novograd_step_fits_on_one_screen():
    [step] = functions(NOVOGRAD / "optimizer.py", "step")
    assert step.end_lineno - step.lineno < SCREEN_LINES


def functions(path: Path, *names: str) -> list[ast.FunctionDef]:
    """Functions and methods of a file, by name."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return [node for node in nodes if node.name in names]


def launched_kernels() -> set[str]:
    nodes = ast.walk(ast.parse((NOVOGRAD / "launch_plan.py").read_text()))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "kernels"}


def kernel_legend(docstring: str) -> dict[str, str]:
    """`name, other  fp32 [T]  meaning` -> dtype and shape of each name; constants have no shape."""
    dtypes = r"(?:(?:fp32|int64|int32)(?: \[[^]]*\](?:, \[[^]]*\])?)?|bool|int|dtype)"
    lines = re.findall(rf"^  (\w+(?:, \w+)*) +({dtypes}) {{2,}}\S", docstring, re.MULTILINE)
    return {name: kind for names, kind in lines for name in names.split(", ")}


def test_each_kernel_argument_is_explained():
    legend = kernel_legend(ast.get_docstring(ast.parse(KERNELS.read_text()), clean=False))
    kernels = functions(KERNELS, *launched_kernels())
    assert {kernel.name for kernel in kernels} == {"norms", "decide", "update", "norms_and_update"}
    arguments = {argument.arg: argument for kernel in kernels for argument in kernel.args.args}
    assert legend.keys() == arguments.keys()
    for name, argument in arguments.items():
        shape_or_scalar = "[" in legend[name] or legend[name] == "int32"
        assert shape_or_scalar == (argument.annotation is None), f"{name}: {legend[name]}"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list"],
        ["list", "optimizers"],
        ["list", "tasks"],
        ["run", "--help"],
        ["run", "tabel1"],
        ["run", "table1", "--set", "optimizer.lrr=1"],
    ],
    ids=" ".join,
)
def test_needs_no_torch(words):
    """Help, lists and config errors answer at once because they import nothing heavy."""
    heavy = ("torch", "pytorch_lightning", "scipy", "sklearn", "datasets", "torchvision", "matplotlib")
    code = (
        "import sys, novobench.cli as cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        f"finally:\n    loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "    assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert "AssertionError" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "run" in words and "--help" not in words else 0)


def test_optim_needs_torch_alone():
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('omegaconf', 'pytorch_lightning', 'scipy', 'yaml', 'rich', 'torchvision'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import torch\n"
        "from novobench.optim import LARS, NovoGrad\n"
        "w = torch.nn.Parameter(torch.ones(3)); w.grad = torch.ones(3)\n"
        "NovoGrad([w], lr=0.1).step()\n"
        "assert w[0] < 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
