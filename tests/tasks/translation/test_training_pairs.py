"""Cleaned training pairs: NeMo's rules, counts, the cache and the identity of the text."""

import dataclasses
import shutil

import datasets
import pytest
import torch

from novobench.errors import DataError
from novobench.tasks.sampling import SampleKey
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.data import identify, open_pairs
from novobench.tasks.translation.sources import Pairs
from novobench.tasks.translation.tokenizer import train_bpe
from novobench.tasks.translation.training_pairs import rejection
from tests.tasks.translation.small import TRAIN, error_message, files, hub, tiny_files

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (12, 12, ""),
        (128, 128, ""),
        (129, 128, "long"),
        (60, 35, ""),
        (61, 35, "unequal"),  # 26 tokens more
        (12, 6, ""),  # 10 = 2.5 × 4
        (13, 6, "unequal"),
        (3, 3, ""),
        (2, 5, "empty"),
    ],
)
def test_cleaning_rules(source, target, reason):
    """NeMo's, whose lengths count both sentence marks."""
    config = TranslationDataConfig()
    assert rejection([1] * source, [5] * target, config) == reason
    assert rejection([5] * target, [1] * source, config) == reason


def test_pairs_that_are_left_out_are_counted(root, tmp_path):
    shutil.copytree(root / "text", tmp_path / "text")
    english, german = ((tmp_path / "text" / f"train.{x}").read_text().splitlines() for x in ("en", "de"))
    english[3], german[5] = "", "  "
    german[7] = english[7]
    german[9] = " ".join(german[:8])
    for name, lines in (("en", english), ("de", german)):
        (tmp_path / "text" / f"train.{name}").write_text("\n".join(lines) + "\n")
    counts = open_pairs(files(), tmp_path).counts
    left_out = {key.removeprefix("left_out_"): n for key, n in counts.items() if key.startswith("left_out_")}
    assert left_out == {"empty": 2, "short": 0, "long": 1, "unequal": 0, "same": 1}
    assert counts["train"] == TRAIN


@pytest.mark.parametrize("content", ["", "\n" * TRAIN])
def test_a_training_text_without_a_sentence_is_reported(text_root, content):
    for language in ("en", "de"):
        (text_root / "text" / f"train.{language}").write_text(content)
    with pytest.raises(DataError, match=r"train.en has only empty pairs"):
        open_pairs(files(), text_root)


def test_nothing_left_is_reported(root):
    config = files()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, max_length=4))
    with pytest.raises(DataError, match="none of 600 pairs is left. Left out are 600 long: raise data.max_length 4"):
        open_pairs(config, root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__max_length": 3}, "Left out are 18 long: raise data.max_length 3."),
        ({"data__min_length": 100}, "Left out are 18 short: lower data.min_length 100."),
        ({"data__target_language": "en"}, "Left out are 18 same: provide translations"),
    ],
)
def test_the_reasons_why_no_pair_is_left_are_reported_with_their_keys(changes, message, tiny_root):
    assert message in error_message(tiny_files(**changes), tiny_root)


def test_a_damaged_cache_is_built_again(root, tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path))
    before = open_pairs(files(), root).train[SampleKey(0, 0)].source
    for path in tmp_path.glob("translation/pieces-*/source.npy"):
        path.write_bytes(path.read_bytes()[:-10])
    assert torch.equal(open_pairs(files(), root).train[SampleKey(0, 0)].source, before)


def test_data_are_identified_by_their_text_without_preparing_any(text_root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("novobench.tasks.translation.training_pairs.train_bpe", lambda *_: pytest.fail("trained a BPE"))
        patch.setenv("NOVOBENCH_CACHE", str(text_root / "cache"))
        fingerprints = [identify(config, text_root) for config in (files(), files(seed=1))]
    assert fingerprints == [open_pairs(files(), text_root).fingerprint] * 2
    for split, place in (("train", 1), ("validation", 2), ("test", 3)):
        path = text_root / "text" / f"{split}.de"
        before = path.read_text()
        path.write_text(before[:-3] + "!.\n")  # the same number of lines and bytes
        parts = zip(identify(files(), text_root).split(":"), fingerprints[0].split(":"), strict=True)
        assert [new != old for new, old in parts] == [number == place for number in range(4)]
        path.write_text(before)
    assert identify(files(), text_root) == fingerprints[0]


def test_a_hub_set_and_a_given_bpe_are_identified_by_content(root, tmp_path):
    shutil.copytree(root / "hub", tmp_path / "hub")
    before = identify(hub(), tmp_path)
    assert before == open_pairs(hub(), root).fingerprint
    path = tmp_path / "hub" / "test-00000-of-00001.parquet"
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "hf")).to_list()
    rows[3]["translation"]["de"] = "Etwas anderes."
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    assert identify(hub(), tmp_path) != before
    own_bpe = {"data__bpe_model": "bpe.model", "model__vocabulary": 160}
    pairs = open_pairs(hub(), root).tests["test"].text
    models = [train_bpe(Pairs(x, x), 120, hub().data, "test") for x in pairs]
    fingerprints = set()
    for model in models:
        (tmp_path / "bpe.model").write_bytes(model)
        fingerprints.add(identify(hub(**{**own_bpe, "model__vocabulary": 120}), tmp_path))
    assert len(fingerprints) == 2


def test_line_ends_and_marks_of_an_editor_leave_the_identity(text_root):
    before = identify(files(), text_root)
    for path in (text_root / "text").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert identify(files(), text_root) == before
