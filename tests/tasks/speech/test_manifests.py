"""Manifests in practice: wrong values make bad utterances, wrong lines are errors, segments are cut."""

import json

import numpy as np
import pytest
import soundfile

from novobench.errors import DataError
from novobench.tasks.speech.data import (
    open_utterances,
)
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import (
    MANIFEST,
    RATE,
    SAMPLES,
    SIZES,
    count_in_flac,
    edit_manifest,
    open_split,
    samples_by_id,
    small,
)

pytestmark = pytest.mark.usefixtures("own_cache")

GOOD = '{"audio_filepath": "good.wav", "text": "one two"}'


@pytest.fixture
def opened(tmp_path):
    """Open a manifest with this content, next to half a second of `good.wav`."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    soundfile.write(folder / "good.wav", SAMPLES, RATE)

    def open_(content: str | bytes, skip: bool = False) -> Utterances:
        content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (folder / "train.json").write_bytes(content)
        return open_split(tmp_path, skip=skip)

    return open_


NAME = "and must be the name of a file"
TEXT = "and must be a string"
SECONDS = "and must be 0 seconds or more"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"text": "null"}, "it has no transcript"),
        ({"text": '""'}, "it has no transcript"),
        ({"text": "7"}, f"its text is 7 {TEXT}"),
        ({"text": "0"}, f"its text is 0 {TEXT}"),
        ({"text": "false"}, f"its text is False {TEXT}"),
        ({"text": '["one"]'}, f"its text is ['one'] {TEXT}"),
        ({"text": '{"en": "one"}'}, f"its text is {{'en': 'one'}} {TEXT}"),
        ({"text": "NaN"}, f"its text is nan {TEXT}"),
        ({"text": r'"one \ud83d"'}, r"its transcript has '\ud83d', which is not in data.alphabet"),
        ({"text": r'"one\u0000two"'}, r"its transcript has '\x00', which is not in data.alphabet"),
        ({"text": f'"{"one 4 " * 200_000}"'}, "its transcript has '4'"),
        ({"text": f'"{"ー" * 300_000}"'}, "its transcript has 'ー'"),
        ({"text": f'"{chr(0x301) * 30}"'}, "has no letter"),
        ({"text": f'"a{chr(0x345) * 40}{chr(0x301) * 500_000}"'}, "its transcript has more than 30 accents"),
        ({"audio_filepath": "null"}, f"its audio_filepath is None {NAME}"),
        ({"audio_filepath": "3"}, f"its audio_filepath is 3 {NAME}"),
        ({"audio_filepath": '["good.wav"]'}, f"its audio_filepath is ['good.wav'] {NAME}"),
        ({"audio_filepath": '""'}, f"its audio_filepath is '' {NAME}"),
        ({"audio_filepath": '"."'}, "the recording cannot be read: it is a folder"),
        ({"audio_filepath": r'"good\u0000.wav"'}, f"its audio_filepath is 'good\\x00.wav' {NAME}"),
        ({"audio_filepath": r'"good\ud83d.wav"'}, f"its audio_filepath is 'good\\ud83d.wav' {NAME}"),
        ({"offset": '"0.1"'}, f"its offset is '0.1' {SECONDS}"),
        ({"offset": "-Infinity"}, f"its offset is -inf {SECONDS}"),
        ({"offset": "NaN"}, f"its offset is nan {SECONDS}"),
        ({"offset": "1e400"}, f"its offset is inf {SECONDS}"),
        ({"offset": "1" * 400}, "its offset is 111111111111111111...1111111111111111111 " + SECONDS),
        ({"offset": "[0]"}, f"its offset is [0] {SECONDS}"),
        ({"offset": "{}"}, f"its offset is {{}} {SECONDS}"),
        ({"offset": "0", "duration": '"all"'}, f"its duration is 'all' {SECONDS}"),
        ({"offset": "0", "duration": "9" * 400}, "its duration is 999999999999999999...9999999999999999999 " + SECONDS),
    ],
    ids=lambda value: str(value)[:40],
)
def test_odd_values_make_a_bad_utterance(values, expected, opened):
    entry = {"audio_filepath": '"good.wav"', "text": '"one two"', **values}
    pairs = ", ".join(f'"{key}": {value}' for key, value in entry.items())
    content = f"{GOOD}\n{{{pairs}}}\n"
    with pytest.raises(DataError) as error:
        opened(content)
    assert expected in str(error.value)
    assert "of train): " in str(error.value)
    assert opened(content, skip=True).texts == ["one two"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("no json", "(JSONDecodeError: Expecting value: line 1 column 1 (char 0)). Each line must be one object"),
        ("[", "Each line must be one object: convert a JSON array or indented objects with jq -c."),
        (f"[{GOOD}]", "with audio_filepath and text (it is [{'audio_filepath': 'good.wav', 'text': 'one two'}])."),
        ("{", "Each line must be one object"),
        ("7", "(it is 7)"),
        ("NaN", "(it is nan)"),
        (GOOD[:-9], "JSONDecodeError: Unterminated string"),
        (GOOD + GOOD, "JSONDecodeError: Extra data"),
        ("\ufeff" + GOOD, "Unexpected UTF-8 BOM"),
        ('{"audio_file": "good.wav", "text": "one"}', "no 'audio_filepath'. Did you mean 'audio_file'?"),
        ('{"audio_filepath": "good.wav", "texts": "one"}', "no 'text'. Did you mean 'texts'?"),
        ('{"audio_filepath": "good.wav", "text_filepath": "one.txt"}', "(it has no 'text')"),
        ('{"audio_filepath": "good.wav", "text": "one", "text": "two"}', "(it has 'text' twice)"),
        (GOOD[:-1] + f', "offset": {"1" * 5000}}}', "Exceeds the limit"),
        (GOOD[:-1] + f', "note": {"[" * 100_000}}}', "RecursionError"),
    ],
    ids=lambda value: value[:40],
)
def test_a_line_that_is_not_an_utterance_is_named(line, expected, opened):
    for skip in (False, True):
        with pytest.raises(
            DataError, match="train.json line 3 is not a JSON object with audio_filepath and text"
        ) as error:
            opened(f"{GOOD}\n\n{line}\n{GOOD}\n", skip)
        assert expected in str(error.value)


def test_bytes_that_are_not_utf8_are_named_with_their_line(opened):
    with pytest.raises(DataError, match=r"train.json line 2 is not UTF-8 \(byte 0xe9\)"):
        opened(f"{GOOD}\n".encode() + GOOD.encode().replace(b"one", b"caf\xe9"))


@pytest.mark.parametrize("content", ["", "\n\n", " \r\n\t\n", "\ufeff"])
def test_a_manifest_without_lines_is_reported(content, opened):
    with pytest.raises(DataError, match="train.json is empty"):
        opened(content)


@pytest.mark.parametrize("sign", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\t")
def test_only_a_newline_ends_a_line(sign, opened):
    assert opened(GOOD.replace(" two", f"{sign}two") + "\n").texts == ["one two"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_line_ends_of_windows_and_a_byte_order_mark(ending, opened):
    assert opened("\ufeff" + GOOD + "\r\n" + GOOD.replace(" two", "") + ending).texts == ["one two", "one"]


def test_names_may_be_relative_absolute_or_in_the_home_folder(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in ("home.wav", "other.wav"):
        soundfile.write(tmp_path / place, SAMPLES[:5000], RATE)
    names = ["~/home.wav", "../other.wav", str(tmp_path / "other.wav"), "./good.wav"]
    utterances = opened("".join(json.dumps({"audio_filepath": name, "text": "one"}) + "\n" for name in names))
    assert [len(utterances.read(index)) for index in range(4)] == [5000, 5000, 5000, 8000]


def test_a_duplicate_id_is_logged(opened, caplog):
    utterances = opened(f'{GOOD}\n{GOOD}\n{GOOD[:-1]}, "offset": 0.1}}\n')
    assert utterances.listed == 3
    place = utterances.listing(0).name
    assert caplog.text.count(f"1 ids of train belong to several utterances, e.g. good to {place}, {place}.") == 1


@pytest.mark.parametrize(
    ("duration", "logged"),
    [("9.5", "9.5"), ('"0.5"', "'0.5'"), ("[]", "[]"), ("true", "True"), ("1" + "0" * 400, "1000")],
)
def test_a_wrong_duration_is_logged(duration, logged, opened, caplog):
    assert opened(f'{GOOD[:-1]}, "duration": {duration}}}').lengths.tolist() == [8000]
    assert f"train.json has wrong durations for 1 recordings, e.g. {logged}" in caplog.text
    assert "which lasts 0.5 s" in caplog.text
    caplog.clear()
    for right in ("0.5", "null", "NaN"):
        opened(f'{GOOD[:-1]}, "duration": {right}}}')
    assert caplog.text == ""


def test_log_messages_can_be_written(opened, tmp_path, caplog):
    """Surrogates and terminal escapes come from names and texts."""
    lines = [GOOD, r'{"audio_filepath": "x\udce9\u001b[31m.wav", "text": "one", "k\ud83d\u001b": 1}']
    opened("\n".join(lines), skip=True)
    assert r"x\udce9\x1b[31m.wav" in caplog.text
    assert "\x1b" not in caplog.text
    caplog.text.encode("utf-8")


# ------------------------------------------------------------------------------------ segments


@pytest.fixture
def long_recording(files) -> np.ndarray:
    """Four seconds, of which the manifest of train-b names two parts and the end."""
    samples = np.random.default_rng(7).integers(-9000, 9000, 4 * RATE, dtype=np.int16)
    soundfile.write(files / "manifests" / "long.wav", samples, RATE)
    parts = ({"offset": 1.0, "duration": 0.5}, {"offset": 1.5, "duration": 0.75}, {"offset": 3.25, "duration": None})
    edit_manifest(files, *({"audio_filepath": "long.wav", **part} for part in parts))
    return samples / np.float32(32768)


def test_a_segment_is_that_part_of_its_recording(files, long_recording):
    utterances = samples_by_id(files, **MANIFEST)
    assert len(utterances) == sum(SIZES.values())
    for name, start, stop in (("1.0+0.5", 16000, 24000), ("1.5+0.75", 24000, 36000), ("3.25", 52000, 64000)):
        assert np.array_equal(utterances[f"long@{name}"], long_recording[start:stop])


def test_features_and_fingerprint_know_the_segment(files, long_recording):
    settings = small(**MANIFEST, data__keep_features=True, data__speeds=[1.0])
    before = open_utterances(settings, files)
    first = before.train.extractor(7, 1.0)
    assert first.shape[1] == 1 + 8000 // 160
    edit_manifest(files, {"offset": 2.0})
    after = open_utterances(settings, files)
    assert after.train.extractor(7, 1.0).shape == first.shape
    assert not np.allclose(after.train.extractor(7, 1.0), first)
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("part", "caught"),
    [
        ({"offset": 4.0}, "its offset 4 s is past the end of the recording, at 4 s"),
        ({"offset": -0.5}, "its offset is -0.5 and must be 0 seconds or more"),
        ({"offset": "1.0"}, "its offset is '1.0' and must be"),
        ({"offset": True}, "its offset is True and must be"),
        ({"offset": float("nan")}, "its offset is nan and must be"),
        ({"offset": 1.0, "duration": -1}, "its duration is -1 and must be"),
        ({"offset": 1.0, "duration": "all"}, "its duration is 'all' and must be"),
        (
            {"offset": 3.0, "duration": 1.5},
            "its offset 3 s and duration 1.5 s extend past the end of the recording, at 4 s",
        ),
        ({"offset": 1.0, "duration": 0}, "it has 0 samples, but features need at least 257"),
        ({"offset": 3.99, "duration": None}, "it has 160 samples, but features need at least 257"),
    ],
)
def test_a_segment_outside_its_recording_is_reported(part, caught, files, long_recording):
    edit_manifest(files, part)
    with pytest.raises(DataError, match=r"long.wav \(utterance long@.* of train\): ") as error:
        open_utterances(small(**MANIFEST), files)
    assert caught in str(error.value)
    assert open_utterances(small(**MANIFEST, data__on_bad_utterance="skip"), files).counts["train_bad"] == 1


def test_a_rounded_duration_may_extend_a_little_past_the_end(files, long_recording):
    edit_manifest(files, {"offset": 3.25, "duration": 0.755})
    assert len(samples_by_id(files, **MANIFEST)["long@3.25+0.755"]) == 12000


def test_a_segment_of_a_recording_of_unknown_length(files, long_recording):
    path = files / "manifests" / "long.flac"
    soundfile.write(path, long_recording, RATE)
    path.write_bytes(count_in_flac(path.read_bytes(), 0))
    edit_manifest(files, *[{"audio_filepath": "long.flac"}] * 3)
    assert np.array_equal(samples_by_id(files, **MANIFEST)["long@1.5+0.75"], long_recording[24000:36000])


def test_unknown_keys_are_logged_once(files, caplog):
    edit_manifest(files, {"speaker": 1}, {"speaker": 2, "lang": "en"})
    open_utterances(small(**MANIFEST), files)
    assert caplog.text.count("train-b.json has keys that are ignored: 'lang' (line 2), 'speaker' (line 2).") == 1
