"""Verdicts on claims: fabricated records whose truth is known get the right words."""

import csv
import json

import numpy as np
import pytest
import yaml

from novobench import places
from novobench.errors import ConfigError
from novobench.suite.claims import check_against, declare, hashes_by_training, load_claims
from novobench.suite.experiment import experiment_names, load_experiment
from novobench.suite.measures import MEASURES
from novobench.suite.plan import plan
from novobench.suite.results import Results
from novobench.suite.significance import sign_flips
from novobench.suite.table_rows import table_rows
from novobench.suite.tables import markdown
from tests.suite.finished import collected, config_of, finished, written_table

AHEAD = {
    "paper": "NovoGrad is better.",
    "where": "§0",
    "says": "NovoGrad is ahead",
    "experiment": "small",
    "column": "top1",
    "comparisons": [{"first": ["novograd"], "second": ["sgd"]}],
    "margin": {"laptop": 1.0},
    "reason": "It is one.",
}
NOISE = np.random.default_rng(0).normal(0, 0.3, 10)


@pytest.fixture
def judged(workspace, results, novobench):
    """Judges one claim on records of two rows. Returns the lines of the CSV."""

    def judge(claim, leads, *, sgd=90.0, record=None):
        """leads: of NovoGrad over SGD from seed 100 on, None if it diverged. record: seed -> changes of its record."""
        write(workspace, claim)
        (declared,) = load_claims()
        for seed, lead in enumerate(leads, 100):
            for row, value in (("sgd", sgd + seed % 7), ("novograd", None if lead is None else sgd + seed % 7 + lead)):
                made_for = {"claims": {"c": declared.hash("laptop")}} | (record or {}).get(seed, {})
                assert put(row, seed, value, **(made_for if row == "novograd" else {})) == []
        code, _, errors = novobench("claims")
        assert code == 0, errors
        return lines_of(results)

    return judge


def lines_of(results):
    """The lines of the CSV of claims."""
    with (results / "claims.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(workspace, claim):
    (workspace / "configs" / "claims.yaml").write_text(yaml.safe_dump({"c": claim}))


def put(row, seed, value, **changes):
    folder = finished("small", row, {"test": {"top1": value}}, seed=seed)
    folder.record.write_text(json.dumps(json.loads(folder.record.read_text()) | changes))
    return collected(folder)


def with_expectation(expect, margin=1.0):
    comparison = {"first": ["novograd"], "second": ["sgd"], "expect": expect}
    return AHEAD | {"comparisons": [comparison], "margin": {"laptop": margin}}


@pytest.mark.parametrize(
    ("expect", "true_lead", "word"),
    [
        ("better", 2.0, "supported"),
        ("better", 0.6, "supported"),  # by less than the margin, but surely ahead
        ("better", 0.0, "contradicted"),  # equal: not ahead by the margin
        ("better", -2.0, "contradicted"),
        ("better", 0.1, "contradicted"),
        ("not_worse", 2.0, "supported"),
        ("not_worse", 0.0, "supported"),
        ("not_worse", -0.5, "supported"),
        ("not_worse", -1.0, "undecided"),
        ("not_worse", -2.0, "contradicted"),
        ("equivalent", 0.0, "supported"),
        ("equivalent", 1.0, "undecided"),
        ("equivalent", 2.0, "contradicted"),
        ("equivalent", -2.0, "contradicted"),
    ],
)
def test_ten_seeds_of_a_known_truth(judged, expect, true_lead, word):
    """The noise of a pair has a deviation of 0.3, so an interval of 10 is about ±0.25 wide."""
    (line,) = judged(with_expectation(expect), true_lead + NOISE - NOISE.mean())
    assert (line["verdict"], line["seeds"]) == (word, "10")
    low, high = sign_flips(list(true_lead + NOISE - NOISE.mean())).interval(0.95)
    assert float(line["low"]) == pytest.approx(low, abs=1e-4)
    assert float(line["high"]) == pytest.approx(high, abs=1e-4)


def test_a_smaller_perplexity_is_ahead(judged, workspace):
    """The direction is the column's."""
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["columns"][0]["better"] = "smaller"
    path.write_text(yaml.safe_dump(content))
    (line,) = judged(with_expectation("better"), -2 + NOISE)
    assert line["verdict"] == "supported"
    assert float(line["lead"]) == pytest.approx(2 - NOISE.mean(), abs=1e-4)


def test_too_few_seeds_say_how_many_are_missing(judged):
    """One comparison takes six pairs: 2 / 2⁶ is the first p value below 5 %. Cells take 1.5 s."""
    (line,) = judged(AHEAD, [2.0, 2.1, 2.0, 1.9])
    assert line["text"] == "undecided (about 2 more seeds, 1 minute)"
    assert line["low"] == line["high"] == ""


def test_no_seed_at_all(judged):
    (line,) = judged(AHEAD, [])
    assert line["text"] == "undecided (about 6 more seeds, 1 minute)"


def test_an_undecided_claim_forecasts_its_seeds(judged):
    """A lead of 0.5 with deviation 1.2: 0 and the margin are both 0.5 away. The t test's sample size is the textbook's,
    (z + z)² / d² + 2."""
    leads = 0.5 + 4 * (NOISE - NOISE.mean())
    (line,) = judged(AHEAD, leads)
    assert line["verdict"] == "undecided"
    more = int(line["text"].split()[2])
    effect = 0.5 / np.std(leads, ddof=1)
    assert more + 10 == pytest.approx((1.96 + 0.84) ** 2 / effect**2 + 2, abs=2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dirty": True}, "trained with uncommitted changes"),
        ({"hardware": "another machine, 2 cores"}, "trained on different processors"),
        ({"claims": {}}, "trained before this test was declared"),
        ({"claims": {"c": "00000000"}}, "trained before this test was declared"),
    ],
)
def test_evidence_that_does_not_count(judged, changes, reason):
    """Five of ten pairs are left, and five cannot decide anything."""
    (line,) = judged(AHEAD, [2.0] * 10, record=dict.fromkeys(range(105, 110), changes))
    assert (line["seeds"], line["left_out"]) == ("5", "5")
    assert line["verdict"] == "undecided"
    assert line["caveats"] == f"5 seeds left out: {reason}"


