"""Transformer for translation, built from transformers' Marian classes so that their `generate` does the decoding.

B sentences, S source tokens, T target tokens, D width, V vocabulary.

The default is the model of NVIDIA's NeMo, the paper's source. It differs from Marian in its embedding: layer norm of
token plus position / √D, instead of token × √D plus position. Both have layer norm after each residual sum, ReLU,
one embedding shared by source, target and output, and fixed sinusoidal positions.

Differs from NeMo: the output layer has no trained bias (8,192 parameters, below the precision of the paper's 185M), and
there are no token-type embeddings, which NeMo stored and never used. Attention scores are divided by √(D / heads); NeMo
divides queries and keys by its square root each, which is the same up to rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, MarianConfig, MarianMTModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.marian.modeling_marian import (
    MarianDecoder,
    MarianEncoder,
    MarianSinusoidalPositionalEmbedding,
)

from novobench.tasks.translation.config import TranslationModelConfig

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
"""Ids of the special tokens, as in NeMo."""


def _mask(*, attention_mask: Tensor | None, allow_is_causal_skip: bool, **kwargs: Any) -> Tensor | None:
    """transformers' mask for SDPA, [B, 1, queries, keys], or None if SDPA needs no mask.

    To find out whether a mask hides anything, transformers reads it, and so waits for the device three times per
    forward pass. Only decoding does that. In training, a source without padding comes without a mask, and causal
    attention needs none: the padding of a target comes after all of its tokens.
    """
    if torch.is_grad_enabled():
        if allow_is_causal_skip or attention_mask is None:
            return None
        kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip, **kwargs)


_ATTENTION = "novobench_sdpa"
AttentionInterface.register(_ATTENTION, sdpa_attention_forward)
AttentionMaskInterface.register(_ATTENTION, _mask)


class _NoPositions(nn.Module):
    """Replaces Marian's positions, which would be added after our layer norm."""

    def forward(self, *_: Any, **__: Any) -> float:
        return 0.0


class _NormedEmbedding(nn.Module):
    """Tokens [B, T] at positions `start`, `start` + 1, … to layer norm of token plus position, [B, T, D]."""

    def __init__(self, tokens: nn.Embedding, positions: MarianSinusoidalPositionalEmbedding) -> None:
        super().__init__()
        self.tokens, self.positions = tokens, positions
        self.norm = nn.LayerNorm(tokens.embedding_dim, eps=1e-5)

    def forward(self, input_ids: Tensor, start: int = 0) -> Tensor:
        return self.norm(self.tokens(input_ids) + self.positions(input_ids.shape, start))


class _Encoder(MarianEncoder):
    def __init__(self, config: MarianConfig) -> None:
        super().__init__(config)
        self.normed_embedding = _NormedEmbedding(self.embed_tokens, self.embed_positions)
        self.embed_positions = _NoPositions()  # type: ignore[assignment]

    # `generate` drops every argument that is not named here, unless the catch-all is called `kwargs`.
    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        kwargs["inputs_embeds"] = self.normed_embedding(input_ids)
        return super().forward(**kwargs)


class _Decoder(MarianDecoder):
    def __init__(self, config: MarianConfig) -> None:
        super().__init__(config)
        self.normed_embedding = _NormedEmbedding(self.embed_tokens, self.embed_positions)
        self.embed_positions = _NoPositions()  # type: ignore[assignment]

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **kwargs: Any) -> Any:
        start = 0 if past_key_values is None else past_key_values.get_seq_length()
        kwargs["inputs_embeds"] = self.normed_embedding(input_ids, start)
        return super().forward(past_key_values=past_key_values, **kwargs)


class Transformer(MarianMTModel):
    """Source tokens [B, S] and the target so far [B, T] to logits [B, T, V].

    The defaults have 184,750,080 trainable parameters; with `embedding_norm: false`, 184,745,984.
    """

    def __init__(self, config: TranslationModelConfig) -> None:
        super().__init__(
            MarianConfig(
                vocab_size=config.vocabulary,
                decoder_vocab_size=config.vocabulary,
                d_model=config.width,
                encoder_layers=config.encoder_layers,
                decoder_layers=config.decoder_layers,
                encoder_ffn_dim=config.feed_forward,
                decoder_ffn_dim=config.feed_forward,
                encoder_attention_heads=config.heads,
                decoder_attention_heads=config.heads,
                activation_function="relu",
                dropout=config.dropout,
                attention_dropout=config.dropout,
                activation_dropout=0.0,
                scale_embedding=not config.embedding_norm,
                max_position_embeddings=config.positions,
                pad_token_id=PAD,
                bos_token_id=BEGIN,
                eos_token_id=END,
                decoder_start_token_id=BEGIN,
                forced_eos_token_id=None,
                attn_implementation=_ATTENTION,  # type: ignore[call-arg]  # passed on in its `kwargs`
            )
        )
        if config.embedding_norm:
            self.model.encoder, self.model.decoder = _Encoder(self.config), _Decoder(self.config)
            self.tie_weights()
        self._init_weights_as_nemo(config)

    @torch.no_grad()
    def _init_weights_as_nemo(self, config: TranslationModelConfig) -> None:
        """Xavier-uniform weights, biases 0, layer norms 1 and 0, embeddings of standard deviation 1/√D (NeMo)."""
        positions = sinusoids(config.positions, config.width)
        for module in self.modules():
            if isinstance(module, MarianSinusoidalPositionalEmbedding):
                module.weight.copy_(positions / math.sqrt(config.width) if config.embedding_norm else positions)
            elif isinstance(module, nn.Linear) and module is not self.lm_head:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.model.shared.weight, std=1 / math.sqrt(config.width))  # also the output layer's


def sinusoids(positions: int, width: int) -> Tensor:
    """Position encodings [positions, width]: sines in the first half, cosines in the second."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angles = torch.arange(positions, dtype=torch.float64, device="cpu")[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def build(config: TranslationModelConfig) -> Transformer:
    """The network, with weights drawn from torch's default generator."""
    return Transformer(config)
