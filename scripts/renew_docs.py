"""Renew what the Makefile and README say about experiments, from experiments/*.yaml, and what the header of each
experiment says about seed noise, from results/laptop/.

    python scripts/renew_docs.py        (or: make docs)

The Makefile and README have one generated block each between two marker lines, and a header has one generated line; the
rest is written by hand.
"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from novobench.suite.experiment import Experiment, experiment_names, load_experiment
from novobench.suite.tables import seeds_per_row

ROOT = Path(__file__).resolve().parent.parent


def experiments() -> list[Experiment]:
    """Tables first, then figures."""
    return [load_experiment(name) for name in sorted(experiment_names(), key=lambda name: (name[0] != "t", name))]


def makefile_block(experiments: list[Experiment]) -> str:
    """The names of the experiments, and a line for `make help` about each."""
    lines = [f"EXPERIMENTS := {' '.join(experiment.name for experiment in experiments)}"]
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


def noise_line(experiment: Experiment, table: Sequence[dict[str, str]]) -> str:
    """The comment on the seed noise of the first column; empty if no row has two seeds.

    table: the lines of the experiment's CSV file in results/laptop/.
    """
    column = experiment.columns[0]
    sd = table[0].get(f"{column.key}_pooled_sd") if table else None
    if not sd:
        return ""
    seeds = sorted({int(line["seeds"]) for line in table if int(line["seeds"]) > 1})
    over = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    noise = f"# Seed noise: {column.split} {column.metric} {float(sd):.2g} over {over} seeds at laptop scale;"
    return f"{noise} {seeds_per_row()} seeds per row detect such a difference.\n"


def renewed_header(experiment: Experiment, text: str, table: Sequence[dict[str, str]]) -> str:
    """The text of an experiment's file with its line on seed noise renewed, above the line with the command."""
    without = re.sub(r"^# Seed noise: .*\n", "", text, flags=re.MULTILINE)
    before, command, after = without.partition("# Command:")
    return f"{before}{noise_line(experiment, table)}{command}{after}"


def laptop_table(name: str) -> list[dict[str, str]]:
    """The lines of an experiment's CSV file in results/laptop/; none if there is no such file."""
    path = ROOT / "results" / "laptop" / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    for name in BLOCKS:
        path = ROOT / name
        path.write_text(renewed(name, path.read_text(encoding="utf-8")), encoding="utf-8")
    for experiment in experiments():
        path = ROOT / "experiments" / f"{experiment.name}.yaml"
        text = path.read_text(encoding="utf-8")
        text = renewed_header(experiment, text, laptop_table(experiment.name))
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
