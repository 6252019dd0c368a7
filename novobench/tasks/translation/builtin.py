"""The built-in corpus: English clauses about numbers and their German translations. It needs no download.

num2words spells cardinals, ordinals, years and amounts in both languages. "three thousand, nine hundred and
eighty-nine" is "dreitausendneunhundertneunundachtzig": a model must learn the order of tens and units, the compounding,
and the German word order. Many test words never occur in training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from novobench.errors import DataError
from novobench.files import derived_folder

COUNT = 12_000
"""Distinct sentences, in random order."""
_SHA256 = "69ec534e38a6d4bc5ce5ca8af7af9102f93d8eb00c729affaf8925a443413e82"
_SEED = 1905_11286
_TWO_CLAUSES = 0.35
"""Share of sentences with two clauses."""

_PEOPLE = (
    ("the teacher", "der Lehrer"),
    ("my sister", "meine Schwester"),
    ("our neighbour", "unser Nachbar"),
    ("the captain", "der Kapitän"),
    ("the doctor", "die Ärztin"),
    ("his daughter", "seine Tochter"),
)
_THINGS = (
    ("books", "Bücher"),
    ("apples", "Äpfel"),
    ("letters", "Briefe"),
    ("windows", "Fenster"),
    ("lamps", "Lampen"),
    ("keys", "Schlüssel"),
)
_CONJUNCTIONS = ((" and ", " und "), (", but ", ", aber "), ("; ", "; "))

Pair = tuple[str, str]
"""English, German."""


class _Words:
    """Random words of both languages. Draws only with `random()`, which is the same in every version of Python."""

    def __init__(self) -> None:
        from num2words import num2words

        self._spell: Callable[..., str] = num2words
        self.draw = random.Random(_SEED).random

    def one_of(self, pairs: tuple[Pair, ...]) -> Pair:
        return pairs[int(self.draw() * len(pairs))]

    def number(self) -> Pair:
        """2 to 9,999; every number of digits is equally likely."""
        low, high = ((2, 10), (10, 100), (100, 1000), (1000, 10_000))[int(self.draw() * 4)]
        return self._both(low + int(self.draw() * (high - low)), "cardinal")

    def ordinal(self) -> Pair:
        return self._both(1 + int(self.draw() * 200), "ordinal")

    def year(self) -> Pair:
        return self._both(1801 + int(self.draw() * 220), "year")

    def amount(self) -> Pair:
        value = (100 + int(self.draw() * 49_900)) / 100
        return self._both(value, "currency", currency="EUR" if self.draw() < 0.5 else "USD")

    def _both(self, value: float, kind: str, **options: str) -> Pair:
        return tuple(self._spell(value, lang=language, to=kind, **options) for language in ("en", "de"))  # type: ignore[return-value]


_Clause = tuple[str, str, tuple[str, ...]]
_CLAUSES: tuple[_Clause, ...] = (
    ("{0} has counted {1} {2}", "{0} hat {1} {2} gezählt", ("person", "number", "thing")),
    ("{0} was born in {1}", "{0} wurde {1} geboren", ("person", "year")),
    ("the {0} room costs {1}", "das {0} Zimmer kostet {1}", ("ordinal", "amount")),
    ("{0} {1} were sold in {2}", "im Jahr {2} wurden {0} {1} verkauft", ("number", "thing", "year")),
    ("{0} paid {1} for {2} {3}", "{0} hat {1} für {2} {3} bezahlt", ("person", "amount", "number", "thing")),
    ("the {0} letter contains {1} words", "der {0} Brief enthält {1} Wörter", ("ordinal", "number")),
    ("{0} could not find the {1} key", "{0} konnte den {1}n Schlüssel nicht finden", ("person", "ordinal")),
)


def _clause(words: _Words) -> Pair:
    english, german, slots = _CLAUSES[int(words.draw() * len(_CLAUSES))]
    draws = {
        "person": lambda: words.one_of(_PEOPLE),
        "thing": lambda: words.one_of(_THINGS),
        "number": words.number,
        "ordinal": words.ordinal,
        "year": words.year,
        "amount": words.amount,
    }
    pairs = [draws[slot]() for slot in slots]
    return english.format(*(pair[0] for pair in pairs)), german.format(*(pair[1] for pair in pairs))


def _sentence(words: _Words) -> Pair:
    english, german = _clause(words)
    if words.draw() < _TWO_CLAUSES:
        conjunction, second = words.one_of(_CONJUNCTIONS), _clause(words)
        english, german = english + conjunction[0] + second[0], german + conjunction[1] + second[1]
    return english[0].upper() + english[1:] + ".", german[0].upper() + german[1:] + "."


def generate() -> str:
    """All sentences, one pair per line, English and German separated by a tab."""
    words = _Words()
    translations: dict[str, str] = {}
    while len(translations) < COUNT:
        english, german = _sentence(words)
        translations.setdefault(english, german)
    return "".join(f"{english}\t{german}\n" for english, german in translations.items())


@cache
def corpus() -> list[Pair]:
    """All sentences. They are generated once per machine, and their bytes are checked each time."""

    def build(folder: Path) -> None:
        (folder / "pairs.tsv").write_text(generate(), encoding="utf-8")

    text = (derived_folder(f"translation/numbers-{_SHA256[:10]}", build) / "pairs.tsv").read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    if digest != _SHA256:
        raise DataError(
            f"num2words spells the built-in corpus differently than expected (sha256 {digest}). Install the version of "
            "constraints.txt: pip install num2words==0.5.14"
        )
    return [tuple(line.split("\t")) for line in text.decode().removesuffix("\n").split("\n")]  # type: ignore[misc]
