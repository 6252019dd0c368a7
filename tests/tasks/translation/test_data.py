"""Sentence pairs from the corpus, from files, from the hub: the same samples, counted skips, and plain errors."""

import dataclasses
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import sentencepiece as spm
import torch

from novobench.config import CellConfig
from novobench.config_loading import parse_overrides
from novobench.errors import DataError
from novobench.places import data_root
from novobench.suite.experiment import load_experiment, row_config
from novobench.tasks.sampling import SampleKey
from novobench.tasks.translation.builtin import COUNT, corpus
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.data import PackedPairs, collate, identify, open_pairs, pack
from novobench.tasks.translation.model import BEGIN, END, PAD
from novobench.tasks.translation.sources import Pairs
from novobench.tasks.translation.tokenizer import load_bpe, train_bpe
from novobench.tasks.translation.training_pairs import rejection
from tests.tasks.translation.small import small_config

TRAIN, SEARCH, TEST = 600, 40, 30
DATA = data_root()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Nothing a test makes stays; the built-in corpus is generated once for all of them."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("NOVOBENCH_CACHE", str(cache))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The same sentences as text files and as parquet files of WMT14's hub schema."""
    folder = tmp_path_factory.mktemp("data")
    pairs = corpus()
    parts = {
        "test": pairs[:TEST],
        "validation": pairs[TEST : TEST + SEARCH],
        "train": pairs[TEST + SEARCH : TEST + SEARCH + TRAIN],
    }
    (folder / "text").mkdir()
    (folder / "hub").mkdir()
    for name, part in parts.items():
        for language, side in (("en", 0), ("de", 1)):
            (folder / "text" / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in part))
        rows = [{"translation": {"de": german, "en": english}} for english, german in part]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "hub" / f"{name}-00000-of-00001.parquet"))
    return folder


def small(**changes: object) -> CellConfig:
    settings = {"data__train_size": TRAIN, "data__search_size": SEARCH, "data__test_size": TEST, "budget": "4steps"}
    return small_config(**{**settings, **changes})


def files(**changes: object) -> CellConfig:
    return small(**{"data__source": "files", "data__name": "text", "data__path": "text", **changes})


def hub(**changes: object) -> CellConfig:
    return small(
        **{"data__source": "hub", "data__name": "text", "data__path": "hub", "data__hub_config": "", **changes}
    )


def batches(packed: PackedPairs, epoch: int) -> list[dict]:
    return [packed[SampleKey(epoch, i)] for i in range(len(packed))]


# ------------------------------------------------------------------------------------ the corpus


def test_the_corpus_has_distinct_sentences_of_both_languages():
    pairs = corpus()
    assert len({english for english, _ in pairs}) == COUNT == len(pairs)
    assert all(line.endswith(".") and line[0].isupper() for pair in pairs for line in pair)


def test_the_splits_of_the_corpus_do_not_overlap():
    splits = open_pairs(small(), Path())
    train = set(splits.model.decode([x.tolist() for x in splits.train.source]))
    test, search = set(splits.tests["test"].text.sources), set(splits.search.text.sources)
    assert (len(train), len(search), len(test)) == (TRAIN, SEARCH, TEST)
    assert not train & test
    assert not train & search
    assert not test & search


def test_another_spelling_of_num2words_is_told(monkeypatch):
    monkeypatch.setattr("novobench.tasks.translation.builtin._SHA256", "0" * 64)
    monkeypatch.setattr("novobench.tasks.translation.builtin.generate", lambda: "One.\tEins.\n")
    corpus.cache_clear()
    with pytest.raises(DataError, match="num2words spells the built-in corpus differently.*num2words==0.5.14"):
        corpus()
    monkeypatch.undo()
    corpus.cache_clear()


# ------------------------------------------------------------------------------------ three sources


def test_files_and_hub_give_the_same_samples_as_the_corpus(root):
    found = [open_pairs(config, root) for config in (small(), files(), hub())]
    for other in found[1:]:
        assert other.counts == found[0].counts
        for one, two in zip(batches(found[0].train, 1), batches(other.train, 1), strict=True):
            assert torch.equal(one.source, two.source)
            assert torch.equal(one.target, two.target)
        assert [other.tests["test"][i] for i in range(TEST)] == [found[0].tests["test"][i] for i in range(TEST)]
    assert len({splits.fingerprint.partition(":")[2] for splits in found}) == 1


