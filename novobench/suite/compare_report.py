"""The report of a comparison in Markdown: a paragraph that says what was decided, tables, and how to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from novobench.console import counted, duration
from novobench.suite.compare_outcome import Compared, Contest, Reached
from novobench.suite.markdown_text import four_digits, markdown_table, plain, prose
from novobench.suite.statistics import decimals
from novobench.suite.table_rows import TableRow, setting
from novobench.suite.verdicts import Verdict


def markdown(compared: Compared, figures: Mapping[str, str] | None = None) -> str:
    """The report: one paragraph that says what was decided, then the tables of each task, then how to read them.

    figures: task -> path of its figure, relative to the report; without them, as for a terminal, none are shown.
    """
    labels = [row.row.label for row in compared.contests[0].rows]
    lines = [f"# {plain(' and '.join((', '.join(labels[:-1]), labels[-1])))}, compared", "", summary(compared), ""]
    for contest, verdicts in zip(compared.contests, compared.verdicts, strict=True):
        lines += [f"## {contest.task}", "", *_scores(contest), "", *_differences(contest, verdicts), ""]
        lines += [*_rates(contest), ""]
        if figures and contest.task in figures:
            lines += [f"![curves, rates and trials]({figures[contest.task]})", ""]
        lines += [f"- **Warning**: {prose(text)}." for text in contest.warnings]
        lines += [""] if contest.warnings else []
    if len(compared.contests) > 1:
        lines += ["## All tasks", "", *_all_tasks(compared), ""]
    lines += ["## How to read this", "", *(f"- {note}" for note in _notes(compared)), ""]
    lines += [f"Command: `{compared.declaration.command}`", ""]
    return "\n".join(lines)


def summary(compared: Compared) -> str:
    """One paragraph: what was decided, where, by how much, and for what it holds."""
    sentences: list[str] = []
    tasks_named: set[str] = set()
    for contest, ours, theirs, verdict in compared.decisions:
        place = "" if contest.task in tasks_named else f"{_place(contest)}, "
        sentences.append(place + _sentence(contest, ours, theirs, verdict))
        tasks_named.add(contest.task)
    first = compared.contests[0]
    searched = [each for contest in compared.contests for each in contest.searched.values()]
    if searched:
        rounds = {each.rounds for each in searched}
        how_many = f"{min(rounds)} to {max(rounds)} rounds" if len(rounds) > 1 else counted(min(rounds), "round")
        sentences.append(
            f"Each optimizer had {counted(first.experiment.search.trials, 'trial')} per round to find its rates "
            f"({how_many}), and its best rates were trained again with seeds that no search has seen."
        )
    if any(contest.warnings for contest in compared.contests):
        sentences.append("The warnings below limit it.")
    sentences.append(
        "This holds for the tasks, data, models, budgets and ranges named here, and says nothing about others."
    )
    return prose(" ".join(sentences))


def _place(contest: Contest) -> str:
    config = contest.config(contest.rows[0])
    updates = f"{config.total_updates:,} updates per training"
    return f"On {contest.task} ({config.data.name}, {contest.results.scale} scale, {updates})"


def _sentence(contest: Contest, ours: TableRow, theirs: TableRow, verdict: Verdict) -> str:
    """What one comparison decided."""
    label = contest.column.label
    one, other = ours.row.label, theirs.row.label
    numbers = f"difference in {label} {_signed(verdict.estimate.mean)}, {interval(verdict)}, "
    numbers += f"{counted(verdict.n, 'paired seed')}"
    if verdict.kind in ("undecided", "equivalent"):
        text = f"{one} and {other} are {verdict}: {numbers}{_not_worse(verdict, f'; {one} is ')}"
    else:
        text = f"{one} is {verdict} than {other}: {numbers}, p = {verdict.p_adjusted:.2g}"
    note = verdict.note(one, other)
    return f"{text}{f' ({note})' if note else ''}."


def _not_worse(verdict: Verdict, start: str) -> str:
    """For an undecided verdict with a margin: `not worse by 0.5 or more`, if that is sure."""
    return f"{start}not worse by {verdict.pairs.margin:g} or more" if verdict.is_not_worse else ""


def interval(verdict: Verdict) -> str:
    """`95 % interval -1.2 to 3.4`."""
    if math.isinf(verdict.low) and math.isinf(verdict.high):
        return "no interval"
    return f"{100 * verdict.level:.4g} % interval {span(verdict.low, verdict.high)}"


def span(low: float, high: float) -> str:
    """`−1.20 to +3.41`, with digits that show the width."""
    digits = decimals((high - low) / 2) if math.isfinite(high - low) and high > low else 2
    return f"{_signed(low, digits)} to {_signed(high, digits)}"


def _signed(value: float, digits: int | None = None) -> str:
    """With three significant digits, or this many decimals."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if math.isnan(value):
        return "unknown"
    text = f"{value:+.3g}" if digits is None else f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _scores(contest: Contest) -> list[str]:
    """One line per optimizer: scores, rates, time to the target, state, time per update."""
    columns = [column for column in contest.experiment.columns if any(row.values[column.key] for row in contest.rows)]
    keys = list(dict.fromkeys(key for row in contest.rows for key in _rate_keys(contest, row)))
    target = contest.target
    sign = "≥" if contest.column.better == "larger" else "≤"
    goal = "" if target is None else f" to {contest.search_split} {contest.column.metric} {sign} {target:.4g}"
    head = ["", *(plain(column.label) for column in columns), *(key.removeprefix("optimizer.") for key in keys)]
    head += ["seeds", f"updates{goal}", f"time{goal}", "state", "ms per update"]
    body = []
    for row in contest.rows:
        estimates, reached = row.estimates, contest.reached(row)
        cells = [plain(row.row.label)]
        cells += [str(estimates[column.key]) if column.key in estimates else "none" for column in columns]
        cells += [setting(row.config, key) for key in keys]
        cells += [str(len(row.cells)), *_time_to_target(reached), _state(contest.state.get(row.row.id, "unknown"))]
        time = contest.milliseconds(row)
        cells.append("" if time is None else f"{time:.3g}")
        body.append(cells)
    return markdown_table(head, body)


