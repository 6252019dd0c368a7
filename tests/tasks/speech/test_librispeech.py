"""LibriSpeech trees in practice: hidden files, line ends, duplicate ids, names in other encodings, other formats."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from novobench.errors import DataError, one_line
from novobench.tasks.speech.data import (
    open_utterances,
)
from novobench.tasks.speech.utterances import Utterances
from tests.tasks.speech.small import (
    BAD_ID,
    RATE,
    SAMPLES,
    open_split,
    samples_by_id,
    small,
    transcript_line,
    wav,
)

pytestmark = pytest.mark.usefixtures("own_cache")


class Tree:
    def __init__(self, root: Path) -> None:
        self.root, self.chapter = root, root / "tiny" / "train" / "1" / "2"
        self.chapter.mkdir(parents=True)
        for number, name in enumerate(("1-2-0000", "1-2-0001")):
            soundfile.write(self.chapter / f"{name}.flac", SAMPLES[: 6000 + number], RATE)
        self.write("1-2-0000 ONE\n1-2-0001 TWO\n")

    def write(self, content: str | bytes) -> None:
        content = content.encode() if isinstance(content, str) else content
        (self.chapter / "1-2.trans.txt").write_bytes(content)

    def open(self, skip: bool = False) -> Utterances:
        return open_split(self.root, "librispeech", skip)


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path / "data [of] mine*?")  # must not be read as a pattern


@pytest.mark.parametrize(
    "content",
    [
        "1-2-0000\tONE\n1-2-0001\tTWO\n",
        "1-2-0000   ONE\n1-2-0001 \t TWO  \n",
        "1-2-0000 ONE\r\n1-2-0001 TWO\r\n",
        "\ufeff1-2-0000 ONE\n\n \n\t\n1-2-0001 TWO",
        "  1-2-0000 ONE\n\t1-2-0001 TWO\n",
    ],
    ids=repr,
)
def test_blanks_and_tabs_separate_ids_and_texts(content, tree):
    tree.write(content)
    utterances = tree.open()
    assert utterances.texts == ["one", "two"]
    assert [utterances.listing(index).id for index in range(2)] == ["1-2-0000", "1-2-0001"]
    assert [len(utterances.read(index)) for index in range(2)] == [6000, 6001]


@pytest.mark.parametrize("sign", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e")
def test_only_a_newline_ends_a_line(sign, tree):
    tree.write(f"1-2-0000 ONE{sign}1-2-0001\n1-2-0001 ONE{sign}TWO\n")
    with pytest.raises(DataError, match="1-2-0000.flac .*its transcript has '1'"):
        tree.open()
    assert tree.open(skip=True).texts == ["one two"]


def test_hidden_files_and_folders_are_ignored(tree):
    train, plain = tree.chapter.parents[1], tree.open()
    hidden = [
        tree.chapter / "._1-2-0000.flac",
        tree.chapter / ".1-2.trans.txt",
        tree.chapter / "._1-2.trans.txt",
        tree.chapter / ".ipynb_checkpoints" / "1-2-0000-checkpoint.flac",
        train / "1" / ".ipynb_checkpoints" / "x.trans.txt",
        train / ".git" / "2" / "x.trans.txt",
        train / ".DS_Store",
        train.parent / ".Trashes" / "3" / "3" / "x.trans.txt",
    ]
    for path in hidden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\5\x16\7\xff")
    utterances = tree.open()
    assert [utterances.listing(index).id for index in range(len(utterances))] == ["1-2-0000", "1-2-0001"]
    assert utterances.sources[0].fingerprint == plain.sources[0].fingerprint
    (train / "1").rename(train / ".1")
    with pytest.raises(DataError, match=r"train holds no <speaker>/<chapter>/\*.trans.txt with transcripts.$"):
        tree.open()


def test_a_duplicate_id_is_a_bad_utterance(tree, caplog):
    tree.write("1-2-0000 ONE\n1-2-0001 TWO\n1-2-0000 NO\n")
    with pytest.raises(DataError) as error:
        tree.open()
    assert "1-2-0000.flac (utterance 1-2-0000 of train): its id is in 1-2.trans.txt line 1" in str(error.value)
    assert "and again in 1-2.trans.txt line 3" in str(error.value)
    assert tree.open(skip=True).texts == ["one", "two"]
    tree.write("1-2-0000 ONE\n1-2-0001 TWO\n")
    (tree.chapter / "more.trans.txt").write_text("1-2-0001 NO\n")
    with pytest.raises(DataError, match=r"its id is in 1-2.trans.txt line 2 and again in more.trans.txt"):
        tree.open()


def test_an_id_in_two_chapters_is_logged(tree, caplog):
    (tree.chapter.parent / "3").mkdir()
    (tree.chapter.parent / "3" / "1-2-0000.wav").write_bytes(wav())
    (tree.chapter.parent / "3" / "x.trans.txt").write_text("1-2-0000 SEE\n")
    assert tree.open().texts == ["one", "two", "see"]
    assert caplog.text.count("1 ids of train belong to several utterances, e.g. 1-2-0000 to ") == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1-2-0009 NO", "1-2-0009.flac (utterance 1-2-0009 of train): the recording cannot be read: it is missing"),
        ("1-2-0009", "(utterance 1-2-0009 of train): it has no transcript"),
        ("1-2-0009\t ", "(utterance 1-2-0009 of train): it has no transcript"),
        ("1-2-0009\0 NO", r"(utterance 1-2-0009\x00 of train): the recording cannot be read"),
        (f"{'x' * 400} NO", "the recording cannot be read: File name too long"),
        (f"1-2-0009 {'NO ' * 300_000}4", "its transcript has '4'"),
        ("\u20281-2-0009 NO\x1b[31m", r"its transcript has '\x1b'"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_line_that_is_not_an_utterance_is_reported_or_left_out(line, expected, tree):
    tree.write(f"1-2-0000 ONE\n{line}\n1-2-0001 TWO\n")
    with pytest.raises(DataError) as error:
        tree.open()
    assert expected in one_line(error.value)
    assert tree.open(skip=True).texts == ["one", "two"]


def test_recordings_without_transcripts_are_reported_in_any_chapter(tree, caplog):
    other = tree.chapter.parent / "3"
    other.mkdir()
    (other / "1-3-0000.wav").write_bytes(wav())
    (other / "notes.pdf").write_bytes(b"no recording")
    with pytest.raises(DataError, match=r"3/1-3-0000.wav \(utterance 1-3-0000 of train\): it has no transcript"):
        tree.open()
    (tree.chapter / "more.trans.txt").write_text("")  # a second, empty file
    assert tree.open(skip=True).listed == 3


def test_a_name_that_is_not_utf8_is_reported_in_writable_text(tree, caplog):
    Path(os.fsdecode(os.fsencode(tree.chapter) + b"/caf\xe9.wav")).write_bytes(wav())
    with pytest.raises(DataError, match=r"it has no transcript"):
        tree.open()
    utterances = tree.open(skip=True)
    assert utterances.listed == 3
    assert r"caf\udce9.wav (utterance caf\udce9 of train): it has no transcript" in caplog.text
    caplog.text.encode("utf-8")


def test_a_folder_that_cannot_be_listed_is_reported(tree, monkeypatch):
    """It is not treated as empty. Tests may run as root, who has all permissions, so the error is simulated."""
    listed = os.listdir

    def denied(path):
        if path == tree.chapter:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(DataError, match="Cannot list .*/1/2: Permission denied"):
        tree.open(skip=True)


def test_transcripts_that_are_not_a_file_are_reported(tree):
    os.mkfifo(tree.chapter / "pipe.trans.txt")
    with pytest.raises(DataError, match="Cannot read .*pipe.trans.txt: it is not a regular file"):
        tree.open()


def test_transcripts_at_another_depth_are_located(tree):
    train = tree.chapter.parents[1]
    (train / "deeper").mkdir()
    (train / "1").rename(train / "deeper" / "1")
    with pytest.raises(DataError, match=r"It holds deeper/1/2/1-2.trans.txt: set data.path and the split's name"):
        tree.open()


def test_a_set_may_have_one_utterance_but_not_zero(tree):
    tree.write("1-2-0000 ONE\n1-2-0001 4\n")
    one = tree.open(skip=True)
    assert (len(one), one.listed) == (1, 2)
    assert np.array_equal(one.read(0).numpy(), SAMPLES[:6000] / np.float32(32768))
    tree.write("1-2-0000 4\n1-2-0001\n")
    with pytest.raises(DataError, match="'train' of data 'tiny' has no usable utterance: all 2 are bad"):
        tree.open(skip=True)
    tree.write("\n")
    with pytest.raises(DataError, match=r"train holds no .* with transcripts. 1/2/1-2.trans.txt is empty."):
        tree.open()


# ------------------------------------------------------------------------------------ other formats


@pytest.mark.parametrize("suffix", [".wav", ".WAV", ".aiff"])
def test_a_tree_may_hold_other_formats(suffix, files, root):
    for path in (files / "tree").glob("**/*.flac"):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path.with_suffix(suffix), samples, rate)
        path.unlink()
    expected, utterances = samples_by_id(root), samples_by_id(files)
    assert expected.keys() == utterances.keys()
    assert all(np.array_equal(utterances[name], samples) for name, samples in expected.items())


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".mp3"])
def test_a_tree_may_hold_lossy_formats(suffix, files):
    for path in (files / "tree" / "train-a").glob("**/*.flac"):
        samples, rate = soundfile.read(path, dtype="float32")
        kind = {".opus": {"format": "OGG", "subtype": "OPUS"}}.get(suffix, {})
        soundfile.write(path.with_suffix(suffix), samples, rate, **kind)
        path.unlink()
    train = open_utterances(small(), files).train.utterances
    assert len(train) == 13
    assert all(len(train.read(index)) == train.lengths[index] for index in range(13))


def test_of_two_recordings_with_one_name_the_flac_wins(files, root):
    for path in (files / "tree").glob("**/*.flac"):
        soundfile.write(path.with_suffix(".wav"), np.zeros(500), RATE)
    assert samples_by_id(files).keys() == samples_by_id(root).keys()
    assert open_utterances(small(), files).fingerprint == open_utterances(small(), root).fingerprint


def test_transcripts_that_are_not_utf8_are_reported(files):
    path = next((files / "tree").glob("**/10-1.trans.txt"))
    content = path.read_text().replace(transcript_line(files), f"{BAD_ID} CAFÉ")
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(
        DataError, match=r"10-1.trans.txt line 2 is not UTF-8 \(byte 0xc9\). Convert the file, e.g. iconv"
    ):
        open_utterances(small(), files)
    path.write_text(content, encoding="utf-8")
    assert "cafe" in open_utterances(small(), files).train.utterances.texts
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())  # as Windows writes it
    assert "cafe" in open_utterances(small(), files).train.utterances.texts