def test_pieces_give_the_text_back(root):
    splits = open_pairs(files(), root)
    text = (root / "text" / "train.de").read_text().splitlines()
    assert [splits.model.decode(x.tolist()) for x in splits.train.target] == text
    for ids in splits.train.source:
        assert (ids[0], ids[-1]) == (BEGIN, END)
        assert PAD not in ids


def test_languages_turn_round(root):
    there = open_pairs(files(), root)
    back = open_pairs(files(data__source_language="de", data__target_language="en"), root)
    assert there.search.text.sources == back.search.text.targets


def test_evaluation_items_come_shortest_first_each_once(root):
    search = open_pairs(files(), root).search
    items = [search[i] for i in range(len(search))]
    assert sorted(item.index for item in items) == list(range(SEARCH))
    lengths = [len(item.source) for item in items]
    assert lengths == sorted(lengths)
    batch = collate(items[-3:])
    assert batch.source.shape == (3, lengths[-1])
    assert batch.source[0, : lengths[-3]].tolist() == items[-3].source


def test_a_sacrebleu_test_set_is_a_further_test(root, monkeypatch):
    from sacrebleu.dataset import DATASETS

    folder = root / "sacrebleu"
    folder.mkdir()
    shutil.copy(root / "text" / "test.en", folder / "wmt14_full.en-de.src")
    for field in ("ref", "docid", "origlang", "genre"):
        shutil.copy(root / "text" / "test.de", folder / f"wmt14_full.en-de.{field}")
    monkeypatch.setattr(DATASETS["wmt14/full"], "_outdir", str(folder))
    splits = open_pairs(files(data__more_tests=["sacrebleu:wmt14/full"]), root)
    assert splits.tests["wmt14-full"].text == splits.tests["test"].text
    with pytest.raises(DataError, match="sacreBLEU has no test set 'wmt41'. Did you mean 'wmt"):
        open_pairs(files(data__more_tests=["sacrebleu:wmt41"]), root)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "multi30k").is_dir(), reason="needs multi30k under $NOVOBENCH_DATA")
def test_multi30k_is_read_from_its_files():
    experiment = load_experiment("table6")
    splits = open_pairs(row_config(experiment, experiment.row("t6_adam"), "gpu", 0), DATA)
    assert [splits.counts[name] for name in ("train", "search", "test")] == [29_000, 1_014, 1_000]
    assert splits.counts["unknown_pieces"] == 0
    assert splits.model.get_piece_size() == 8192
    for batch in batches(splits.train, 0):
        assert batch.source.numel() + batch.target.numel() <= 4096
    references = (DATA / "multi30k" / "test.de").read_text().splitlines()
    assert splits.tests["test"].text.targets == references
    assert splits.model.decode([splits.tests["test"].targets[i] for i in range(1000)]) == references


# ------------------------------------------------------------------------------------ cleaning


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (12, 12, ""),
        (128, 128, ""),
        (129, 128, "long"),
        (60, 35, ""),
        (61, 35, "unequal"),  # 26 pieces more
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


# ------------------------------------------------------------------------------------ packing


@pytest.fixture(scope="module")
def packed(root) -> PackedPairs:
    return open_pairs(files(), root).train


def test_an_epoch_holds_each_pair_once(packed):
    for epoch in (0, 1):
        seen = [pair for i in range(len(packed)) for pair in packed.pairs(SampleKey(epoch, i))]
        assert sorted(seen) == list(range(TRAIN))


def test_micro_batches_keep_to_their_tokens_and_are_nearly_full(packed):
    padded, real = 0, 0
    for batch in batches(packed, 0):
        (pairs, source), (same, target) = batch.source.shape, batch.target.shape
        assert pairs == same
        assert pairs * (source + target) <= 512
        padded += pairs * (source + target)
        real += int((batch.source != PAD).sum() + (batch.target != PAD).sum())
    assert padded == packed.padded_tokens
    assert real > 0.9 * padded
    assert padded > 0.85 * 512 * len(packed)


