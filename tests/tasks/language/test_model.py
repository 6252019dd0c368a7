"""Transformer-XL compared with its equations, written out position by position, and its softmax with the full one."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from novobench.tasks.language.config import LanguageModelConfig
from novobench.tasks.language.model import AdaptiveSoftmax, build

SMALL = LanguageModelConfig(
    vocabulary_size=50,
    layers=3,
    width=12,
    heads=2,
    head_width=5,  # H·E is not the width
    inner_width=20,
    cutoffs=[10, 25],
    memory_length=6,
    dropout=0.0,
    init_std=0.3,
    embedding_init_std=0.5,
)


def network(**changes):
    torch.manual_seed(0)
    return build(dataclasses.replace(SMALL, **changes)).double()


def words(streams=2, length=4, seed=0):
    return torch.randint(0, 50, (streams, length), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------ size and start


def parameters(**changes):
    with torch.device("meta"):
        return sum(p.numel() for p in build(LanguageModelConfig(**changes)).parameters())


def test_the_paper_size_is_exact():
    layer = 512 * 1536 + 512 * 512 + 512 * 512 + 2 * 1024 + 2 * 512 * 2048 + 2048 + 512
    assert layer == 3_412_480
    assert parameters() == 267735 * 512 + 267735 + 3 * 512 + 3 + 2 * 8 * 64 + 16 * layer == 191_950_298


def test_word_vectors_and_softmax_are_one_tensor():
    names = [name for name, p in network().named_parameters() if p.shape == (50, 12)]
    assert names == ["embedding.weight"]


def test_initial_weights():
    network = build(LanguageModelConfig(vocabulary_size=2000, layers=2, cutoffs=[500], embedding_init_std=0.1))
    found = {name: (float(p.mean()), float(p.std())) for name, p in network.state_dict().items() if p.numel() > 1}
    assert found["embedding.weight"] == (pytest.approx(0, abs=1e-3), pytest.approx(0.1, rel=0.02))
    assert found["content_bias"][1] == pytest.approx(0.02, rel=0.1)
    assert found["layers.1.qkv.weight"] == (pytest.approx(0, abs=1e-3), pytest.approx(0.02, rel=0.02))
    assert found["layers.1.attention_norm.weight"] == (pytest.approx(1, abs=1e-2), pytest.approx(0.02, rel=0.15))
    for name in ("layers.0.expand.bias", "layers.0.attention_norm.bias", "softmax.bias"):
        assert found[name] == (0, 0)


def test_xavier_follows_the_shape():
    matrix = build(LanguageModelConfig(vocabulary_size=100, layers=1, cutoffs=[], linear_init="xavier")).layers[0].qkv
    assert float(matrix.weight.detach().std()) == pytest.approx(math.sqrt(2 / (512 + 1536)), rel=0.02)


# ------------------------------------------------------------------------------------ against the equations


def encoding(distance, width, clamp):
    distance = min(distance, clamp) if clamp else distance
    angles = [distance / 10000 ** (2 * i / width) for i in range(width // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def literally(network, text, memories, reach, clamp=0, same_length=False):
    """Dai et al. 2019, §3.3, query by query and key by key; `memories`: each layer's earlier inputs [B][n, D]."""
    config = network.config
    heads, size, inner = config.heads, config.head_width, config.heads * config.head_width
    after = []
    outputs = []
    for b in range(len(text)):
        x = network.embedding.weight[text[b]] * math.sqrt(config.width)
        kept = []
        for number, layer in enumerate(network.layers):
            old = memories[b][number] if memories else x[:0]
            context = torch.cat([old, x])
            kept.append(context[len(context) - min(reach, len(context)) :].detach())
            w_query, w_key, w_value = layer.qkv.weight.split(inner)
            rows = []
            for i in range(len(x)):
                heads_out = []
                for h in range(heads):
                    part = slice(h * size, (h + 1) * size)
                    query = w_query[part] @ x[i]
                    scores, values = [], []
                    for j in range(len(old) + i + 1):
                        distance = len(old) + i - j
                        if same_length and distance >= reach:
                            continue
                        key = w_key[part] @ context[j]
                        place = layer.position.weight[part] @ encoding(distance, config.width, clamp)
                        u, v = network.content_bias[h], network.position_bias[h]
                        scores.append((query @ key + query @ place + u @ key + v @ place) / math.sqrt(size))
                        values.append(w_value[part] @ context[j])
                    weights = torch.stack(scores).softmax(0)
                    heads_out.append(sum(w * value for w, value in zip(weights, values, strict=True)))
                rows.append(layer.output.weight @ torch.cat(heads_out))
            x = norm(layer.attention_norm, x + torch.stack(rows))
            inner_layer = (x @ layer.expand.weight.T + layer.expand.bias).clamp(min=0)
            x = norm(layer.feed_forward_norm, x + inner_layer @ layer.contract.weight.T + layer.contract.bias)
        outputs.append(x)
        after.append(kept)
    return torch.stack(outputs), after


def norm(layer, x):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x * layer.weight + layer.bias


