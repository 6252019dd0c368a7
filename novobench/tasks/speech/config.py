"""The config fields of speech recognition. Imports no torch."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal

from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.tasks.sampling import updates_per_epoch

RECIPE_VERSION = 3

_PRACTICAL: dict[str, Any] = {"scientific": False}


@dataclass(frozen=True)
class Block:
    """`repeat` sub-blocks of convolution, batch norm, ReLU and dropout."""

    channels: int
    kernel: int
    """Frames; odd, so that a convolution keeps the length."""
    repeat: int = 1
    stride: int = 1
    dilation: int = 1
    dropout: float = 0.2
    residual: bool = False
    """Dense residual: the last sub-block adds the input of this block and of every residual block before it, each
    through a 1×1 convolution and batch norm of its own."""


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

    features: int = 64
    """Mel bands that come in."""
    outputs: int = 29
    """Letters of the alphabet and, last, the blank."""
    blocks: list[Block] = field(default_factory=_jasper_dr_10x5)
    init: Literal["xavier_normal", "xavier_uniform"] = "xavier_normal"
    """Of all convolutions but the last, which is Xavier uniform: normal in OpenSeq2Seq, cut off at two standard
    deviations as TensorFlow's contrib draws it; uniform in NeMo and DeepLearningExamples."""
    padding: Literal["same", "symmetric"] = "same"
    """Of the strided convolution: TensorFlow's SAME pads (4, 5) for kernel 11, DeepLearningExamples (5, 5)."""
    batch_norm_momentum: float = 0.1
    """PyTorch's convention; TensorFlow's 0.90 in the authors' code."""
    batch_norm_eps: float = 1e-3


