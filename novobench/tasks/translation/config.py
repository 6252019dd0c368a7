"""The config fields of translation. Does not import torch.

Batches are measured in padded tokens, source and target together: `batch.size` and `batch.micro` are tokens, and a
micro-batch holds as many sentence pairs of similar length as fit (paper §4.5: "batches of up to 490K source and target
tokens"). A token is a subword of the BPE tokenizer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from novobench.config import PRACTICAL, CellConfig
from novobench.errors import ConfigError
from novobench.ranges import FILE_NAME, DropoutRate, FileName, Name, NonNegativeInt, PositiveInt, violated
from novobench.tasks.base_config import SampledDataConfig
from novobench.tasks.sampling import updates_per_epoch

RECIPE_VERSION = 2


@dataclass(frozen=True)
class TranslationModelConfig:
    """Transformer with layer norm after each residual sum. The defaults are NeMo's Transformer-big."""

    vocabulary: Annotated[int, "[5, inf)"] = 8192
    """Tokens of the joint source and target vocabulary (paper §4.5), special tokens included."""
    width: PositiveInt = 1024
    """Size of token vectors and of each layer's output; d_model of Transformer-big (paper §4.5)."""
    feed_forward: PositiveInt = 4096
    """Inner size of the feed-forward layers."""
    heads: PositiveInt = 16
    """Attention heads per layer; each has `width` / `heads` dimensions."""
    encoder_layers: PositiveInt = 6
    """Layers of the encoder."""
    decoder_layers: PositiveInt = 6
    """Layers of the decoder."""
    dropout: DropoutRate = 0.2
    """On embeddings, attention weights, attention output and feed-forward output, not inside the feed-forward layer
    (NeMo). Paper §4.5: 0.2 for NovoGrad, 0.3 for Adam and AdamW."""
    embedding_norm: bool = True
    """True: layer norm of token plus position / √width (NeMo). False: token × √width plus position (Marian)."""
    positions: PositiveInt = 512
    """Longest source or output, in tokens."""
    label_smoothing: DropoutRate = 0.1
    """Probability that the true token gives to all other tokens together (NeMo)."""


