"""From a recording to Jasper's input: speed perturbation, silence trimming, log-Mel features, SpecAugment.

S samples, F Mel bands, T frames.

There are two variants of the features, OpenSeq2Seq's (speech_utils.py) and DeepLearningExamples' (parts/features.py).
`FeatureConfig` and `SpeechDataConfig` have a switch for each difference.
"""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import TypeVar

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from novobench.tasks.sampling import derive_seed
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig

_Count = TypeVar("_Count", int, np.ndarray)

_PEAK_EPS = 1e-5 / 32768
"""OpenSeq2Seq adds 1e-5 to the peak of 16-bit samples, which are 32,768 times as large as ours."""
_SILENCE_DB = 60.0
_SILENCE_FRAME, _SILENCE_HOP = 2048, 512
"""librosa's `effects.trim`: how far below the loudest frame silence begins, and its frame and hop in samples."""
_LOG_FLOOR = 1e-20
_STD_EPS = 1e-5
"""DeepLearningExamples adds it to each standard deviation."""
_MIN_STD = 1e-10
"""OpenSeq2Seq adds nothing, so a constant feature would be 0 / 0 there."""


class LogMel(nn.Module):
    """Samples [S] to normalized log-Mel features [F, T], each feature with mean 0 and standard deviation 1.

    T is `frame_count(S)`.
    """

    def __init__(self, config: FeatureConfig, bands: int) -> None:
        super().__init__()
        self.config = config
        self.preemphasis = torchaudio.transforms.Preemphasis(config.preemphasis)
        self.spectrogram = torchaudio.transforms.Spectrogram(
            config.fft_samples,
            config.window_samples,
            config.hop_samples,
            window_fn=partial(torch.hann_window, periodic=False),
        )
        self.mel = torchaudio.transforms.MelScale(
            bands,
            config.sample_rate,
            0.0,
            config.mel_top,
            config.fft_samples // 2 + 1,
            norm="slaney",
            mel_scale="slaney",
        )

    @torch.no_grad()
    def forward(self, samples: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):  # 16-bit floats are too coarse for powers
            features = torch.log(self.mel(self.spectrogram(self.preemphasis(samples))) + _LOG_FLOOR)
        features = features[:, : frame_count(len(samples), self.config)]
        features -= features.mean(dim=1, keepdim=True)
        std = features.std(dim=1, keepdim=True, correction=int(self.config.sample_std))
        return features / (std + _STD_EPS if self.config.sample_std else std.clamp_min(_MIN_STD))


def frame_count(samples: _Count, config: FeatureConfig) -> _Count:
    """Frames of a recording of `samples` samples, T."""
    return -(-samples // config.hop_samples) if config.whole_hops else 1 + samples // config.hop_samples


def min_samples(config: FeatureConfig) -> int:
    """The fewest samples that have features: the centered Fourier transform mirrors half its size at both ends, and a
    standard deviation needs two frames."""
    return max(config.fft_samples // 2, config.hop_samples) + 1


def conditioned(samples: Tensor, data: SpeechDataConfig, speed: float, name: str) -> Tensor:
    """Samples as `LogMel` takes them: scaled to their peak, at `speed`, trimmed, with dither; float32 [S'].

    The dither is a function of `name` and `speed`, so an utterance always has the same features.
    """
    config = data.features
    if config.peak_normalize:
        samples = samples / (samples.abs().max() + _PEAK_EPS)
    samples = at_speed(samples, speed, data)
    if config.trim_silence:
        samples = without_silence(samples)
    if config.dither:
        generator = torch.Generator().manual_seed(derive_seed("dither", name, str(speed)))
        samples = samples + config.dither * torch.randn(samples.shape, generator=generator)
    return samples


def _rates(speed: float, data: SpeechDataConfig) -> tuple[int, int]:
    """The old and the new rate, in lowest terms: resampling from old to new gives the recording its `speed`."""
    rate, scaled = data.features.sample_rate, round(data.features.sample_rate * speed)
    divisor = gcd(rate, scaled)
    rates = rate // divisor, scaled // divisor
    return rates[::-1] if data.sox_speed else rates


def samples_at_speed(samples: _Count, speed: float, data: SpeechDataConfig) -> _Count:
    """Length at this speed: rounded down as in resampy, or with `sox_speed` to the nearest integer as in sox."""
    old, new = _rates(speed, data)
    return (2 * samples * new + old) // (2 * old) if data.sox_speed else samples * new // old


def at_speed(samples: Tensor, speed: float, data: SpeechDataConfig) -> Tensor:
    """The recording at this speed (see `SpeechDataConfig.sox_speed`) by windowed-sinc resampling, resampy's
    `kaiser_best`."""
    old, new = _rates(speed, data)
    if old == new:
        return samples
    resampled = torchaudio.functional.resample(
        samples,
        old,
        new,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    return resampled[: samples_at_speed(len(samples), speed, data)]


def without_silence(samples: Tensor) -> Tensor:
    """Both ends trimmed where they are 60 dB below the loudest frame (librosa's `effects.trim` with `top_db` 60)."""
    padded = torch.nn.functional.pad(samples, (_SILENCE_FRAME // 2, _SILENCE_FRAME // 2))
    power = padded.unfold(0, _SILENCE_FRAME, _SILENCE_HOP).square().mean(dim=1)
    loud = torch.nonzero(power > power.max() * 10 ** (-_SILENCE_DB / 10)).flatten()
    if not len(loud):
        return samples
    return samples[int(loud[0]) * _SILENCE_HOP : (int(loud[-1]) + 1) * _SILENCE_HOP]


def mask_draws(config: SpeechDataConfig) -> int:
    """Random numbers that `masked` consumes."""
    return 2 * (config.frequency_masks + config.time_masks)


def masked(features: Tensor, config: SpeechDataConfig, draws: np.ndarray, frames: int | None = None) -> Tensor:
    """SpecAugment: `features` [F, T] with some bands and some spans of frames set to 0.

    `draws` are `mask_draws` uniform numbers in (0, 1); empty: no masks. Time masks are placed within the first `frames`
    frames (default: all). A mask of width w in an extent of n starts at one of the first n - w places, never at the
    last possible one, as in both implementations.
    """
    if not len(draws):
        return features
    features = features.clone()
    for number, (width_draw, start_draw) in enumerate(draws.reshape(-1, 2)):
        in_time = number >= config.frequency_masks
        limit = config.time_mask_width if in_time else config.frequency_mask_width
        extent = frames if in_time and frames is not None else features.shape[int(in_time)]
        width = min(extent, limit if config.fixed_mask_width else int(width_draw * (limit + 1)))
        start = int(start_draw * (extent - width))
        span = slice(start, start + width)
        features[(slice(None), span) if in_time else span] = 0
    return features
