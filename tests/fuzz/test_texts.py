"""Token files of language modelling, and pair files and BPE models of translation."""

import dataclasses
import logging
import shutil

import pytest
from hypothesis import strategies as st

from novobench.tasks.language.corpus import identify as identify_text
from novobench.tasks.language.corpus import open_corpus
from novobench.tasks.language.data import LanguageData
from novobench.tasks.language.sources import SPLITS
from novobench.tasks.sampling import SampleKey
from novobench.tasks.translation.data import identify, open_pairs
from tests.cells import small_config
from tests.fuzz.judge import extents, judge
from tests.fuzz.odd import damaged, edited
from tests.tasks.translation.small import small_config as small_translation

TEXT = {
    "train": " \n = The <unk> Title = \n \n the cat sat on the mat , The end\n b b c c d \n the cat ate 1 fish\n" * 2,
    "valid": " \n the mat sat on the <unk>\n",
    "test": " the cat\n c d",
}


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))
    monkeypatch.setattr("novobench.files.os.fsync", lambda _: None)
    logging.disable(logging.WARNING)
    yield tmp_path / "cache"
    logging.disable(logging.NOTSET)


@extents(30, 1200)
def test_token_files(inputs, own_cache, tmp_path, fuzz):
    folder = tmp_path / "wiki"
    folder.mkdir()
    config = small_config("language", data__source="files", data__name="wiki", data__path="wiki", model__cutoffs=[])

    def opened(minimum_count):
        data = dataclasses.replace(config.data, minimum_count=minimum_count)
        identify_text(data, tmp_path)
        corpus = open_corpus(data, tmp_path)
        assert corpus.fingerprint
        assert set(corpus.baselines) == {"valid", "test"}
        declared = {f"{split}_tokens": len(corpus.tokens[split]) for split in SPLITS}
        model = dataclasses.replace(config.model, vocabulary_size=len(corpus.vocabulary))
        data = dataclasses.replace(data, **declared, segment_length=4, evaluation_streams=2)
        batch = dataclasses.replace(config.batch, size=8, micro=8)
        opened = LanguageData(dataclasses.replace(config, data=data, model=model, batch=batch))
        opened.setup("fit")
        opened.train.collate(opened.train.__getitems__([SampleKey(0, place) for place in range(8)]))
        for each in opened.evaluation_sets:
            share = each.dataset.share(range(len(each.dataset)))
            for place in range(len(share)):
                share[place]

    def attempt(split, content, minimum_count):
        shutil.rmtree(own_cache, ignore_errors=True)
        for name, text in TEXT.items():
            (folder / f"wiki.{name}.tokens").write_text(text)
        (folder / f"wiki.{split}.tokens").write_bytes(content)
        return judge(lambda: opened(minimum_count), str(folder), "wiki", "data.")

    texts = st.sampled_from(SPLITS).flatmap(lambda split: st.tuples(st.just(split), edited(TEXT[split]) | st.binary()))
    fuzz(
        inputs,
        lambda text, minimum_count: attempt(*text, minimum_count),
        text=texts,
        minimum_count=st.sampled_from([1, 2, 2, 3]),
    )


PAIRS = [
    ("one", "eins"), ("two", "zwei"), ("three", "drei"), ("twenty one", "einundzwanzig"), ("four", "vier"),
    ("thirty two", "zweiunddreißig"), ("five", "fünf"), ("six hundred", "sechshundert"), ("seven", "sieben"),
    ("eight and nine", "acht und neun"), ("ten", "zehn"), ("eleven", "elf"),
]  # fmt: skip


@extents(8, 400)
def test_pair_files(inputs, own_cache, tmp_path, fuzz):
    """Training or evaluation text of one language, and BPE models of one's own."""
    folder, sides = tmp_path / "pairs", ("en", "de")
    folder.mkdir()
    texts = {side: "".join(f"{pair[number]}\n" for pair in PAIRS) for number, side in enumerate(sides)}
    config = small_translation(
        data__source="files", data__name="pairs", data__path="pairs",
        data__search_split="valid", data__test_split="test",
        data__train_size=len(PAIRS), data__search_size=len(PAIRS), data__test_size=len(PAIRS), data__train_tokens=512,
        data__min_length=1, model__vocabulary=40, batch={"size": 512, "micro": 512},
    )  # fmt: skip
    for split in ("train", "valid", "test"):
        for side in sides:
            (folder / f"{split}.{side}").write_text(texts[side])
    model = open_pairs(config, tmp_path).model.serialized_model_proto()

    def attempt(name, content, neighbours):
        shutil.rmtree(own_cache, ignore_errors=True)
        for split in ("train", "valid", "test"):
            for side in sides:
                (folder / f"{split}.{side}").write_text(texts[side])
        (folder / name).write_bytes(content)
        bpe_model = "pairs/bpe.model" if name == "bpe.model" else ""
        data = dataclasses.replace(config.data, bpe_model=bpe_model, neighbours=neighbours)
        chosen = dataclasses.replace(config, data=data)

        def opened():
            identify(chosen, tmp_path)
            splits = open_pairs(chosen, tmp_path)
            for pairs in (splits.search, *splits.tests.values()):
                for place in range(len(pairs)):
                    pairs[place]
            assert splits.fingerprint

        return judge(opened, str(folder), "pairs", "data.", "model.vocabulary")

    names = [f"{split}.{side}" for split in ("train", "train", "valid", "test") for side in sides]
    changed = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), edited(texts[name[-2:]]) | st.binary())
    )
    own_model = st.tuples(st.just("bpe.model"), damaged(model) | st.binary())
    fuzz(
        inputs,
        lambda changed, neighbours: attempt(*changed, neighbours),
        changed=st.one_of(changed, changed, own_model),
        neighbours=st.sampled_from([False, False, True]),
    )
