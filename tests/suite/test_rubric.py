"""The rubric: the committed one against numbers read off the paper's pages, and fabricated ones for every outcome."""

import csv
import math
from pathlib import Path

import pytest

from novobench.errors import ConfigError
from novobench.files import write_csv
from novobench.suite.claims import load_claims
from novobench.suite.experiment import experiment_names, load_experiment
from novobench.suite.rubric import leaves
from novobench.suite.rubric_file import Printed, load_rubric
from novobench.suite.rubric_formulas import FORMULAS, holds
from tests.suite.finished import collected, finished

with Path(__file__).with_name("paper_numbers.csv").open(newline="") as file:
    PAPER = list(csv.DictReader(file))
"""The values of Tables 1 to 7 and of §4.2's text, one a line, as a reader of the paper typed them."""

# ---------------------------------------------------------------------------------------------- the committed rubric


def test_every_value_of_the_papers_tables_is_in_an_experiment():
    experiments = {number: load_experiment(f"table{number}") for number in "1234567"}
    found = {}
    for number, experiment in experiments.items():
        for row in experiment.rows:
            for column in experiment.columns:
                if column.key in row.paper:
                    found[number, row.id, column.key] = row.paper[column.key]
    printed = {}
    for line in PAPER:
        by_split = line["metric"] in ("ppl", "wer_greedy")
        column = line["split"].replace("-", "_") if by_split else line["metric"]
        printed[line["table"], line["row_id"], column] = float(line["value"])
    assert found == printed


def test_every_setting_of_the_papers_tables_is_in_the_rubric():
    """Rates, decay, batches, lengths and warm-up, wherever the paper prints them beside a row."""
    rubric = load_rubric()
    checked = 0
    for line in PAPER:
        row = rubric.tables[f"table{line['table']}"].get(line["row_id"])
        if row is None:
            assert load_experiment("table2").row(line["row_id"]).quoted
            continue
        printed = {key: each.value for key, each in row.items()}
        for column, key in (("lr", "learning_rate"), ("wd", "optimizer.weight_decay")):
            if line[column] and line["table"] != "2":  # whose rates Table 3 prints
                assert printed[key] == float(line[column])
                checked += 1
        if "batch.size" in printed:
            assert printed["batch.size"] == int(line["batch"])
        if "epochs" in printed:
            assert f"{printed['epochs']}ep" == line["epochs_or_steps"]
        if line["table"] == "5":
            assert printed["warmup_share"] == float(line["warmup"].replace("none", "0"))
    assert checked > 60


def test_the_rubric_has_every_table_and_figure_of_the_paper():
    rubric = load_rubric()
    assert [*rubric.tables, *rubric.figures] == [f"table{i}" for i in range(1, 8)] + ["figure1", "figure2"]
    names = {name for name in experiment_names() if name.startswith(("table", "figure"))}
    assert {*rubric.tables, *rubric.figures} == names


def test_every_claim_has_a_section():
    rubric = load_rubric()
    assert {rubric.section(claim.where) for claim in load_claims()} <= rubric.sections.keys()


@pytest.mark.slow
def test_the_recipes_have_what_the_paper_prints():
    """If this fails, a recipe of full scale no longer has a printed value: mend it, or declare the deviation."""
    found = [leaf for leaf in leaves(["full"])["full"] if leaf.kind == "implemented"]
    assert len(found) > 90
    assert [leaf for leaf in found if leaf.state != "met"] == []
    followed = {leaf.reason.partition("deviation: ")[2].rstrip(")").partition(")")[0] for leaf in found if leaf.reason}
    assert followed == {
        "equation-3", "equation-5", "epsilon-place", "language-iterations", "speech-beta2", "speech-lr-scaling",
        "table3-1k-lr",
    }  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_fails_for_other_options(name, monkeypatch):
    rule, optimizer, options = FORMULAS[name]
    expected = name not in ("adam", "epsilon-inside", "equation-5")
    assert holds(name) == expected
    monkeypatch.setitem(FORMULAS, name, (rule, optimizer, {**options, "eps": 0.5}))
    assert not holds(name)


# ---------------------------------------------------------------------------------------------- printed values


