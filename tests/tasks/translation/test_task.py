"""The training step against its definition, decoding against its definition, and whole cells."""

import math

import pytest
import torch

from novobench.errors import ConfigError
from novobench.tasks import base
from novobench.tasks.sampling import SampleKey, derive_seed
from novobench.tasks.translation.builtin import corpus
from novobench.tasks.translation.data import EvaluationPairs, collate, padded
from novobench.tasks.translation.model import BEGIN, END, PAD
from novobench.tasks.translation.scoring import sacrebleu
from novobench.tasks.translation.sources import Pairs
from novobench.training import cell, checkpoints
from tests.cells import KILL_POINTS, result, train_apart
from tests.tasks.translation.small import small_cell, small_config

LEARNER = {
    "model__width": 64,
    "model__feed_forward": 128,
    "model__heads": 4,
    "model__dropout": 0.0,
    "model__label_smoothing": 0.0,  # with it a beam tends to end early: every token costs probability
    "data__train_size": 32,
    "data__extra_output": 20,
    "batch": {"size": 2048, "micro": 2048},
    "optimizer__name": "adam",
    "optimizer__lr": 0.005,
    "optimizer__weight_decay": 0.0,
    "schedule__warmup_fraction": 0.1,
    "runtime__curve_points": 1,
    "runtime__log_every": 50,
    "runtime__checkpoint_every": 1000,
}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOVOBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def opened(config):
    module, data = base.build(config)
    data.setup("fit")
    return module.eval(), data


# ------------------------------------------------------------------------------------ the loss


def test_the_loss_is_smoothed_cross_entropy_over_real_tokens():
    """NeMo's: the true token has probability 0.9, all others share 0.1; the mean is over all tokens except padding."""
    config = small_config(runtime__precision="64-true")
    module, data = opened(config)
    module.double()
    batch = data.train[SampleKey(0, 3)]
    source, target = batch.source, batch.target
    logits = module(source, target[:, :-1]).detach()
    vocabulary = logits.shape[-1]
    total, count = 0.0, 0
    for row in range(len(target)):
        for t in range(1, target.shape[1]):
            true = int(target[row, t])
            if true == PAD:
                continue
            log_probabilities = logits[row, t - 1].log_softmax(-1)
            labels_distribution = torch.full((vocabulary,), 0.1 / (vocabulary - 1), dtype=torch.float64)
            labels_distribution[true] = 0.9
            total -= float(labels_distribution @ log_probabilities)
            count += 1
    assert module.training_step(batch, 0).item() == pytest.approx(total / count, rel=1e-12)


def test_padding_changes_no_logit():
    module, data = opened(small_config())
    module.double()
    batch = data.train[SampleKey(0, 1)]
    source, target = (
        padded([*tokens.numpy(), [END] * (tokens.shape[1] + 7)])[:-1] for tokens in (batch.source, batch.target)
    )
    narrow = module(batch.source, batch.target)
    torch.testing.assert_close(module(source, target)[:, : narrow.shape[1]], narrow)


def test_a_random_batch_has_the_requested_size():
    module, _ = opened(small_config())
    batch = module.random_batch(4096)
    assert batch.source.numel() + batch.target.numel() == 4096
    assert torch.isfinite(module.training_step(batch, 0))


# ------------------------------------------------------------------------------------ learning and decoding


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """32 pairs memorized in a few seconds: (config, module, data)."""
    folder = small_cell(tmp_path_factory.mktemp("learnt"), budget="300steps", **LEARNER)
    cell.run(folder.path)
    config = small_config(budget="300steps", **LEARNER)
    module, data = opened(config)
    module.load_state_dict(checkpoints.load_newest(folder.checkpoints)["model"])
    return config, module, data


@pytest.mark.parametrize("beams", [1, 4])
def test_32_pairs_are_memorized(learnt, beams):
    _, module, data = learnt
    pairs = [(x.tolist(), y.tolist()) for x, y in zip(data.train.source, data.train.target, strict=True)]
    with torch.no_grad():
        rows = module.translate(padded([x for x, _ in pairs]), beams).tolist()
    outputs, references = [data.text(row) for row in rows], [data.text(y) for _, y in pairs]
    assert sacrebleu(outputs, references) > 99


def new_sentences(config, data, count=60):
    """Sentences outside all splits, where outputs are uncertain and beams matter."""
    used = config.data.test_size + config.data.search_size + config.data.train_size
    text = Pairs(*map(list, zip(*corpus()[used : used + count], strict=True)))
    pairs = EvaluationPairs(text, data.model, beams=4)
    return [pairs[i] for i in range(len(pairs))]


def outputs(module, data, items, beams, size):
    texts = []
    with torch.no_grad():
        for start in range(0, len(items), size):
            batch = collate(items[start : start + size])
            texts += [data.text(row) for row in module.translate(batch.source, beams).tolist()]
    return texts


