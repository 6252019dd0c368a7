"""Recordings that cannot be read are bad utterances, whatever the reason: named, skippable, and tried again."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from novobench.errors import DataError
from novobench.tasks.speech import recordings
from novobench.tasks.speech.config import FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.listings import storable
from novobench.tasks.speech.sources import open_source
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import RATE, make_parquet, small

pytestmark = pytest.mark.usefixtures("own_cache")

SAMPLES = np.random.default_rng(5).integers(-3000, 3000, 8000, dtype=np.int16)


def data(source: str = "manifest", skip: bool = False) -> SpeechDataConfig:
    folder, split = {"hub": ("hub", "train.a")}.get(source, ("tiny", "train"))
    return SpeechDataConfig(
        source=source,
        name="tiny",
        path=folder,
        train_splits=[split],
        features=FeatureConfig(sample_rate=RATE),
        on_bad_utterance="skip" if skip else "error",
    )


def utterances(root: Path, source: str = "manifest", skip: bool = False) -> Utterances:
    settings = data(source, skip)
    return Utterances([open_source(settings, root, settings.train_splits[0])], settings, "train")


def manifest(root: Path, *names: str) -> Path:
    """One good recording, and others of these names."""
    folder = root / "tiny"
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "good.wav", SAMPLES, RATE)
    lines = [f'{{"audio_filepath": "{name}", "text": "one"}}' for name in ("good.wav", *names)]
    (folder / "train.json").write_text("\n".join(lines) + "\n")
    return folder


NO_AUDIO = "it is not an audio file that libsndfile can decode ("
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
    "zeros": ("x.mp3", lambda path: path.write_bytes(bytes(4000)), NO_AUDIO),
    "text": ("x.wav", lambda path: path.write_text("Not found\n"), NO_AUDIO),
    "header alone": (
        "x.wav",
        lambda path: path.write_bytes(wav()[:44]),
        "it has 0 samples, but features need at least 257",
    ),
    "half a header": ("x.wav", lambda path: path.write_bytes(wav()[:30]), NO_AUDIO),
    "no header": ("x.raw", lambda path: path.write_bytes(SAMPLES.tobytes()), "; a .raw file has no header, convert it"),
} | {
    f"noise{suffix}": (
        f"x{suffix}",
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
        NO_AUDIO,
    )
    for suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au", ".w64", ".sph", ".vox", ".gsm", "")
}


def wav() -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, SAMPLES, RATE, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_decoded_is_told_or_left_out(kind, tmp_path, caplog):
    name, make, expected = KINDS[kind]
    folder = manifest(tmp_path, name)
    make(folder / name)
    with pytest.raises(DataError) as told:
        utterances(tmp_path)
    where = f"{folder / name} (utterance {Path(name).stem} of train): "
    assert str(told.value).startswith(where)
    assert expected in str(told.value)
    found = utterances(tmp_path, skip=True)
    assert np.array_equal(found.read(0).numpy(), SAMPLES / np.float32(32768))
    assert (len(found), found.listed) == (1, 2)
    assert caplog.text.count("Left out") == 1
    assert found.sources[0].fingerprint  # none of it keeps the data from being identified


def test_a_name_says_nothing_of_what_a_file_holds(tmp_path):
    folder = manifest(tmp_path, "speech.raw", "speech.txt")
    for name in ("speech.raw", "speech.txt"):
        (folder / name).write_bytes(wav())
    found = utterances(tmp_path)
    assert [len(found.read(index)) for index in range(3)] == [8000] * 3


def test_a_name_that_is_not_utf8_is_read_and_its_id_can_be_written(tmp_path):
    folder = manifest(tmp_path, "caf\\udce9.wav")  # as Python's json writes the byte E9 of a name
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")).write_bytes(wav())
    found = utterances(tmp_path)
    assert np.array_equal(found.read(1).numpy(), SAMPLES / np.float32(32768))
    assert found.listing(1).id == storable("caf\udce9") == r"caf\udce9"


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
def test_a_header_that_promises_terabytes_is_not_believed(suffix, tmp_path):
    folder = manifest(tmp_path, f"x.{suffix}")
    soundfile.write(folder / f"x.{suffix}", SAMPLES, RATE)
    (folder / f"x.{suffix}").write_bytes(HUGE[suffix]((folder / f"x.{suffix}").read_bytes()))
    found = utterances(tmp_path, skip=True)
    assert [len(found.read(index)) for index in range(len(found))] in ([8000, 8000], [8000])


def test_more_than_memory_should_hold_is_told(tmp_path, monkeypatch):
    manifest(tmp_path)
    monkeypatch.setattr(recordings, "_MAX_SAMPLES", 7999)
    with pytest.raises(DataError, match="good.wav .*: it has 8000 samples, and at most 7999 can be read"):
        utterances(tmp_path).read(0)


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
    manifest(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, where, lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(DataError, match=r"good.wav \(utterance good.*cannot be read: it is ") as told:
            utterances(tmp_path).read(0)
        assert "skip" in str(told.value)
        assert "\n" not in str(told.value)
        if where == "read":
            assert utterances(tmp_path, skip=True).read(0) is None
        else:
            with pytest.raises(DataError, match="'train' of data 'tiny' has no usable utterance: all 1 are bad"):
                utterances(tmp_path, skip=True)
    assert len(utterances(tmp_path).read(0)) == 8000  # the same file, the same cache


def test_an_interrupt_is_no_bad_recording(tmp_path, monkeypatch):
    manifest(tmp_path)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        utterances(tmp_path, skip=True).read(0)


def test_what_may_pass_is_never_skipped(tmp_path):
    """What is left out would depend on the moment."""
    folder = manifest(tmp_path)
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


def test_a_permission_that_is_given_later_is_seen(tmp_path, monkeypatch):
    """Tests may run as root, whom no permission stops."""
    manifest(tmp_path)
    opened = os.open

    def denied(path, *words, **more):
        if str(path).endswith("good.wav"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        with pytest.raises(DataError, match="good.wav .* the recording cannot be read: Permission denied"):
            utterances(tmp_path)
    assert len(utterances(tmp_path)) == 1


# ------------------------------------------------------------------------------------ the hub


def test_rows_may_name_their_files(tmp_path, caplog):
    import datasets

    (tmp_path / "hub" / "data").mkdir(parents=True)
    soundfile.write(tmp_path / "hub" / "here.wav", SAMPLES, RATE)
    soundfile.write(tmp_path / "there.wav", SAMPLES[:6000], RATE)
    audio = [
        {"bytes": None, "path": "here.wav"},
        {"bytes": b"", "path": str(tmp_path / "there.wav")},
        {"bytes": wav(), "path": "not-asked-for.wav"},
        {"bytes": None, "path": "gone.wav"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"noise", "path": None},
    ]
    kinds = {"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    kinds |= {"text": datasets.Value("string"), "id": datasets.Value("string")}
    columns = {"audio": audio, "text": ["one"] * len(audio), "id": ["a", "b", "c", "d", "e", None, None]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    table.to_parquet(str(tmp_path / "hub" / "data" / "train.a-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"hub\[train.a\] row 3 \(utterance d of train\): .*: it is missing"):
        utterances(tmp_path, "hub")
    found = utterances(tmp_path, "hub", skip=True)
    assert [len(found.read(index)) for index in range(len(found))] == [8000, 6000, 8000]
    for row, reason in enumerate(["it is missing", "it is missing", "it is missing", NO_AUDIO], 3):
        assert f"row {row} (utterance {'de'[row - 3 : row - 2] or f'row-{row}'} of train)" in caplog.text
        assert reason in caplog.text
    before = (found.sources[0].cache_key, found.sources[0].fingerprint)
    soundfile.write(tmp_path / "there.wav", SAMPLES[:5000], RATE)
    after = utterances(tmp_path, "hub", skip=True)
    assert after.lengths.tolist() == [8000, 5000, 8000]
    assert (after.sources[0].cache_key, after.sources[0].fingerprint) != before


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (
            "audio",
            [7],
            r"hub\[train.a\] has no columns of recordings, transcripts and ids, but audio: Value\('int",
        ),
        ("text", [7], r"row 0 \(utterance a of train\): its text is 7 and must be a string"),
        ("text", [["one"]], r"row 0 \(utterance a of train\): its text is \['one'\] and must be a string"),
        ("text", [None], r"row 0 \(utterance a of train\): it has no transcript"),
    ],
)
def test_columns_of_other_types_are_told(column, values, expected, tmp_path):
    import datasets

    (tmp_path / "hub" / "data").mkdir(parents=True)
    columns = {"audio": [{"bytes": wav(), "path": "a.wav"}], "text": ["one"], "id": ["a"], column: values}
    table = datasets.Dataset.from_dict(columns)
    table.to_parquet(str(tmp_path / "hub" / "data" / "train.a-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=expected):
        utterances(tmp_path, "hub")


def test_a_row_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    make_parquet(tmp_path, {"train-a": [("a", "one", wav()), ("b", "two", wav())]})
    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "__init__", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(DataError, match=r"row 0 \(utterance a of train\): .*\(MemoryError\)"):
            utterances(tmp_path, "hub")
    assert utterances(tmp_path, "hub").lengths.tolist() == [8000, 8000]


# ------------------------------------------------------------------------------------ loader workers


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_worker_tells_the_same(workers, root, tmp_path, monkeypatch):
    import shutil

    from novobench.tasks.speech.task import build
    from novobench.training.failures import without_traceback

    shutil.copytree(root / "tree", tmp_path / "tree")
    path = next((tmp_path / "tree" / "dev-clean").glob("**/*.flac"))
    path.write_bytes(path.read_bytes()[:3000])
    _, opened = build(small(data_root=str(tmp_path), runtime__workers=workers))
    opened.setup("fit")
    with pytest.raises(DataError) as told:
        list(opened.evaluation_batches(opened.evaluation_sets[0].dataset, 0, 1))
    message = without_traceback(str(told.value))
    assert message.startswith(f"{path} (utterance {path.stem}): it cannot be read: it is damaged or cut short (")
    assert message.endswith("Fix it, or set data.on_bad_utterance=skip to leave it out.")