@pytest.mark.parametrize("before", [["sgd"], ["novograd"]])
def test_one_training_after_the_declaration_suffices(workspace, results, novobench, before):
    """Nobody knew the difference before the second of two trainings, whichever came first."""
    write(workspace, AHEAD)
    (claim,) = load_claims()
    for seed, lead in enumerate(2 + NOISE, 100):
        for row, value in (("sgd", 90.0), ("novograd", 90.0 + lead)):
            put(row, seed, value, claims={} if row in before else {"c": claim.hash("laptop")})
    assert novobench("claims")[0] == 0
    (line,) = lines_of(results)
    assert (line["verdict"], line["seeds"], line["left_out"]) == ("supported", "10", "0")


def test_a_changed_margin_does_not_count_earlier_trainings(judged, workspace, novobench, results):
    (line,) = judged(AHEAD, [2.0] * 10)
    assert line["verdict"] == "supported"
    write(workspace, AHEAD | {"margin": {"laptop": 0.9}})
    assert novobench("claims")[0] == 0
    (line,) = lines_of(results)
    assert (line["verdict"], line["left_out"]) == ("undecided", "10")
    write(workspace, AHEAD | {"reason": "Another reason.", "margin": {"laptop": 1.0, "gpu": 3.0}})
    assert novobench("claims")[0] == 0
    (line,) = lines_of(results)
    assert line["verdict"] == "supported"


def test_seeds_of_searches_do_not_count(judged, workspace):
    write(workspace, AHEAD)
    (claim,) = load_claims()
    for seed in range(10):
        for row, value in (("sgd", 90.0), ("novograd", 95.0)):
            put(row, seed, value, claims={"c": claim.hash("laptop")})
    (line,) = judged(AHEAD, [])
    assert (line["verdict"], line["seeds"]) == ("undecided", "0")


@pytest.mark.parametrize(
    ("first", "leads", "text"),
    [
        ("sgd", [-2.0] * 9 + [None], "supported"),
        ("novograd", [-2.0] * 9 + [None], "contradicted"),
        ("novograd", [3.0, -2.0, None, 2.5, -1.5, 1.2, -1.0], "undecided (trainings diverged)"),
    ],
)
def test_a_training_that_diverged_is_worse_than_any(judged, first, leads, text):
    second = {"sgd": "novograd", "novograd": "sgd"}[first]
    (line,) = judged(AHEAD | {"comparisons": [{"first": [first], "second": [second]}]}, leads)
    assert (line["text"], line["seeds"]) == (text, str(len(leads)))