@pytest.mark.parametrize(("precision", "most"), [(torch.float64, 0), (torch.float32, 0.01)])
@pytest.mark.parametrize("beams", [1, 4])
def test_a_translation_does_not_depend_on_the_rest_of_the_batch(learnt, beams, precision, most):
    config, module, data = learnt
    items = new_sentences(config, data)
    module.to(precision)
    alone, together = (outputs(module, data, items, beams, size) for size in (1, 32))
    mixed = outputs(module, data, items[::7] + items[1::3], beams, 16)
    module.float()
    expected = dict(zip([item.index for item in items], alone, strict=True))
    changed = sum(a != b for a, b in zip(alone, together, strict=True))
    changed += sum(b != expected[i.index] for b, i in zip(mixed, items[::7] + items[1::3], strict=True))
    assert changed <= most * 2 * len(items)
    assert len(set(alone)) > 30  # they are translations, not all the same


def test_beam_search_is_beam_search(learnt):
    """Compared with the search written out for one sentence at a time. It is rarely worse than greedy decoding.

    A beam of 4 may drop the greedy output on its way: the metric `beam_not_worse` says how often. This net knows 32
    sentences and no more, and so is less sure than one that has learnt to translate.
    """
    config, module, data = learnt
    items = new_sentences(config, data, 100)
    module.double()
    source = collate(items).source
    with torch.no_grad():
        greedy, beam = (module.translate(source, beams) for beams in (1, 4))
        scores = [module.log_probability(source, outputs) for outputs in (greedy, beam)]
        for i in range(0, 100, 10):
            alone = torch.tensor([items[i].source])
            limit = len(items[i].source) + module.config.data.extra_output
            expected, score = written_out_search(module, alone, 4, limit)
            assert [token for token in beam[i].tolist() if token != PAD] == expected
            assert float(scores[1][i]) == pytest.approx(score, abs=1e-9)
        module.evaluation_start()
        module.evaluation_step(collate(items))
    share = module.evaluation_end()["beam_not_worse"]
    module.float()
    worse = (scores[1] < scores[0] - 1e-9).double().mean()
    assert worse <= 0.05
    assert (share.value, share.n) == (pytest.approx(100 - 100 * worse), 100)
    assert (scores[1] > scores[0] + 1e-6).any()  # and sometimes better


def written_out_search(module, source, width, limit):
    """The most likely output of at most `limit` tokens that a beam of `width` finds, without a cache, and its score."""
    running, finished = [([BEGIN], 0.0)], []
    while not finished or running[0][1] > finished[0][1]:  # no token makes an output more likely
        tokens = torch.tensor([output for output, _ in running])
        steps = module(source.expand(len(running), -1), tokens)[:, -1].log_softmax(-1).tolist()
        last = tokens.shape[1] == limit
        longer = [
            ([*output, token], score + (0.0 if last else step[token]))
            for (output, score), step in zip(running, steps, strict=True)
            for token in ([END] if last else range(len(step)))
            if token not in (PAD, BEGIN)
        ]
        longer.sort(key=lambda hypothesis: -hypothesis[1])
        finished += [hypothesis for hypothesis in longer[:width] if hypothesis[0][-1] == END]
        finished.sort(key=lambda hypothesis: -hypothesis[1])
        running = [hypothesis for hypothesis in longer if hypothesis[0][-1] != END][:width]
        if not running:
            break
    return finished[0]


def test_outputs_end_at_their_limit():
    """An untrained model rarely ends an output by itself."""
    module, data = opened(small_config(data__extra_output=3, data__max_output=20))
    items = [data.evaluation_sets[1].dataset[i] for i in range(12)]
    batch = collate(items)
    for beams in (1, 4):
        with torch.no_grad():
            outputs_ = module.translate(batch.source, beams)
        for row, item in zip(outputs_.tolist(), items, strict=True):
            limit = min(len(item.source) + 3, 20)
            assert row[0] == BEGIN
            assert END in row
            assert row.index(END) <= limit
            assert not set(row[1 : row.index(END)]) & {PAD, BEGIN}
            assert set(row[row.index(END) + 1 :]) <= {PAD}


# ------------------------------------------------------------------------------------ config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__heads": 3}, r"'model\.width' must be even and a multiple of model\.heads 3, not 16"),
        ({"model__heads": 0}, r"'model\.heads' must be 1 or more, not 0"),
        ({"model__dropout": 1.5}, r"'model\.dropout' must be 0 or more and below 1, not 1\.5"),
        ({"data__beams": 0}, r"'data\.beams' must be 1 or more, not 0"),
        ({"data__batch_multiple": 0}, r"'data\.batch_multiple' must be 1 or more"),
        ({"data__max_output": 1000}, r"'data\.max_output' 1000 is more than the network's model\.positions 256"),
        ({"data__max_length": 257}, r"'data\.max_length' 257 is more than"),
    ],
)
def test_the_config_refuses_values_that_do_not_match(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)


# ------------------------------------------------------------------------------------ evaluation


