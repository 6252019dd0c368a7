"""BPE models: trained, read from a file, and refused with advice that works."""

import re

import pytest
import sentencepiece as spm

from novobench.errors import DataError
from novobench.tasks.translation.data import open_pairs
from novobench.tasks.translation.model import BEGIN, END, PAD
from novobench.tasks.translation.sources import Pairs, open_split
from novobench.tasks.translation.tokenizer import load_bpe, train_bpe
from tests.tasks.translation.small import (
    ENGLISH,
    GERMAN,
    error_message,
    files,
    proposed_changes,
    tiny_files,
    write_pairs,
)

pytestmark = pytest.mark.usefixtures("own_cache")


# ------------------------------------------------------------------------------------ trained


def test_tokens_decode_to_the_text(root):
    splits = open_pairs(files(), root)
    text = (root / "text" / "train.de").read_text().splitlines()
    assert [splits.model.decode(x.tolist()) for x in splits.train.target] == text
    for ids in splits.train.source:
        assert (ids[0], ids[-1]) == (BEGIN, END)
        assert PAD not in ids


def test_a_bpe_that_cannot_be_trained_is_reported(root):
    with pytest.raises(
        DataError, match=r"No BPE of 30000 tokens can be trained on .*train.en: the text has at most \d+. .*--set"
    ):
        open_pairs(files(model__vocabulary=30000), root)


@pytest.mark.parametrize("vocabulary", [5, 20, 400])
@pytest.mark.parametrize("text", ["varied", "one line", "one word"])
def test_the_vocabulary_that_is_proposed_can_be_trained(text, vocabulary, tiny_root):
    if text == "one line":
        write_pairs(tiny_root, "train", ENGLISH[:1] * 18, GERMAN[:1] * 18)
    elif text == "one word":
        write_pairs(tiny_root, "train", ["aaaa aaaa"] * 18, ["bbb bbb"] * 18)
    config = tiny_files(model__vocabulary=vocabulary, data__min_length=1)
    pairs = open_split(config.data, tiny_root, "train").read()
    try:
        train_bpe(pairs, vocabulary, config.data, "x")
    except DataError as error:
        right = proposed_changes(str(error))["model__vocabulary"]
        assert load_bpe(train_bpe(pairs, right, config.data, "x")).get_piece_size() == right
    else:
        assert vocabulary == 20
        assert text == "one word"


def test_lines_too_long_for_sentencepiece_are_reported(tiny_root, caplog):
    long = " ".join(ENGLISH * 20)
    write_pairs(tiny_root, "train", [*ENGLISH[:-1], long], GERMAN)
    assert open_pairs(tiny_files(), tiny_root).counts["left_out_long"] == 1
    assert "train.en: 1 of 36 lines have more than 4192 bytes" in caplog.text
    write_pairs(tiny_root, "train", [long], [long + "."])
    assert "every line has more than 4,192 bytes" in error_message(tiny_files(data__train_size=1), tiny_root)


def test_a_text_of_blanks_alone_is_reported(tiny_root):
    write_pairs(tiny_root, "train", [" ", "\u2003"], ["\u00a0", "\t"])
    assert "has only empty pairs" in error_message(tiny_files(), tiny_root)
    write_pairs(tiny_root, "train", ["\u2581 \u2581"] * 3, ["\u2581"] * 3)  # sentencepiece's symbol for a blank
    assert "the text has only blanks" in error_message(tiny_files(), tiny_root)


# ------------------------------------------------------------------------------------ read from a file


def test_a_given_bpe_must_fit(root):
    config = files().data
    english = (root / "text" / "train.en").read_text().splitlines()
    model = train_bpe(Pairs(english, english), 120, config, "test")
    (root / "english.model").write_bytes(model)
    own_bpe = {"data__bpe_model": "english.model", "model__vocabulary": 120}
    with pytest.raises(DataError, match=r"english.model does not fit .*train.en: .* % of the tokens are unknown"):
        open_pairs(files(**own_bpe), root)
    with pytest.raises(DataError, match="has 120 tokens, but model.vocabulary is 150. .*--set model.vocabulary=120"):
        open_pairs(files(**{**own_bpe, "model__vocabulary": 150}), root)
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(english), model_prefix=str(root / "other"), vocab_size=120, minloglevel=2
    )
    with pytest.raises(DataError, match=r"other.model has pad_id -1, not 0. Train it with --pad_id=0 --unk_id=1"):
        open_pairs(files(**{**own_bpe, "data__bpe_model": "other.model"}), root)
    (root / "noise.model").write_bytes(b"no model")
    with pytest.raises(
        DataError, match=r"Cannot read the BPE model .*noise.model: it is damaged or not a sentencepiece model"
    ):
        open_pairs(files(**{**own_bpe, "data__bpe_model": "noise.model"}), root)


def test_a_given_bpe_that_fits_is_used(root):
    pairs = Pairs(*((root / "text" / f"train.{x}").read_text().splitlines() for x in ("en", "de")))
    model = train_bpe(pairs, 160, files().data, "test")
    (root / "joint.model").write_bytes(model)
    with_own_bpe = open_pairs(files(data__bpe_model="joint.model", model__vocabulary=160), root)
    with_trained_bpe = open_pairs(files(model__vocabulary=160), root)
    assert load_bpe(model).encode(pairs.sources[0]) == with_own_bpe.train.source[0][1:-1].tolist()
    assert with_own_bpe.counts == with_trained_bpe.counts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Download it again"),
        (b"the\t-1\n", "it is damaged or not a sentencepiece model"),
        (None, "No BPE model .*: it is missing. Set data.bpe_model to"),
        ("folder", "No BPE model .*: it is a folder"),
        ("cut", "it is damaged or not a sentencepiece model"),
        ("no text", "it is damaged or not a sentencepiece model"),
    ],
)
def test_a_file_that_is_not_a_bpe_model_is_reported(content, message, tiny_root, capfd):
    whole = train_bpe(Pairs(ENGLISH, GERMAN), 60, tiny_files().data, "x")
    path = tiny_root / "bpe.model"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        made = {"cut": whole[1:], "no text": whole.replace(b"die", b"d\xffe")}
        path.write_bytes(made.get(content, content))
    config = tiny_files(data__bpe_model="bpe.model")
    capfd.readouterr()
    assert re.search(message, error_message(config, tiny_root))
    assert capfd.readouterr().err == ""  # the library prints nothing itself
    if content == "folder":
        path.rmdir()
    path.write_bytes(whole)
    assert open_pairs(config, tiny_root).model.get_piece_size() == 60  # and no failure is cached


def test_a_bpe_model_of_another_size_is_reported_with_its_size(tiny_root):
    (tiny_root / "bpe.model").write_bytes(train_bpe(Pairs(ENGLISH, GERMAN), 70, tiny_files().data, "x"))
    config = {"data__bpe_model": "bpe.model"}
    right = proposed_changes(error_message(tiny_files(**config), tiny_root))
    assert right == {"model__vocabulary": 70}
    assert open_pairs(tiny_files(**config, **right), tiny_root).model.get_piece_size() == 70
    # The size of a model with other special tokens is not proposed.
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH * 5), model_prefix=str(tiny_root / "bpe"), vocab_size=24, minloglevel=2
    )
    assert "has pad_id -1, not 0" in error_message(tiny_files(**config), tiny_root)