def _rate_keys(contest: Contest, row: TableRow) -> list[str]:
    """The config keys of a row's rates."""
    searched = contest.searched.get(row.row.id)
    return list(searched.best.rates) if searched else ["optimizer.lr", "optimizer.weight_decay"]


def _time_to_target(reached: Reached) -> list[str]:
    """Median updates and seconds, and how many seeds reached the target if not all did."""
    if not reached.updates:
        return ["", ""]
    of_all = f" ({reached.count} of {len(reached.updates)} seeds)" if reached.count < len(reached.updates) else ""
    updates, seconds = reached.median_updates, reached.median_seconds
    texts = [f"{updates:,.0f}" if math.isfinite(updates) else "not reached"]
    texts.append(duration(seconds) if math.isfinite(seconds) else "not reached")
    return [texts[0] + of_all, texts[1]]


def _state(state: tuple[int, int] | str) -> str:
    if isinstance(state, str):
        return plain(state)
    size, parameters = state
    return f"{size:,} B ({size / parameters:.3g} per parameter)"


def _differences(contest: Contest, verdicts: Sequence[Verdict]) -> list[str]:
    ours, *others = contest.rows
    body = []
    for theirs, verdict in zip(others, verdicts, strict=True):
        low, high = verdict.bca_low, verdict.bca_high
        bca = "" if low is None or high is None else span(low, high)
        note = verdict.note(ours.row.label, theirs.row.label)
        body.append(
            [
                plain(ours.row.label),
                plain(theirs.row.label),
                _signed(verdict.estimate.mean),
                interval(verdict),
                f"{verdict}{_not_worse(verdict, '; ')}{f'; {plain(note)}' if note else ''}",
                f"{verdict.p:.2g}",
                f"{verdict.p_adjusted:.2g}",
                bca,
                str(verdict.n),
            ]
        )
    column = contest.column
    head = ["ours", "theirs", f"difference in {plain(column.label)} ({column.better} is better)", "interval", "verdict"]
    return markdown_table([*head, "p", "p, adjusted", "95 % BCa interval", "pairs"], body)


def _rates(contest: Contest) -> list[str]:
    """Loss on the search split at the best rate and around it."""
    losses = {row.row.label: contest.losses(row) for row in contest.rows}
    factors = sorted({factor for by_factor in losses.values() for factor in by_factor})
    head = [f"{contest.search_split} loss at the rate", *(_factor(factor) for factor in factors)]
    body = [
        [plain(label), *(_loss(by_factor.get(factor)) for factor in factors)] for label, by_factor in losses.items()
    ]
    return markdown_table(head, body)


def _all_tasks(compared: Compared) -> list[str]:
    """How often each optimizer wins over all tasks, and how fast it reaches the targets."""
    labels = [row.row.label for row in compared.contests[0].rows]
    updates, seconds = compared.profile_scores("updates"), compared.profile_scores("seconds")
    head = [
        "",
        *(f"better than {plain(label)}" for label in labels),
        "score, updates to target",
        "score, time to target",
    ]
    body = []
    for label in labels:
        wins = ["" if other == label else f"{100 * compared.improvement(label, other):.0f} %" for other in labels]
        body.append([plain(label), *wins, f"{updates[label]:.2f}", f"{seconds[label]:.2f}"])
    return markdown_table(head, body)


def _factor(factor: float) -> str:
    return f"× {factor:g}" if factor >= 1 else f"÷ {1 / factor:g}"


def _loss(value: float | None) -> str:
    return "not run" if value is None else four_digits(value)


def _notes(compared: Compared) -> list[str]:
    """How to read the tables."""
    first = compared.contests[0].rows[0].row.label
    count = sum(map(len, compared.verdicts))
    notes = [
        f"Differences are {plain(first)} minus the other optimizer, seed by seed: a seed gives all optimizers the same "
        "initial weights and order of the data.",
        "The sign-flip test decides at 5 %, for all comparisons of this page together"
        f" ({count}). The interval is the test inverted at the level at which it decided; the BCa interval (bootstrap) "
        "describes one comparison alone and decides nothing. “Undecided” does not mean equal.",
        "± is half the width of the 95 % t interval of the mean over seeds.",
        "Times and updates to the target are medians over seeds of the first evaluation at the target or beyond it, "
        "on the split that searches use. Without `--target` it is the worst of the optimizers' median last values.",
        "The loss at other rates is the mean of the first two seeds. A flat line is a robust optimizer.",
        "Time per update is the median of trainings that shared this machine's cores, and no benchmark.",
    ]
    if len(compared.contests) > 1:
        notes.append(
            "Over all tasks, “better than” is the mean probability that a training of the row beats one of the "
            "column. A score is the area under the performance profile up to 4 times the best cost, as in AlgoPerf: 1 "
            "if the row is the first to reach the target on every task. Both describe and decide nothing."
        )
    for metric, margin in compared.declaration.margins.items():
        late = f", after {counted(compared.late, 'compared cell')} had finished" if compared.late else ""
        notes.append(
            f"That differences in {metric} up to {margin:g} do not matter was declared at "
            f"{compared.declaration.declared}{late}."
        )
    return notes