def test_evaluation_counts_each_sentence_once_and_scores_the_corpus(tmp_path):
    folder = small_cell(tmp_path)
    cell.run(folder.path)
    record = folder.read_record()
    test, search = record.metrics["test"], record.metrics["search"]
    rows = folder.read_predictions("test")
    assert [row["index"] for row in rows] == list(range(12))
    references = [row["reference"] for row in rows]
    assert test["sacrebleu"].value == sacrebleu([row["output"] for row in rows], references)
    assert test["sacrebleu_greedy"].value == sacrebleu([row["greedy"] for row in rows], references)
    assert "sacrebleu_greedy" not in search  # the search set is decoded greedily only
    assert test["sentences_per_second"].value > 0
    assert record.scoring["sacrebleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2")
    module, data = opened(small_config())
    module.load_state_dict(checkpoints.load_newest(folder.checkpoints)["model"])
    module.double()
    nats, tokens = 0.0, 0
    for i in range(12):
        batch = collate([data.evaluation_sets[1].dataset[i]])
        chosen = module(batch.source, batch.target[:, :-1]).detach().log_softmax(-1)
        nats -= float(chosen.gather(-1, batch.target[:, 1:, None]).sum())
        tokens += batch.target.shape[1] - 1
    assert test["loss"].value == pytest.approx(nats / tokens, rel=1e-5)
    assert test["loss"].n == tokens


def test_the_nearest_neighbour_baseline_is_computed_once_and_recorded(tmp_path, monkeypatch):
    folder = small_cell(tmp_path, budget="1steps", data__neighbours=True)
    cell.run(folder.path)
    baseline = folder.read_record().baselines["test"]["neighbour_sacrebleu"]
    assert 5 < baseline.value < 60
    assert baseline.n == 12

    def computed_again(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("novobench.tasks.translation.data.nearest_neighbours", computed_again)
    _, data = opened(small_config(data__neighbours=True))
    assert data.baselines["test"]["neighbour_sacrebleu"] == baseline


# ------------------------------------------------------------------------------------ same bits, any processes


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    folder = small_cell(tmp_path_factory.mktemp("uninterrupted"))
    assert train_apart(folder) == 0, folder.failure.read_text()
    return result(folder)


@pytest.mark.parametrize(
    "moment",
    [
        "between two checkpoints",
        *(pytest.param(name, marks=pytest.mark.slow) for name in KILL_POINTS if name != "between two checkpoints"),
    ],
)
def test_killed_and_started_again(moment, uninterrupted, tmp_path):
    folder = small_cell(tmp_path)
    assert train_apart(folder, kill_at=moment) == -9
    assert train_apart(folder) == 0, folder.failure.read_text()
    assert result(folder) == uninterrupted


@pytest.mark.slow
def test_loader_workers(uninterrupted, tmp_path):
    folder = small_cell(tmp_path, runtime__workers=2)
    assert train_apart(folder) == 0, folder.failure.read_text()
    assert result(folder) == uninterrupted


def test_an_update_is_the_mean_of_its_micro_batches(tmp_path):
    """One update of SGD without schedule, against the two micro-batches' gradients computed here."""
    changes = {
        "budget": "1steps",
        "optimizer__name": "sgd",
        "optimizer__lr": 0.1,
        "optimizer__weight_decay": 0.0,
        "schedule__name": "constant",
        "runtime__precision": "64-true",
        "model__dropout": 0.0,
    }
    folder = small_cell(tmp_path, **changes)
    cell.run(folder.path)
    config = small_config(**changes)
    module, data = opened(config)
    module.double()
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    for batch in data.train_batches(0, 1, 0, 1):
        (module.training_step(batch, 0) / 2).backward()
    after = checkpoints.load_newest(folder.checkpoints)["model"]
    for name, p in module.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(after[name], before[name] - 0.1 * p.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    shared = {"runtime__precision": "64-true", "budget": "12steps", "data__test_size": 13}
    one, two = small_cell(tmp_path / "one", **shared), small_cell(tmp_path / "two", runtime__devices=2, **shared)
    for folder in (one, two):
        assert train_apart(folder) == 0, folder.failure_reason()
    ours, theirs = (checkpoints.load_newest(folder.checkpoints)["model"] for folder in (one, two))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-8, atol=1e-10)
    records = [folder.read_record().metrics for folder in (one, two)]
    assert records[0]["test"]["sacrebleu"].n == records[1]["test"]["sacrebleu"].n == 13
    assert records[0]["test"]["sacrebleu"].value == records[1]["test"]["sacrebleu"].value
    assert records[0]["test"]["loss"].value == pytest.approx(records[1]["test"]["loss"].value, rel=1e-9)
    assert [row["output"] for row in one.read_predictions("test")] == [
        row["output"] for row in two.read_predictions("test")
    ]


def test_dropout_depends_on_seed_update_and_micro_batch_alone():
    """The generator is seeded before each micro-batch, so that any number of processes agree."""
    module, data = opened(small_config(model__dropout=0.5))
    module.train()
    batch = data.train[SampleKey(0, 0)]
    losses = []
    for k in (0, 1, 0):
        torch.manual_seed(derive_seed(0, "model", 5, k))
        losses.append(module.training_step(batch, 0).item())
    assert losses[0] == losses[2] != losses[1]
    assert math.isfinite(losses[1])
