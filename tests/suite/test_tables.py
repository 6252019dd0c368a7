"""Tables: warnings, diagnostic rows, columns without data, and text with special characters."""

import csv
import dataclasses
import re
import shutil
from collections import Counter

import pytest
from markdown_it import MarkdownIt
from rich.markdown import Markdown

from novobench import places
from novobench.console import console
from novobench.errors import ConfigError
from novobench.places import ROOT
from novobench.suite.experiment import load_experiment
from novobench.suite.results import Results
from novobench.suite.table_rows import TableRow, setting, table_rows
from novobench.suite.tables import markdown, write_table
from tests.suite.finished import collected, config_of, finished, written_table


@pytest.fixture
def recorded(workspace):
    """The CSV and Markdown of table 4 at gpu scale, whose data have no `other` sets. SGD has a second seed, which
    collapsed."""
    shutil.copy(ROOT / "experiments" / "table4.yaml", workspace / "experiments" / "table4.yaml")
    for row, seed, wer in (("t4_adam", 0, 20), ("t4_sgd", 0, 30), ("t4_sgd", 1, 99), ("t4_novograd", 0, 25)):
        metrics = {split: {"wer": wer, "collapsed": float(wer == 99)} for split in ("dev-clean", "test-clean")}
        assert collected(finished("table4", row, metrics, scale="gpu", seed=seed), scale="gpu") == []
    return written_table("table4", "gpu")


def test_rates_that_were_not_searched_are_named(recorded, workspace):
    _, markdown = recorded
    assert "- The rates were not searched at gpu scale; they come from a recipe for other data." in markdown
    rates = workspace / "configs" / "speech" / "tuned-gpu.yaml"
    others = "adam: {optimizer.lr: 0.001}\nsgd: {optimizer.lr: 0.02}\n"
    others += "novograd_rms: {optimizer.lr: 0.001}\nnovograd_adamw: {optimizer.lr: 0.02}\n"
    rates.write_text(others)
    _, markdown = written_table("table4", "gpu")
    assert "- The rates of NovoGrad were not searched at gpu scale;" in markdown
    rates.write_text(f"{others}novograd: {{optimizer.lr: 0.02}}\n")
    assert "not searched" not in written_table("table4", "gpu")[1]


def test_a_collapsed_run_is_flagged(recorded):
    rows, markdown = recorded
    warnings = {row: line["warnings"] for row, line in rows.items()}
    assert warnings["t4_adam"] == warnings["t4_novograd"] == ""
    assert warnings["t4_sgd"] == "collapsed: the network says almost nothing (1 of 2 seeds)"
    (line,) = [line for line in markdown.splitlines() if line.startswith("| SGD")]
    mark = line.split("|")[1].split()[-1]
    assert f"{mark} **Warning**: collapsed: the network says almost nothing (1 of 2 seeds)." in markdown


def test_columns_that_the_data_lack_are_left_out(recorded):
    rows, markdown = recorded
    assert float(rows["t4_sgd"]["test_clean"]) == (30 + 99) / 2
    assert "test_other" not in rows["t4_sgd"]
    assert "test-other" not in markdown
    assert "test-clean" in markdown


def test_diagnostic_rows_have_a_table_of_their_own(results):
    experiment = load_experiment("small")
    first, second = (dataclasses.replace(experiment.row(id), note=f"About {id}.") for id in ("sgd", "novograd"))
    elsewhere = dataclasses.replace(experiment.row("later"), diagnostic=True)
    rows = [
        TableRow(row, config_of("small", row.id), True, Results("laptop"), [])
        for row in (dataclasses.replace(first, diagnostic=True), second, elsewhere)
    ]
    text = markdown(experiment, rows, "laptop")
    regular, diagnostic = text.split("Diagnostic rows:")
    (head, row), (same_head, diagnostic_row) = (
        [line for line in part.splitlines() if line.startswith("|") and "---" not in line]
        for part in (regular, diagnostic)
    )
    assert head == same_head
    assert row.startswith(f"| {second.label} [1] |")
    assert diagnostic_row.startswith(f"| {first.label} [2] |")
    assert f"[1] {second.note}  \n[2] {first.note}  \n" in diagnostic
    _, tokens = cells_of(text)
    assert sum(token.type == "table_open" for token in tokens) == 2
    csv_path, _ = write_table(experiment, "laptop", rows)
    with csv_path.open(newline="", encoding="utf-8") as file:
        assert [line["row"] for line in csv.DictReader(file)] == [first.id, second.id, elsewhere.id]


def test_rows_that_are_not_in_the_paper_are_marked(results, workspace):
    experiment = load_experiment("small")
    own, elsewhere = (dataclasses.replace(experiment.row(id), in_paper=False) for id in ("novograd", "later"))
    rows = [
        TableRow(row, config_of("small", row.id) if row is not elsewhere else None, True, Results("laptop"), [])
        for row in (experiment.row("sgd"), own, elsewhere)
    ]
    text = markdown(experiment, rows, "laptop")
    labels = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert labels[2:] == ["SGD", "NovoGrad † [1]"]
    assert "- †: not in the paper.\n" in text
    assert "†" not in markdown(experiment, [rows[0]], "laptop")


def test_a_row_with_values_of_the_paper_is_in_the_paper(workspace):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(path.read_text().replace("paper: {top1: 76.5}", "paper: {top1: 76.5}\n    in_paper: false"))
    with pytest.raises(ConfigError, match="row 'sgd': 'paper' has values, so 'in_paper' cannot be false"):
        load_experiment("small")


