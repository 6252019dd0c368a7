"""Measures a user's own recordings: hours, sample rates and letters, and the config that trains on them."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError
from novobench.files import derived_folder, write_json
from novobench.tasks.inspection import (
    Draft,
    Inspection,
    fitting_batch,
    grouped,
    held_out_size,
    numbers,
    spread,
    tracked,
)
from novobench.tasks.sources import listed, split_role, splits_by_role
from novobench.tasks.speech.config import BUILT_IN, FeatureConfig, SpeechDataConfig
from novobench.tasks.speech.data import open_sources
from novobench.tasks.speech.layouts import source_kind, split_names
from novobench.tasks.speech.listings import Listing, Source
from novobench.tasks.speech.sources import open_source
from novobench.tasks.speech.transcripts import in_alphabet, spoken_characters
from novobench.tasks.speech.utterances import Utterances

_RARE = 1000
"""A character that less than one in so many transcripts has is no letter of the alphabet."""
_MOST_DECODED = 5_000
"""Recordings of a set that are decoded, to find bad ones; of more, evenly spread ones are."""
_MOST_TOO_LONG = 0.05
"""Share of the training utterances that may be longer than `max_seconds`; else the limit is raised."""


def measure(draft: Draft) -> Inspection:
    """Raises DataError if the folder has no recordings with transcripts in a layout that novobench reads."""
    layout, notes = _layout(draft)
    data: SpeechDataConfig = replace(draft.data, **layout)
    data = _with_shares(data, draft)
    sources = open_sources(data, draft.data_root)
    headers = np.concatenate([source.headers().values for parts in sources.values() for source in parts])
    headers = headers[headers[:, 0] > 0]
    if not len(headers):
        raise DataError(f"No recording of {draft.folder} can be read. `soundfile` reads wav, flac, ogg, opus and mp3.")
    settings: dict[str, Any] = {f"data.{key}": value for key, value in layout.items()}
    settings |= _features(draft, headers)
    features = replace(draft.data.features, **_fields(settings, "data.features."))
    alphabet, alphabet_notes = _alphabet(draft, [part for parts in sources.values() for part in parts])
    settings |= {"data.alphabet": alphabet, "model.outputs": len(alphabet) + 1}
    data = replace(data, features=features, alphabet=alphabet, on_bad_utterance="skip")
    usable = {name: _Usable(parts, data, name) for name, parts in sources.items()}
    settings["data.train_size"] = usable["train"].listed
    settings["data.set_sizes"] = {}  # those of the config's own data
    settings |= {f"data.set_sizes.{name}": usable[name].listed for name in data.sets}
    settings |= _longest(draft, usable["train"], features.sample_rate)
    for utterances in usable.values():
        utterances.bad += _undecodable(utterances)
    bad = grouped(entry for utterances in usable.values() for entry in utterances.bad)
    if bad:
        settings["data.on_bad_utterance"] = "skip"
        notes.append("Bad utterances are left out and counted; --data on_bad_utterance=error stops at the first.")
    used = len(usable["train"]) if data.limit is None else min(data.limit, len(usable["train"]))
    batch, batch_notes = fitting_batch(draft.batch, used, "training utterances")
    facts = _facts(usable, data, headers)
    return Inspection(settings | batch, facts, bad, notes + alphabet_notes + batch_notes)


class _Usable(Utterances):
    """The usable utterances of a set; the others with their reasons."""

    def __init__(self, sources: list[Source], config: SpeechDataConfig, name: str) -> None:
        self.bad: list[tuple[str, str]] = []
        super().__init__(sources, config, name)

    def _reject(self, listing: Listing, reason: str, split: str) -> None:
        self.bad.append((reason, listing.name))


def _undecodable(utterances: _Usable) -> list[tuple[str, str]]:
    """Reason and name of the recordings that have a good header but cannot be decoded; decoded once per machine."""
    ids = [utterances.listing(index).id for index in range(len(utterances))]
    key = hashlib.sha256(json.dumps([utterances.cache_key, ids]).encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        before = len(utterances.bad)
        for index in tracked(spread(len(ids), _MOST_DECODED), min(len(ids), _MOST_DECODED), "Reading recordings"):
            utterances.read(index)
        write_json(folder / "bad.json", utterances.bad[before:])
        del utterances.bad[before:]

    folder = derived_folder(f"speech/undecodable-{key}", build)
    return [(reason, name) for reason, name in json.loads((folder / "bad.json").read_text(encoding="utf-8"))]


def _layout(draft: Draft) -> tuple[dict[str, Any], list[str]]:
    """The source and its splits, as fields of the data config, and notes."""
    data: SpeechDataConfig = draft.data
    given = {key.removeprefix("data.").partition(".")[0] for key in draft.given}
    source = data.source if "source" in given and data.source != BUILT_IN else source_kind(draft.folder)
    names = split_names(source, data, draft.data_root)
    roles = splits_by_role(names)
    layout: dict[str, Any] = {"source": source}
    notes: list[str] = []
    train = data.train_splits if "train_splits" in given else roles["train"]
    search = data.search_set if "search_set" in given else next(iter(roles["valid"]), "")
    tests = data.test_sets if "test_sets" in given else roles["test"]
    if not train and len(names) == 1 and not split_role(names[0]):
        train = names
    if not train:
        raise DataError(
            f"{draft.folder} has no training split among {listed(names)}. Name it train, or add: --data "
            "train_splits=[NAME]"
        )
    dev = data.dev_sets if "dev_sets" in given else [name for name in roles["valid"] if name != search]
    held_out = []
    if not search:
        search = "dev"
        held_out.append(search)
    if not tests:
        tests = ["test"]
        held_out.append("test")
    if held_out:
        notes.append(
            f"There is no split for {' and '.join(held_out)}: a tenth of the utterances each, drawn once with a fixed "
            "seed. The same speakers may be in training."
        )
    layout |= {"train_splits": train, "search_set": search, "dev_sets": dev, "test_sets": tests}
    return layout | {"held_out_sets": held_out}, notes


def _with_shares(data: SpeechDataConfig, draft: Draft) -> SpeechDataConfig:
    """The config with a tenth of the training utterances for each held-out set, unless the user gave its size."""
    if not data.held_out_sets:
        return data
    count = sum(len(open_source(data, draft.data_root, split).listings) for split in data.train_splits)
    share = {
        name: data.set_sizes[name] if f"data.set_sizes.{name}" in draft.given else held_out_size(count)
        for name in data.held_out_sets
    }
    return replace(data, set_sizes=data.set_sizes | share)


def _fields(settings: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _features(draft: Draft, headers: np.ndarray) -> dict[str, Any]:
    """The most frequent sample rate, and windows that follow it."""
    if any(key.startswith("data.features") for key in draft.given):
        return {}
    rates, counts = np.unique(headers[:, 1], return_counts=True)
    features = FeatureConfig(sample_rate=int(rates[counts.argmax()]))
    settings: dict[str, Any] = {"data.features.sample_rate": features.sample_rate}
    settings |= dict.fromkeys(
        (f"data.features.{key}" for key in ("window", "hop", "fft", "highest_hertz")),
    )
    if draft.model.features > features.fft_samples // 2:
        settings["model.features"] = features.fft_samples // 2
    return settings


def _alphabet(draft: Draft, sources: list[Source]) -> tuple[str, list[str]]:
    """The config's alphabet if it can spell every transcript, else the characters of the transcripts."""
    alphabet = draft.data.alphabet
    texts = [listing.text for source in sources for listing in source.listings if listing.text.strip()]
    if "data.alphabet" in draft.given or all(_can_spell(text, alphabet) for text in texts):
        return alphabet, []
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(spoken_characters(text)))
    frequent = {character for character, count in counts.items() if count * _RARE >= len(texts)} - {" "}
    letters = sorted(character for character in frequent if unicodedata.category(character)[0] in "LM")
    signs = sorted(frequent - set(letters))
    notes = []
    if others := [sign for sign in signs if sign != "'"]:
        notes.append(
            f"The transcripts have signs that are no letters ({' '.join(others)}). They are part of the alphabet, so "
            "word error rates count them: remove them from the transcripts for the usual rates."
        )
    return "".join([" ", *letters, *signs]), notes


