"""Renew what the Makefile and README say about experiments, from experiments/*.yaml.

    python scripts/renew_docs.py        (or: make docs)

Each file has one generated block between two marker lines; the rest is written by hand.
"""

from collections.abc import Callable
from pathlib import Path

from novobench.suite.experiment import Experiment, experiment_names, load_experiment

ROOT = Path(__file__).resolve().parent.parent


def experiments() -> list[Experiment]:
    """The paper's tables, then its figures, then what the paper does not have."""
    loaded = map(load_experiment, experiment_names())
    return sorted(loaded, key=lambda experiment: (not experiment.in_paper, experiment.name[0] != "t", experiment.name))


def makefile_block(experiments: list[Experiment]) -> str:
    """The names of the experiments, and a line for `make help` about each."""
    names = {in_paper: [e.name for e in experiments if e.in_paper is in_paper] for in_paper in (True, False)}
    lines = [f"EXPERIMENTS := {' '.join(names[True])}", f"RIVALS := {' '.join(names[False])}"]
    for experiment in experiments:
        lines.append(f"{experiment.name}: ## {experiment.summary} (laptop: {experiment.cost.laptop})")
    return "\n".join(lines)


def readme_block(experiments: list[Experiment]) -> str:
    """A Markdown table of the experiments with their costs."""
    lines = ["| command | what | laptop, 2 cores | gpu, one H100 | full |", "| --- | --- | --- | --- | --- |"]
    for experiment in experiments:
        cost = experiment.cost
        cells = [f"`make {experiment.name}`", experiment.summary, cost.laptop, cost.gpu, cost.full]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


BLOCKS: dict[str, tuple[str, str, Callable[[list[Experiment]], str]]] = {
    "Makefile": ("# Written by `make docs`:", "# End of what `make docs` writes.", makefile_block),
    "README.md": ("<!-- Written by `make docs`: -->", "<!-- End of what `make docs` writes. -->", readme_block),
}
"""File -> the marker lines around its block, and the function that writes the block."""


def renewed(name: str, text: str) -> str:
    """The text of a file of `BLOCKS` with its block renewed. Raises ValueError if a marker is missing."""
    begin, end, block = BLOCKS[name]
    before, found_begin, rest = text.partition(f"{begin}\n")
    _, found_end, after = rest.partition(f"{end}\n")
    if not found_begin or not found_end:
        raise ValueError(f"{name} has no lines '{begin}' and '{end}'")
    return f"{before}{begin}\n{block(experiments())}\n{end}\n{after}"


def main() -> None:
    for name in BLOCKS:
        path = ROOT / name
        path.write_text(renewed(name, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
