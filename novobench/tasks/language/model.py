"""Transformer-XL (Dai et al., 2019) with a tied adaptive softmax, as the paper's §4.6 trains it.

B streams, T tokens of a segment, M memory positions, S = M + T, D width, H heads, E head width, V vocabulary, L layers.

Differs from the authors' code: tensors have the stream dimension first ([B, T, D]), memory keeps only what a later
segment attends to, and attention uses PyTorch's fused kernels, with the relative part as their bias.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from novobench.tasks.language.config import LanguageModelConfig


class TransformerXL(nn.Module):
    """Maps tokens [B, T] and memory to hidden states; `loss` turns them into nats. Defaults: 191,950,298 parameters."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.content_bias = nn.Parameter(torch.empty(config.heads, config.head_width))
        """u of the Transformer-XL paper, shared by all layers."""
        self.position_bias = nn.Parameter(torch.empty(config.heads, config.head_width))
        """v of that paper, shared likewise."""
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.softmax = AdaptiveSoftmax(config.vocabulary_size, config.width, config.cutoffs)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal weights, biases 0, layer-norm gains around 1; see the config's three init fields."""
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if name == "embedding.weight":
                nn.init.normal_(parameter, std=self.config.embedding_init_std)
            elif "norm" in name and name.endswith("weight"):
                nn.init.normal_(parameter, mean=1.0, std=std)
            elif name.endswith(".bias") or name.endswith("cluster_bias"):
                nn.init.zeros_(parameter)
            elif name.startswith("layers.") and self.config.linear_init == "xavier":
                nn.init.xavier_normal_(parameter)
            else:
                nn.init.normal_(parameter, std=std)

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor | None = None,
        *,
        memory_length: int | None = None,
        clamp_length: int = 0,
        same_length: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [B, T, D] of `tokens`, and the memory [L, B, up to `memory_length`, D] for the next segment.

        `memory` is what the previous segment returned; None at a stream's start. No token attends to a position whose
        vectors are NaN (a skipped update leaves them at a stream's start), as if memory were shorter. `memory_length`
        defaults to the config's. Distances above `clamp_length` count as `clamp_length` if it is not 0. With
        `same_length` each token attends to `memory_length` positions, itself included, instead of the whole memory.
        """
        reach = self.config.memory_length if memory_length is None else memory_length
        kept = 0 if memory is None else memory.shape[2]
        x = self.dropout(self.embedding(tokens) * math.sqrt(self.config.width))
        length = tokens.shape[1]
        positions = self.dropout(_sinusoids(kept + length, self.config.width, clamp_length, x))
        mask = _attention_mask(length, kept, reach if same_length else 0, x.device)
        readable = memory
        if memory is not None:
            absent = memory[0, 0, :, 0].isnan()
            mask = mask | F.pad(absent, (0, length))
            readable = memory.masked_fill(absent[:, None], 0.0)  # 0 × NaN is NaN, so a weight of 0 is not enough
        inputs = []
        for number, layer in enumerate(self.layers):
            inputs.append(x)
            before = None if readable is None else readable[number]
            x = layer(x, before, positions, mask, self.content_bias, self.position_bias)
        return self.dropout(x), self._next_memory(memory, inputs, reach)

    def loss(self, hidden: Tensor, targets: Tensor, cluster_counts: list[int] | None = None) -> Tensor:
        """Nats of each target, [N], for hidden states [N, D] and word ids int64 [N]; `cluster_counts`: see
        `AdaptiveSoftmax`."""
        return self.softmax(hidden, targets, self.embedding.weight, cluster_counts)

    def memory_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of memory for hidden states in `dtype`: under autocast the lower precision, in which layers read it
        anyway."""
        device = self.embedding.weight.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype

    @torch.no_grad()
    def _next_memory(self, memory: Tensor | None, inputs: list[Tensor], reach: int) -> Tensor:
        """The last `reach` inputs of each layer, without gradient."""
        dtype = self.memory_dtype(inputs[0].dtype)
        new = torch.stack([x[:, max(0, x.shape[1] - reach) :].to(dtype) for x in inputs])
        missing = reach - new.shape[2]
        if memory is None or missing == 0:
            return new
        return torch.cat([memory[:, :, max(0, memory.shape[2] - missing) :], new], dim=2)


class Layer(nn.Module):
    """Relative attention and a feed-forward block, each followed by a residual connection and layer norm."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.attention_dropout = config.attention_dropout
        inner = config.heads * config.head_width
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.position = nn.Linear(config.width, inner, bias=False)
        self.output = nn.Linear(inner, config.width, bias=False)
        self.attention_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.inner_width)
        self.contract = nn.Linear(config.inner_width, config.width)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        positions: Tensor,
        mask: Tensor,
        content_bias: Tensor,
        position_bias: Tensor,
    ) -> Tensor:
        """One layer over x [B, T, D], looking back into `memory` [B, M, D].

        `positions` [S, D] goes from the largest distance to 0; `mask` [T, S] is true where a query must not attend.
        """
        attended = self._attend(x, memory, positions, mask, content_bias, position_bias)
        x = self.attention_norm(x + self.dropout(self.output(attended)))
        y = self.dropout(F.relu(self.expand(x)))
        return self.feed_forward_norm(x + self.dropout(self.contract(y)))

    def _attend(
        self, x: Tensor, memory: Tensor | None, positions: Tensor, mask: Tensor, content: Tensor, position: Tensor
    ) -> Tensor:
        """softmax(((q + u)ᵀk + (q + v)ᵀr) / √E) applied to the values, [B, T, H·E]; the r term is the kernel's bias."""
        streams, length, _ = x.shape
        context = x if memory is None else torch.cat([memory.to(x.dtype), x], dim=1)
        projected = self.qkv(context).view(streams, -1, 3, self.heads, self.head_width)
        query = projected[:, -length:, 0]  # [B, T, H, E]
        key, value = (projected[:, :, part].transpose(1, 2) for part in (1, 2))  # [B, H, S, E]
        distance = self.position(positions).view(-1, self.heads, self.head_width)  # [S, H, E]
        scale = 1 / math.sqrt(self.head_width)
        to_position = (query + position).to(query.dtype).transpose(1, 2)  # [B, H, T, E]
        bias = _shift(torch.matmul(to_position * scale, distance.permute(1, 2, 0)))
        attended = F.scaled_dot_product_attention(
            (query + content).to(query.dtype).transpose(1, 2),
            key,
            value,
            attn_mask=bias.masked_fill(mask, -math.inf),
            dropout_p=self.attention_dropout if self.training else 0.0,
            scale=scale,
        )
        return attended.transpose(1, 2).reshape(streams, length, -1)


def _shift(scores: Tensor) -> Tensor:
    """[B, H, T, S] by (query, place in `positions`) to [B, H, T, S] by (query, key).

    Query i meets key j at distance i + M - j, which is at place S - 1 - (i + M - j): each row moves left by T - 1 - i.
    Padding by one column and reshaping move all rows at once (Dai et al., appendix B). Values that wrap around belong
    to keys after the query, which are masked.
    """
    streams, heads, length, span = scores.shape
    padded = F.pad(scores, (1, 0)).view(streams, heads, span + 1, length)
    return padded[:, :, 1:].reshape(streams, heads, length, span)


def _sinusoids(span: int, width: int, clamp_length: int, like: Tensor) -> Tensor:
    """Encodings [span, width] of the distances span - 1 … 0: sines, then cosines (half each, not interleaved)."""
    device, dtype = like.device, like.dtype
    distance = torch.arange(span - 1, -1, -1, device=device, dtype=dtype)
    if clamp_length:
        distance = distance.clamp(max=clamp_length)
    frequency = 10000 ** (-torch.arange(0, width, 2, device=device, dtype=dtype) / width)
    angle = distance[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _attention_mask(length: int, kept: int, reach: int, device: torch.device) -> Tensor:
    """bool [T, S], true where a query must not attend: at later keys and, if `reach` is not 0, `reach` or more back."""
    distance = torch.arange(length, device=device)[:, None] + kept - torch.arange(kept + length, device=device)
    mask = distance < 0
    return mask | (distance >= reach) if reach else mask


class AdaptiveSoftmax(nn.Module):
    """Nats of words under a softmax in clusters (Grave et al., 2017), tied to the caller's word embeddings.

    The head covers the words before the first cutoff and one entry per later cluster. The probability of a later word
    is that of its cluster times its own inside the cluster. Word ids must be in order of frequency.
    """

    def __init__(self, vocabulary_size: int, width: int, cutoffs: list[int]) -> None:
        super().__init__()
        self.bounds = [0, *cutoffs, vocabulary_size]
        self.bias = nn.Parameter(torch.empty(vocabulary_size))
        clusters = len(cutoffs)
        self.cluster_weight = nn.Parameter(torch.empty(clusters, width)) if clusters else None
        self.cluster_bias = nn.Parameter(torch.empty(clusters)) if clusters else None

    def forward(
        self, hidden: Tensor, targets: Tensor, embeddings: Tensor, cluster_counts: list[int] | None = None
    ) -> Tensor:
        """Nats [N] of `targets` [N] after `hidden` [N, D]; `embeddings` [V, D].

        `cluster_counts` has the number of targets in the head and in each later cluster, in order. If None, they are
        counted here, which waits for a GPU.
        """
        # Split once: the gradient of each slice would be a zero-filled copy of the whole table.
        sizes = [stop - start for start, stop in pairwise(self.bounds)]
        weights, biases = list(embeddings.split(sizes)), list(self.bias.split(sizes))
        if self.cluster_weight is not None and self.cluster_bias is not None:
            weights[0] = torch.cat([weights[0], self.cluster_weight])
            biases[0] = torch.cat([biases[0], self.cluster_bias])
        cluster = torch.zeros_like(targets)
        for cutoff in self.bounds[1:-1]:
            cluster += targets >= cutoff
        if cluster_counts is None:
            cluster_counts = torch.bincount(cluster, minlength=len(sizes)).tolist()
        in_head = torch.where(cluster > 0, sizes[0] - 1 + cluster, targets)
        _, *later = cluster.argsort(stable=True).split(cluster_counts)
        rare = [
            (places, _nats(hidden[places], targets[places] - start, weight, bias))
            for places, start, weight, bias in zip(later, self.bounds[1:], weights[1:], biases[1:], strict=False)
            if len(places)
        ]
        total = _nats(hidden, in_head, weights[0], biases[0])
        for places, nats in rare:
            total = total.index_add(0, places, nats)
        return total


def _nats(hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), targets, reduction="none")


def build(config: LanguageModelConfig) -> TransformerXL:
    """The network, with weights from torch's default generator."""
    with torch.no_grad():
        return TransformerXL(config)