def test_only_tables_have_rows_of_the_paper():
    in_paper = {row.in_paper for name in ("rivals_image", "claim_lr_range") for row in load_experiment(name).rows}
    assert in_paper == {False}


# ------------------------------------------------------------------------------------ text with special characters

ODD = [
    "a | b", "C:\\dir|", "`code", "``", "two\nlines", "_private_", "a_b", "<b>bold</b>", "*star*", "**", "$x_1$ and $",
    "[x](y)", "![x](y)", "~~gone~~", "&amp; &lt; &", "# no heading", "- no list", "1. no list", "\\", "\\\\|", "|",
    "日本語 🚀", "'quoted', \"twice\"", "http://a.b/c_d_", "\x1b[31mred", "half \ud800", "a\r\nb",
]  # fmt: skip


def as_shown(text):
    """What a reader should see."""
    return " ".join(re.sub("[\x00-\x1f\ud800-\udfff]", " ", text).split())


def cells_of(markdown):
    """The text of each table cell according to an independent Markdown parser, and the parser's tokens."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    rows, inside = [], False
    for token in tokens:
        inside = (inside or token.type in ("th_open", "td_open")) and token.type not in ("th_close", "td_close")
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and inside:
            rows[-1].append("".join(child.content for child in token.children))
            assert {child.type for child in token.children} <= {"text", "text_special"}
    return rows, tokens


def test_tables_hold_any_text(workspace):
    experiment = load_experiment("small")
    row = experiment.rows[0]
    none = Results("laptop")
    rows = [TableRow(dataclasses.replace(row, label=text, note=text), None, False, none, []) for text in ODD]
    columns = [dataclasses.replace(experiment.columns[0], key=f"c{i}", label=text) for i, text in enumerate(ODD)]
    odd = dataclasses.replace(
        experiment,
        title="\n".join(ODD),
        where="# a | b\n",
        notes=ODD,
        columns=columns,
        settings={"optimizer.lr": ODD[0]},
    )
    table, tokens = cells_of(markdown(odd, rows, "laptop"))
    width = 3 + 2 * len(ODD)
    assert {len(cells) for cells in table} == {width}
    assert [cells[0] for cells in table[1:]] == [f"{as_shown(text)} [{i}]" for i, text in enumerate(ODD, 1)]
    assert table[0][3::2] == list(map(as_shown, ODD))
    kinds = Counter(token.type for token in tokens)
    assert (kinds["table_open"], kinds["heading_open"], kinds["list_item_open"]) == (1, 1, len(ODD) + 2)
    items = [tokens[place + 2] for place, token in enumerate(tokens) if token.type == "list_item_open"]
    assert ["".join(child.content for child in item.children) for item in items[:-2]] == list(map(as_shown, ODD))
    heading = tokens[next(i for i, token in enumerate(tokens) if token.type == "heading_open") + 1]
    assert "".join(child.content for child in heading.children) == f"small: {as_shown(' '.join(ODD))}"

    csv_path, _ = write_table(odd, "laptop", rows)
    with csv_path.open(newline="", encoding="utf-8") as file:
        assert [line["label"] for line in csv.DictReader(file, strict=True)] == list(map(as_shown, ODD))


def test_the_terminal_shows_brackets_of_labels(workspace, capsys):
    experiment = load_experiment("small")
    rows = [TableRow(dataclasses.replace(experiment.rows[0], label="[bold]x[/y]"), None, False, Results("laptop"), [])]
    console().print(Markdown(markdown(experiment, rows, "laptop")))
    assert "[bold]x[/y]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "expected"),
    [("optimizer.lr", "0.05"), ("batch.size", "32"), ("model.widths", "[4, 8]"), ("model.widths[1]", "8"),
     ("optimizer.clip_norm", "–"), ("no.such.key", "–"), ("batch", "{'size': 32, 'micro': 16}")],
)  # fmt: skip
def test_settings(workspace, key, expected):
    assert setting(config_of("small", "sgd"), key) == expected
    assert setting(None, key) == ""


COMMITTED = [
    path for path in sorted(ROOT.glob("results/*/*.csv")) if (ROOT / "experiments" / f"{path.stem}.yaml").exists()
]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_committed_table_follows_from_the_committed_records(path, tmp_path, monkeypatch):
    """Its Markdown and differences, too, except for the notes, which belong to the experiment."""
    experiment, scale = load_experiment(path.stem), path.parent.name
    rows = table_rows(experiment, Results.load(scale))
    monkeypatch.setattr(places, "workspace", lambda: places.Workspace(tmp_path))
    csv_path, markdown_path = write_table(experiment, scale, rows)
    for suffix in (".csv", "_differences.csv"):
        written, committed = (place.with_name(path.stem + suffix) for place in (csv_path, path))
        assert written.exists() == committed.exists()
        assert not written.exists() or written.read_bytes() == committed.read_bytes()
    table, committed_table = (
        [line for line in file.read_text().splitlines() if line.startswith("|")]
        for file in (markdown_path, path.with_suffix(".md"))
    )
    assert table == committed_table


def test_an_experiment_that_is_not_the_papers_has_no_column_of_its_values(results, workspace):
    path = workspace / "experiments" / "small.yaml"
    content = path.read_text()
    collected(finished("small", "novograd", {"test": {"top1": 50.0}}))
    assert "| paper (other data) |" in written_table()[1]
    path.write_text(
        "group: claims\n" + content.replace(", paper: {top1: 12.5}", "").replace("    paper: {top1: 76.5}\n", "")
    )
    text = written_table()[1]
    assert "paper" not in text.partition("\n\n")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert "†" not in text
