"""Features against an independent computation in NumPy, silence against librosa's rule written out as a loop."""

import dataclasses
import math
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch

from novobench.errors import ConfigError
from novobench.suite.experiment import load_experiment
from novobench.suite.plan import plan
from novobench.tasks.sampling import SampleKey, uniforms
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.features import LogMel, at_speed, conditioned, mask_draws, masked, without_silence
from tests.tasks.speech.small import (
    RATE,
    small,
)


def mel_scale(hertz):
    """Slaney's: linear to 1,000 Hz with 3 mel for 200 Hz, then 27 mel for each factor of 6.4."""
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000) / np.log(6.4))


def hertz_scale(mel):
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def filters(rate, size, bands, high):
    """Triangles between neighbours on the Mel scale, each with area 1 (librosa's norm "slaney"), [bands, bins]."""
    edges = hertz_scale(np.linspace(mel_scale(np.array(0.0)), mel_scale(np.array(high)), bands + 2))
    bins = np.arange(size // 2 + 1) * rate / size
    actual = np.zeros((bands, len(bins)))
    for band in range(bands):
        low, middle, top = edges[band : band + 3]
        rising, falling = (bins - low) / (middle - low), (top - bins) / (top - middle)
        actual[band] = np.maximum(0, np.minimum(rising, falling)) * 2 / (top - low)
    return actual


def by_hand(samples, config, bands):
    emphasised = np.append(samples[0], samples[1:] - config.preemphasis * samples[:-1])
    half = config.fft_samples // 2
    mirrored = np.concatenate([emphasised[half:0:-1], emphasised, emphasised[-2 : -half - 2 : -1]])
    window = np.zeros(config.fft_samples)
    start = (config.fft_samples - config.window_samples) // 2
    window[start : start + config.window_samples] = np.hanning(config.window_samples)
    count = 1 + len(samples) // config.hop_samples
    if config.whole_hops:
        count = math.ceil(len(samples) / config.hop_samples)  # parts/features.py, get_seq_len; the others are set to 0
    frames = np.stack(
        [mirrored[t * config.hop_samples : t * config.hop_samples + config.fft_samples] * window for t in range(count)]
    )
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mel = np.log(filters(config.sample_rate, config.fft_samples, bands, config.mel_top) @ power.T + 1e-20)
    mean = mel.mean(axis=1, keepdims=True)
    if config.sample_std:
        return (mel - mean) / (mel.std(axis=1, ddof=1, keepdims=True) + 1e-5)
    return (mel - mean) / mel.std(axis=1, keepdims=True)


def sweep(count, rate):
    """A tone that rises from 300 Hz, over a little noise."""
    time = np.arange(count) / rate
    noise = 0.01 * np.random.default_rng(0).standard_normal(count)
    return np.sin(2 * np.pi * (300 + 900 * time) * time) * np.hanning(count) + noise


@pytest.mark.parametrize("dle", [False, True], ids=["OpenSeq2Seq", "DeepLearningExamples"])
@pytest.mark.parametrize(("rate", "window", "hop"), [(16000, 320, 160), (22050, 441, 220), (8000, 160, 80)])
@pytest.mark.parametrize("whole", [True, False], ids=["whole hops", "part of a hop"])
def test_log_mel_features_are_the_definition(rate, window, hop, dle, whole):
    config = FeatureConfig(sample_rate=rate, window=window, hop=hop, sample_std=dle, whole_hops=dle)
    count = 50 * hop if whole else 50 * hop + 7
    samples = sweep(count, rate)
    actual = LogMel(config, 64).double()(torch.from_numpy(samples))
    expected = by_hand(samples, config, 64)
    assert actual.shape == expected.shape == (64, 50 if dle and whole else 51)
    rounding = 1e-3 if rate < 16000 else 1e-4  # the filters are float32, and narrow at a low rate
    np.testing.assert_allclose(actual.numpy(), expected, rtol=rounding, atol=rounding)
    single = LogMel(config, 64)(torch.from_numpy(samples.astype(np.float32)))
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=5e-3)


def test_windows_follow_the_sample_rate():
    """20 and 10 ms, the transform the power of two above, the Mel scale up to 8 kHz or half the rate."""
    configs = {rate: FeatureConfig(sample_rate=rate) for rate in (8000, 16000, 22050, 44100)}
    sizes = {rate: (f.window_samples, f.hop_samples, f.fft_samples, f.mel_top) for rate, f in configs.items()}
    assert sizes == {
        8000: (160, 80, 256, 4000.0),
        16000: (320, 160, 512, 8000.0),
        22050: (441, 220, 512, 8000.0),
        44100: (882, 441, 1024, 8000.0),
    }


