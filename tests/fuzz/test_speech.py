"""Manifests, transcripts and recordings as people and machines leave them."""

import dataclasses
import io
import json
import logging
import shutil

import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st

from novobench.errors import DataError
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.sources import open_source
from novobench.tasks.speech.transcripts import in_alphabet
from novobench.tasks.speech.utterances import Utterances
from tests.fuzz.judge import extents, judge
from tests.fuzz.odd import ANY_TEXT, damaged, data, edited, replaced, words

RATE = 16000
BASE = SpeechDataConfig(
    source="manifest", name="tiny", path="tiny", train_splits=["train"], search_set="dev", dev_sets=[],
    test_sets=["test"], train_size=2, set_sizes={"dev": 1, "test": 1},
    features=FeatureConfig(sample_rate=RATE, window=320, hop=160),
)  # fmt: skip
ALPHABETS = [
    BASE.alphabet,
    " abcdefghijklmnopqrstuvwxyzäöüß'",
    " абвгдежзийклмнопрстуфхцчшщъыьэюя",
    " abcçdefgğhıijklmnoöprsştuüvyz",
    " ab",
    "a",
    " 'é",
]
SKIP = st.sampled_from(["error", "error", "skip"])


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("novobench.files.os.fsync", lambda _: None)
    logging.disable(logging.WARNING)  # of utterances left out
    yield tmp_path / "cache"
    logging.disable(logging.NOTSET)


def sound(kind="WAV", subtype=None, samples=3200, channels=1):
    noise = np.random.default_rng(0).integers(-9000, 9000, (samples, channels), dtype=np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


def read_all(config, root):
    source = open_source(config, root, "train")
    utterances = Utterances([source], config, "train")
    for index in range(len(utterances)):
        utterances.read(index)
    assert source.fingerprint


# ------------------------------------------------------------------------------------ transcripts


@extents(90, 3000)
def test_transcripts_in_an_alphabet(inputs, fuzz):
    def attempt(text, alphabet):
        def call():
            try:
                letters = in_alphabet(text, alphabet)
            except ValueError as error:  # the corpus adds the recording's name
                raise DataError(str(error)) from None
            assert letters
            assert set(letters) <= set(alphabet) | {" "}

        return judge(call, "transcript")

    def texts(alphabet):
        own = st.text(alphabet + alphabet.upper() + " ’-\u0301\u200b", min_size=1, max_size=12)
        mixed = st.text(alphabet + "éüÄßİıøя1.,", max_size=6)
        return st.tuples(st.one_of(words(), ANY_TEXT, own, own, own, mixed), st.just(alphabet))

    fuzz(inputs, lambda drawn: attempt(*drawn), drawn=st.sampled_from(ALPHABETS).flatmap(texts))


@extents(20, 800)
def test_a_tree_of_transcripts(inputs, own_cache, tmp_path, fuzz):
    """LibriSpeech's `.trans.txt`, edited."""
    chapter = tmp_path / "tiny" / "train" / "1" / "2"
    chapter.mkdir(parents=True)
    names = ["1-2-0000", "1-2-0001", "1-2-0002"]
    content = sound("FLAC")
    for name in names:
        (chapter / f"{name}.flac").write_bytes(content)
    text = "".join(f"{name} SEE A BOOK\n" for name in names)
    config = dataclasses.replace(BASE, source="librispeech")
    path = chapter / "1-2.trans.txt"

    def attempt(content, skip):
        shutil.rmtree(own_cache, ignore_errors=True)
        path.write_bytes(content)
        chosen = dataclasses.replace(config, on_bad_utterance=skip)
        return judge(lambda: read_all(chosen, tmp_path), str(chapter), "tiny")

    fuzz(inputs, attempt, content=edited(text), skip=SKIP)


# ------------------------------------------------------------------------------------ manifests


LINES = [
    {"audio_filepath": "a.wav", "duration": 0.2, "text": "see a book"},
    {"audio_filepath": "b.flac", "duration": 0.1, "text": "it's no", "offset": 0.05},
    {"audio_filepath": "a.wav", "text": "two"},
]


@pytest.fixture
def folder(own_cache, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "a.wav").write_bytes(sound())
    (folder / "b.flac").write_bytes(sound("FLAC"))
    return folder


def manifest(lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


@extents(30, 1200)
def test_manifests(inputs, folder, own_cache, fuzz):
    path = folder / "train.json"
    seconds = st.one_of(st.floats(), st.integers(-1, 2), st.floats(0, 0.2), data())
    odd_line = st.tuples(st.sampled_from(["offset", "duration", "text", "audio_filepath"]), seconds | data()).map(
        lambda change: manifest([{**LINES[0], change[0]: change[1]}, *LINES[1:]]).encode()
    )
    other = replaced(LINES).map(lambda lines: manifest(lines if isinstance(lines, list) else [lines]).encode())

    def attempt(content, skip):
        shutil.rmtree(own_cache, ignore_errors=True)
        path.write_bytes(content)
        config = dataclasses.replace(BASE, on_bad_utterance=skip)
        return judge(lambda: read_all(config, folder.parent), str(folder), "train", "'tiny'")

    fuzz(inputs, attempt, content=st.one_of(edited(manifest(LINES)), odd_line, other), skip=SKIP)


# ------------------------------------------------------------------------------------ recordings


FORMS = [
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "PCM_24"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "DOUBLE"),
    ("wav", "WAV", "ULAW"), ("wav", "WAV", "IMA_ADPCM"), ("wav", "WAVEX", "PCM_16"), ("wav", "RF64", "PCM_16"),
    ("flac", "FLAC", "PCM_16"), ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"), ("aiff", "AIFF", "PCM_16"), ("au", "AU", "PCM_16"), ("w64", "W64", "PCM_16"),
    ("caf", "CAF", "PCM_16"), ("raw", "RAW", "PCM_16"),
]  # fmt: skip


@pytest.fixture(scope="module")
def recordings():
    return [(ending, sound(kind, subtype)) for ending, kind, subtype in FORMS] + [
        ("wav", sound(channels=2)),
        ("wav", b""),
    ]


@extents(30, 1200)
def test_recordings(inputs, folder, own_cache, recordings, fuzz):
    broken = st.sampled_from(recordings).flatmap(lambda one: st.tuples(st.just(one[0]), damaged(one[1])))

    def attempt(recording, part, skip):
        shutil.rmtree(own_cache, ignore_errors=True)
        ending, content = recording
        path = folder / f"x.{ending}"
        path.write_bytes(content)
        entry = {"audio_filepath": path.name, "text": "see", **part}
        (folder / "train.json").write_text(manifest([entry, LINES[2]]))
        config = dataclasses.replace(BASE, on_bad_utterance=skip)
        try:
            return judge(lambda: read_all(config, folder.parent), str(path))
        finally:
            path.unlink()

    parts = [{}, {}, {"duration": 0.2}, {"offset": 0.05}, {"offset": 0.0, "duration": 0.15}, {"offset": 1}]
    recording = st.sampled_from(recordings) | broken | broken
    fuzz(inputs, attempt, recording=recording, part=st.sampled_from(parts), skip=SKIP)
