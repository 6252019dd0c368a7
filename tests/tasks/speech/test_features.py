"""Features against an independent computation in NumPy, silence against librosa's rule written out as a loop."""

import numpy as np
import pytest
import torch

from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.features import LogMel, conditioned, masked, without_silence


def mel_scale(hertz):
    """Slaney's: linear to 1,000 Hz with 3 mel for 200 Hz, then 27 mel for each factor of 6.4."""
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000) / np.log(6.4))


def hertz_scale(mel):
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def filters(rate, size, bands, high):
    """Triangles between neighbours on the Mel scale, each with area 1 (librosa's norm "slaney"), [bands, bins]."""
    edges = hertz_scale(np.linspace(mel_scale(np.array(0.0)), mel_scale(np.array(high)), bands + 2))
    bins = np.arange(size // 2 + 1) * rate / size
    found = np.zeros((bands, len(bins)))
    for band in range(bands):
        low, middle, top = edges[band : band + 3]
        rising, falling = (bins - low) / (middle - low), (top - bins) / (top - middle)
        found[band] = np.maximum(0, np.minimum(rising, falling)) * 2 / (top - low)
    return found


def by_hand(samples, config, bands):
    emphasised = np.append(samples[0], samples[1:] - config.preemphasis * samples[:-1])
    half = config.fft // 2
    mirrored = np.concatenate([emphasised[half:0:-1], emphasised, emphasised[-2 : -half - 2 : -1]])
    window = np.zeros(config.fft)
    start = (config.fft - config.window) // 2
    window[start : start + config.window] = np.hanning(config.window)
    count = 1 + len(samples) // config.hop
    frames = np.stack([mirrored[t * config.hop : t * config.hop + config.fft] * window for t in range(count)])
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mel = np.log(filters(config.sample_rate, config.fft, bands, config.highest_hertz) @ power.T + 1e-20)
    mean = mel.mean(axis=1, keepdims=True)
    if config.sample_std:
        return (mel - mean) / (mel.std(axis=1, ddof=1, keepdims=True) + 1e-5)
    return (mel - mean) / mel.std(axis=1, keepdims=True)


@pytest.mark.parametrize("sample_std", [False, True], ids=["OpenSeq2Seq", "DeepLearningExamples"])
@pytest.mark.parametrize(("rate", "window", "hop"), [(16000, 320, 160), (22050, 441, 220)])
def test_log_mel_features_are_the_definition(rate, window, hop, sample_std):
    config = FeatureConfig(sample_rate=rate, window=window, hop=hop, sample_std=sample_std)
    draw = np.random.default_rng(0)
    time = np.arange(9000) / rate
    samples = np.sin(2 * np.pi * (300 + 900 * time) * time) * np.hanning(9000) + 0.01 * draw.standard_normal(9000)
    found = LogMel(config, 64).double()(torch.from_numpy(samples))
    expected = by_hand(samples, config, 64)
    assert found.shape == expected.shape == (64, 1 + 9000 // hop)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    single = LogMel(config, 64)(torch.from_numpy(samples.astype(np.float32)))
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=5e-3)


def test_digital_silence_gives_finite_features():
    config = FeatureConfig()
    samples = torch.zeros(4000)
    samples[1000:2000] = torch.sin(torch.arange(1000) * 0.3)
    heard = conditioned(samples, config, 1.0, "an utterance")
    assert float(heard[:900].std()) == pytest.approx(1e-5, rel=0.1)  # the dither
    assert float(heard.abs().max()) == pytest.approx(1.0, abs=1e-3)  # scaled to its peak
    assert torch.isfinite(LogMel(config, 64)(heard)).all()
    assert torch.isfinite(LogMel(config, 64)(samples)).all()


def test_dither_belongs_to_the_utterance():
    config, samples = FeatureConfig(), torch.sin(torch.arange(1000.0))
    assert torch.equal(conditioned(samples, config, 1.0, "a"), conditioned(samples, config, 1.0, "a"))
    assert not torch.equal(conditioned(samples, config, 1.0, "a"), conditioned(samples, config, 1.0, "b"))
    plain = FeatureConfig(dither=0.0, peak_normalize=False)
    assert torch.equal(conditioned(samples, plain, 1.0, "a"), samples)


def trimmed_by_hand(samples):
    """Frames of 2,048 samples, centred, 512 apart; loud is above the loudest one's root mean square - 60 dB."""
    padded = np.concatenate([np.zeros(1024), samples, np.zeros(1024)])
    level = [np.sqrt(np.mean(padded[t : t + 2048] ** 2)) for t in range(0, len(padded) - 2047, 512)]
    loud = [t for t, rms in enumerate(level) if 20 * np.log10(max(rms, 1e-12) / max(level)) > -60]
    return samples[loud[0] * 512 : (loud[-1] + 1) * 512]


@pytest.mark.parametrize(("before", "after"), [(8000, 12000), (0, 5000), (3000, 0), (0, 0), (20000, 20000)])
def test_silence_is_trimmed_at_both_ends(before, after):
    draw = np.random.default_rng(1)
    samples = 1e-5 * draw.standard_normal(before + 6000 + after)
    samples[before : before + 6000] += np.sin(np.arange(6000) * 0.1)
    found = without_silence(torch.from_numpy(samples)).numpy()
    np.testing.assert_array_equal(found, trimmed_by_hand(samples))
    assert len(found) >= 6000 - 512
    assert len(found) <= 6000 + 4096


def test_pure_silence_stays():
    assert len(without_silence(torch.zeros(5000))) == 5000


def test_no_masks_leave_features_alone():
    features = torch.ones(4, 4)
    assert masked(features, SpeechDataConfig(), np.empty(0)) is features
