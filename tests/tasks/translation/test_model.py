"""Transformer: counts, initialization, and outputs against the layers written out and against plain Marian."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import MarianMTModel

from novobench.tasks.translation.config import TranslationModelConfig
from novobench.tasks.translation.model import BEGIN, PAD, build, sinusoids

SMALL = {
    "vocabulary": 50,
    "width": 16,
    "feed_forward": 24,
    "heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "positions": 32,
}


def small(**changes):
    torch.manual_seed(0)
    return build(TranslationModelConfig(**{**SMALL, **changes})).double().eval()


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def batch():
    """Sources of 7 and 5 tokens, targets of 6 and 4, padded."""
    source = torch.tensor([[2, 9, 8, 7, 30, 31, 3], [2, 40, 41, 42, 3, PAD, PAD]])
    target = torch.tensor([[BEGIN, 11, 12, 13, 14, 15], [BEGIN, 44, 45, 46, PAD, PAD]])
    return source, target


@pytest.mark.parametrize(("norm", "count"), [(True, 184_750_080), (False, 184_745_984)])
def test_the_papers_network_has_its_size(norm, count):
    with torch.device("meta"):
        model = build(TranslationModelConfig(embedding_norm=norm))
    assert trainable(model) == count


def test_the_count_by_hand():
    """Embedding, encoder and decoder layers, as Vaswani et al. (2017) draw them."""
    v, d, f = 8192, 1024, 4096
    attention, feed_forward, norm = 4 * (d * d + d), 2 * d * f + f + d, 2 * d
    layers = 6 * (attention + feed_forward + 2 * norm) + 6 * (2 * attention + feed_forward + 3 * norm)
    assert v * d + layers == 184_745_984
    assert v * d + layers + 2 * norm == 184_750_080


def test_one_embedding_serves_source_target_and_output():
    model = small()
    shared = model.model.shared.weight
    assert model.lm_head.weight is shared
    assert model.model.encoder.normed_embedding.tokens.weight is shared
    assert model.model.decoder.normed_embedding.tokens.weight is shared


def test_dropout_is_in_four_places():
    model = small(dropout=0.25)
    for layer in [*model.model.encoder.layers, *model.model.decoder.layers]:
        assert (layer.dropout, layer.self_attn.dropout, layer.activation_dropout) == (0.25, 0.25, 0.0)
    assert (model.model.encoder.dropout, model.model.decoder.dropout) == (0.25, 0.25)


def test_initial_weights():
    torch.manual_seed(0)
    model = build(TranslationModelConfig(vocabulary=2000, width=256, feed_forward=512, heads=4, positions=64))
    assert model.model.shared.weight.std().item() == pytest.approx(1 / 16, rel=0.01)
    weight = model.model.encoder.layers[0].fc1.weight
    bound = math.sqrt(6 / (256 + 512))
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    positions = model.model.decoder.normed_embedding.positions.weight
    assert not positions.requires_grad
    assert positions[3, 5].item() == pytest.approx(math.sin(3 / 10000 ** (10 / 256)) / 16)
    assert positions[3, 128 + 5].item() == pytest.approx(math.cos(3 / 10000 ** (10 / 256)) / 16)


# ------------------------------------------------------------------------------------ the layers written out


def attend(block, queries, keys, allowed, heads=4):
    """Multi-head attention, one sentence and one head at a time."""
    out = torch.zeros_like(queries)
    q, k, v = block.q_proj(queries), block.k_proj(keys), block.v_proj(keys)
    size = q.shape[-1] // heads
    for b in range(len(q)):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[b, :, part] @ k[b, :, part].T / math.sqrt(size)
            out[b, :, part] = scores.masked_fill(~allowed[b], -math.inf).softmax(-1) @ v[b, :, part]
    return block.out_proj(out)


def written_out(model, source, target):
    """NeMo's network with the weights of `model`, from the paper's equations."""
    d = model.config.d_model
    table = model.model.shared.weight

    def embed(tokens, norm):
        x = table[tokens] + sinusoids(tokens.shape[1], d).double() / math.sqrt(d)
        return F.layer_norm(x, (d,), norm.weight, norm.bias, 1e-5)

    def feed_forward(layer, x):
        return layer.final_layer_norm(x + layer.fc2(F.relu(layer.fc1(x))))

    real = (source != PAD)[:, None, :]
    x = embed(source, model.model.encoder.normed_embedding.norm)
    for layer in model.model.encoder.layers:
        allowed = real.expand(-1, source.shape[1], -1)
        x = layer.self_attn_layer_norm(x + attend(layer.self_attn, x, x, allowed))
        x = feed_forward(layer, x)
    causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).tril().expand(len(target), -1, -1)
    y = embed(target, model.model.decoder.normed_embedding.norm)
    for layer in model.model.decoder.layers:
        y = layer.self_attn_layer_norm(y + attend(layer.self_attn, y, y, causal))
        allowed = real.expand(-1, target.shape[1], -1)
        y = layer.encoder_attn_layer_norm(y + attend(layer.encoder_attn, y, x, allowed))
        y = feed_forward(layer, y)
    return y @ table.T


def test_nemos_network_written_out():
    model = small()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))  # no weight keeps a value that hides an error
        model.model.decoder.normed_embedding.positions.weight.copy_(sinusoids(32, 16).double() / 4)
        model.model.encoder.normed_embedding.positions.weight.copy_(sinusoids(32, 16).double() / 4)
        source, target = batch()
        ours = model(input_ids=source, attention_mask=source != PAD, decoder_input_ids=target, use_cache=False).logits
        expected = written_out(model, source, target)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_without_the_embedding_norm_it_is_marian():
    ours = small(embedding_norm=False)
    marian = MarianMTModel(ours.config).double().eval()
    marian.load_state_dict(ours.state_dict())
    source, target = batch()
    arguments = {"input_ids": source, "attention_mask": source != PAD, "decoder_input_ids": target, "use_cache": False}
    assert torch.equal(ours(**arguments).logits, marian(**arguments).logits)
    assert ours.model.encoder.embed_scale == 4.0


@pytest.mark.parametrize("norm", [True, False])
def test_greedy_decoding_with_a_cache_is_the_network_applied_again_and_again(norm):
    model = small(embedding_norm=norm)
    source, _ = batch()
    mask = source != PAD
    actual = model.generate(
        input_ids=source, attention_mask=mask, num_beams=1, do_sample=False, max_new_tokens=8, min_new_tokens=8
    )
    expected = torch.full((2, 1), BEGIN)
    with torch.no_grad():
        for _ in range(8):
            logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=expected, use_cache=False).logits
            logits[:, -1, model.config.eos_token_id] = -math.inf
            expected = torch.cat([expected, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(actual, expected)
