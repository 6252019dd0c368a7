"""From a recording to what Jasper hears: speed perturbation, silence, log-Mel features, SpecAugment.

S samples, F Mel bands, T frames.

Two variants of the features exist, OpenSeq2Seq's (speech_utils.py) and DeepLearningExamples' (common/features.py);
`FeatureConfig` has a switch for each difference.
"""

from __future__ import annotations

from functools import partial
from math import gcd

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from novobench.tasks.sampling import derive_seed
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig

_QUIET_DB = 60.0
_QUIET_FRAME, _QUIET_HOP = 2048, 512
"""librosa's `effects.trim`: how far below the loudest frame silence begins, and its frames in samples."""
_LOG_FLOOR = 1e-20
_ADDED_STD = 1e-5
"""DeepLearningExamples adds it to each deviation."""
_LEAST_STD = 1e-10
"""OpenSeq2Seq adds nothing; a feature that never changes would be 0 / 0 there."""


class LogMel(nn.Module):
    """Samples [S] to normalised log-Mel features [F, 1 + S // hop], each feature with mean 0 and deviation 1."""

    def __init__(self, config: FeatureConfig, bands: int) -> None:
        super().__init__()
        self.config = config
        self.preemphasis = torchaudio.transforms.Preemphasis(config.preemphasis)
        self.spectrogram = torchaudio.transforms.Spectrogram(
            config.fft, config.window, config.hop, window_fn=partial(torch.hann_window, periodic=False)
        )
        self.mel = torchaudio.transforms.MelScale(
            bands, config.sample_rate, 0.0, config.highest_hertz, config.fft // 2 + 1, norm="slaney", mel_scale="slaney"
        )

    @torch.no_grad()
    def forward(self, samples: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):  # 16 bits are too few for powers
            features = torch.log(self.mel(self.spectrogram(self.preemphasis(samples))) + _LOG_FLOOR)
        features -= features.mean(dim=1, keepdim=True)
        std = features.std(dim=1, keepdim=True, correction=int(self.config.sample_std))
        return features / (std + _ADDED_STD if self.config.sample_std else std.clamp_min(_LEAST_STD))


def shortest(config: FeatureConfig) -> int:
    """Samples that the centred Fourier transform needs: it mirrors half a window at both ends."""
    return config.fft // 2 + 1


def conditioned(samples: Tensor, config: FeatureConfig, speed: float, name: str) -> Tensor:
    """The recording as it goes into `LogMel`: trimmed, at another speed, scaled to its peak, with dither.

    The dither is a function of `name` and `speed`, so an utterance has the same features whenever it is asked for.
    """
    if config.trim_silence:
        samples = without_silence(samples)
    samples = at_speed(samples, config.sample_rate, speed)
    if config.peak_normalize:
        samples = samples / (samples.abs().max() + 1e-5)
    if config.dither:
        generator = torch.Generator().manual_seed(derive_seed("dither", name, str(speed)))
        samples = samples + config.dither * torch.randn(samples.shape, generator=generator)
    return samples


def at_speed(samples: Tensor, rate: int, speed: float) -> Tensor:
    """`speed` times as long, read at the same rate, by windowed-sinc resampling (resampy's `kaiser_best`)."""
    new = round(rate * speed)
    if new == rate:
        return samples
    divisor = gcd(rate, new)
    return torchaudio.functional.resample(
        samples,
        rate // divisor,
        new // divisor,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )


def without_silence(samples: Tensor) -> Tensor:
    """Without what is 60 dB below the loudest frame at both ends (librosa's `effects.trim` with `top_db` 60)."""
    padded = torch.nn.functional.pad(samples, (_QUIET_FRAME // 2, _QUIET_FRAME // 2))
    power = padded.unfold(0, _QUIET_FRAME, _QUIET_HOP).square().mean(dim=1)
    loud = torch.nonzero(power > power.max() * 10 ** (-_QUIET_DB / 10)).flatten()
    if not len(loud):
        return samples
    return samples[int(loud[0]) * _QUIET_HOP : (int(loud[-1]) + 1) * _QUIET_HOP]


def mask_draws(config: SpeechDataConfig) -> int:
    """Random numbers that `masked` uses up."""
    return 2 * (config.frequency_masks + config.time_masks)


def masked(features: Tensor, config: SpeechDataConfig, draws: np.ndarray) -> Tensor:
    """SpecAugment: some bands and some spans of frames of `features` [F, T] set to 0. `draws` are uniform in (0, 1)."""
    if not len(draws):
        return features
    features = features.clone()
    pairs = draws.reshape(-1, 2)
    for number, (wide, place) in enumerate(pairs):
        axis, limit = (
            (0, config.frequency_mask_width) if number < config.frequency_masks else (1, config.time_mask_width)
        )
        extent = features.shape[axis]
        width = min(extent, limit if config.fixed_mask_width else int(wide * (limit + 1)))
        start = int(place * (extent - width + 1))
        features.narrow(axis, start, width).zero_()
    return features