def test_a_search_that_ended_at_an_edge_is_named(judged, workspace):
    """The words of the table's warning stand beside the verdict."""
    search = workspace / "results" / "laptop" / "search.csv"
    search.parent.mkdir(parents=True, exist_ok=True)
    search.write_text(edge_search())
    (line,) = judged(AHEAD, [2.0] * 10)
    assert line["verdict"] == "supported"
    assert (
        "NovoGrad: the best optimizer.lr, 0.02, is the largest tried, so a better one may lie beyond it"
        in line["caveats"]
    )


def edge_search():
    """search.csv of two trials, of which the larger rate is the better."""
    lines = ["schema,key,experiment,row,optimizer,study,round,trial,rates,seed,cell,split,metric,value,chosen"]
    lines += [
        f"1,novograd-b32,small,novograd,novograd,0,0,{trial},optimizer.lr={rate},{seed},image-novograd-s{seed}-{trial},search,top1,{value},{trial}"
        for trial, (rate, value) in enumerate(((0.01, 50), (0.02, 60)))
        for seed in (0, 1)
    ]
    return "\n".join(lines) + "\n"


def test_a_change_is_compared_with_a_change(judged):
    """NovoGrad minus NovoGrad against SGD minus SGD is 0 in every pair, whatever the values."""
    change = {"first": ["novograd"], "first_minus": ["novograd"], "second": ["sgd"], "second_minus": ["sgd_again"]}
    (line,) = judged(AHEAD | {"comparisons": [change | {"expect": "equivalent"}]}, [2.0, 3.0] * 4)
    assert (line["verdict"], float(line["lead"])) == ("supported", 0.0)


def test_all_comparisons_must_hold(judged):
    """With two comparisons, one supported and one contradicted, the claim is contradicted, at a stricter level each."""
    both = [{"first": ["novograd"], "second": ["sgd"]}, {"first": ["sgd"], "second": ["novograd"]}]
    lines = judged(AHEAD | {"comparisons": both}, 2 + NOISE)
    assert [line["verdict"] for line in lines] == ["contradicted"] * 2
    assert [line["level"] for line in lines] == ["0.975"] * 2


def test_a_scale_without_a_margin(judged, novobench, workspace):
    claim = AHEAD | {"margin": {"full": 1.0}, "not_testable": {"laptop": "digits have no such thing"}}
    (line,) = judged(claim, [])
    assert line["text"] == "not testable at this scale, because digits have no such thing"


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_most": 0.51}, "supported"),
        ({"at_most": 0.49}, "contradicted"),
        ({"at_least": 0.49, "at_most": 0.51}, "supported"),
        ({"at_least": 0.51}, "contradicted"),
        ({"at_most": 0.51, "not_testable": {"laptop": "it has no optimizer"}}, "not testable"),
    ],
)
def test_a_measured_claim(judged, monkeypatch, bounds, verdict):
    """Measured 0.5, a claim is supported if it is within the bounds."""
    monkeypatch.setitem(MEASURES, "rising_rates", lambda: 0.5)
    claim = {key: AHEAD[key] for key in ("paper", "where", "says", "reason")} | {"measure": "rising_rates"} | bounds
    (line,) = judged(claim, [])
    assert (line["verdict"], line["value"]) == (verdict, "" if verdict == "not testable" else "0.5")


def test_the_hash_is_in_the_record_of_a_training(workspace, results, novobench):
    """Trained by the command, the cells of the claim's rows and seeds from 100 have it, and no others."""
    write(workspace, AHEAD)
    (claim,) = load_claims()
    assert novobench("run", "small", "--seeds", "0,100", "--rows", "sgd")[0] == 0
    by_seed = {
        record["seed"]: record["claims"]
        for record in (json.loads(path.read_text()) for path in (workspace / "runs" / "laptop").glob("*/record.json"))
    }
    assert by_seed == {0: {}, 100: {"c": claim.hash("laptop")}}


def test_a_finished_cell_is_not_declared_anew(workspace, results):
    write(workspace, AHEAD)
    finished("small", "sgd", {"test": {"top1": 1.0}}, seed=100)
    made = plan([load_experiment("small")], "laptop", [100], only=["sgd", "novograd"])
    declare(made)
    assert [len(cell.claims) for cell in made.cells] == [0, 1]


