"""Perplexity, memory and accumulation of the task without a trainer, and configs that are refused."""

import dataclasses
import math

import pytest
import torch
from pytorch_lightning import Trainer
from torch.nn import functional as F

from novobench.errors import ConfigError
from novobench.tasks import base
from novobench.tasks.language.config import EvaluationProtocol
from novobench.tasks.language.data import EvaluationText, SegmentBatch
from tests.cells import small_config


@pytest.fixture(scope="module")
def data():
    _, data = base.build(config())
    data.setup("fit")
    return data


def config(**changes):
    return small_config("language", **changes)


def task(**changes):
    module, _ = base.build(config(**changes))
    return module.double()


def scored(module, data, dataset, world=1):
    """Metrics and predictions of a text, over the shares of `world` processes."""
    module.eval()
    module.evaluation_start()
    predictions = []
    with torch.no_grad():
        for rank in range(world):
            for batch in data.evaluation_batches(dataset, rank, world):
                predictions += module.evaluation_step(batch)
    return module.evaluation_end(), predictions


# ------------------------------------------------------------------------------------ perplexity


def test_perplexity_equals_one_pass_over_the_whole_text(data):
    """With memory for the whole text, segments must equal full attention over the undivided text."""
    module = task(model__dropout=0.0)
    tokens = data.evaluation_sets[1].dataset.targets[0][:200]
    inputs = torch.tensor([[0, *tokens[:-1]]])
    with torch.no_grad():
        hidden, _ = module.network(inputs)
        nats = module.network.loss(hidden[0], torch.from_numpy(tokens).long())
    expected = math.exp(math.fsum(nats.tolist()) / 200)
    for length in (7, 64, 200):
        protocol = EvaluationProtocol(target_length=length, memory_length=200, clamp_length=0, same_length=False)
        metrics, _ = scored(module, data, EvaluationText(tokens, protocol))
        assert metrics["ppl"].value == pytest.approx(expected, rel=1e-10)
        assert metrics["ppl"].n == metrics["loss"].n == 200
        assert metrics["loss"].value == pytest.approx(math.log(expected), rel=1e-10)


def test_streams_are_weighted_by_their_tokens(data):
    module = task()
    tokens = data.evaluation_sets[1].dataset.targets[0][:101]
    protocol = EvaluationProtocol(target_length=10, memory_length=20, clamp_length=5, same_length=True)
    whole, predictions = scored(module, data, EvaluationText(tokens, protocol, 3, ["word"] * 75))
    assert whole["ppl"].n == 101
    assert [len(p["reference"].split()) for p in sorted(predictions, key=lambda p: p["index"])] == [
        *[10, 10, 10, 4], *[10, 10, 10, 4], *[10, 10, 10, 3],
    ]  # fmt: skip
    assert sum(p["nats"] for p in predictions) / 101 == pytest.approx(whole["loss"].value, rel=1e-12)


def test_an_evaluation_does_not_change_training(data):
    module = task()
    batches = data.train_batches(0, 4, 0, 1)
    for number, batch in enumerate(batches):
        module.training_step(batch, number)
    before = {slot: memory.clone() for slot, memory in module.streams.items()}
    scored(module, data, data.evaluation_sets[1].dataset)
    after = module.streams
    assert before.keys() == after.keys() == {0, 1}
    assert all(torch.equal(before[slot], after[slot]) for slot in before)
    first, _ = scored(module, data, data.evaluation_sets[1].dataset)
    again, _ = scored(module, data, data.evaluation_sets[1].dataset)
    assert first == again  # an evaluation does not affect the next one


def test_sets_and_their_roles(data):
    assert [(split.name, split.role) for split in data.evaluation_sets] == [
        ("probe", "train"),
        ("valid", "search"),
        ("test", "test"),
        ("test-no-memory", "test"),
        ("test-training-lengths", "test"),
    ]
    assert data.counts == {"train": 263572, "valid": 14816, "test": 14195, "words": 75}
    assert data.baselines["test"]["kneser_ney_3"].value < data.baselines["test"]["unigram"].value
    protocols = {"short": {"target_length": 8, "memory_length": 3}}
    _, other = base.build(config(data__other_protocols=protocols, data__probe_tokens=0))
    other.setup("fit")
    assert [split.name for split in other.evaluation_sets][-1] == "test-short"
    assert other.evaluation_sets[-1].dataset.protocol == EvaluationProtocol(target_length=8, memory_length=3)
    assert other.evaluation_sets[0].name == "valid"


@pytest.mark.filterwarnings("ignore")  # Lightning's hints
def test_it_works_under_a_plain_trainer(data, tmp_path):
    module, _ = base.build(config())
    trainer = Trainer(
        max_steps=14,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        limit_val_batches=0,
    )
    before = scored(module, data, data.evaluation_sets[1].dataset)[0]["ppl"].value
    trainer.fit(module, data.train_batches(0, 7, 0, 1))
    assert scored(module, data, data.evaluation_sets[1].dataset)[0]["ppl"].value < before


# ------------------------------------------------------------------------------------ memory and accumulation


