"""The spoken corpus: the same samples in every process, separate speakers, noise of the stated power, clear errors."""

import json
import logging
import os
import subprocess
import sys
import time
from importlib import metadata
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from novobench.errors import DataError
from novobench.tasks.speech import builtin
from novobench.tasks.speech.builtin import SAMPLE_RATE, SpokenSplit

pytest.importorskip("espeakng_loader")

SMALL = {"train": 60, "dev-clean": 12, "dev-other": 12, "test-clean": 16, "test-other": 16}


def fresh_corpus(sizes: dict[str, int]) -> dict[str, SpokenSplit]:
    """The corpus with these sizes, as a new process would get it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "SPLITS", sizes)
        builtin.corpus.cache_clear()
        try:
            return builtin.corpus()
        finally:
            builtin.corpus.cache_clear()


@pytest.fixture(scope="module")
def small() -> dict[str, SpokenSplit]:
    return fresh_corpus(SMALL)


@pytest.fixture(scope="module")
def variants() -> list[str]:
    """Names of espeak-ng's voices, read from the wheel."""
    import espeakng_loader

    return os.listdir(Path(espeakng_loader.get_data_path(), "voices", "!v"))


def elsewhere(code: str, cache: Path) -> str:
    """What `code` prints in a process and a cache of its own."""
    environment = {**os.environ, "NOVOBENCH_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def hashes_elsewhere(sizes: dict[str, int], cache: Path) -> dict[str, str]:
    code = (
        "import json; from novobench.tasks.speech import builtin\n"
        f"builtin.SPLITS = {sizes!r}\n"
        "print(json.dumps({name: split.sha256 for name, split in builtin.corpus().items()}))"
    )
    return json.loads(elsewhere(code, cache))


def utterances(split: SpokenSplit) -> list[np.ndarray]:
    return [split.audio[begin:end] for begin, end in zip(split.offsets[:-1], split.offsets[1:], strict=True)]


def test_every_build_makes_the_same_samples(small, tmp_path):
    assert hashes_elsewhere(SMALL, tmp_path) == {name: split.sha256 for name, split in small.items()}
    assert len({split.sha256 for split in small.values()}) == len(SMALL)


@pytest.mark.slow
def test_every_whole_build_makes_the_same_samples(tmp_path):
    splits = fresh_corpus(builtin.SPLITS)
    hashes = {name: split.sha256 for name, split in splits.items()}
    assert hashes_elsewhere(builtin.SPLITS, tmp_path) == hashes
    means = [len(split.audio) / SAMPLE_RATE / len(split.ids) for split in splits.values()]
    assert means == pytest.approx([0.95] * 5, abs=0.1)


def test_a_split_does_not_depend_on_the_others(small, tmp_path):
    builtin_ = [sys.executable, "-m", "novobench.tasks.speech.builtin"]
    subprocess.run([*builtin_, "test-other", str(SMALL["test-other"]), str(tmp_path)], check=True)
    assert json.loads((tmp_path / "test-other.json").read_text())["sha256"] == small["test-other"].sha256


def test_utterances_have_plausible_words_and_lengths(small):
    for name, split in small.items():
        assert split.ids == [f"{name}-{i:04d}" for i in range(SMALL[name])]
        assert split.audio.dtype == np.int16
        assert split.offsets.dtype == np.int64
        assert (split.offsets[0], split.offsets[-1]) == (0, len(split.audio))
        for text, samples in zip(split.texts, utterances(split), strict=True):
            words = text.split(" ")
            assert 2 <= len(words) <= 4
            assert set(words) <= set(builtin._WORDS)
            assert 0.3 <= len(samples) / SAMPLE_RATE <= 4
            # A sum that wraps around int16 jumps by nearly 65,536 from one sample to the next.
            assert np.abs(np.diff(samples.astype(int))).max() < 50_000
    assert len(set(builtin._WORDS)) == 32


def test_sounds_like_speech(small):
    """Longer texts take longer, most power is below 4 kHz, and loudness comes and goes with the syllables."""
    samples, texts = utterances(small["train"]), small["train"].texts
    letters = [len(text) for text in texts]
    assert np.corrcoef(letters, [len(one) for one in samples])[0, 1] > 0.7
    for one in samples:
        power = np.abs(np.fft.rfft(one.astype(float))) ** 2
        frequency = np.fft.rfftfreq(len(one), 1 / SAMPLE_RATE)
        assert power[frequency < 4000].sum() > 0.7 * power.sum()
        frames = one[: len(one) // 441 * 441].reshape(-1, 441).astype(float)  # of 20 ms
        loudness = np.sqrt(np.square(frames).mean(axis=1))
        assert loudness.max() > 1.5 * loudness.mean()


def test_noise_has_the_stated_power(small, variants, tmp_path):
    """Compared with the same split spoken without noise."""
    code = (
        "from pathlib import Path; from novobench.tasks.speech import builtin\n"
        "builtin.noisy = lambda speech, snr_db, noise: speech\n"
        f"builtin.speak_split('dev-other', {SMALL['dev-other']}, Path({str(tmp_path)!r}))"
    )
    elsewhere(code, tmp_path)
    quiet = builtin._open(tmp_path, "dev-other")
    script = builtin.script("dev-other", SMALL["dev-other"], builtin.assign_voices(variants)["dev"])
    assert quiet.texts == small["dev-other"].texts == [utterance.text for utterance in script]
    for utterance, speech, mixed in zip(script, utterances(quiet), utterances(small["dev-other"]), strict=True):
        speech, mixed = speech.astype(float), mixed.astype(float)
        gain = speech @ mixed / (speech @ speech)  # below 1 where the sum was too loud for int16
        noise = mixed - gain * speech
        assert 10 * np.log10(np.square(gain * speech).sum() / np.square(noise).sum()) == pytest.approx(
            utterance.snr_db, abs=0.3
        )
        assert 15 <= utterance.snr_db <= 25
        assert 0.5 < gain < 1.01
        spectrum = np.abs(np.fft.rfft(noise)) ** 2
        low, high = np.array_split(spectrum, 2)
        assert low.mean() == pytest.approx(high.mean(), rel=0.15)  # white


def test_loud_speech_with_noise_does_not_wrap():
    speech = np.full(20_000, 32_767, dtype=np.int16)
    mixed = builtin.noisy(speech, 15.0, builtin.white_noise(1, 0, len(speech)))
    assert mixed.min() > 0
    assert mixed.max() == 32_767


def test_white_noise():
    noise = builtin.white_noise(3, 5, 200_000)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(0, abs=0.01)
    assert np.corrcoef(noise, builtin.white_noise(3, 6, 200_000))[0, 1] == pytest.approx(0, abs=0.01)


def test_speakers_are_kept_apart(variants):
    roles = builtin.assign_voices(variants)
    assert {role: len(voices) for role, voices in roles.items()} == {"train": 54, "dev": 22, "test": 17}
    families = {role: {voice.lower().rstrip("0123456789") for voice in voices} for role, voices in roles.items()}
    assert not families["train"] & families["dev"]
    assert not families["train"] & families["test"]
    assert not families["dev"] & families["test"]
    assert sorted([*chain(*roles.values()), *builtin._DROPPED]) == sorted(variants)
    assert {"Mike", "mike2"} <= set(roles["test"])


def test_clean_and_other_have_the_same_unseen_voices(variants):
    voices = builtin.assign_voices(variants)["test"]
    for split, slowest, fastest in (("test-clean", 170, 230), ("test-other", 150, 260)):
        script = builtin.script(split, 300, voices)
        assert {utterance.voice for utterance in script} == set(voices)
        rates = [utterance.rate for utterance in script]
        assert (min(rates), max(rates)) == pytest.approx((slowest, fastest), abs=2)
        assert all(slowest <= rate <= fastest for rate in rates)
        assert all((utterance.snr_db is None) == (split == "test-clean") for utterance in script)


def test_a_voice_that_the_wheel_lacks_is_reported(variants, tmp_path):
    with pytest.raises(DataError, match="espeak-ng has no voice Demonic, iven."):
        builtin.assign_voices([name for name in variants if name != "Demonic" and not name.startswith("iven")])
    code = (
        "from novobench.errors import DataError; from novobench.tasks.speech import builtin\n"
        "espeak = builtin.Espeak()\n"
        "try:\n    espeak.say(builtin.Utterance('one two', 'zarathustra', 200, 50, 50, None))\n"
        "except DataError as error:\n    print(error)"
    )
    assert "espeak-ng has no voice zarathustra" in elsewhere(code, tmp_path)


def test_without_the_wheel_one_line_says_what_to_install(monkeypatch):
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(DataError, match=r"pip install -e '\.\[espeak\]'") as raised:
        fresh_corpus(SMALL)
    assert "\n" not in str(raised.value)


def test_a_failed_process_is_reported_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match="could not speak the split train-loud of the built-in corpus: .*loud"
    ) as raised:
        fresh_corpus({"train-loud": 3})
    assert "\n" not in str(raised.value)
    assert [path.suffix for path in (tmp_path / "speech").iterdir()] == [".lock"]  # no partial corpus is kept


def test_other_samples_are_reported(small, caplog):
    with caplog.at_level(logging.WARNING):
        fresh_corpus(SMALL)
    assert "differ from the reference" in caplog.text


def test_the_speaking_process_needs_no_torch(tmp_path):
    code = "import sys; from novobench.tasks.speech import builtin; print('torch' in sys.modules)"
    assert elsewhere(code, tmp_path).strip() == "False"


# ------------------------------------------------------------------------------------ speaking processes that fail


def stand_in(monkeypatch, folder: Path, script: str) -> None:
    """Replace the speaking process by a shell script."""
    path = folder / "speaker"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setenv("NOVOBENCH_CACHE", str(folder / "cache"))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("kill -SEGV $$", "its process crashed in compiled code, with signal 11 (SIGSEGV). Run the same command again"),
        ("kill -KILL $$", "its process was killed by signal 9 (SIGKILL), as the system does when memory runs out. Run"),
        ("exit 3", "its process ended with exit code 3"),
        ("printf 'a\\n\\351 no data\\n\\n' >&2; exit 1", "corpus: \ufffd no data"),
    ],
)
def test_a_process_that_ends_early_is_reported(script, expected, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, script)
    with pytest.raises(DataError) as error:
        fresh_corpus({"train": 3})
    assert "could not speak the split train of the built-in corpus: " in str(error.value)
    assert expected in str(error.value)
    assert [path.suffix for path in (tmp_path / "cache" / "speech").iterdir()] == [".lock"]