def test_epochs_differ_in_pairs_but_not_in_shapes(packed):
    shapes = [[batch.source.shape + batch.target.shape for batch in batches(packed, epoch)] for epoch in (0, 1)]
    assert shapes[0] == shapes[1]
    pairs = [{tuple(packed.pairs(SampleKey(epoch, i))) for i in range(len(packed))} for epoch in (0, 1)]
    assert pairs[0] != pairs[1]


def test_a_micro_batch_depends_on_seed_and_key_alone(packed, root):
    again = open_pairs(files(), root).train
    other = open_pairs(files(seed=1), root).train
    key = SampleKey(3, 5)
    assert again.pairs(key) == packed.pairs(key)
    assert any(other.pairs(SampleKey(3, i)) != packed.pairs(SampleKey(3, i)) for i in range(len(packed)))


def test_workers_change_no_bit(packed):
    keys = [SampleKey(0, i) for i in range(4)]
    runs = [
        list(torch.utils.data.DataLoader(packed, None, sampler=keys, num_workers=n, multiprocessing_context=context))
        for n, context in ((0, None), (2, "forkserver"))
    ]
    for one, two in zip(*runs, strict=True):
        assert torch.equal(one.source, two.source)
        assert torch.equal(one.target, two.target)


def test_packing_by_hand():
    lengths = np.array([[5, 5, 6, 6, 7], [5, 5, 5, 5, 5]])
    assert pack(lengths, 22, 1).tolist() == [0, 2, 4, 5]  # 2 × (5 + 5), 2 × (6 + 5), 7 + 5
    assert pack(lengths, 33, 2).tolist() == [0, 2, 4, 5]  # three would fit, but two are a multiple of 2
    with pytest.raises(DataError, match=r"pair of 7 \+ 5 tokens does not fit into a micro-batch of 11 tokens"):
        pack(lengths, 11, 1)


def test_the_declared_tokens_of_an_epoch_are_checked_where_they_count(root, caplog):
    measured = len(open_pairs(files(), root).train) * 512
    with pytest.raises(
        DataError, match=f"{measured} padded tokens.*data.train_tokens is 8192. .*--set data.train_tokens={measured}"
    ):
        open_pairs(files(budget="1ep", data__train_tokens=8192), root)
    open_pairs(files(budget="1ep", data__train_tokens=measured), root)
    caplog.clear()
    open_pairs(files(budget="4steps", data__train_tokens=8192), root)
    assert "by which curves count epochs" in caplog.text


# ------------------------------------------------------------------------------------ trouble


@pytest.fixture
def broken(root, tmp_path):
    """A copy of the text files, for a test to break."""
    shutil.copytree(root / "text", tmp_path / "text")
    return tmp_path


def test_unequal_line_counts_are_told(broken):
    path = broken / "text" / "train.de"
    path.write_text(path.read_text() + "Noch eine Zeile.\n")
    with pytest.raises(DataError, match=r"train.en has 600 lines, but .*train.de has 601: each line must"):
        open_pairs(files(), broken)


@pytest.mark.parametrize("content", ["", "\n" * TRAIN])
def test_a_training_text_without_a_sentence_is_told(broken, content):
    for language in ("en", "de"):
        (broken / "text" / f"train.{language}").write_text(content)
    with pytest.raises(DataError, match=r"train.en has only empty pairs"):
        open_pairs(files(), broken)


def test_a_byte_that_is_not_utf8_is_told_with_its_line(broken):
    path = broken / "text" / "train.de"
    path.write_bytes("Gut.\nSchön.\n".encode("latin-1") * 300)
    with pytest.raises(DataError, match=r"train.de line 2 is not UTF-8 \(byte 0xf6\). Convert the file, e.g. iconv"):
        open_pairs(files(), broken)


def test_an_empty_line_of_a_test_set_is_told(broken):
    path = broken / "text" / "test.en"
    lines = path.read_text().splitlines()
    lines[4] = ""
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"test.en line 5: the source is empty"):
        open_pairs(files(), broken)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(broken, root):
    for language in ("en", "de"):
        path = broken / "text" / f"test.{language}"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert open_pairs(files(), broken).tests["test"].text == open_pairs(files(), root).tests["test"].text


