"""The built-in corpus: 4,000 utterances of two to four words, spoken by espeak-ng. It needs no download.

The PyPI wheel `espeakng-loader` contains espeak-ng and its voices (GPL-3, hence an optional extra). The vocabulary has
32 words: numbers, months, colors. train, dev and test share no speaker. `clean` and `other` have the same voices;
`other` has a wider range of speaking rates, and white noise.

espeak-ng seeds its random numbers from the clock, carries hidden state from one utterance to the next, and may end its
process. So each split is spoken by a fresh process that is seeded once and works in a fixed order: every run then has
the same samples. `python -m novobench.tasks.speech.builtin <split> <count> <folder> [<parent process id>]` is that
process; it ends when its parent ends.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from novobench.errors import DataError, NovobenchError, kind_and_message, one_line
from novobench.files import derived_folder
from novobench.processes import describe_exit, end_with_parent
from novobench.requirements import install_command

log = logging.getLogger(__name__)

SAMPLE_RATE = 22050
"""Hz; espeak-ng's own."""
SPLITS: dict[str, int] = {"train": 3000, "dev-clean": 200, "dev-other": 200, "test-clean": 300, "test-other": 300}
"""Utterances of each split. A name is `<role of the voices>-<condition>`; `train` is clean."""

_KNOWN_SHA256 = "25fa556053e848da901d5019b9a6713d6d4b7a46b1cbfa944b3c50973467c8b9"
"""Over all splits, on Linux x86-64 with espeakng-loader 0.2.4."""
_CODE_VERSION = 1
"""Raised when this module makes other samples from the same settings."""
_SEED = 1905_11286
_INSTALL = "pip install espeakng-loader==0.2.4"

_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
    *("red", "green", "blue", "yellow", "black", "white", "brown", "orange", "purple"),
)
_MIN_WORDS, _MAX_WORDS = 2, 4
_PITCH, _RANGE = (35, 65), (30, 70)
"""On espeak-ng's scales of 0-100: the pitch of a voice, and how much it rises and falls."""


@dataclass(frozen=True)
class _Condition:
    rate: tuple[int, int]
    """Words per minute, from and to."""
    snr_db: tuple[float, float] | None = None
    """Power of the speech over that of the white noise, in dB, from and to; None: no noise."""


_CONDITIONS = {"clean": _Condition(rate=(170, 230)), "other": _Condition(rate=(150, 260), snr_db=(15.0, 25.0))}

_DROPPED = (
    *("Demonic", "UniRobot", "anikaRobot", "announcer", "klatt", "klatt2"),  # machines and monsters
    *("caleb", "croak", "whisper", "whisperf"),  # hardly voiced
    "fast",  # the same samples as the voice without a variant
)
_HELD_OUT = {
    "dev": (
        *("andrea", "boris", "david", "denis", "ed", "edward", "grandma"),
        *("iven", "lee", "marco", "mr serious", "pablo", "victor"),
        *("diogo", "henrique", "hugo", "michel", "miguel"),  # differ only in pitch and loudness, so they stay together
    ),
    "test": (
        *("alicia", "gene", "jacky", "linda", "mike", "quincy", "rob"),
        *("robert", "shelby", "steph", "storm", "travis", "tweaky"),
    ),
}
"""Voice families; all other families are in train."""


@dataclass(frozen=True)
class SpokenSplit:
    """The utterances of a split."""

    ids: list[str]
    """`<split>-<number>`."""
    texts: list[str]
    """Lower-case words with single spaces."""
    audio: np.ndarray
    """int16, all utterances concatenated. Between sounds, clean speech can be exactly 0."""
    offsets: np.ndarray
    """int64 [n + 1]: utterance i is `audio[offsets[i] : offsets[i + 1]]`."""
    sha256: str
    """Over samples, offsets and texts."""


@cache
def corpus() -> dict[str, SpokenSplit]:
    """All splits, spoken once per machine."""
    folder = derived_folder(f"speech/words-{_settings_hash()[:10]}", _build)
    splits = {split: _open(folder, split) for split in SPLITS}
    digest = hashlib.sha256("".join(split.sha256 for split in splits.values()).encode()).hexdigest()
    if digest != _KNOWN_SHA256:
        log.warning(
            "On this machine espeak-ng's samples of the built-in corpus differ from the reference (sha256 %s): results "
            "are not bit-for-bit comparable.",
            digest,
        )
    return splits


def _open(folder: Path, split: str) -> SpokenSplit:
    about = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    return SpokenSplit(
        ids=[f"{split}-{number:04d}" for number in range(len(about["texts"]))],
        texts=about["texts"],
        audio=np.load(folder / f"{split}.audio.npy", mmap_mode="r"),
        offsets=np.load(folder / f"{split}.offsets.npy"),
        sha256=about["sha256"],
    )