@pytest.mark.parametrize(
    ("features", "told"),
    [
        (
            {"sample_rate": 8000, "highest_hertz": 8000.0},
            "highest_hertz' is 8000, but at sample_rate 8000 the spectrum ends at 4000 Hz",
        ),
        ({"highest_hertz": 0.0}, "highest_hertz' must be above 0"),
        ({"window": 600, "fft": 512}, "window 600, hop 160 and fft 512 make no frames"),
        ({"hop": 0}, "hop' must be 1 or more, not 0"),
        ({"sample_rate": 0}, "sample_rate' must be 100 or more, not 0"),
    ],
)
def test_impossible_feature_settings_are_refused(features, told):
    with pytest.raises(ConfigError, match=told):
        small(**{f"data__features__{key}": value for key, value in features.items()})


def test_table_5_has_the_features_of_deep_learning_examples_first_release():
    """Its jasper10x5dr_sp_offline_specaugment.toml as its code reads it: per-feature means and deviations over
    ceil(S / 160) frames, no scaling to the peak, and no trimming, because train.py never passes trim_silence on."""
    for cell in plan([load_experiment("table5")], "full", [0]).cells:
        data = cell.config.data
        assert not data.features.trim_silence
        quiet = dataclasses.replace(data, features=dataclasses.replace(data.features, dither=0.0))
        for count in (16000, 16001, 16159):
            samples = np.concatenate([np.zeros(3200), sweep(count - 3200, 16000) / 3])
            heard = conditioned(torch.from_numpy(samples), quiet, 1.0, "an utterance")
            assert np.array_equal(heard.numpy(), samples)
            expected = by_hand(samples + 1e-6 * sweep(count, 16000), data.features, 64)
            actual = LogMel(data.features, 64).double()(heard + 1e-6 * torch.from_numpy(sweep(count, 16000)))
            assert actual.shape == expected.shape == (64, {16000: 100, 16001: 101, 16159: 101}[count])
            np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_peak_is_taken_before_the_speed_is_changed():
    """speech_utils.py: normalize_signal, then augment_audio_signal."""
    loud = torch.zeros(4000)
    loud[2000] = 0.5  # resampled to 0.9 of its length, a click becomes lower
    data = SpeechDataConfig(features=FeatureConfig(dither=0.0))
    heard = conditioned(loud, data, 0.9, "a click")
    assert float(heard.abs().max()) < 0.95
    torch.testing.assert_close(heard, at_speed(loud * 2, 0.9, data), rtol=1e-6, atol=1e-8)


def test_digital_silence_gives_finite_features():
    config = FeatureConfig()
    samples = torch.zeros(4000)
    samples[1000:2000] = torch.sin(torch.arange(1000) * 0.3)
    heard = conditioned(samples, SpeechDataConfig(), 1.0, "an utterance")
    assert float(heard[:900].std()) == pytest.approx(1e-5, rel=0.1)  # the dither
    assert float(heard.abs().max()) == pytest.approx(1.0, abs=1e-3)  # scaled to its peak
    assert torch.isfinite(LogMel(config, 64)(heard)).all()
    assert torch.isfinite(LogMel(config, 64)(samples)).all()


def test_dither_belongs_to_the_utterance():
    config, samples = SpeechDataConfig(), torch.sin(torch.arange(1000.0))
    assert torch.equal(conditioned(samples, config, 1.0, "a"), conditioned(samples, config, 1.0, "a"))
    assert not torch.equal(conditioned(samples, config, 1.0, "a"), conditioned(samples, config, 1.0, "b"))
    plain = SpeechDataConfig(features=FeatureConfig(dither=0.0, peak_normalize=False))
    assert torch.equal(conditioned(samples, plain, 1.0, "a"), samples)


def trimmed_by_hand(samples):
    """Frames of 2,048 samples, centered, 512 apart; loud means at most 60 dB below the loudest root mean square."""
    padded = np.concatenate([np.zeros(1024), samples, np.zeros(1024)])
    level = [np.sqrt(np.mean(padded[t : t + 2048] ** 2)) for t in range(0, len(padded) - 2047, 512)]
    loud = [t for t, rms in enumerate(level) if 20 * np.log10(max(rms, 1e-12) / max(level)) > -60]
    return samples[loud[0] * 512 : (loud[-1] + 1) * 512]


@pytest.mark.parametrize(("before", "after"), [(8000, 12000), (0, 5000), (3000, 0), (0, 0), (20000, 20000)])
def test_silence_is_trimmed_at_both_ends(before, after):
    draw = np.random.default_rng(1)
    samples = 1e-5 * draw.standard_normal(before + 6000 + after)
    samples[before : before + 6000] += np.sin(np.arange(6000) * 0.1)
    actual = without_silence(torch.from_numpy(samples)).numpy()
    np.testing.assert_array_equal(actual, trimmed_by_hand(samples))
    assert len(actual) >= 6000 - 512
    assert len(actual) <= 6000 + 4096


def test_pure_silence_stays():
    assert len(without_silence(torch.zeros(5000))) == 5000


def test_no_masks_leave_features_alone():
    features = torch.ones(4, 4)
    assert masked(features, SpeechDataConfig(), np.empty(0)) is features


