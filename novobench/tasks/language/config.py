"""The config fields of language modelling. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from novobench.config import PRACTICAL, CellConfig
from novobench.errors import ConfigError
from novobench.ranges import DropoutRate, FileName, Name, NonNegativeInt, PositiveFloat, PositiveInt
from novobench.tasks.base_config import DataConfig

RECIPE_VERSION = 2


@dataclass(frozen=True)
class LanguageModelConfig:
    """Transformer-XL; the defaults are the paper's 191,950,298 parameters (§4.6)."""

    vocabulary_size: Annotated[int, "[2, inf)"] = 267735
    """Word types of the training text, `<eos>` included; checked against the data."""
    layers: PositiveInt = 16
    """Transformer layers."""
    width: PositiveInt = 512
    """Model dimension, which is also that of the word embeddings (div_val 1)."""
    heads: PositiveInt = 8
    """Attention heads per layer."""
    head_width: PositiveInt = 64
    """§4.6 has d_model 512 and 8 heads; 64 per head, as in NVIDIA's DeepLearningExamples, gives its 191M parameters."""
    inner_width: PositiveInt = 2048
    """Of the feed-forward layers."""
    cutoffs: list[PositiveInt] = field(default_factory=lambda: [20000, 40000, 200000])
    """Word ids at which the clusters of the adaptive softmax begin; default: the published ones of WikiText-103. Empty:
    full softmax."""
    memory_length: NonNegativeInt = 512
    """Positions before a training segment that it attends to. §4.6 does not say; the published recipes take the
    segment's length."""
    dropout: DropoutRate = 0.15
    """On word embeddings, positions, feed-forward layers and the output of each sub-layer (§4.6)."""
    attention_dropout: DropoutRate = 0.0
    """On attention weights; 0 in the published base recipes."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of normal initial weights, and of layer-norm gains around 1."""
    embedding_init_std: PositiveFloat = 0.02
    """The same for word embeddings, which are also the softmax's weights. An optimizer that scales steps by the
    gradient norm of a tensor, as NovoGrad, works better with a small one; see `language-init` in
    configs/deviations.yaml."""
    linear_init: Literal["normal", "xavier"] = "normal"
    """Matrices of the layers: N(0, init_std²), which suits width 512, or Xavier-normal, which suits any width."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a perplexity is computed: the same text has different perplexities with different contexts."""

    target_length: PositiveInt = 64
    """Tokens scored in one pass."""
    memory_length: NonNegativeInt = 640
    """Positions before the segment that it attends to; 0: each segment is scored alone."""
    clamp_length: NonNegativeInt = 400
    """Distances above it count as it; 0: no limit."""
    same_length: bool = True
    """Every token attends equally far back; otherwise the last token of a segment attends furthest back."""