def _settings_hash() -> str:
    """Over everything that determines the samples, except the machine."""
    try:
        wheel = metadata.version("espeakng-loader")
    except metadata.PackageNotFoundError:
        raise DataError(
            f"The built-in speech needs espeak-ng, which is not installed. Run: {install_command('espeak')}"
        ) from None
    conditions = {name: asdict(condition) for name, condition in _CONDITIONS.items()}
    settings = [_CODE_VERSION, wheel, SPLITS, _SEED, _WORDS, _MIN_WORDS, _MAX_WORDS, _PITCH, _RANGE, conditions]
    return hashlib.sha256(json.dumps([*settings, _DROPPED, _HELD_OUT]).encode()).hexdigest()


def _build(folder: Path) -> None:
    """Speak all splits, two processes at a time. If one fails, or on an interrupt, the others are killed."""
    speakers: list[subprocess.Popen[str]] = []
    failed = threading.Event()

    def speak(split: str) -> None:
        command = [sys.executable, "-m", __name__, split, str(SPLITS[split]), str(folder), str(os.getpid())]
        speaker = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        speakers.append(speaker)
        if failed.is_set():  # the others were killed before this one was in the list
            speaker.kill()
        _, stderr = speaker.communicate()
        if speaker.returncode != 0:
            lines = [line for line in stderr.split("\n") if line.strip()]
            reason = (
                f"its process {describe_exit(speaker.returncode)}. Run the same command again, or first: {_INSTALL}"
            )
            if lines and speaker.returncode > 0:
                reason = lines[-1]
            raise DataError(f"espeak-ng could not speak the split {split} of the built-in corpus: {reason}")

    with ThreadPoolExecutor(max_workers=2) as pool:
        try:
            for done in as_completed(
                [pool.submit(speak, split) for split in sorted(SPLITS, key=SPLITS.__getitem__, reverse=True)]
            ):
                done.result()
        except BaseException:
            failed.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for speaker in speakers:
                speaker.kill()
            raise


# ---------------------------------------------------------------------------------------------- the speaking process


@dataclass(frozen=True)
class Utterance:
    """A text and how to say it."""

    text: str
    voice: str
    rate: int
    """Words per minute."""
    pitch: int
    range: int
    snr_db: float | None
    """None: no noise."""


def family(voice: str) -> str:
    """The speaker behind a voice: "Mike" and "mike2" are both "mike"."""
    return voice.lower().rstrip("0123456789")


def assign_voices(variants: Iterable[str]) -> dict[str, list[str]]:
    """The voices of `train`, `dev` and `test` among espeak-ng's variants."""
    variants = sorted(variants)
    names = {*variants, *map(family, variants)}
    missing = [name for name in (*_DROPPED, *_HELD_OUT["dev"], *_HELD_OUT["test"]) if name not in names]
    if missing:
        raise DataError(f"espeak-ng has no voice {', '.join(missing)}. Run: {_INSTALL}")
    roles: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for voice in variants:
        if voice not in _DROPPED:
            role = next((role for role, families in _HELD_OUT.items() if family(voice) in families), "train")
            roles[role].append(voice)
    return roles


def script(split: str, count: int, voices: Sequence[str]) -> list[Utterance]:
    """The utterances of a split. Draws only with `random()`, which is the same in every version of Python."""
    draw = random.Random(_split_seed(split)).random
    condition = _CONDITIONS[split.partition("-")[2] or "clean"]

    def between(bounds: tuple[int, int]) -> int:
        low, high = bounds
        return low + int(draw() * (high - low + 1))

    def one_of(names: Sequence[str]) -> str:
        return names[int(draw() * len(names))]

    def utterance() -> Utterance:
        text = " ".join(one_of(_WORDS) for _ in range(between((_MIN_WORDS, _MAX_WORDS))))
        voice, rate, pitch, range_ = one_of(voices), between(condition.rate), between(_PITCH), between(_RANGE)
        snr_db = None
        if condition.snr_db:
            low, high = condition.snr_db
            snr_db = low + draw() * (high - low)
        return Utterance(text, voice, rate, pitch, range_, snr_db)

    return [utterance() for _ in range(count)]


def _split_seed(split: str) -> int:
    return _SEED + list(SPLITS).index(split)