# ------------------------------------------------------------------------------------ speeds


def played(samples: torch.Tensor, speed: float, sox: bool = False) -> torch.Tensor:
    return at_speed(samples, speed, SpeechDataConfig(sox_speed=sox))


@pytest.mark.parametrize("sox", [False, True], ids=["resampled", "sox"])
@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_is_resampling_and_moves_the_pitch(speed, sox):
    """A factor f makes a recording f times as long and divides its frequencies by f; sox's `speed` does the reverse."""
    seconds, hertz = 2.0, 1000.0
    longer = 1 / speed if sox else speed
    time = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    sine = torch.sin(2 * torch.pi * hertz * time).float()
    heard = played(sine, speed, sox)
    assert len(heard) == {0.9: 35556, 1.0: 32000, 1.1: 29091}[speed] if sox else round(seconds * RATE * speed)
    inside = heard[1000:-1000]
    spectrum = np.abs(np.fft.rfft(inside.numpy() * np.hanning(len(inside)), 2**18))
    assert spectrum.argmax() * RATE / 2**18 == pytest.approx(hertz / longer, abs=0.1)
    expected = torch.sin(2 * torch.pi * hertz / longer * torch.arange(len(heard), dtype=torch.float64) / RATE)
    assert (inside - expected[1000:-1000]).abs().max() < 1e-3


def test_lengths_are_resampys_and_soxs():
    """resampy rounds down, sox rounds to the nearest sample."""
    for count in range(3000, 3100):
        for speed, tenths in ((0.9, 9), (1.1, 11)):
            assert len(played(torch.zeros(count), speed)) == count * tenths // 10
            exact = Fraction(count * 10, tenths)
            assert len(played(torch.zeros(count), speed, sox=True)) == floor(exact + Fraction(1, 2))


@pytest.mark.parametrize(("speed", "sox"), [(0.9, False), (1.1, True)])
def test_frequencies_above_the_new_rate_are_filtered_out(speed, sox):
    """With fewer samples per second a tone of 7.9 kHz would be aliased."""
    time = torch.arange(2 * RATE, dtype=torch.float64) / RATE
    heard = played(torch.sin(2 * torch.pi * 7900 * time).float(), speed, sox)
    assert heard[1000:-1000].abs().max() < 1e-3


# ------------------------------------------------------------------------------------ SpecAugment


def mask(data: SpeechDataConfig, draws, bands=20, frames=50) -> np.ndarray:
    """True where ones became zeros, bool [F, T]."""
    ones = torch.ones(bands, frames)
    actual = masked(ones, data, np.array(draws))
    assert ones.all()
    assert set(actual.unique().tolist()) <= {0.0, 1.0}
    return actual.numpy() == 0


def draw(count: int, numbers: int) -> np.ndarray:
    return uniforms(0, "test", [SampleKey(0, i) for i in range(count)], numbers)


@pytest.mark.parametrize("axis", ["frequency", "time"])
def test_fixed_widths_are_exact(axis):
    data = SpeechDataConfig(fixed_mask_width=True, **{f"{axis}_masks": 1, f"{axis}_mask_width": 6})
    starts = set()
    for numbers in draw(300, 2):
        actual = mask(data, numbers) if axis == "frequency" else mask(data, numbers).T
        places = np.flatnonzero(actual.any(axis=1))
        assert actual[places].all()
        assert len(places) == 6 == places[-1] - places[0] + 1
        starts.add(int(places[0]))
    extent = 20 if axis == "frequency" else 50
    assert {min(starts), max(starts)} == {0, extent - 7}  # random.uniform(0, extent - 6), truncated to an integer


@pytest.mark.parametrize("axis", ["frequency", "time"])
def test_random_widths_are_uniform_from_nothing_to_the_limit(axis):
    data = SpeechDataConfig(**{f"{axis}_masks": 1, f"{axis}_mask_width": 4})
    actual = [mask(data, numbers) for numbers in draw(1000, 2)]
    widths = [int((m.any(axis=1) if axis == "frequency" else m.any(axis=0)).sum()) for m in actual]
    shares = np.bincount(widths, minlength=5) / len(widths)
    assert len(shares) == 5
    assert shares == pytest.approx(np.full(5, 0.2), abs=0.055)  # 4 standard deviations


def test_masks_of_both_kinds_add_up():
    data = SpeechDataConfig(frequency_masks=2, time_masks=2, fixed_mask_width=True)
    assert mask_draws(data) == 8
    for numbers in draw(50, 8):
        actual = mask(data, numbers)
        bands, frames = actual.all(axis=1), actual.all(axis=0)
        assert 6 <= bands.sum() <= 12
        assert 6 <= frames.sum() <= 12
        assert np.array_equal(actual, bands[:, None] | frames[None, :])


def test_a_mask_wider_than_the_features_takes_all():
    assert mask(SpeechDataConfig(time_masks=1, fixed_mask_width=True), [0.5, 0.5], frames=4).all()