@dataclass(frozen=True)
class LanguageDataConfig(DataConfig):
    """The source of the text, its length, and how it is cut into segments."""

    source: Literal["glosses", "files", "hub"] = field(default="files", metadata=PRACTICAL)
    """`glosses`: WordNet's definitions in the timm package, as words or, with the name `glosses-characters`, as
    characters; `files`: `wiki.train.tokens`, `train.txt` and the like;
    `hub`: a Hugging Face data set."""
    name: Name = "wikitext-103"
    """Identity of the data: the same text from another source is the same data."""
    path: str = field(default="", metadata=PRACTICAL)
    """Folder under the data root, or hub id, or folder of parquet files; empty: the name."""
    hub_config: str = field(default="wikitext-103-v1", metadata=PRACTICAL)
    """Configuration of the hub data set. The `-raw` configurations have another vocabulary."""
    text_column: Name = field(default="text", metadata=PRACTICAL)
    """`hub`: the column of text."""
    train_tokens: PositiveInt = 103227021
    """Tokens, with one `<eos>` per line; checked against the data, as are the next two."""
    valid_tokens: PositiveInt = 217646
    """Tokens of the validation text."""
    test_tokens: PositiveInt = 245569
    """Tokens of the test text."""
    minimum_count: PositiveInt = 1
    """Words that occur less often in training become `<unk>`. 1 closes the vocabulary: a word of another split that
    training lacks is an error. WikiText already contains its `<unk>`."""
    train_share: Annotated[float, "(0, 1]"] = 1.0
    """Share of the training text that is used, in blocks that are spread evenly over it."""
    limit: PositiveInt | None = None
    """Train on this many tokens: blocks of 50 lines, drawn in a fixed random order until they are enough, in the order
    of the text. The vocabulary is that of all training text. None: all tokens."""
    segment_length: PositiveInt = 512
    """Tokens of each stream per update (§4.6)."""
    rotate: bool = False
    """Begin each epoch at another place of the text, by (seed, epoch). Off in the published recipes, which repeat the
    same segments."""
    probe_tokens: NonNegativeInt = 0
    """Training tokens, spread evenly over the text, on which the training perplexity of curves is computed; 0: none."""
    evaluation_streams: PositiveInt = 1
    """Streams that a text is cut into for scoring in parallel. With 1 no token loses its context."""
    protocol: EvaluationProtocol = field(default_factory=EvaluationProtocol)
    """The protocol of the tables; the default is that of the published base model."""
    other_protocols: dict[FileName, EvaluationProtocol] = field(default_factory=dict)
    """Name -> a further protocol for the test text, recorded as split `test-<name>`."""

    @property
    def tokens_per_sample(self) -> int:
        """For budgets in tokens; a sample is one segment of one stream."""
        return self.segment_length

    def updates_per_epoch(self, streams: int) -> int:
        """Whole segments in each of `streams` equal parts of the training text; the remainder is dropped."""
        return (self.used_tokens // streams - 1) // self.segment_length

    @property
    def used_tokens(self) -> int:
        """Training tokens that are trained on."""
        return self.train_tokens if self.limit is None else min(self.limit, self.train_tokens)


def validate(config: CellConfig) -> None:
    """Raise ConfigError, naming the key, for values that contradict each other."""
    model, data = config.model, config.data
    if data.updates_per_epoch(config.batch.size) < 1:
        raise ConfigError(
            f"'data.{'train_tokens' if data.limit is None else 'limit'}' {data.used_tokens} are not enough for one "
            f"update: batch.size {config.batch.size} "
            f"streams of data.segment_length {data.segment_length} tokens and one more each. Lower one of the two."
        )
    cutoffs = model.cutoffs
    if cutoffs != sorted(set(cutoffs)) or (cutoffs and not 0 < cutoffs[0] <= cutoffs[-1] < model.vocabulary_size):
        raise ConfigError(
            f"'model.cutoffs' must rise between 0 and model.vocabulary_size {model.vocabulary_size}, not {cutoffs}."
        )
    if model.width % 2:
        raise ConfigError(
            f"'model.width' must be even, as positions are half sines and half cosines, not {model.width}."
        )
    if data.probe_tokens > data.used_tokens:
        key = "train_tokens" if data.limit is None else "limit"
        raise ConfigError(f"'data.probe_tokens' {data.probe_tokens} is more than data.{key} {data.used_tokens}.")
    for key, protocol in {"protocol": data.protocol, **data.other_protocols}.items():
        if protocol.same_length and protocol.memory_length < 1:
            raise ConfigError(f"'data.{key}': same_length needs a memory_length of 1 or more; set same_length=false.")


MODEL = LanguageModelConfig
DATA = LanguageDataConfig
BUILT_IN = "glosses"
"""The source that needs no files."""
SHIPPED: dict[str, tuple[str, ...]] = {
    "glosses": (),
    "glosses-characters": (),
    "wikitext-2": ("wikitext-2", "Salesforce/wikitext"),
    "wikitext-103": ("wikitext-103", "Salesforce/wikitext"),
}
"""Data sets of the shipped configs -> the values that `data.path` may have; none if built in."""


def relative_cost(config: Any) -> float:
    """Multiply-accumulates of a segment's forward pass, from the config alone; for forecasts.

    Of the softmax it counts only the words before the first cutoff, which most tokens are.
    """
    model, length = config.model, config.data.segment_length
    inner, context = model.heads * model.head_width, length + model.memory_length
    per_token = 2 * model.width * inner + 2 * model.width * model.inner_width + 3 * context * inner
    per_position = 3 * model.width * inner  # keys, values and distances, also at the positions of the memory
    outputs = model.cutoffs[0] + len(model.cutoffs) if model.cutoffs else model.vocabulary_size
    return model.layers * (length * per_token + context * per_position) + length * model.width * outputs
