"""Transcripts in the letters of `data.alphabet`. Nothing that is spoken is dropped without a word."""

from __future__ import annotations

import reprlib
import unicodedata
from functools import lru_cache

_APOSTROPHES = "’‘´`ʼʹ′＇"
_WORDS_APART = "\u200b"
"""Zero-width space: invisible, but it parts words. Other invisible signs only say how letters are set."""
_MOST_ACCENTS = 30
"""No language has so many (Unicode's Stream-Safe Text Format); to sort thousands of them takes minutes."""


def in_alphabet(text: str, alphabet: str) -> str:
    """A transcript in the letters of the alphabet, in lower case, with single spaces.

    Letters that the alphabet has are kept, composed or not; others lose their accents (é, ﬁ and ｆ become e, fi and f).
    Typographic apostrophes become ', dashes become spaces. Raises ValueError if nothing is left, or if something has no
    form in the alphabet (ß, ø or я in English, digits, signs).
    """
    if not text.isascii() and _most_accents_in_a_row(text) > _MOST_ACCENTS:
        raise ValueError(f"its transcript has more than {_MOST_ACCENTS} accents on one letter")
    lowered = _lower(unicodedata.normalize("NFC", text), alphabet)
    if not set(lowered) <= set(alphabet):
        lowered = "".join(_letters(sign, alphabet) for sign in lowered)
    words = " ".join(lowered.split())
    if not words:
        raise ValueError(
            f"its transcript {reprlib.repr(text)} has no letter" if text.strip() else "it has no transcript"
        )
    return words


def _most_accents_in_a_row(text: str) -> int:
    most = run = 0
    for sign in text:
        run = run + 1 if unicodedata.combining(sign) else 0
        most = max(most, run)
    return most


def _lower(text: str, alphabet: str) -> str:
    if "ı" in alphabet:  # Turkish and its relatives, where I and İ are two letters
        text = text.replace("I", "ı").replace("İ", "i")
    return unicodedata.normalize("NFC", text.lower())


@lru_cache(maxsize=4096)
def _letters(sign: str, alphabet: str) -> str:
    """One lower-case sign in the letters of the alphabet."""
    if sign in alphabet:
        return sign
    if sign in _APOSTROPHES and "'" in alphabet:
        return "'"
    kind = unicodedata.category(sign)
    if sign.isspace() or kind == "Pd" or sign in _WORDS_APART:
        return " "
    if kind == "Cf" or _is_accent(sign):  # an accent by itself has no composed form with the letter before it
        return ""
    letters = ""
    for piece in _with_accents(unicodedata.normalize("NFKD", sign).lower()):
        shorter = (unicodedata.normalize("NFC", piece[:end]) for end in range(len(piece), 0, -1))
        kept = next((letter for letter in shorter if letter in alphabet and not letter.isspace()), None)
        if kept is None:
            raise ValueError(f"its transcript has {sign!r}, which is not in data.alphabet")
        letters += kept
    return letters


def _with_accents(decomposed: str) -> list[str]:
    """Each letter with the accents behind it."""
    pieces: list[str] = []
    for sign in decomposed:
        if pieces and _is_accent(sign):
            pieces[-1] += sign
        else:
            pieces.append(sign)
    return pieces


def _is_accent(sign: str) -> bool:
    """Of Latin, Greek and Cyrillic letters. The vowel signs of Indic scripts are letters of their own."""
    return unicodedata.name(sign, "").startswith("COMBINING ")