def test_another_recipe_is_trained_for_no_claim(workspace, results):
    write(workspace, AHEAD)
    made = plan([load_experiment("small")], "laptop", [100], {"optimizer.lr": 0.3}, only=["sgd"])
    declare(made)
    assert [len(cell.claims) for cell in made.cells] == [0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"comparisons": []}, "needs either 'comparisons' or a 'measure'"),
        ({"measure": "rising_rates"}, "needs either 'comparisons' or a 'measure'"),
        ({"comparisons": [], "measure": "rising_rates"}, "has a 'measure' but no bound"),
        ({"comparisons": [], "measure": "rising_rate", "at_least": 1.0}, "'measure' is 'rising_rate', which novobench"),
        ({"column": ""}, "needs 'experiment' and 'column'"),
        ({"margin": {"laptop": 0.0}}, "'margin.laptop' must be above 0"),
        ({"not_testable": {"laptop": "no"}}, "'laptop' is in 'margin' and in 'not_testable'"),
        ({"comparisons": [{"first": ["novograd"], "second": ["sgd"], "expect": "nicer"}]}, "expect"),
    ],
)
def test_a_claim_that_is_not_well_formed(workspace, changes, words):
    write(workspace, AHEAD | changes)
    with pytest.raises(ConfigError, match="claims.yaml claim 'c'") as error:
        load_claims()
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"comparisons": [{"first": ["novagrad"], "second": ["sgd"]}]},
            "'novagrad', which is no row of small. Did you",
        ),
        ({"column": "top2"}, "'column' is 'top2', no column of small"),
    ],
)
def test_a_claim_about_nothing(workspace, changes, words):
    write(workspace, AHEAD | changes)
    with pytest.raises(ConfigError) as error:
        check_against(load_claims()[0], load_experiment("small"))
    assert words in str(error.value)


def test_the_paper_claims():
    """Every claim is about rows that exist and have a cell at the scales where it has a margin."""
    for claim in load_claims():
        if not claim.comparisons:
            continue
        assert claim.experiment in experiment_names()
        experiment = load_experiment(claim.experiment)
        check_against(claim, experiment)
        for scale in claim.margin:
            for comparison in claim.comparisons:
                assert claim.margin_of(comparison, scale) is not None
                for row in comparison.rows:
                    assert experiment.row(row).at(scale) is not None, f"{claim.id}: {row} has no cell at {scale} scale"
        assert {*claim.margin, *claim.not_testable} == {"laptop", "gpu", "full"}, claim.id


def test_trainings_know_their_claims(workspace, results):
    """Rows with the same training share its claims."""
    write(workspace, AHEAD)
    (claim,) = load_claims()
    hashes = hashes_by_training([claim], "laptop", ["image"])
    assert list(hashes.values()) == [{"c": claim.hash("laptop")}] * 2
    assert config_of("small", "sgd_again") == config_of("small", "sgd")
    assert hashes_by_training([claim], "laptop", ["speech"]) == hashes_by_training([claim], "full", ["image"]) == {}


def test_claims_stand_below_their_table(judged, novobench):
    """With the verdict, the paper's lead next to ours, the note and the sentence; not in a table without their rows."""
    judged(AHEAD | {"note": "Mind the gap."}, 2 + NOISE - NOISE.mean())
    _, text = written_table()
    assert "- **Supported**: NovoGrad is ahead. Top-1: NovoGrad against SGD (here: ahead by 2.00 [1.8" in text
    assert ", n = 10). Mind" in text
    assert "Mind the gap. The paper: “NovoGrad is better.” (§0)" in text
    experiment = load_experiment("small")
    rows = table_rows(experiment, Results.load("laptop"))
    assert "The paper's claims" not in markdown(experiment, [row for row in rows if row.row.id != "sgd"], "laptop")


def test_a_shared_training_knows_the_claims_of_other_experiments(workspace, results):
    """Whichever experiment is trained first, the cells that both need are trained for the claims about either."""
    write(workspace, AHEAD)
    other = yaml.safe_load((workspace / "experiments" / "small.yaml").read_text())
    (workspace / "experiments" / "other.yaml").write_text(yaml.safe_dump(other))
    made = plan([load_experiment("other")], "laptop", [100], only=["sgd", "novograd"])
    declare(made)
    (claim,) = load_claims()
    assert [dict(cell.claims) for cell in made.cells] == [{"c": claim.hash("laptop")}] * 2


def test_claims_are_found_without_a_checkout(workspace):
    assert places.workspace().find(places.workspace().root / "configs" / "claims.yaml").is_file()
