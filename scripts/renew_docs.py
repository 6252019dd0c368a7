"""Renew what the Makefile and README say about experiments, from experiments/*.yaml. Renew from results/laptop/ the
verdicts in README, the results on the page on NovoGrad's forms, and what the header of each experiment says about seed
noise.

    python scripts/renew_docs.py        (or: make docs)

The Makefile, README and that page have generated blocks, each between two marker lines, and a header has one generated
line; the rest is written by hand.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from novobench.suite.experiment import Experiment, experiment_names, load_experiment
from novobench.suite.power import seeds_per_row
from novobench.suite.statistics import decimals

ROOT = Path(__file__).resolve().parent.parent

GROUPS = {"tables": "EXPERIMENTS", "rivals": "RIVALS", "claims": "CLAIMS"}
"""Group of experiments -> the Makefile's variable of their names. In the order of the lists."""


def experiments() -> list[Experiment]:
    """The paper's tables, then its figures, then the other groups."""
    loaded = map(load_experiment, experiment_names())
    return sorted(loaded, key=lambda e: (list(GROUPS).index(e.group), e.name[0] != "t", e.name))


def makefile_block(experiments: list[Experiment]) -> str:
    """The names of the experiments, and a line for `make help` about each."""
    lines = []
    for group, variable in GROUPS.items():
        lines.append(" ".join([variable, ":=", *(e.name for e in experiments if e.group == group)]))
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


FORMS = {
    "table1": ("Table 1, 8 epochs: top-1, larger is better", "top1", "t1_{}_100"),
    "table4": ("Table 4: WER on test-clean, smaller is better", "test_clean", "t4_{}"),
    "table6": ("Table 6: BLEU, larger is better", "sacrebleu", "t6_{}"),
    "table7": ("Table 7: test perplexity, smaller is better", "test", "t7_{}"),
}
"""Table -> heading, column and pattern of row ids of `forms_block`."""


def forms_block(_: list[Experiment]) -> str:
    """A Markdown table of NovoGrad's forms and the paper's other optimizers, from results/laptop/."""
    labels = {"sgd": "SGD", "adam": "Adam", "adam_low_dropout": "Adam, NovoGrad's dropout", "adamw": "AdamW"}
    labels |= {"novograd": "NovoGrad", "novograd_rms": "NovoGrad, equal RMS", "novograd_adamw": "NovoGrad + AdamW"}
    tables = {name: {line["row"]: line for line in laptop_table(name)} for name in FORMS}
    lines = [f"| | {' | '.join(heading for heading, _, _ in FORMS.values())} |", "| --- | --- | --- | --- | --- |"]
    for form, label in labels.items():
        cells = [_interval(tables[name].get(row.format(form), {}), column) for name, (_, column, row) in FORMS.items()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    seeds = sorted({int(line["seeds"]) for table in tables.values() for line in table.values() if line["seeds"] != "0"})
    return "\n".join([*lines, "", f"Means over {seeds[-1]} seeds with 95 % intervals, at laptop scale."])


def _interval(line: dict[str, str], column: str) -> str:
    """`mean ± half the interval` of a line of a table's CSV file; empty if it has none."""
    if not line.get(column):
        return ""
    mean = float(line[column])
    return f"{mean:.1f} ± {float(line[f'{column}_high']) - mean:.1f}" if line[f"{column}_high"] else f"{mean:.1f}"


def claims_block(_: list[Experiment]) -> str:
    """The verdicts on the paper's claims at laptop scale: a count, and a Markdown table with leads, intervals and n."""
    by_claim: dict[str, list[dict[str, str]]] = {}
    for line in laptop_table("claims"):
        by_claim.setdefault(line["id"], []).append(line)
    counts = Counter(lines[0]["verdict"] for lines in by_claim.values())
    heading = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=lambda pair: -pair[1]))
    lines = [f"At laptop scale, of {len(by_claim)} claims: {heading}.", ""]
    lines += ["| claim | verdict | lead, with interval | n |", "| --- | --- | --- | --- |"]
    for comparisons in by_claim.values():
        first = comparisons[0]
        leads = "; ".join(_lead(line) for line in comparisons) if not first["value"] else f"measured {first['value']}"
        seeds = min((int(line["seeds"]) for line in comparisons if line["seeds"]), default=0)
        cells = [f"{first['says']} ({first['where']})", first["text"], leads, str(seeds or "")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _lead(line: dict[str, str]) -> str:
    """`−21.4 [−22.6, −20.1]`; a dash without seeds."""
    if not line["lead"]:
        return "–"
    numbers = [float(line[key]) for key in ("lead", "low", "high") if line[key]]
    width = (numbers[2] - numbers[1]) / 2 if len(numbers) == 3 else 1.0
    lead, *ends = [f"{number:+.{decimals(width)}f}".replace("-", "−") for number in numbers]
    return f"{lead} [{', '.join(ends)}]" if ends else lead


@dataclass(frozen=True)
class Block:
    """A part of a file that is generated, between two marker lines."""

    file: str
    write: Callable[[list[Experiment]], str]
    marker: str = "Written by `make docs`"

    @property
    def ends(self) -> tuple[str, str]:
        """The marker lines, comments in the file's language."""
        begin, end = f"{self.marker}:", "End of what `make docs` writes."
        return (f"<!-- {begin} -->", f"<!-- {end} -->") if self.file.endswith(".md") else (f"# {begin}", f"# {end}")


BLOCKS = (
    Block("Makefile", makefile_block),
    Block("novobench/optim/BEYOND_THE_PAPER.md", forms_block),
    Block("README.md", readme_block),
    Block("README.md", claims_block, "Verdicts written by `make docs`"),
)


def renewed(block: Block, text: str) -> str:
    """The text of a block's file with the block renewed. Raises ValueError if a marker is missing."""
    begin, end = block.ends
    before, found_begin, rest = text.partition(f"{begin}\n")
    _, found_end, after = rest.partition(f"{end}\n")
    if not found_begin or not found_end:
        raise ValueError(f"{block.file} has no lines '{begin}' and '{end}'")
    return f"{before}{begin}\n{block.write(experiments())}\n{end}\n{after}"


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
    for block in BLOCKS:
        path = ROOT / block.file
        path.write_text(renewed(block, path.read_text(encoding="utf-8")), encoding="utf-8")
    for experiment in experiments():
        path = ROOT / "experiments" / f"{experiment.name}.yaml"
        text = path.read_text(encoding="utf-8")
        text = renewed_header(experiment, text, laptop_table(experiment.name))
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
