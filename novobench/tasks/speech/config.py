"""The config fields of speech recognition. Does not import torch."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from novobench.config import PRACTICAL, CellConfig
from novobench.errors import ConfigError
from novobench.ranges import (
    NOT_EMPTY,
    DropoutRate,
    FileName,
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from novobench.tasks.base_config import SampledDataConfig
from novobench.tasks.sampling import updates_per_epoch

RECIPE_VERSION = 3


@dataclass(frozen=True)
class Block:
    """`repeat` sub-blocks of convolution, batch norm, ReLU and dropout."""

    channels: PositiveInt
    """Output channels of each sub-block."""
    kernel: PositiveInt
    """Frames; odd, so that a convolution preserves the length."""
    repeat: PositiveInt = 1
    """Sub-blocks."""
    stride: PositiveInt = 1
    """Frames from one output to the next, in each sub-block."""
    dilation: PositiveInt = 1
    """Frames between the taps of a kernel."""
    dropout: DropoutRate = 0.2
    """Probability of dropout after each sub-block."""
    residual: bool = False
    """Dense residual: the last sub-block adds the inputs of this block and of all earlier residual blocks, each through
    its own 1×1 convolution and batch norm."""


def _jasper_dr_10x5() -> list[Block]:
    pairs = [(11, 256, 0.2), (13, 384, 0.2), (17, 512, 0.2), (21, 640, 0.3), (25, 768, 0.3)]
    body = [Block(channels, kernel, 5, dropout=p, residual=True) for kernel, channels, p in pairs for _ in range(2)]
    return [
        Block(256, 11, stride=2),
        *body,
        Block(896, 29, dilation=2, dropout=0.4),
        Block(1024, 1, dropout=0.4),
    ]


@dataclass(frozen=True)
class SpeechModelConfig:
    """Jasper; the defaults are Jasper DR 10x5 as OpenSeq2Seq built it (jasper10x5_LibriSpeech_nvgrad.py)."""

    features: PositiveInt = 64
    """Mel bands of the input."""
    outputs: Annotated[int, "[2, inf)"] = 29
    """Letters of the alphabet and the blank, which comes last."""
    blocks: Annotated[list[Block], NOT_EMPTY] = field(default_factory=_jasper_dr_10x5)
    """The blocks in order; the output convolution comes after the last."""
    init: Literal["xavier_normal", "xavier_uniform"] = "xavier_normal"
    """Of all convolutions except the last, which is always Xavier uniform. OpenSeq2Seq: normal, truncated at two
    standard deviations as in TensorFlow's contrib; NeMo and DeepLearningExamples: uniform."""
    padding: Literal["same", "symmetric"] = "same"
    """Of the strided convolution: TensorFlow's SAME pads (4, 5) for kernel 11, DeepLearningExamples (5, 5)."""
    batch_norm_momentum: Annotated[float, "(0, 1]"] = 0.1
    """PyTorch's convention; TensorFlow's 0.90 in the authors' code."""
    batch_norm_eps: PositiveFloat = 1e-3
    """Added to the variance in batch norm."""


@dataclass(frozen=True)
class FeatureConfig:
    """How recordings become log-Mel features. The defaults are OpenSeq2Seq's (speech_utils.py).

    DeepLearningExamples' features (parts/features.py of its first release) differ in `peak_normalize`, `sample_std` and
    `whole_hops`. Its TOML also sets `trim_silence`, but its train.py never passes that on.
    """

    sample_rate: Annotated[int, "[100, inf)"] = 16000
    """Of the recordings, in Hz."""
    window: Annotated[int, "[2, inf)"] | None = None
    """Samples of a frame (Hann window); None: 20 ms, 320 samples at 16 kHz."""
    hop: PositiveInt | None = None
    """Samples from one frame to the next; None: 10 ms, 160 samples at 16 kHz."""
    fft: Annotated[int, "[2, inf)"] | None = None
    """Samples of the Fourier transform; None: the smallest power of two that holds a window, 512 at 16 kHz."""
    highest_hertz: PositiveFloat | None = None
    """Upper end of the Mel scale (Slaney's), which starts at 0; None: 8000, or half the sample rate if that is
    less."""
    peak_normalize: bool = True
    """Divide by the largest absolute sample before the speed is changed."""
    dither: NonNegativeFloat = 1e-5
    """Standard deviation of noise added to the samples. Drawn once per utterance, so that features can be cached."""
    preemphasis: Fraction = 0.97
    """Each sample minus this share of the one before it; 0: off."""
    sample_std: bool = False
    """Normalize features by the standard deviation over n - 1 frames plus 1e-5, instead of that over n frames."""
    trim_silence: bool = False
    """Trim both ends where they are 60 dB below the loudest frame, in training and evaluation."""
    whole_hops: bool = False
    """S samples have ceil(S / hop) frames, as in DeepLearningExamples, instead of 1 + floor(S / hop): a frame centered
    on the end of the recording is dropped before normalization."""

    @property
    def window_samples(self) -> int:
        return self.window if self.window is not None else self.sample_rate // 50

    @property
    def hop_samples(self) -> int:
        return self.hop if self.hop is not None else self.sample_rate // 100

    @property
    def fft_samples(self) -> int:
        return self.fft if self.fft is not None else 1 << (self.window_samples - 1).bit_length()

    @property
    def mel_top(self) -> float:
        """Hertz."""
        return self.highest_hertz if self.highest_hertz is not None else min(8000.0, self.sample_rate / 2)


