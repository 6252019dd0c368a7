"""Verdicts on the paper's claims as text: below tables, as `results/<scale>/claims.md` and `claims.csv`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.markdown import Markdown

from novobench import places
from novobench.console import console, counted
from novobench.places import display_path
from novobench.suite.checked_files import SCHEMA, csv_bytes, write_changed
from novobench.suite.claim_verdicts import ClaimVerdict, Finding, Word, judge, judge_measurement
from novobench.suite.claims import Claim, check_against, load_claims
from novobench.suite.experiment import Column, Experiment, load_experiment
from novobench.suite.markdown_text import four_digits, markdown_table, one_line, plain, prose
from novobench.suite.results import Results
from novobench.suite.statistics import decimals
from novobench.suite.table_rows import TableRow, distinct_labels, table_rows

_WORDS: tuple[Word, ...] = ("supported", "contradicted", "undecided", "not testable")
_FIELDS = (
    "schema", "id", "where", "says", "verdict", "text", "experiment", "first", "second", "expect", "margin", "lead",
    "low", "high", "level", "seeds", "left_out", "paper_lead", "value", "caveats", "hash",
)  # fmt: skip


def report(scale: str) -> int:
    """Judge all claims at a scale, write both files and print the list."""
    judged = judge_all(scale)
    folder = places.workspace().results(scale)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {verdict.claim.id: _numbers(verdict, experiment, rows) for verdict, experiment, rows in judged}
    verdicts = [verdict for verdict, _, _ in judged]
    write_changed(folder / "claims.csv", _csv(judged))
    write_changed(folder / "claims.md", _markdown(scale, verdicts, texts).encode())
    out = console()
    out.print(Markdown(_markdown(scale, verdicts, texts)))
    out.print(f"Written: {display_path(folder / 'claims.md')}")
    return 0


Judged = tuple[ClaimVerdict, Experiment | None, Sequence[TableRow]]


def judge_all(scale: str) -> list[Judged]:
    """Each claim with its verdict, its experiment and the rows of that; without an experiment for measurements."""
    results = Results.load(scale)
    experiments: dict[str, tuple[Experiment, list[TableRow]]] = {}
    judged: list[Judged] = []
    for claim in load_claims():
        if claim.measure:
            judged.append((_judge_measure(claim, scale), None, []))
            continue
        if claim.experiment not in experiments:
            experiment = load_experiment(claim.experiment)
            experiments[claim.experiment] = experiment, table_rows(experiment, results)
        experiment, rows = experiments[claim.experiment]
        judged.append((_judge(claim, scale, experiment, rows), experiment, rows))
    return judged


def _judge_measure(claim: Claim, scale: str) -> ClaimVerdict:
    from novobench.suite.measures import MEASURES  # imports torch where a measure needs it

    if reason := claim.not_testable.get(scale):
        return ClaimVerdict(claim, scale, "not testable", reason=reason)
    return judge_measurement(claim, scale, MEASURES[claim.measure]())


def _judge(claim: Claim, scale: str, experiment: Experiment, rows: Sequence[TableRow]) -> ClaimVerdict:
    check_against(claim, experiment)
    return judge(claim, scale, column_of(claim, experiment), {row.row.id: row for row in rows})


def column_of(claim: Claim, experiment: Experiment) -> Column:
    """The column of its experiment that a claim is judged by."""
    return next(column for column in experiment.columns if column.key == claim.column)


# ---------------------------------------------------------------------------------------------- below a table


def table_lines(experiment: Experiment, rows: Sequence[TableRow], scale: str) -> list[str]:
    """Lines of Markdown: the paper's claims for this experiment, with their verdicts; none without claims. Claims about
    other rows than these are left out."""
    shown = {row.row.id for row in rows}
    claims = [
        claim
        for claim in load_claims()
        if claim.experiment == experiment.name
        and shown.issuperset(id for comparison in claim.comparisons for id in comparison.rows)
    ]
    if not claims:
        return []
    lines = ["The paper's claims:", ""]
    for claim in claims:
        verdict = _judge(claim, scale, experiment, rows)
        parts = [f"**{str(verdict).capitalize()}**: {prose(claim.says)}.", _numbers(verdict, experiment, rows)]
        parts += _remarks(verdict)
        parts.append(f"The paper: “{prose(claim.paper)}” ({prose(claim.where)})")
        lines.append(f"- {' '.join(filter(None, parts))}")
    return [*lines, ""]


def _remarks(verdict: ClaimVerdict) -> list[str]:
    """What a reader must know of the verdict, in Markdown."""
    return [prose(verdict.claim.note)] * bool(verdict.claim.note) + [f"*{prose(each)}.*" for each in verdict.caveats]


def _numbers(verdict: ClaimVerdict, experiment: Experiment | None, rows: Sequence[TableRow]) -> str:
    """What the verdict rests on, in Markdown."""
    claim = verdict.claim
    if verdict.value is not None:
        limits = (("at least", claim.at_least), ("at most", claim.at_most))
        bounds = [f"{words} {limit:g}" for words, limit in limits if limit is not None]
        return f"Measured {four_digits(verdict.value)}; supported by {' and '.join(bounds)}."
    if experiment is None or not verdict.findings:
        return ""
    labels = {id: plain(label) for id, label in distinct_labels(experiment, rows).items()}
    column = plain(column_of(claim, experiment).label)
    return f"{column[0].upper()}{column[1:]}: {'; '.join(_finding_text(each, labels) for each in verdict.findings)}."


def _finding_text(finding: Finding, labels: Mapping[str, str]) -> str:
    comparison = finding.comparison
    first = _side(comparison.first, comparison.first_minus, labels)
    second = _side(comparison.second, comparison.second_minus, labels)
    return f"{first} against {second} {_lead_text(finding)}"


def _side(ids: Sequence[str], minus: Sequence[str], labels: Mapping[str, str]) -> str:
    def mean(ids: Sequence[str]) -> str:
        names = list(dict.fromkeys(labels[id] for id in ids))
        return names[0] if len(names) == 1 else f"the mean of {', '.join(names)}"

    return f"{mean(ids)} minus {mean(minus)}" if minus else mean(ids)


def _lead_text(finding: Finding) -> str:
    """`(paper: ahead by 3.14 · here: behind by 22.4 [21.1, 23.6], n = 10)`."""
    return f"({'' if finding.paper is None else f'paper: {_ahead(finding.paper, 2)} · '}here: {_lead_here(finding)})"


def _lead_here(finding: Finding) -> str:
    lead = finding.lead
    if not lead.n:
        return f"diverged, n = {finding.n}" if finding.n else "no seed"
    if math.isinf(finding.low) and math.isinf(finding.high):
        return f"{_ahead(lead.mean, 2)}, n = {finding.n}, too few seeds for an interval"
    digits = decimals(min(abs(end - lead.mean) for end in (finding.low, finding.high)))
    ends = (finding.low, finding.high) if lead.mean >= 0 else (-finding.high, -finding.low)
    interval = f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]".replace("inf", "∞").replace("-", "−")
    return f"{_ahead(lead.mean, digits)} {interval}, n = {finding.n}"


def _ahead(lead: float, digits: int) -> str:
    return f"{'ahead' if lead >= 0 else 'behind'} by {abs(lead):.{digits}f}"


# ---------------------------------------------------------------------------------------------- files


def _csv(judged: Sequence[Judged]) -> bytes:
    lines = []
    for verdict, _, _ in judged:
        claim = verdict.claim
        start = [str(SCHEMA), claim.id, claim.where, claim.says, verdict.word, str(verdict), claim.experiment]
        end = [
            "" if verdict.value is None else f"{verdict.value:.6g}",
            "; ".join(verdict.caveats),
            claim.hash(verdict.scale),
        ]
        compared = [_comparison_fields(finding) for finding in verdict.findings] or [[""] * 11]
        lines += [[one_line(text) for text in (*start, *middle, *end)] for middle in compared]
    return csv_bytes(_FIELDS, lines)


def _comparison_fields(finding: Finding) -> list[str]:
    comparison = finding.comparison
    sides = [
        " + ".join(ids) + (f" - {' - '.join(minus)}" if minus else "")
        for ids, minus in ((comparison.first, comparison.first_minus), (comparison.second, comparison.second_minus))
    ]
    numbers = [finding.lead.mean, finding.low, finding.high, finding.level]
    texts = [f"{number:.6g}" if math.isfinite(number) else "" for number in numbers]
    paper = "" if finding.paper is None else f"{finding.paper:.6g}"
    counts = [str(finding.n), str(len(finding.left_out))]
    return [*sides, comparison.expect, f"{finding.margin:g}", *texts, *counts, paper]


def _markdown(scale: str, verdicts: Sequence[ClaimVerdict], texts: Mapping[str, str]) -> str:
    counts = Counter(verdict.word for verdict in verdicts)
    lines = [f"# The paper's claims at {scale} scale", ""]
    parts = [f"{counts[word]} {word}" for word in _WORDS if counts[word]]
    lines += [f"{counted(len(verdicts), 'claim')}: {', '.join(parts)}.", ""]
    body = [
        [
            f"**{verdict.word}**",
            f"{prose(verdict.claim.says)} ({prose(verdict.claim.where)})",
            _detail(verdict, texts[verdict.claim.id]),
            str(verdict.n) if verdict.findings else "",
        ]
        for verdict in verdicts
    ]
    lines += [*markdown_table(["verdict", "claim", "evidence", "n"], body), ""]
    lines += [
        "- A comparison is paired by seed. Its interval is that of the exact sign-flip test at 5 % over the number of "
        "comparisons of the claim, so any wrong statement about a claim has a probability of at most 5 %. To look at a "
        "verdict, add seeds and judge again is a second test: with two looks it is at most 10 %.",
        "- `configs/claims.yaml` has the sentences, the margins and their reasons. A seed counts if "
        "one of its trainings at least was made after the test was declared: its record has the hash of the test.",
        "- Verdicts hold for the models and data of this scale. They do not say what the paper's own data would show.",
    ]
    return "\n".join(lines) + "\n"


def _detail(verdict: ClaimVerdict, numbers: str) -> str:
    parts = [str(verdict).capitalize() + "."] if str(verdict) != verdict.word else []
    parts += [numbers] if numbers else []
    return " ".join([*parts, *_remarks(verdict)])