def trained(micro, streams=256, length=5, segments=4, seed=0):
    """Weights and memory by stream after some updates, each accumulated over streams / micro micro-batches."""
    module = task(model__dropout=0.0, model__memory_length=7)
    text = torch.randint(0, 75, (streams, segments * length + 1), generator=torch.Generator().manual_seed(seed))
    optimizer = module.configure_optimizers()
    for segment in range(segments):
        optimizer.zero_grad()
        piece = text[:, segment * length : (segment + 1) * length + 1]
        for k in range(streams // micro):
            mine = piece[k * micro : (k + 1) * micro]
            batch = SegmentBatch(mine[:, :-1], mine[:, 1:], k, segment == 0)
            (module.training_step(batch, 0) * micro / streams).backward()
        optimizer.step()
    memory = module.streams
    return module.state_dict(), torch.cat([memory[k] for k in sorted(memory)], dim=1)


def test_accumulating_4_times_64_streams_equals_256_at_once():
    one, one_memory = trained(256)
    four, four_memory = trained(64)
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(four_memory, one_memory, rtol=1e-9, atol=1e-12)
    assert one_memory.shape == (2, 256, 7, 8)


def test_memory_matters_to_that_comparison(monkeypatch):
    """If all micro-batches shared one memory, the weights would differ: the test above can fail."""
    one, _ = trained(256)
    original = SegmentBatch.__new__
    monkeypatch.setattr(SegmentBatch, "__new__", lambda cls, i, t, slot, first: original(cls, i, t, 0, first))
    shared, _ = trained(64)
    name = "network.layers.0.qkv.weight"
    assert not torch.allclose(one[name], shared[name], rtol=1e-6)


@pytest.mark.parametrize("update", [5, 7])  # inside an epoch, and where one begins
def test_training_resumes_from_the_memory_of_a_checkpoint(update, data):
    whole, resumed = task(model__dropout=0.0), task(model__dropout=0.0)
    for batch in data.train_batches(4, update, 0, 1):
        whole.training_step(batch._replace(first=batch.slot not in whole.streams), 0)
    resumed.streams = dict(whole.streams)
    batches = list(data.train_batches(update, update + 2, 0, 1))
    losses = [[float(m.training_step(b, 0).detach()) for b in batches] for m in (whole, resumed)]
    assert losses[0] == losses[1]
    assert resumed.streams.keys() == {0, 1}


def test_memory_has_the_precision_that_layers_read():
    module = task()
    module.float()
    text = torch.randint(0, 75, (2, 8))
    with torch.autocast("cpu", torch.bfloat16):
        _, memory = module.network(text)
        assert memory.dtype == torch.bfloat16
        hidden, _ = module.network(text, memory)
        nats = module.network.loss(hidden.flatten(0, 1), text.flatten())
    assert nats.dtype == torch.float32
    assert module.network(text)[1].dtype == torch.float32


def test_training_loss_is_the_mean_over_tokens(data):
    module = task(model__dropout=0.0, model__cutoffs=[])
    batch = next(iter(data.train_batches(0, 1, 0, 1)))
    loss = module.training_step(batch, 0)
    hidden, _ = module.network(batch.inputs)
    logits = hidden @ module.network.embedding.weight.T + module.network.softmax.bias
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()))


# ------------------------------------------------------------------------------------ config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__cutoffs": [40, 20]}, r"'model\.cutoffs' must rise between 0 and model\.vocabulary_size 75"),
        ({"model__cutoffs": [20, 75]}, r"'model\.cutoffs'"),
        ({"model__width": 7}, r"'model\.width' must be even"),
        ({"data__segment_length": 0}, r"'data\.segment_length' must be 1 or more, not 0"),
        ({"data__train_share": 1.5}, r"'data\.train_share' must be above 0 and at most 1"),
        ({"data__protocol__target_length": 0}, r"'data\.protocol\.target_length' must be 1 or more, not 0"),
        ({"data__protocol__memory_length": 0, "data__protocol__same_length": True}, r"same_length needs a memory"),
        (
            {"data__segment_length": 1000},
            r"'data\.train_tokens' 263572 are not enough for one update",
        ),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_budgets_in_tokens():
    cell = config(budget="1e6tokens")
    assert cell.total_updates == math.ceil(1e6 / (4096 * 8)) == 31
    assert cell.epochs == pytest.approx(31 / 7)
    assert dataclasses.asdict(cell)["data"]["segment_length"] == 8


def test_a_random_batch_gives_each_cluster_of_the_softmax_its_share():
    small = {"model.width": 2, "model.layers": 1, "data.segment_length": 500, "batch.size": 2, "batch.micro": 2}
    module, _ = base.build(config(**{"model.vocabulary_size": 267_735}, **small))
    torch.manual_seed(0)
    targets = module.random_batch(200).targets.flatten()
    clusters = torch.bucketize(targets, torch.tensor([20_000, 40_000, 200_000]), right=True)
    shares = clusters.bincount(minlength=4) / len(targets)
    torch.testing.assert_close(shares, torch.tensor([0.941, 0.026, 0.030, 0.003]), atol=0.003, rtol=0)