@dataclass(frozen=True)
class FeatureConfig:
    """How recordings become log-Mel features; the defaults are OpenSeq2Seq's (speech_utils.py).

    DeepLearningExamples' (parts/features.py of its first release) differ in `peak_normalize`, `sample_std` and
    `whole_hops`. Its TOML asks for `trim_silence` too, but its train.py never passes that on.
    """

    sample_rate: int = 16000
    """Samples a second of the recordings."""
    window: int | None = None
    """Samples of a frame, Hann window; None: 20 ms, 320 at 16 kHz."""
    hop: int | None = None
    """Samples from frame to frame; None: 10 ms, 160 at 16 kHz."""
    fft: int | None = None
    """Samples of the Fourier transform; None: the power of two that holds a window, 512 at 16 kHz."""
    highest_hertz: float | None = None
    """Upper end of the Mel scale (Slaney's), which starts at 0; None: 8000, or half the sample rate where that is
    less."""
    peak_normalize: bool = True
    """Divide by the largest absolute sample, before the speed is changed."""
    dither: float = 1e-5
    """Standard deviation of noise added to the samples. Drawn once an utterance, so that features can be kept."""
    preemphasis: float = 0.97
    sample_std: bool = False
    """Features are normalised by the standard deviation over n - 1 frames plus 1e-5, instead of over n."""
    trim_silence: bool = False
    """Cut what is 60 dB below the loudest frame off both ends, in training and evaluation."""
    whole_hops: bool = False
    """S samples have ceil(S / hop) frames, as in DeepLearningExamples, instead of 1 + floor(S / hop): a frame centred
    where the recording ends does not count, neither in mean and deviation nor for the network."""

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
class SpeechDataConfig:
    """Where utterances come from, how many there are, and what is done to them.

    The defaults are OpenSeq2Seq's; DeepLearningExamples' differ in the masks, in `sox_speed`, `limit_before_speed` and
    `epoch_size`.
    """

    source: Literal["espeak", "librispeech", "manifest", "hub"] = field(default="librispeech", metadata=_PRACTICAL)
    """`espeak`: the built-in corpus; `librispeech`: trees of recordings and trans.txt; `manifest`: NeMo's JSON lines;
    `hub`: a Hugging Face data set."""
    name: str = "librispeech-960h"
    """Identity of the data: the same recordings from another source are the same data."""
    path: str = field(default="", metadata=_PRACTICAL)
    """Folder under the data root, or hub id, or folder of parquet files."""
    hub_config: str = field(default="all", metadata=_PRACTICAL)
    """The hub data set's configuration."""
    train_splits: list[str] = field(
        default_factory=lambda: ["train-clean-100", "train-clean-360", "train-other-500"], metadata=_PRACTICAL
    )
    search_set: str = "dev-clean"
    """Chooses rates and gives the curves (paper, Figure 1)."""
    dev_sets: list[str] = field(default_factory=lambda: ["dev-other"])
    test_sets: list[str] = field(default_factory=lambda: ["test-clean", "test-other"])
    split_names: dict[str, str] = field(default_factory=dict, metadata=_PRACTICAL)
    """Set -> the source's name of it where that is another, e.g. `{dev-clean: validation.clean}`."""
    train_size: int = 281241
    """Training utterances as found, before any is left out; checked."""
    epoch_size: int | None = None
    """Training utterances from which an epoch's updates are counted; None: `train_size`. DeepLearningExamples counts
    those not longer than `max_seconds`. Needs `limit_before_speed`; checked."""
    set_sizes: dict[str, int] = field(
        default_factory=lambda: {"dev-clean": 2703, "dev-other": 2864, "test-clean": 2620, "test-other": 2939}
    )
    """Utterances of each evaluation set; checked."""
    alphabet: str = " abcdefghijklmnopqrstuvwxyz'"
    """Letters in the order of the network's outputs. Transcripts are lower-cased; letters that are not here lose their
    accents, ’ becomes ', dashes become spaces; what is still not here makes an utterance bad."""
    on_bad_utterance: Literal["error", "skip"] = "error"
    """A recording that is missing, cannot be read, has another sample rate, more than one channel or samples that are
    not finite, a segment that is no part of its recording, and a transcript that is empty or has a sign outside the
    alphabet, end the run, or are left out, named in the log and counted."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    pad_frames: int = 16
    """Batches are padded to a multiple of this."""

    speeds: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    """Speed perturbation by resampling, which moves the pitch; one draw per utterance and epoch."""
    sox_speed: bool = False
    """What a factor f of `speeds` means. False: a recording becomes f times as long (OpenSeq2Seq resamples by f). True:
    it is played f times as fast and becomes 1 / f times as long (sox's `speed`, in DeepLearningExamples)."""
    max_seconds: float = 16.7
    """Longer training utterances are left out; nothing of an evaluation set is."""
    limit_before_speed: bool = False
    """`max_seconds` is compared with the recording's own length, not with what the draw made of it."""
    frequency_masks: int = 0
    """SpecAugment: bands of neighbouring features set to 0 (the mean)."""
    frequency_mask_width: int = 6
    time_masks: int = 0
    time_mask_width: int = 6
    """Frames."""
    fixed_mask_width: bool = False
    """Masks are exactly as wide as said, instead of uniformly 0 to that."""
    masks_over_padding: bool = False
    """Time masks are placed within the micro-batch's padded length, as in DeepLearningExamples, so that some fall on
    padding; False: within the utterance's own frames (OpenSeq2Seq)."""

    bucket_window: int = 0
    """Micro-batches over which utterances are sorted by length before they are cut into micro-batches; 0: as they come
    (OpenSeq2Seq)."""
    keep_features: bool = field(default=False, metadata=_PRACTICAL)
    """Compute the features of each utterance and speed once a machine and keep them in the cache. For small data; with
    `features_on: accelerator` there is nothing to keep."""
    features_on: Literal["cpu", "accelerator"] = "cpu"
    """Where features are computed: by the data loader, or by the training's device."""
    tail: Literal["drop", "wrap"] = "wrap"
    """What becomes of utterances that do not fill an optimizer batch: `wrap` fills it from the same epoch, as the
    paper's 9 updates an epoch at batch 32K imply."""
    evaluation_batch: int = 32

    def updates_per_epoch(self, batch: int) -> int:
        return updates_per_epoch(self.train_size if self.epoch_size is None else self.epoch_size, batch, self.tail)

    @property
    def sets(self) -> list[str]:
        """All evaluation sets, the searched one first."""
        return [self.search_set, *self.dev_sets, *self.test_sets]


MODEL = SpeechModelConfig
DATA = SpeechDataConfig
BUILT_IN = "espeak"
"""The source that needs no files."""
SHIPPED: dict[str, tuple[str, ...]] = {
    "espeak-words": (),
    "an4": ("AN4", "an4"),
    "librispeech-960h": ("LibriSpeech", "librispeech-960h", "openslr/librispeech_asr"),
}
"""Data sets that the shipped configs train on -> where they may come from (`data.path`); none: built in."""


def validate(config: CellConfig) -> None:
    """Raise ConfigError where model and data do not fit each other."""
    model, data = config.model, config.data
    if not model.blocks:
        raise ConfigError("'model.blocks' is empty.")
    for number, block in enumerate(model.blocks):
        if block.kernel % 2 == 0 or min(block.channels, block.repeat, block.stride, block.dilation) < 1:
            raise ConfigError(
                f"'model.blocks[{number}]': kernel must be odd, and channels, repeat, stride and dilation 1 or more."
            )
        if not 0 <= block.dropout < 1:
            raise ConfigError(f"'model.blocks[{number}].dropout' must be 0 or more and below 1, not {block.dropout}.")
        if block.stride > 1 and (block.residual or block.repeat > 1):
            raise ConfigError(f"'model.blocks[{number}]': only a single sub-block without residual can have a stride.")
    if model.outputs != len(data.alphabet) + 1:
        raise ConfigError(
            f"'model.outputs' is {model.outputs}, but data.alphabet has {len(data.alphabet)} letters and the blank is "
            f"one more. Set model.outputs={len(data.alphabet) + 1}."
        )
    if len(set(data.alphabet)) != len(data.alphabet) or " " not in data.alphabet:
        raise ConfigError("'data.alphabet' must hold the space, and each letter once.")
    if data.alphabet != unicodedata.normalize("NFC", data.alphabet.lower()):
        raise ConfigError(
            "'data.alphabet' must hold lower-case letters, each one character: transcripts are lower-cased."
        )
    if "train" in data.sets:
        raise ConfigError(
            "'train' names the training set. Give the evaluation set another name and set data.split_names."
        )
    if data.pad_frames % stride(model):
        raise ConfigError(
            f"'data.pad_frames' {data.pad_frames} is no multiple of the network's stride {stride(model)}: where a "
            "convolution starts would depend on the padding."
        )
    _check_features(data.features)
    if data.epoch_size is not None and not (data.limit_before_speed and 0 < data.epoch_size <= data.train_size):
        raise ConfigError(
            f"'data.epoch_size' {data.epoch_size} must be 1 to data.train_size {data.train_size}, and needs "
            "data.limit_before_speed=true: otherwise each epoch leaves out others."
        )
    if not data.speeds or min(data.speeds) <= 0:
        raise ConfigError("'data.speeds' must hold one or more factors above 0, e.g. [1.0].")
    missing = [name for name in data.sets if name not in data.set_sizes]
    if missing:
        raise ConfigError(f"'data.set_sizes' says nothing of '{missing[0]}'.")


def _check_features(features: FeatureConfig) -> None:
    rate, window, hop, fft = (
        features.sample_rate,
        features.window_samples,
        features.hop_samples,
        features.fft_samples,
    )
    if rate < 100 or hop < 1 or not 2 <= window <= fft:
        raise ConfigError(
            f"'data.features': sample_rate {rate}, window {window}, hop {hop} and fft {fft} make no frames. Needed are "
            "sample_rate >= 100, hop >= 1 and 2 <= window <= fft. Set sample_rate alone: the others follow it."
        )
    if not 0 < features.mel_top <= rate / 2:
        raise ConfigError(
            f"'data.features.highest_hertz' is {features.mel_top:g}, but at sample_rate {rate} nothing above "
            f"{rate / 2:g} Hz can be heard. Set data.features.highest_hertz={rate / 2:g} or less."
        )


def stride(model: SpeechModelConfig) -> int:
    """Frames that come in for one that goes out."""
    product = 1
    for block in model.blocks:
        product *= block.stride
    return product


def relative_cost(config: Any) -> float:
    """Multiply-accumulates of a forward pass for each frame that comes in, from numbers alone; for forecasts."""
    model: SpeechModelConfig = config.model
    total, share, channels = 0.0, 1.0, model.features
    entered: list[int] = []
    for block in model.blocks:
        share /= block.stride
        entered += [channels] if block.residual else []
        kernels = block.kernel * block.channels * (channels + (block.repeat - 1) * block.channels)
        total += share * (kernels + (sum(entered) * block.channels if block.residual else 0))
        channels = block.channels
    return total + share * channels * model.outputs