@pytest.mark.parametrize(
    ("printed", "value", "met"),
    [
        (Printed(0.026), 0.026, True),
        (Printed(0.21), 0.007 * 30, True),  # rounding of floats
        (Printed(0.026), 0.0261, False),
        (Printed(185e6, within=0.5e6), 184_750_080, True),
        (Printed(185e6, within=0.5e6), 184_490_000, False),
        (Printed("cosine"), "cosine", True),
        (Printed("cosine"), "polynomial", False),
        (Printed(False), False, True),
        (Printed(0), False, False),
        (Printed(1), True, False),
        (Printed(None), None, True),
        (Printed(None), 0.0, False),
        (Printed(0.1), None, False),
        (Printed(above=0), 5, True),
        (Printed(above=0), 0, False),
        (Printed(above=0), None, False),
        (Printed(0.1), math.nan, False),
    ],
)
def test_printed_values(printed, value, met):
    assert printed.is_met_by(value) is met


# ---------------------------------------------------------------------------------------------- fabricated rubrics

RUBRIC = """
sections: {"§4": experiments, "§4.1": small nets}
tables:
  small:
    sgd: {optimizer.name: sgd, learning_rate: 0.05, updates: 8}
formulas: {algorithm-1: {where: "§4.2", paper: m}}
constants:
  batch: {where: "§4", paper: batch of 32, rows: [small/sgd], expected: {batch.size: 32}}
"""


@pytest.fixture
def rubric(workspace):
    """Writes configs/rubric.yaml, with replacements; row `sgd` has cells at laptop and full scale, and two claims."""
    path = workspace / "experiments" / "small.yaml"
    row = "laptop: {optimizer.name: sgd, optimizer.lr: 0.05}"
    text = path.read_text().replace(row, f"{row}\n    full: {{optimizer.name: sgd, optimizer.lr: 0.05}}", 1)
    text = text.replace("where: nowhere", "where: Table 1, §4.1")
    margins = "reproduction: {margins: {top1: 0.5}, reason: Two deviations.}"
    path.write_text(f"{text}full: {{runtime.precision: 32-true}}\n{margins}\n")
    (workspace / "configs" / "image" / "tuned-laptop.yaml").write_text("novograd-b32: {optimizer.lr: 0.02}\n")
    claim = "{{paper: a, where: '§4.1', says: {says}, reason: a, measure: rising_rates, at_least: 1}}\n"
    claims = "".join(f"{name}: {claim.format(says=name)}" for name in ("first", "second", "third", "fourth", "fifth"))
    (workspace / "configs" / "claims.yaml").write_text(claims)

    def write(old="", new=""):
        assert old in RUBRIC
        (workspace / "configs" / "rubric.yaml").write_text(RUBRIC.replace(old, new))

    write()
    return write


def found(scale="laptop"):
    """Name and kind -> state and reason."""
    return {(leaf.name, leaf.kind): (leaf.state, leaf.reason) for leaf in leaves([scale])[scale]}


def test_a_row_is_implemented_and_runs(rubric, results):
    before = found()
    assert before["sgd", "implemented"] == before["batch", "implemented"] == ("met", "")
    assert before["sgd", "runs"] == ("not met", "no finished training")
    assert before["elsewhere", "result matches"] == (
        "not judged",
        "quoted from Somebody (2000), who had another network",
    )
    assert before["novograd", "implemented"] == ("not met", "no cell at full scale")
    assert before["later", "implemented"] == ("not met", "configs/rubric.yaml does not say what the paper prints of it")
    assert before["later", "runs"] == ("not judged", "no cell at this scale")
    collected(finished("small", "sgd", {"test": {"top1": 76.5}}))
    after = found()
    assert after["sgd", "runs"] == ("met", "")
    assert after["sgd", "result matches"] == ("not judged", "other data: claims are judged instead")


def test_a_cell_that_is_not_whole_does_not_run(rubric, results):
    folder = finished("small", "sgd", {"test": {"top1": 76.5}})
    collected(folder)
    path = results / "records.csv"
    path.write_text(path.read_text().replace("76.5", "77.5"))
    assert found()["sgd", "runs"][0] == "not met"


@pytest.mark.parametrize(
    ("values", "state", "reason"),
    [
        ([], "not judged", "no finished training"),
        ([76.4, 76.5, 76.6], "met", ""),
        ([79.4, 79.5, 79.6], "not met", "top1 not reproduced"),
        ([76.5], "not judged", "top1 undecided (at least 1 more seed)"),
    ],
)
def test_results_match_at_full_scale_by_the_margin(rubric, values, state, reason):
    for seed, value in enumerate(values):
        collected(finished("small", "sgd", {"test": {"top1": value}}, scale="full", seed=seed), scale="full")
    assert found("full")["sgd", "result matches"] == (state, reason)


