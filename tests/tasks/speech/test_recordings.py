"""Recordings that cannot be decoded are bad utterances, whatever the reason: named, skippable, and tried again."""

import errno
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from novobench.errors import DataError
from novobench.tasks.speech import recordings
from novobench.tasks.speech.data import (
    open_utterances,
)
from novobench.tasks.speech.listings import storable
from novobench.tasks.speech.task import build
from tests.tasks.speech.small import (
    NOT_AUDIO,
    RATE,
    SAMPLES,
    SIZES,
    SOURCES,
    count_in_flac,
    make_parquet,
    open_split,
    samples_by_id,
    small,
    transcripts,
    wav,
    write_manifest,
)

pytestmark = pytest.mark.usefixtures("own_cache")


KINDS = {
    "missing": ("x.wav", lambda path: None, "it is missing"),
    "dangling link": (
        "x.wav",
        lambda path: path.symlink_to("gone"),
        "it is a link to gone, which is missing",
    ),
    "link to itself": ("x.wav", lambda path: path.symlink_to("x.wav"), "Too many levels of symbolic links"),
    "folder": ("x.wav", lambda path: path.mkdir(), "it is a folder"),
    "pipe": ("x.wav", os.mkfifo, "it is a pipe or a device, not a file"),
    "device": ("x.wav", lambda path: path.symlink_to("/dev/zero"), "it is a pipe or a device, not a file"),
    "below a file": ("good.wav/x.wav", lambda path: None, "Not a directory"),
    "long name": (f"{'x' * 300}.wav", lambda path: None, "File name too long"),
    "empty": ("x.flac", lambda path: path.touch(), "it is empty"),
    "zeros": ("x.mp3", lambda path: path.write_bytes(bytes(4000)), NOT_AUDIO),
    "text": ("x.wav", lambda path: path.write_text("Not found\n"), NOT_AUDIO),
    "header alone": (
        "x.wav",
        lambda path: path.write_bytes(wav()[:44]),
        "it has 0 samples, but features need at least 257",
    ),
    "half a header": ("x.wav", lambda path: path.write_bytes(wav()[:30]), NOT_AUDIO),
    "no header": ("x.raw", lambda path: path.write_bytes(SAMPLES.tobytes()), "; a .raw file has no header, convert it"),
} | {
    f"noise{suffix}": (
        f"x{suffix}",
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
        NOT_AUDIO,
    )
    for suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au", ".w64", ".sph", ".vox", ".gsm", "")
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_decoded_is_reported_or_left_out(kind, tmp_path, caplog):
    name, make, expected = KINDS[kind]
    folder = write_manifest(tmp_path, name)
    make(folder / name)
    with pytest.raises(DataError) as error:
        open_split(tmp_path)
    where = f"{folder / name} (utterance {Path(name).stem} of train): "
    assert str(error.value).startswith(where)
    assert expected in str(error.value)
    utterances = open_split(tmp_path, skip=True)
    assert np.array_equal(utterances.read(0).numpy(), SAMPLES / np.float32(32768))
    assert (len(utterances), utterances.listed) == (1, 2)
    assert caplog.text.count("Left out") == 1
    assert utterances.sources[0].fingerprint  # the data can be identified all the same


def test_the_content_of_a_file_counts_not_its_name(tmp_path):
    folder = write_manifest(tmp_path, "speech.raw", "speech.txt")
    for name in ("speech.raw", "speech.txt"):
        (folder / name).write_bytes(wav())
    utterances = open_split(tmp_path)
    assert [len(utterances.read(index)) for index in range(3)] == [8000] * 3


def test_a_name_that_is_not_utf8_is_read_and_its_id_can_be_written(tmp_path):
    folder = write_manifest(tmp_path, "caf\\udce9.wav")  # as Python's json writes the byte E9 of a name
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")).write_bytes(wav())
    utterances = open_split(tmp_path)
    assert np.array_equal(utterances.read(1).numpy(), SAMPLES / np.float32(32768))
    assert utterances.listing(1).id == storable("caf\udce9") == r"caf\udce9"


HUGE = {
    "wav": lambda content: content.replace(content[40:44], b"\xf0\xff\xff\x7f"),
    "aiff": lambda content: _replaced(content, content.index(b"COMM") + 10, b"\x7f\xff\xff\xff"),
    "w64": lambda content: _replaced(content, content.index(b"data") + 16, (1 << 42).to_bytes(8, "little")),
    "au": lambda content: _replaced(content, 8, b"\x7f\xff\xff\xff"),
    "caf": lambda content: _replaced(content, content.index(b"data") + 4, (1 << 42).to_bytes(8, "big")),
}


def _replaced(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize("suffix", HUGE)
def test_a_header_that_promises_terabytes_is_not_trusted(suffix, tmp_path):
    folder = write_manifest(tmp_path, f"x.{suffix}")
    soundfile.write(folder / f"x.{suffix}", SAMPLES, RATE)
    (folder / f"x.{suffix}").write_bytes(HUGE[suffix]((folder / f"x.{suffix}").read_bytes()))
    utterances = open_split(tmp_path, skip=True)
    assert [len(utterances.read(index)) for index in range(len(utterances))] in ([8000, 8000], [8000])


def test_a_recording_too_long_for_memory_is_reported(tmp_path, monkeypatch):
    write_manifest(tmp_path)
    monkeypatch.setattr(recordings, "_MAX_SAMPLES", 7999)
    with pytest.raises(DataError, match="good.wav .*: it has 8000 samples, and at most 7999 can be read"):
        open_split(tmp_path).read(0)


ERRORS = [
    MemoryError("no room"),
    RuntimeError("a library's own"),
    OverflowError("too large"),
    TypeError("no rate"),
    ZeroDivisionError("frames"),
    AssertionError(""),
    RecursionError("deep"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
    soundfile.SoundFileRuntimeError("soundfile's"),
    soundfile.LibsndfileError(3),
    OSError("a system's error that a library raises"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["__init__", "read"])
def test_an_error_of_any_type_is_a_bad_recording_and_is_not_kept(error, where, tmp_path, monkeypatch):
    write_manifest(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, where, lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(DataError, match=r"good.wav \(utterance good.*cannot be read: it is ") as caught:
            open_split(tmp_path).read(0)
        assert "skip" in str(caught.value)
        assert "\n" not in str(caught.value)
        if where == "read":
            assert open_split(tmp_path, skip=True).read(0) is None
        else:
            with pytest.raises(DataError, match="'train' of data 'tiny' has no usable utterance: all 1 are bad"):
                open_split(tmp_path, skip=True)
    assert len(open_split(tmp_path).read(0)) == 8000  # the same file, the same cache


def test_an_interrupt_is_not_a_bad_recording(tmp_path, monkeypatch):
    write_manifest(tmp_path)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        open_split(tmp_path, skip=True).read(0)


def test_a_transient_failure_is_never_skipped(tmp_path):
    """Otherwise what is left out would depend on the moment."""
    folder = write_manifest(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.open(folder, os.O_RDONLY)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
    try:
        with pytest.raises(DataError, match="Cannot read .*good.wav: Too many open files. .*run the same"):
            recordings.header(folder / "good.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert recordings.header(folder / "good.wav") == (8000, RATE, 1)


def test_a_later_permission_is_noticed(tmp_path, monkeypatch):
    """Tests may run as root, who has all permissions, so the error is simulated."""
    write_manifest(tmp_path)
    opened = os.open

    def denied(path, *words, **more):
        if str(path).endswith("good.wav"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        with pytest.raises(DataError, match="good.wav .* the recording cannot be read: Permission denied"):
            open_split(tmp_path)
    assert len(open_split(tmp_path)) == 1


# ------------------------------------------------------------------------------------ lengths missing from the header


def streamed_wav(path: Path) -> bytes:
    """A WAV as programs write it to a pipe: both sizes are the maximum."""
    samples, rate = soundfile.read(path, dtype="int16")
    copy = path.with_suffix(".wav")
    soundfile.write(copy, samples, rate)
    content = bytearray(copy.read_bytes())
    copy.unlink()
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = b"\xff" * 4
    return bytes(content)


DAMAGE = {
    "flac of unknown length": lambda path: count_in_flac(path.read_bytes(), 0),
    "flac that promises hours": lambda path: count_in_flac(path.read_bytes(), (1 << 36) - 1),
    "wav from a pipe": streamed_wav,
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("source", ["librispeech", "hub"])
def test_a_length_missing_from_the_header_is_found_by_decoding(kind, source, files, root):
    rows = {}
    for split in SIZES:
        recordings_and_texts = transcripts(files / "tree" / split)
        for path, _ in recordings_and_texts:
            path.write_bytes(DAMAGE[kind](path))  # soundfile looks at the content, not at the name
        rows[split] = [(path.stem, text, path.read_bytes()) for path, text in recordings_and_texts]
    make_parquet(files, rows)
    expected, actual = samples_by_id(root), samples_by_id(files, **SOURCES[source])
    assert expected.keys() == actual.keys()
    for name, samples in expected.items():
        assert np.array_equal(actual[name], samples)
    assert "train_too_long" not in open_utterances(small(**SOURCES[source]), files).counts


# ------------------------------------------------------------------------------------ loader workers


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_worker_reports_the_same_error(workers, root, tmp_path, monkeypatch):

    from novobench.training.failures import without_traceback

    shutil.copytree(root / "tree", tmp_path / "tree")
    path = next((tmp_path / "tree" / "dev-clean").glob("**/*.flac"))
    path.write_bytes(path.read_bytes()[:3000])
    _, opened = build(small(data_root=str(tmp_path), runtime__workers=workers))
    opened.setup("fit")
    with pytest.raises(DataError) as error:
        list(opened.evaluation_batches(opened.evaluation_sets[0].dataset, 0, 1))
    message = without_traceback(str(error.value))
    assert message.startswith(f"{path} (utterance {path.stem}): it cannot be read: it is damaged or cut short (")
    assert message.endswith("Fix it, or set data.on_bad_utterance=skip to leave it out.")