@dataclass(frozen=True)
class TranslationDataConfig(SampledDataConfig):
    """Where sentence pairs come from, how they are tokenized, cleaned and packed, and how outputs are decoded."""

    source: Literal["numbers", "files", "hub"] = field(default="files", metadata=PRACTICAL)
    """`numbers`: the built-in corpus; `files`: `<split>.<language>`, one sentence per line, or tables `<split>.tsv` or
    `.csv` of two columns; `hub`: a Hugging Face data set."""
    name: Name = "wmt14-en-de"
    """Identifies the data: the same text from another source has the same name."""
    path: str = field(default="", metadata=PRACTICAL)
    """A folder under the data root, of parquet files if `source` is `hub`, or a hub id."""
    hub_config: str = field(default="de-en", metadata=PRACTICAL)
    """The hub data set's configuration."""
    source_language: FileName = "en"
    """Language code of the source: suffix of files, key of hub items."""
    target_language: FileName = "de"
    """Language code of the target."""
    train_split: Name = field(default="train", metadata=PRACTICAL)
    """Name of the training split in the source."""
    search_split: str = field(default="validation", metadata=PRACTICAL)
    """Name of the split for tuning and curves. Empty: `search_size` pairs of the training split, by a fixed shuffle."""
    test_split: str = field(default="test", metadata=PRACTICAL)
    """Name of the test split. Empty: `test_size` pairs of the training split, by the same shuffle."""
    more_tests: list[Name] = field(default_factory=list)
    """Additional test sets, each scored under its own name: splits of the source, or e.g. `sacrebleu:wmt14`."""
    train_size: PositiveInt = 4508785
    """Training pairs of the source without the shares for search and test, before cleaning; checked."""
    limit: PositiveInt | None = None
    """Train on this many pairs: the first of a fixed shuffle of those that cleaning leaves. None: on all. The tokenizer
    is that of all pairs, and the updates per epoch are that share of `train_tokens`."""
    search_size: PositiveInt = 3000
    """Pairs of `search_split`; checked."""
    test_size: PositiveInt = 3003
    """Pairs of `test_split`; checked."""
    train_tokens: PositiveInt = 327843840
    """Padded tokens of an epoch: its micro-batches × `batch.micro`. Checked if the budget is in epochs; otherwise only
    plans and curves use it. The default follows from the paper's 100K updates in 150 epochs."""
    bpe_model: str = ""
    """A sentencepiece model under the data root; empty: one is trained on source and target together."""
    character_coverage: Annotated[float, "[0.98, 1]"] = 1.0
    """Share of all characters that the trained model must cover; the others become the unknown token."""
    split_digits: bool = False
    """Make each digit a token of its own."""
    min_length: NonNegativeInt = 3
    """Tokens of either side, both sentence marks included; shorter pairs are left out (NeMo)."""
    max_length: PositiveInt = 128
    """Tokens of either side, both sentence marks included; longer pairs are left out (NeMo)."""
    max_difference: NonNegativeInt = 25
    """Tokens that one side may have more than the other (NeMo)."""
    max_ratio: Annotated[float, "[1, inf)"] = 2.5
    """Longer over shorter side, without sentence marks (NeMo)."""
    batch_multiple: PositiveInt = 8
    """A micro-batch holds a multiple of this many pairs, if it has that many (NeMo: for tensor cores)."""
    tail: Literal["drop", "wrap"] = "drop"
    """What happens to micro-batches that do not fill an optimizer batch."""
    evaluation_batch: PositiveInt = 64
    """Sentences decoded at once."""
    beams: PositiveInt = 4
    """Width of the beam search on test sets, which are also decoded greedily (NeMo: 4)."""
    length_penalty: float = 0.0
    """The score of a hypothesis is its log-probability divided by its length to this power (NeMo: 0)."""
    extra_output: NonNegativeInt = 50
    """Tokens that an output may have more than its source (NeMo)."""
    max_output: PositiveInt = 256
    """Tokens of an output."""
    tokenize: Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char"] = "13a"
    """How sacreBLEU splits text into words, by sacreBLEU's names. Target languages without spaces between words need a
    special tokenizer, or `char`."""
    neighbours: bool = False
    """Also score the translation of each test sentence's nearest training sentence: what memory alone reaches."""

    @property
    def tokens_per_sample(self) -> int:
        """1, because batches are measured in tokens."""
        return 1

    def updates_per_epoch(self, batch: int) -> int:
        """Updates per epoch with batches of `batch` tokens. With a `limit` it is an estimate."""
        return updates_per_epoch(self.train_tokens * self.used_size // self.train_size, batch, self.tail)


def validate(config: CellConfig) -> None:
    """Raise ConfigError, naming the key, if model and data do not match."""
    model, data = config.model, config.data
    if model.width % 2 or model.width % model.heads:
        raise ConfigError(f"'model.width' must be even and a multiple of model.heads {model.heads}, not {model.width}.")
    for key, length in (("data.max_length", data.max_length), ("data.max_output", data.max_output)):
        if length > model.positions:
            raise ConfigError(f"'{key}' {length} is more than the network's model.positions {model.positions}.")
    if data.min_length > data.max_length:
        raise ConfigError(f"'data.min_length' {data.min_length} is more than data.max_length {data.max_length}.")
    _check_splits(data)
    _check_languages(data)


def _check_splits(data: TranslationDataConfig) -> None:
    """Each split has one role, and each set a name of its own, which becomes part of a file name."""
    names_by_key = [(f"data.{key}", getattr(data, key)) for key in ("train_split", "search_split", "test_split")]
    names_by_key += [(f"data.more_tests[{place}]", name) for place, name in enumerate(data.more_tests)]
    keys: dict[str, str] = {}
    if data.source == BUILT_IN and not (data.search_split and data.test_split):
        raise ConfigError(f"'data.search_split' and 'data.test_split' need names: source {BUILT_IN} has all splits.")
    for key, name in names_by_key:
        if name and name in keys:
            raise ConfigError(f"'{key}' {name} is also {keys[name]}. Name another split.")
        keys[name] = key
    keys = {"search": "data.search_split", "test": "data.test_split"}
    for key, name in names_by_key[3:]:
        set_name = more_test_name(name)
        if set_name in keys or set_name == "train":
            owner = keys.get(set_name, "train")
            raise ConfigError(f"'{key}' {name} would be recorded as '{set_name}', which is {owner} already.")
        if requirement := violated(FILE_NAME, set_name):
            raise ConfigError(f"'{key}' must be {requirement}, not '{name}'.")
        keys[set_name] = key
    if data.source == BUILT_IN and (more := [name for name in data.more_tests if not name.startswith("sacrebleu:")]):
        raise ConfigError(f"'data.more_tests' {more[0]}: source {BUILT_IN} has no additional splits.")


def more_test_name(name: str) -> str:
    """The name of a test set of `data.more_tests` in records and files."""
    return name.removeprefix("sacrebleu:").replace("/", "-")


def _check_languages(data: TranslationDataConfig) -> None:
    if data.source == BUILT_IN:
        if {data.source_language, data.target_language} != {"en", "de"}:
            key = "source_language" if data.source_language not in ("en", "de") else "target_language"
            raise ConfigError(
                f"'data.{key}' {getattr(data, key)}: the built-in corpus is English (en) and German (de). Set one of "
                "them as source_language, the other as target_language."
            )
        if (sentences := data.train_size + data.search_size + data.test_size) > SENTENCES:
            raise ConfigError(
                f"'data.train_size' {data.train_size}, search_size {data.search_size} and test_size {data.test_size} "
                f"make {sentences}, but the built-in corpus has {SENTENCES} sentences. Lower data.train_size."
            )
    tokenizer = _TOKENIZERS.get(re.split(r"[-_]", data.target_language.lower())[0])
    if tokenizer is not None and data.tokenize in ("13a", "intl"):
        alternative = "" if tokenizer == "char" else " or char"
        raise ConfigError(
            f"'data.tokenize' {data.tokenize} needs spaces between words, and data.target_language "
            f"{data.target_language} has none: BLEU would compare whole sentences. Set "
            f"data.tokenize={tokenizer}{alternative}."
        )


_TOKENIZERS = {
    language: tokenizer
    for tokenizer, languages in {
        "zh": "zh zho chi cmn yue",
        "ja-mecab": "ja jpn",
        "ko-mecab": "ko kor",
        "char": "th tha lo lao km khm my mya bo bod",
    }.items()
    for language in languages.split()
}
"""ISO 639 code of a language that 13a cannot split into words -> the tokenizer that can. Korean has spaces, but between
phrases."""


MODEL = TranslationModelConfig
DATA = TranslationDataConfig
BUILT_IN = "numbers"
"""The built-in source."""
SENTENCES = 12_000
"""Sentences of the built-in corpus."""
SHIPPED: dict[str, tuple[str, ...]] = {
    "numbers": (),
    "multi30k": ("multi30k",),
    "wmt14-en-de": ("wmt/wmt14", "wmt14-en-de"),
}
"""Data set of the shipped configs -> where it may come from (`data.path`); empty: it is built in."""


def relative_cost(config: Any) -> float:
    """Multiply-accumulates of a forward pass per token, half of them source and half target tokens, without the part
    that grows with the sentence length; from the config alone, for forecasts."""
    model: TranslationModelConfig = config.model
    attention, feed_forward = 4 * model.width**2, 2 * model.width * model.feed_forward
    encoder = model.encoder_layers * (attention + feed_forward)
    decoder = model.decoder_layers * (2 * attention + feed_forward)
    return (encoder + decoder + model.width * model.vocabulary) / 2