def test_a_value_that_is_not_followed_needs_a_deviation(rubric):
    rubric("learning_rate: 0.05", "learning_rate: 0.5")
    assert found()["sgd", "implemented"] == ("not met", "learning_rate is 0.05 instead of 0.5")
    rubric("learning_rate: 0.05", "learning_rate: {value: 0.5, deviation: table3-1k-lr}")
    reason = "learning_rate is 0.05 instead of 0.5 (deviation: table3-1k-lr)"
    assert found()["sgd", "implemented"] == ("met", reason)
    rubric("learning_rate: 0.05", "learning_rate: {value: 0.05, deviation: table3-1k-lr}")
    state, reason = found()["sgd", "implemented"]
    assert state == "not met"
    assert "the deviation table3-1k-lr is declared, but there is none" in reason


def test_claims_count_by_their_verdicts(rubric, results):
    assert found()["first", "result matches"] == ("not judged", "no verdict yet")
    hashes = {claim.id: claim.hash("laptop") for claim in load_claims()}
    verdicts = ("supported", "contradicted", "undecided", "not testable", "supported")
    lines = [
        {"id": id, "verdict": verdict, "text": f"{verdict} (because)", "hash": hashes[id]}
        for id, verdict in zip(hashes, verdicts, strict=True)
    ]
    lines[-1]["hash"] = "01234567"
    results.mkdir(parents=True)
    write_csv(results / "claims.csv", list(lines[0]), lines)
    leaf = found()
    assert [leaf[id, "result matches"] for id in hashes] == [
        ("met", ""),
        ("not met", "contradicted (because)"),
        ("not judged", "undecided (because)"),
        ("not judged", "not testable (because)"),
        ("not judged", "its test has changed since; run: novobench claims"),
    ]


def test_figures_need_panels_and_points(rubric, results, workspace):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(f"{path.read_text()}figure: [{{x: update, y: [search/top1], x_label: a, y_label: b}}]\n")
    table = RUBRIC[RUBRIC.index("tables:") : RUBRIC.index("formulas:")]
    rubric(table, "figures: {small: {series: [search/top1, train/loss], rows: [sgd]}}\n")
    curves = {"search/top1": (1.0, 2.0), "train/loss": (1.0,)}
    collected(finished("small", "sgd", {"test": {"top1": 1.0}}, curves=curves))
    leaf = found()
    assert leaf["sgd search/top1", "implemented"] == leaf["sgd search/top1", "runs"] == ("met", "")
    assert leaf["sgd train/loss", "implemented"] == ("not met", "no panel of small draws it")
    assert leaf["sgd train/loss", "runs"] == ("not met", "no training has two points of train/loss")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "sgd: {optimizer.name",
            "sgdd: {optimizer.name",
            "'tables.small.sgdd' is no row of the paper with a cell at full",
        ),
        ("updates: 8", "updatess: 8", "sgd has no config key or property 'updatess'"),
        ("rows: [small/sgd]", "rows: [small/x*]", "'constants.batch.rows': 'small/x\\*' is no row"),
        (
            "updates: 8",
            "updates: {value: 9, deviation: tabel3-1k-lr}",
            "no entry of .*deviations.yaml. Did you mean 'table3",
        ),
        ('where: "§4", paper', 'where: "§7", paper', "'sections' has none of '§7'"),
        ("algorithm-1", "algorithm-2", "'formulas.algorithm-2' is no formula that the code has. Did you mean"),
        ("updates: 8", "updates: {valeu: 8}", "valeu"),
    ],
)
def test_mistakes_are_named(rubric, old, new, message):
    rubric(old, new)
    with pytest.raises(ConfigError, match=f"configs/rubric.yaml.*{message}"):
        leaves(["laptop"])


def test_the_command_prints_the_tree_or_the_counts(rubric, results, novobench):
    collected(finished("small", "sgd", {"test": {"top1": 76.5}}))
    code, out, _ = novobench("rubric", "--scale", "laptop")
    assert code == 0
    line = "    sgd: ✓ implemented, ✓ runs, – result matches (other data: claims are judged instead); "
    assert "§4.1: small nets\n  small\n    elsewhere: " in out
    assert f"{line}optimizer.name sgd, learning_rate 0.05, updates 8, top1 76.5\n" in out
    counts = [line.split() for line in out.splitlines() if line.startswith("laptop ")]
    assert counts[1] == ["laptop", "runs", "2", "1", "1", "4"]  # `sgd_again` has the cell of `sgd`, `later` none
    code, out, _ = novobench("rubric")
    assert code == 0
    assert "sgd" not in out
    by_scale = [line.split()[0] for line in out.splitlines() if " runs " in line]
    assert by_scale == ["laptop", "gpu", "full"]
    code, _, error = novobench("rubric", "--scale", "huge")
    assert (code, error) == (2, "novobench: There is no scale 'huge'. Known: laptop, gpu, full.\n")