class Espeak:
    """espeak-ng through ctypes: one per process, in one thread."""

    _SYNCHRONOUS, _UTF8, _FROM_CHARACTER = 2, 1, 1
    _RATE, _PITCH, _RANGE = 1, 3, 4
    _BUFFER_MS = 500

    def __init__(self) -> None:
        try:
            import espeakng_loader

            data = Path(espeakng_loader.get_data_path())
            self.variants = sorted(path.name for path in (data / "voices" / "!v").iterdir())
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        except (ImportError, OSError) as error:
            raise DataError(f"espeak-ng cannot be loaded ({kind_and_message(error)}). Run: {_INSTALL}") from None
        self._chunks: list[bytes] = []
        # Always with the path: espeak-ng ends the process if it finds no data.
        rate = self._library.espeak_Initialize(self._SYNCHRONOUS, self._BUFFER_MS, str(data).encode(), 0)
        if rate != SAMPLE_RATE:
            raise DataError(f"espeak-ng speaks at {rate} Hz, not {SAMPLE_RATE}. Run: {_INSTALL}")
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = callback(self._receive)  # ctypes keeps no reference
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))  # after Initialize, which seeds from the clock

    def _receive(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # continue

    def say(self, utterance: Utterance) -> np.ndarray:
        """Samples of an utterance, int16 [S]."""
        voice = utterance.voice
        # espeak-ng replaces an unknown variant with its plain voice and reports success.
        if voice not in self.variants or self._library.espeak_SetVoiceByName(f"en-us+{voice}".encode()) != 0:
            raise DataError(f"espeak-ng has no voice {voice}. Run: {_INSTALL}")
        settings = {self._RATE: utterance.rate, self._PITCH: utterance.pitch, self._RANGE: utterance.range}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        text = utterance.text.encode() + b"\0"
        size = ctypes.c_size_t(len(text))
        status = self._library.espeak_Synth(text, size, 0, self._FROM_CHARACTER, 0, self._UTF8, None, None)
        if status != 0 or not self._chunks:
            raise DataError(f"espeak-ng could not say '{utterance.text}' with the voice {voice} (status {status}).")
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16)


def white_noise(seed: int, number: int, samples: int) -> np.ndarray:
    """Noise of mean 0 and variance 1, float64 [samples]: the sums of the four 16-bit numbers in each 64-bit word of
    Philox's stream.

    It is nearly normal, and needs no logarithm or cosine, whose last digit differs between machines.
    """
    words = np.random.Philox(key=np.array([seed, number], dtype=np.uint64)).random_raw(samples)
    sums = words.view(np.uint16).reshape(samples, 4).sum(axis=1, dtype=np.int64)
    return (sums - 2 * 0xFFFF) / np.sqrt(4 * (0x10000**2 - 1) / 12)


def noisy(speech: np.ndarray, snr_db: float, noise: np.ndarray) -> np.ndarray:
    """Speech with noise, int16 [S]. The power of the speech is the mean over all its samples, silent ones included.

    If the sum would leave the range of int16, all of it is scaled down, which keeps the ratio.
    """
    power = np.square(speech.astype(np.float64)).mean()
    mixed = speech + noise * np.sqrt(power / 10 ** (snr_db / 10))
    return np.rint(mixed * min(1.0, 0x7FFF / np.abs(mixed).max())).astype(np.int16)


def speak_split(split: str, count: int, folder: Path) -> None:
    """Write `<split>.audio.npy`, `<split>.offsets.npy` and `<split>.json`."""
    espeak = Espeak()
    utterances = script(split, count, assign_voices(espeak.variants)[split.partition("-")[0]])
    spoken = []
    for number, utterance in enumerate(utterances):
        samples = espeak.say(utterance)
        if utterance.snr_db is not None:
            samples = noisy(samples, utterance.snr_db, white_noise(_split_seed(split), number, len(samples)))
        spoken.append(samples)
    audio = np.concatenate(spoken)
    offsets = np.cumsum([0, *map(len, spoken)], dtype=np.int64)
    texts = [utterance.text for utterance in utterances]
    digest = hashlib.sha256("\n".join(texts).encode())
    digest.update(offsets.astype("<i8").tobytes() + audio.astype("<i2").tobytes())
    np.save(folder / f"{split}.audio.npy", audio)
    np.save(folder / f"{split}.offsets.npy", offsets)
    about = {"sha256": digest.hexdigest(), "texts": texts}
    (folder / f"{split}.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


if __name__ == "__main__":
    end_with_parent()
    if len(sys.argv) > 4 and os.getppid() != int(sys.argv[4]):  # the parent ended while this process started
        sys.exit(1)
    try:
        speak_split(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    except NovobenchError as error:
        sys.exit(one_line(error))
    except Exception as error:
        sys.exit(kind_and_message(error))