@dataclass(frozen=True)
class SpeechDataConfig(SampledDataConfig):
    """Where utterances come from, how many there are, and how they are processed.

    The defaults are OpenSeq2Seq's. DeepLearningExamples' values differ for the masks, `sox_speed`, `limit_before_speed`
    and `epoch_size`.
    """

    source: Literal["espeak", "librispeech", "folder", "manifest", "hub"] = field(
        default="librispeech", metadata=PRACTICAL
    )
    """`espeak`: the built-in corpus; `librispeech`: trees of recordings and .trans.txt files; `folder`: recordings with
    their transcripts next to them, `a.wav` and `a.txt` or `a.lab`; `manifest`: NeMo's JSON lines, or tables
    `<split>.csv` or `.tsv` with columns of files and transcripts; `hub`: a Hugging Face data set."""
    name: Name = "librispeech-960h"
    """Identifies the data: the same recordings from another source have the same name."""
    path: str = field(default="", metadata=PRACTICAL)
    """A folder under the data root, of parquet files if `source` is `hub`, or a hub id."""
    hub_config: str = field(default="all", metadata=PRACTICAL)
    """The hub data set's configuration."""
    train_splits: Annotated[list[Name], NOT_EMPTY] = field(
        default_factory=lambda: ["train-clean-100", "train-clean-360", "train-other-500"], metadata=PRACTICAL
    )
    """Splits of the source that are trained on, together. For `folder`, `.` is the folder itself."""
    search_set: FileName = "dev-clean"
    """Learning rates are chosen on it, and curves show it (paper, Figure 1)."""
    dev_sets: list[FileName] = field(default_factory=lambda: ["dev-other"])
    """Splits evaluated after training, besides `search_set`."""
    test_sets: list[FileName] = field(default_factory=lambda: ["test-clean", "test-other"])
    """Splits evaluated after training as test sets."""
    held_out_sets: list[FileName] = field(default_factory=list)
    """Evaluation sets that are no splits of the source: `set_sizes` utterances each of `train_splits`, by a fixed
    shuffle. Their speakers may also be in training."""
    split_names: dict[str, Name] = field(default_factory=dict, metadata=PRACTICAL)
    """Set -> the source's name for it, if different, e.g. `{dev-clean: validation.clean}`."""
    train_size: PositiveInt = 281241
    """Training utterances of the source without `held_out_sets`, before any is left out; checked."""
    limit: PositiveInt | None = None
    """Train on this many utterances: the first of a fixed shuffle of those that are usable. None: on all."""
    epoch_size: PositiveInt | None = None
    """Training utterances that determine the updates per epoch; None: `train_size`. DeepLearningExamples counts those
    not longer than `max_seconds`. Needs `limit_before_speed`; checked."""
    set_sizes: dict[FileName, PositiveInt] = field(
        default_factory=lambda: {"dev-clean": 2703, "dev-other": 2864, "test-clean": 2620, "test-other": 2939}
    )
    """Utterances of each evaluation set; checked."""
    alphabet: str = " abcdefghijklmnopqrstuvwxyz'"
    """Letters in the order of the network's outputs. Transcripts are lower-cased; letters that are not in the alphabet
    lose their accents, ’ becomes ', dashes become spaces; any other character makes an utterance bad."""
    on_bad_utterance: Literal["error", "skip"] = "error"
    """`error`: a bad utterance ends the run. `skip`: it is left out, named in the log, and counted. Bad is a recording
    that is missing, cannot be read, or has another sample rate, more than one channel or samples that are not finite; a
    segment that does not lie within its recording; a transcript that is empty or has a character outside the alphabet;
    an id that occurs twice in a chapter; and a value of a wrong type in a manifest."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """How recordings become features."""
    pad_frames: PositiveInt = 16
    """Batches are padded to a multiple of this."""

    speeds: Annotated[list[PositiveFloat], NOT_EMPTY] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    """Speed perturbation by resampling, which moves the pitch; one draw per utterance and epoch."""
    sox_speed: bool = False
    """Meaning of a factor f of `speeds`. False: a recording becomes f times as long (OpenSeq2Seq resamples by f). True:
    it is played f times as fast and becomes 1 / f times as long (sox's `speed`, in DeepLearningExamples)."""
    max_seconds: PositiveFloat = 16.7
    """Longer training utterances are left out. Evaluation sets stay complete."""
    limit_before_speed: bool = False
    """Compare `max_seconds` with the original length of a recording, not with its length at the drawn speed."""
    frequency_masks: NonNegativeInt = 0
    """SpecAugment: bands of adjacent features set to 0 (the mean)."""
    frequency_mask_width: NonNegativeInt = 6
    """Adjacent Mel bands of a frequency mask; at most this many unless `fixed_mask_width`."""
    time_masks: NonNegativeInt = 0
    """SpecAugment: runs of adjacent frames set to 0 (the mean)."""
    time_mask_width: NonNegativeInt = 6
    """Frames."""
    fixed_mask_width: bool = False
    """Masks have exactly the given width, instead of a width drawn uniformly from 0 to it."""
    masks_over_padding: bool = False
    """True: time masks are placed within the padded length of the micro-batch, so that some fall on padding
    (DeepLearningExamples); False: within the utterance's own frames (OpenSeq2Seq)."""

    bucket_window: NonNegativeInt = 0
    """Utterances are sorted by length within windows of this many micro-batches before they are cut into micro-batches;
    0: not sorted (OpenSeq2Seq)."""
    keep_features: bool = field(default=False, metadata=PRACTICAL)
    """Compute the features of each utterance and speed once per machine and cache them. For small data; has no effect
    with `features_on: accelerator`."""
    features_on: Literal["cpu", "accelerator"] = "cpu"
    """Where features are computed: by the data loader, or on the device that trains."""
    tail: Literal["drop", "wrap"] = "wrap"
    """What happens to utterances that do not fill an optimizer batch: `wrap` fills it from the same epoch, as the
    paper's 9 updates per epoch at batch 32K imply."""
    evaluation_batch: PositiveInt = 32
    """Utterances per batch of an evaluation."""

    def updates_per_epoch(self, batch: int) -> int:
        samples = self.used_size if self.epoch_size is None else self.epoch_size
        return updates_per_epoch(samples, batch, self.tail)

    @property
    def sets(self) -> list[str]:
        """All evaluation sets, the search set first."""
        return [self.search_set, *self.dev_sets, *self.test_sets]


MODEL = SpeechModelConfig
DATA = SpeechDataConfig
BUILT_IN = "espeak"
"""The built-in source."""
SHIPPED: dict[str, tuple[str, ...]] = {
    "espeak-words": (),
    "an4": ("AN4", "an4"),
    "librispeech-960h": ("LibriSpeech", "librispeech-960h", "openslr/librispeech_asr"),
}
"""Data set of the shipped configs -> where it may come from (`data.path`); empty: it is built in."""


def validate(config: CellConfig) -> None:
    """Raise ConfigError if model and data do not match."""
    model, data = config.model, config.data
    for number, block in enumerate(model.blocks):
        if block.kernel % 2 == 0:
            raise ConfigError(f"'model.blocks[{number}].kernel' must be odd, not {block.kernel}.")
        if block.stride > 1 and (block.residual or block.repeat > 1):
            raise ConfigError(f"'model.blocks[{number}]': a stride needs repeat 1 and no residual.")
    if model.outputs != len(data.alphabet) + 1:
        raise ConfigError(
            f"'model.outputs' is {model.outputs}, but data.alphabet has {len(data.alphabet)} letters, and the blank is "
            f"another output. Set model.outputs={len(data.alphabet) + 1}."
        )
    if len(set(data.alphabet)) != len(data.alphabet) or " " not in data.alphabet:
        raise ConfigError("'data.alphabet' must have a space, and each letter only once.")
    if data.alphabet != unicodedata.normalize("NFC", data.alphabet.lower()):
        raise ConfigError(
            "'data.alphabet' must hold lower-case letters, each one character: transcripts are lower-cased."
        )
    _check_sets(data)
    if data.pad_frames % stride(model):
        raise ConfigError(
            f"'data.pad_frames' must be a multiple of the network's stride {stride(model)}, not {data.pad_frames}: "
            "otherwise the alignment of convolutions depends on the padding."
        )
    _check_features(data.features)
    if data.epoch_size is not None and not (data.limit_before_speed and data.epoch_size <= data.train_size):
        raise ConfigError(
            f"'data.epoch_size' {data.epoch_size} must be 1 to data.train_size {data.train_size}, and needs "
            "data.limit_before_speed=true: otherwise each epoch leaves out different utterances."
        )
    if data.epoch_size is not None and data.limit is not None:
        raise ConfigError(f"'data.limit' {data.limit} and data.epoch_size {data.epoch_size} are both set. Keep one.")
    if data.frequency_masks and data.frequency_mask_width > model.features:
        raise ConfigError(
            f"'data.frequency_mask_width' {data.frequency_mask_width} is more than model.features {model.features}."
        )
    if model.features > data.features.fft_samples // 2:
        raise ConfigError(
            f"'model.features' {model.features} Mel bands are too many for data.features.fft "
            f"{data.features.fft_samples}, whose spectrum has {data.features.fft_samples // 2} bins above 0 Hz. Lower "
            "model.features."
        )


def _check_sets(data: SpeechDataConfig) -> None:
    """Each set and split has one role: training or one evaluation set."""
    keys: dict[str, str] = {}
    splits = {name: f"data.train_splits[{place}]" for place, name in enumerate(data.train_splits)}
    if len(splits) < len(data.train_splits):
        twice = next(name for name in data.train_splits if data.train_splits.count(name) > 1)
        raise ConfigError(f"'data.train_splits' names '{twice}' twice. Name it once.")
    names_by_key = [("data.search_set", data.search_set)]
    for kind in ("dev_sets", "test_sets"):
        names_by_key += [(f"data.{kind}[{place}]", name) for place, name in enumerate(getattr(data, kind))]
    for key, name in names_by_key:
        if name == "train":
            raise ConfigError(
                f"'{key}': 'train' names the training set. Give the evaluation set another name and set "
                "data.split_names."
            )
        split = data.split_names.get(name, name)
        if name in keys:
            raise ConfigError(
                f"'{key}' {name} is also {keys[name]}. Give each set one role; data.split_names can rename it."
            )
        if split in splits and name not in data.held_out_sets:
            raise ConfigError(
                f"'{key}' {name} is the source's split '{split}', which is also {splits[split]}. Name another."
            )
        if name not in data.set_sizes:
            raise ConfigError(f"'data.set_sizes' has no '{name}'. Add data.set_sizes.{name}.")
        keys[name] = splits[split] = key
    for place, name in enumerate(data.held_out_sets):
        if name not in keys or data.held_out_sets.index(name) < place:
            raise ConfigError(
                f"'data.held_out_sets[{place}]' {name} must be one of the evaluation sets, and only once."
            )


def _check_features(features: FeatureConfig) -> None:
    rate, window, hop, fft = (
        features.sample_rate,
        features.window_samples,
        features.hop_samples,
        features.fft_samples,
    )
    if window > fft:
        raise ConfigError(
            f"'data.features': sample_rate {rate}, window {window}, hop {hop} and fft {fft} make no frames: fft "
            "must not be less than window. Set only sample_rate: the others follow from it."
        )
    if features.mel_top > rate / 2:
        raise ConfigError(
            f"'data.features.highest_hertz' is {features.mel_top:g}, but at sample_rate {rate} the spectrum ends at "
            f"{rate / 2:g} Hz. Set data.features.highest_hertz={rate / 2:g} or less."
        )


def stride(model: SpeechModelConfig) -> int:
    """Input frames per output frame."""
    product = 1
    for block in model.blocks:
        product *= block.stride
    return product


def relative_cost(config: Any) -> float:
    """Multiply-accumulates of a forward pass per input frame, from the config alone; for forecasts."""
    model: SpeechModelConfig = config.model
    total, share, channels = 0.0, 1.0, model.features
    dense: list[int] = []
    for block in model.blocks:
        share /= block.stride
        dense += [channels] if block.residual else []
        kernels = block.kernel * block.channels * (channels + (block.repeat - 1) * block.channels)
        total += share * (kernels + (sum(dense) * block.channels if block.residual else 0))
        channels = block.channels
    return total + share * channels * model.outputs