def test_missing_files_are_named(root):
    with pytest.raises(DataError, match="No data folder .*/nowhere for 'text'.*train.en and train.de"):
        open_pairs(files(data__path="nowhere"), root)
    with pytest.raises(
        DataError, match=r"No file .*valdation.en. Both .*Did you mean 'validation'\? .* set data.search_split"
    ):
        open_pairs(files(data__search_split="valdation"), root)
    with pytest.raises(DataError, match=r"hub\[train\] has no column 'translation' with 'fr'.*translation of de, en"):
        open_pairs(hub(data__target_language="fr"), root)
    (root / "other").mkdir()
    text = datasets.Dataset.from_dict({"translation": ["Das Wetter: ein Denkmal der Englein."]})
    for split in ("train", "validation", "test"):
        text.to_parquet(str(root / "other" / f"{split}-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"other\[train\] has no column 'translation' with 'en'. It holds: translation"):
        open_pairs(hub(data__path="other"), root)
    with pytest.raises(DataError, match=r"hub\[dev\].*Unknown split"):
        open_pairs(hub(data__search_split="dev"), root)


@pytest.mark.parametrize("name", ["dev", "val", "valid"])
def test_a_validation_split_of_another_name_is_told_with_its_key(name, broken):
    for language in ("en", "de"):
        (broken / "text" / f"validation.{language}").rename(broken / "text" / f"{name}.{language}")
    with pytest.raises(DataError, match=rf"No file .*/validation\.en\. Set data\.search_split={name}\.$"):
        open_pairs(files(), broken)
    assert len(open_pairs(files(data__search_split=name), broken).search) == SEARCH


def test_files_of_other_languages_or_names_are_told(broken):
    with pytest.raises(DataError, match=r"No file .*/train\.fr\. The folder holds: .* Name the files train\.en and"):
        open_pairs(files(data__target_language="fr"), broken)


def test_an_evaluation_split_of_no_sentence_is_told(broken):
    for language in ("en", "de"):
        (broken / "text" / f"test.{language}").write_text("")
    with pytest.raises(DataError, match=r"test\.en has no sentences to evaluate"):
        open_pairs(files(), broken)


def test_all_wrong_counts_are_told_as_one_line_to_paste(root):
    wrong = {"data__train_size": 601, "data__test_size": 31, "budget": "1ep", "data__train_tokens": 8192}
    with pytest.raises(DataError, match=r"\(files text\) has 600 train pairs, but data\.train_size is 601,") as told:
        open_pairs(files(**wrong), root)
    options = str(told.value).partition("Complete the data, or add: --set ")[2]
    right = {key.replace(".", "__"): value for key, value in parse_overrides(options.split()).items()}
    assert set(right) == {"data__train_size", "data__test_size", "data__train_tokens"}
    open_pairs(files(**{**wrong, **right}), root)


# ------------------------------------------------------------------------------------ identity


def test_data_are_identified_by_their_text_without_preparing_any(broken, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("novobench.tasks.translation.training_pairs.train_bpe", lambda *_: pytest.fail("trained a BPE"))
        patch.setenv("NOVOBENCH_CACHE", str(broken / "cache"))
        found = [identify(config, broken) for config in (files(), files(seed=1))]
    assert found == [open_pairs(files(), broken).fingerprint] * 2
    for split, place in (("train", 1), ("validation", 2), ("test", 3)):
        path = broken / "text" / f"{split}.de"
        before = path.read_text()
        path.write_text(before[:-3] + "!.\n")  # the same number of lines and bytes
        assert [a != b for a, b in zip(identify(files(), broken).split(":"), found[0].split(":"), strict=True)] == [
            number == place for number in range(4)
        ]
        path.write_text(before)
    assert identify(files(), broken) == found[0]


def test_a_hub_set_and_a_given_bpe_are_identified_by_content(root, tmp_path):
    shutil.copytree(root / "hub", tmp_path / "hub")
    before = identify(hub(), tmp_path)
    assert before == open_pairs(hub(), root).fingerprint
    path = tmp_path / "hub" / "test-00000-of-00001.parquet"
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "hf")).to_list()
    rows[3]["translation"]["de"] = "Etwas anderes."
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    assert identify(hub(), tmp_path) != before
    given = {"data__bpe_model": "bpe.model", "model__vocabulary": 160}
    pairs = open_pairs(hub(), root).tests["test"].text
    models = [train_bpe(Pairs(x, x), 120, hub().data, "test") for x in pairs]
    found = set()
    for model in models:
        (tmp_path / "bpe.model").write_bytes(model)
        found.add(identify(hub(**{**given, "model__vocabulary": 120}), tmp_path))
    assert len(found) == 2


def test_line_ends_and_marks_of_an_editor_leave_the_identity(broken):
    before = identify(files(), broken)
    for path in (broken / "text").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert identify(files(), broken) == before


def test_sentences_are_left_as_they_are(broken):
    """No Unicode normalisation, no cut at separators inside a sentence, NUL included."""
    lines = (broken / "text" / "test.de").read_text().splitlines()
    lines[:3] = ["caf\u00e9 cafe\u0301 \ufb01n", "vor\u2028nach\x85 \x0b Ende", "null\0stelle"]
    (broken / "text" / "test.de").write_bytes(("\n".join(lines) + "\n").encode())
    assert open_pairs(files(), broken).tests["test"].text.targets == lines


def test_a_bpe_that_cannot_be_trained_is_told(root):
    with pytest.raises(
        DataError, match=r"No BPE of 30000 tokens can be trained on .*train.en: the text has at most \d+. .*--set"
    ):
        open_pairs(files(model__vocabulary=30000), root)


def test_a_given_bpe_must_fit(root):
    config = files().data
    english = (root / "text" / "train.en").read_text().splitlines()
    model = train_bpe(Pairs(english, english), 120, config, "test")
    (root / "english.model").write_bytes(model)
    given = {"data__bpe_model": "english.model", "model__vocabulary": 120}
    with pytest.raises(DataError, match=r"english.model does not fit .*train.en: .* % of the tokens are unknown"):
        open_pairs(files(**given), root)
    with pytest.raises(DataError, match="has 120 tokens, but model.vocabulary is 150. .*--set model.vocabulary=120"):
        open_pairs(files(**{**given, "model__vocabulary": 150}), root)
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(english), model_prefix=str(root / "other"), vocab_size=120, minloglevel=2
    )
    with pytest.raises(DataError, match=r"other.model has pad_id -1, not 0. Train it with --pad_id=0 --unk_id=1"):
        open_pairs(files(**{**given, "data__bpe_model": "other.model"}), root)
    (root / "noise.model").write_bytes(b"no model")
    with pytest.raises(
        DataError, match=r"Cannot read the BPE model .*noise.model: it is damaged or not a sentencepiece model"
    ):
        open_pairs(files(**{**given, "data__bpe_model": "noise.model"}), root)


