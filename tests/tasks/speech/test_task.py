"""The loss against a sum over all alignments, evaluation against jiwer, and whole cells."""

import gzip
import itertools
import json
import math

import jiwer
import pytest
import torch

from novobench.tasks import base
from novobench.tasks.sampling import SampleKey
from novobench.tasks.speech.data import Item, collate
from novobench.tasks.speech.task import SpeechTask
from novobench.training import checkpoints
from tests.cells import KILL_POINTS, result, small_cell, small_config, train_apart

pytest.importorskip("espeakng_loader", reason="the built-in speech needs the extra espeak")


# ------------------------------------------------------------------------------------ the loss

TINY = {
    "data__alphabet": " ab",
    "model__outputs": 4,
    "model__blocks": [{"channels": 6, "kernel": 3, "stride": 2, "dropout": 0.0}],
    "data__pad_frames": 2,
    "runtime__precision": "64-true",
}


def probability(letters, log_probabilities):
    """The probability of all alignments that read as `letters` once repeats are merged and blanks (3) dropped."""
    total = 0.0
    for path in itertools.product(range(4), repeat=len(log_probabilities)):
        merged = [output for output, _ in itertools.groupby(path) if output != 3]
        if merged == letters:
            total += math.exp(sum(float(row[output]) for row, output in zip(log_probabilities, path, strict=True)))
    return total


def test_the_loss_is_ctc_summed_over_all_alignments_and_averaged_over_the_batch():
    torch.manual_seed(0)
    module = SpeechTask(small_config("speech", **TINY)).double().eval()
    transcripts = [[1, 2], [1, 1, 0], [2], [1, 1, 1, 1]]
    frames = [10, 9, 4, 7]  # 5, 5, 2 and 4 outputs; the last cannot hold four equal letters
    items = [
        Item(torch.randn(64, n, dtype=torch.float64), torch.tensor(tokens).numpy(), torch.empty(0).numpy(), 0, "", "")
        for n, tokens in zip(frames, transcripts, strict=True)
    ]
    batch = collate(items, module.config.data)
    log_probabilities, lengths = module(batch.features, batch.feature_lengths)
    assert lengths.tolist() == [5, 5, 2, 4]
    expected = [
        -math.log(probability(tokens, row[:length]))
        for tokens, row, length in zip(transcripts[:3], log_probabilities.detach(), lengths.tolist(), strict=False)
    ]
    assert module.training_step(batch, 0).item() == pytest.approx(sum(expected) / 4, rel=1e-9)


def test_a_random_batch_has_the_requested_size():
    module = SpeechTask(small_config("speech"))
    batch = module.random_batch(3)
    assert batch.features.shape[:2] == (3, 64)
    assert math.isfinite(module.training_step(batch, 0).item())


# ------------------------------------------------------------------------------------ whole cells


def trainable(folder) -> dict:
    state = checkpoints.load_newest(folder.checkpoints)["model"]
    return {name: tensor for name, tensor in state.items() if "running" not in name and "num_batches" not in name}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = small_cell(tmp_path_factory.mktemp("uninterrupted"), "speech")
    assert train_apart(folder) == 0, folder.failure_reason()
    return folder


def test_the_uninterrupted_cell_learns(uninterrupted):
    outcome = result(uninterrupted)
    record = outcome["record"]
    assert record["updates"] == 8
    assert record["epochs"] == pytest.approx(8 / 7)
    assert record["search_split"] == "dev-clean"
    assert set(record["metrics"]) == {"dev-clean", "test-clean"}
    curve = [(line["split"], line["update"]) for line in outcome["metrics"] if line["split"] != "train"]
    assert curve == [("dev-clean", 4), ("dev-clean", 8), ("test-clean", 8)]
    losses = [line["loss"] for line in outcome["metrics"] if line["split"] == "train"]
    assert losses[-1] < losses[0]


def test_evaluation_counts_each_utterance_once_and_scores_the_corpus(uninterrupted):
    metrics = uninterrupted.read_record().metrics["test-clean"]
    with gzip.open(uninterrupted.predictions("test-clean"), "rt") as file:
        lines = [json.loads(line) for line in file]
    assert [line["index"] for line in lines] == list(range(300))
    assert lines[7]["input"] == "test-clean-0007"
    references, outputs = [line["reference"] for line in lines], [line["output"] for line in lines]
    assert metrics["wer"].value == pytest.approx(100 * jiwer.wer(references, outputs))
    assert metrics["cer"].value == pytest.approx(100 * jiwer.cer(references, outputs))
    assert metrics["wer"].n == sum(len(text.split()) for text in references)
    assert 0 <= metrics["blanks"].value <= 100


def test_a_network_that_outputs_nothing_is_called_collapsed():
    config = small_config("speech")
    module, data = base.build(config)
    data.setup("fit")
    module.eval()
    with torch.no_grad():
        module.network.output.bias[-1] = 100.0
    batch = next(iter(data.evaluation_batches(data.evaluation_sets[0].dataset, 0, 1)))
    with torch.no_grad():
        module.evaluation_step(batch)
    metrics = module.evaluation_end()
    assert metrics["collapsed"].value == 1
    assert metrics["blanks"].value == 100
    assert metrics["wer"].value == metrics["deletions"].value == 100
    assert metrics["loss"].value > 100


def test_a_micro_batch_is_a_function_of_seed_epoch_and_number():
    _, data = base.build(small_config("speech"))
    data.setup("fit")
    first, again = (data.train[SampleKey(1, 3)] for _ in range(2))
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.tokens, data.train[SampleKey(2, 3)].tokens)


KILLS = [
    moment if moment == "between two checkpoints" else pytest.param(moment, marks=pytest.mark.slow)
    for moment in KILL_POINTS
]


@pytest.mark.parametrize("moment", KILLS)
def test_killed_and_started_again(moment, uninterrupted, tmp_path):
    folder = small_cell(tmp_path, "speech")
    assert train_apart(folder, kill_at=moment) == -9
    assert not folder.finished
    assert train_apart(folder) == 0
    assert result(folder) == result(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"runtime__workers": 2}, {"data__keep_features": True}], ids=["loader workers", "kept features"]
)
def test_the_same_bits_with(changes, uninterrupted, tmp_path):
    folder = small_cell(tmp_path, "speech", **changes)
    assert train_apart(folder) == 0, folder.failure_reason()
    assert result(folder) == result(uninterrupted)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    """The same weights up to the order of sums, with dropout and speeds. Error rates are only as close as the averaged
    running statistics, which after eight updates still contain much of their start, and more of it in two processes."""
    shared = {"runtime__precision": "64-true", "batch": {"size": 32, "micro": 8}}
    one = small_cell(tmp_path / "one", "speech", **shared)
    two = small_cell(tmp_path / "two", "speech", runtime__devices=2, **shared)
    for folder in (one, two):
        assert train_apart(folder) == 0, folder.failure_reason()
    ours, theirs = trainable(one), trainable(two)
    assert len(ours) > 20
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-6, atol=1e-9)
    for split, metrics in one.read_record().metrics.items():
        others = two.read_record().metrics[split]
        assert others["wer"].n == metrics["wer"].n
        assert others["wer"].value == pytest.approx(metrics["wer"].value, abs=1.0)
        assert others["loss"].value == pytest.approx(metrics["loss"].value, rel=0.06)