def test_when_one_process_fails_the_others_are_killed(monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, '[ "$3" = train ] && exec sleep 60; exit 1')
    started = time.monotonic()
    with pytest.raises(DataError, match="the split dev-clean"):
        fresh_corpus({"train": 3, "dev-clean": 2})
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        ("ctypes", "CDLL", OSError("libespeak-ng.so: invalid ELF header")),
        ("espeakng_loader", "get_data_path", OSError("no such folder")),
        ("espeakng_loader", "get_library_path", ImportError("no library in the wheel")),
    ],
)
def test_a_library_that_cannot_be_loaded_is_reported(module, name, error, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module(module), name, lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(DataError) as caught:
        builtin.Espeak()
    kind = type(error).__name__
    assert str(caught.value) == f"espeak-ng cannot be loaded ({kind}: {error}). Run: pip install espeakng-loader==0.2.4"


@pytest.mark.slow
def test_speaking_processes_end_with_their_parent(tmp_path):
    """The parent is killed, so that it cannot end them itself. The next process builds the corpus without waiting."""
    command = [sys.executable, "-c", "from novobench.tasks.speech import builtin; builtin.corpus()"]
    environment = {**os.environ, "NOVOBENCH_CACHE": str(tmp_path)}
    parent = subprocess.Popen(command, env=environment)

    def speaking() -> list[int]:
        pids = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if str(tmp_path).encode() in b" ".join(words) and b"novobench.tasks.speech.builtin" in words:
                pids.append(int(path.parent.name))
        return pids

    deadline = time.monotonic() + 60
    while len(speaking()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(speaking()) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while speaking() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not speaking()
    code = f"from novobench.tasks.speech import builtin; builtin.SPLITS = {SMALL!r}; print(len(builtin.corpus()))"
    assert elsewhere(code, tmp_path).strip() == str(len(SMALL))