def test_a_given_bpe_that_fits_is_used(root):
    pairs = Pairs(*((root / "text" / f"train.{x}").read_text().splitlines() for x in ("en", "de")))
    model = train_bpe(pairs, 160, files().data, "test")
    (root / "joint.model").write_bytes(model)
    given = open_pairs(files(data__bpe_model="joint.model", model__vocabulary=160), root)
    trained = open_pairs(files(model__vocabulary=160), root)
    assert load_bpe(model).encode(pairs.sources[0]) == given.train.source[0][1:-1].tolist()
    assert given.counts == trained.counts


def test_a_sentence_longer_than_the_positions_is_told(root):
    with pytest.raises(DataError, match=r"has a sentence of \d+ tokens, but model.positions is 20. Add: --set"):
        open_pairs(
            files(model__positions=20, data__max_length=20, data__max_output=20, batch={"size": 512, "micro": 512}),
            root,
        )


def test_a_damaged_cache_is_built_again(root, tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path))
    before = open_pairs(files(), root).train[SampleKey(0, 0)].source
    for path in tmp_path.glob("translation/pieces-*/source.npy"):
        path.write_bytes(path.read_bytes()[:-10])
    assert torch.equal(open_pairs(files(), root).train[SampleKey(0, 0)].source, before)


def test_nothing_left_is_told(root):
    config = files()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, max_length=4))
    with pytest.raises(DataError, match="none of 600 pairs is left. Left out are 600 long: raise data.max_length 4"):
        open_pairs(config, root)
