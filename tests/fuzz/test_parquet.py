"""Parquet files of the hub: rows without text or bytes, and columns that are missing, renamed or of another type."""

import dataclasses
import logging
import shutil

import datasets
import pyarrow
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from pyarrow import parquet

from novobench.tasks.language.corpus import open_corpus
from novobench.tasks.translation.data import open_pairs
from tests.cells import small_config
from tests.fuzz.judge import extents, judge
from tests.fuzz.odd import SAFE_TEXT, data
from tests.fuzz.test_speech import BASE as SPEECH
from tests.fuzz.test_speech import read_all, sound
from tests.fuzz.test_texts import PAIRS
from tests.tasks.translation.small import small_config as small_translation

TEXT = [{"text": line} for line in ("", " the cat sat on the mat", " the mat sat", " the cat the mat")]
SPEAKING = [{"audio": {"bytes": sound("FLAC"), "path": "a.flac"}, "text": "SEE", "id": name} for name in ("a", "b")]
TRANSLATED = [{"translation": {"en": source, "de": target}} for source, target in PAIRS]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NOVOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    monkeypatch.setattr("novobench.files.os.fsync", lambda _: None)
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    yield tmp_path / "cache"
    logging.disable(logging.NOTSET)


@st.composite
def changed(draw, rows):
    """Rows with one value or a whole column changed, or with a column renamed or removed."""
    column = draw(st.sampled_from(sorted(rows[0])))
    inner = rows[0][column]
    kind = draw(st.sampled_from(["one", "one", "all", "rename", "lose", "none at all", "plain"]))
    odd = st.one_of(st.none(), SAFE_TEXT, st.binary(max_size=9), data(2))
    if isinstance(inner, dict) and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(inner)))
        odd = odd.map(lambda value: {**inner, key: value})
    if kind == "one":
        place, value = draw(st.integers(0, len(rows) - 1)), draw(odd)
        return [*rows[:place], {**rows[place], column: value}, *rows[place + 1 :]]
    if kind == "all":
        value = draw(odd)
        return [{**row, column: value} for row in rows]
    if kind in ("rename", "lose"):
        name = {"rename": {draw(SAFE_TEXT): 0}, "lose": {}}[kind]
        return [{**{key: row[key] for key in row if key != column}, **dict.fromkeys(name, row[column])} for row in rows]
    return rows[:0] if kind == "none at all" else rows


def write(folder, rows, split, whole):
    """Write a parquet file; skip the input if these rows do not fit into one."""
    try:
        schema = pyarrow.Table.from_pylist(whole).schema if not rows else None
        table = pyarrow.Table.from_pylist(rows, schema=schema)
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        assume(False)


@extents(4, 400)
def test_parquet_files_of_the_hub(inputs, own_cache, tmp_path, fuzz):
    speech = dataclasses.replace(SPEECH, source="hub", path="hub")
    language = small_config("language", data__source="hub", data__name="hub", data__path="hub", model__cutoffs=[])
    language = dataclasses.replace(language.data, text_column="text", minimum_count=1)
    translation = small_translation(
        data__source="hub", data__name="pairs", data__path="hub", data__search_split="validation",
        data__test_split="test", data__train_size=len(PAIRS), data__search_size=len(PAIRS), data__test_size=len(PAIRS),
        data__train_tokens=1024, data__min_length=1, model__vocabulary=40,
    )  # fmt: skip
    kinds = {
        "language": (TEXT, lambda: open_corpus(language, tmp_path)),
        "speech": (SPEAKING, lambda: read_all(speech, tmp_path)),
        "translation": (TRANSLATED, lambda: open_pairs(translation, tmp_path)),
    }

    def attempt(kind, rows, split):
        shutil.rmtree(own_cache, ignore_errors=True)
        folder = tmp_path / "hub" / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        whole, call = kinds[kind]
        for name in ("train", "validation", "test"):
            write(folder, rows if name == split else whole, name, whole)
        return judge(call, "hub", "data.")

    fuzz(
        inputs,
        lambda drawn, split: attempt(*drawn, split),
        drawn=st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.tuples(st.just(kind), changed(kinds[kind][0]))),
        split=st.sampled_from(["train", "train", "validation", "test"]),
    )