@pytest.mark.parametrize(
    ("reach", "protocol"),
    [(6, {}), (3, {}), (0, {}), (6, {"clamp": 3}), (6, {"same_length": True}), (3, {"clamp": 5, "same_length": True})],
)
def test_segments_match_the_equations(reach, protocol):
    network_ = network()
    memory, literal = None, None
    arguments = {"clamp_length": protocol.get("clamp", 0), "same_length": protocol.get("same_length", False)}
    for segment in range(3):
        text = words(seed=segment)
        hidden, memory = network_(text, memory, memory_length=reach, **arguments)
        expected, literal = literally(network_, text, literal, reach, **protocol)
        torch.testing.assert_close(hidden, expected, rtol=1e-10, atol=1e-12)
        assert memory.shape == (3, 2, min(reach, 4 * (segment + 1)), 12)
        for layer in range(3):
            for stream in range(2):
                torch.testing.assert_close(memory[layer, stream], literal[stream][layer], rtol=1e-10, atol=1e-12)


def test_gradients_match_the_equations():
    ours, theirs = network(), network()
    first, second, target = words(seed=0), words(seed=1), words(seed=2)
    memory, literal = None, None
    for text in (first, second):
        hidden, memory = ours(text, memory)
        expected, literal = literally(theirs, text, literal, 6)
    assert not memory.requires_grad
    ours.loss(hidden.flatten(0, 1), target.flatten()).mean().backward()
    theirs.loss(expected.flatten(0, 1), target.flatten()).mean().backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        assert p.grad.abs().sum() > 0, name


def test_no_token_attends_to_the_future():
    network_ = network()
    text = words(length=6)
    changed = text.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 50
    one, two = network_(text)[0], network_(changed)[0]
    assert torch.equal(one[:, :4], two[:, :4])
    assert not torch.equal(one[:, 4], two[:, 4])


def test_dropout_acts_only_in_training():
    network_ = network(dropout=0.5)
    assert not torch.equal(network_(words())[0], network_(words())[0])
    network_.eval()
    assert torch.equal(network_(words())[0], network_(words())[0])


# ------------------------------------------------------------------------------------ adaptive softmax


def full_log_probabilities(softmax, hidden, table):
    """Log-probabilities of all words, cluster by cluster, from the definition."""
    head = torch.cat([table[:10], softmax.cluster_weight]), torch.cat([softmax.bias[:10], softmax.cluster_bias])
    first = F.linear(hidden, *head).log_softmax(1)
    parts = [first[:, :10]]
    for cluster, (start, stop) in enumerate([(10, 25), (25, 50)]):
        inside = F.linear(hidden, table[start:stop], softmax.bias[start:stop]).log_softmax(1)
        parts.append(first[:, 10 + cluster, None] + inside)
    return torch.cat(parts, dim=1)


def test_adaptive_probabilities_sum_to_one_and_give_the_loss():
    network_ = network()
    torch.nn.init.normal_(network_.softmax.bias)
    torch.nn.init.normal_(network_.softmax.cluster_bias)
    hidden = torch.randn(50, 12, dtype=torch.float64)
    log_p = full_log_probabilities(network_.softmax, hidden, network_.embedding.weight)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(50, dtype=torch.float64))
    nats = network_.loss(hidden, torch.arange(50))
    torch.testing.assert_close(nats, -log_p.diagonal(), rtol=1e-10, atol=1e-12)


def test_without_cutoffs_it_is_the_full_softmax():
    network_ = network(cutoffs=[])
    hidden, targets = torch.randn(7, 12, dtype=torch.float64), torch.tensor([0, 49, 3, 9, 10, 24, 25])
    logits = hidden @ network_.embedding.weight.T + network_.softmax.bias
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(network_.loss(hidden, targets), expected, rtol=1e-10, atol=1e-12)


def test_against_pytorchs_adaptive_softmax():
    """torch's, with one full-width projection per cluster (div_value 1, projections set to the identity)."""
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(12, 50, cutoffs=[10, 25], div_value=1.0)
    ours = AdaptiveSoftmax(50, 12, [10, 25])
    table = torch.randn(50, 12)
    with torch.no_grad():
        ours.bias.zero_()
        ours.cluster_bias.zero_()
        ours.cluster_weight.normal_()
        theirs.head.weight.copy_(torch.cat([table[:10], ours.cluster_weight]))
        for (down, up), (start, stop) in zip(theirs.tail, [(10, 25), (25, 50)], strict=True):
            down.weight.copy_(torch.eye(12))
            up.weight.copy_(table[start:stop])
    hidden, targets = torch.randn(64, 12), torch.randint(0, 50, (64,))
    torch.testing.assert_close(ours(hidden, targets, table), -theirs(hidden, targets).output)


def test_clusters_without_words_leave_finite_gradients():
    network_ = network()
    hidden = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    network_.loss(hidden, torch.tensor([0, 1, 2, 3, 4])).mean().backward()
    assert torch.isfinite(hidden.grad).all()
    assert network_.softmax.bias.grad[10:].abs().sum() == 0
    assert network_.softmax.cluster_bias.grad.abs().sum() > 0