def _can_spell(text: str, alphabet: str) -> bool:
    try:
        in_alphabet(text, alphabet)
    except ValueError:
        return False
    return True


def _longest(draft: Draft, training: Utterances, rate: int) -> dict[str, Any]:
    """A longer `max_seconds`, if too many training utterances would be left out."""
    seconds = training.lengths / rate
    if "data.max_seconds" in draft.given or (seconds > draft.data.max_seconds).mean() <= _MOST_TOO_LONG:
        return {}
    return {"data.max_seconds": math.ceil(float(np.quantile(seconds, 1 - _MOST_TOO_LONG)))}


def _facts(usable: dict[str, _Usable], data: SpeechDataConfig, headers: np.ndarray) -> list[tuple[str, str]]:
    facts = []
    roles = (
        {data.search_set: "for search"} | dict.fromkeys(data.dev_sets, "dev") | dict.fromkeys(data.test_sets, "test")
    )
    for name, utterances in usable.items():
        seconds = utterances.lengths / data.features.sample_rate
        hours = f"{seconds.sum() / 3600:.2f} h" if seconds.sum() > 3600 else f"{seconds.sum() / 60:.1f} minutes"
        where = ", ".join(data.train_splits) if name == "train" else name
        text = f"{utterances.listed:,} utterances, {hours}, {seconds.min():.1f} to {seconds.max():.1f} s"
        facts.append((where, f"{text} ({roles.get(name, 'for training')})"))
    facts.append(("sample rates", _counted(f"{rate:,} Hz" for rate in headers[:, 1].tolist())))
    facts.append(("channels", _counted(f"{n}" for n in headers[:, 2].tolist())))
    words = Counter(word for text in usable["train"].texts for word in text.split())
    facts.append(("transcripts", f"{sum(words.values()):,} words, {len(words):,} different ones, in training"))
    facts.append(("alphabet", f"{len(data.alphabet)} characters: {data.alphabet!r}"))
    return facts


def _counted(values: Iterable[str]) -> str:
    """The only value, or each with its number."""
    counts = Counter(values)
    return next(iter(counts)) if len(counts) == 1 else numbers(counts)
