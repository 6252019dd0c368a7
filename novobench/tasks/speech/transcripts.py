"""Transcripts in the letters of `data.alphabet`. Nothing that is spoken is dropped silently."""

from __future__ import annotations

import reprlib
import unicodedata
from functools import lru_cache

_APOSTROPHES = "’‘´`ʼʹ′＇"
_WORD_SEPARATOR = "\u200b"
"""Zero-width space: invisible, but it separates words. Other invisible characters only affect typesetting."""
_MAX_ACCENTS = 30
"""On one letter. No language has more (Unicode's Stream-Safe Text Format); sorting thousands takes minutes."""


def in_alphabet(text: str, alphabet: str) -> str:
    """A transcript in the letters of the alphabet, in lower case, with single spaces.

    Letters of the alphabet are kept, composed or not. Others lose their accents (é, ﬁ and ｆ become e, fi and f),
    typographic apostrophes become ', and dashes become spaces. Raises ValueError if nothing is left, or for a character
    that has no form in the alphabet (in English: ß, ø, я, digits, punctuation).
    """
    if not text.isascii() and _longest_accent_run(text) > _MAX_ACCENTS:
        raise ValueError(f"its transcript has more than {_MAX_ACCENTS} accents on one letter")
    lowered = _lower(unicodedata.normalize("NFC", text), alphabet)
    if not set(lowered) <= set(alphabet):
        lowered = "".join(_letters(character, alphabet) for character in lowered)
    words = " ".join(lowered.split())
    if not words:
        raise ValueError(
            f"its transcript {reprlib.repr(text)} has no letter" if text.strip() else "it has no transcript"
        )
    return words


def spoken_characters(text: str) -> str:
    """The characters of a transcript that its alphabet needs: in lower case, without invisible ones, with ' for its
    typographic forms and a space for any white space or dash."""
    characters = []
    for character in unicodedata.normalize("NFC", text).lower():
        category = unicodedata.category(character)
        if character in _APOSTROPHES:
            characters.append("'")
        elif character.isspace() or category == "Pd" or character in _WORD_SEPARATOR:
            characters.append(" ")
        elif category[0] != "C" and not _is_accent(character):
            characters.append(character)
    return unicodedata.normalize("NFC", "".join(characters))


def _longest_accent_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    return longest


def _lower(text: str, alphabet: str) -> str:
    if "ı" in alphabet:  # Turkish and related languages, where I and İ are two letters
        text = text.replace("I", "ı").replace("İ", "i")
    return unicodedata.normalize("NFC", text.lower())


@lru_cache(maxsize=4096)
def _letters(character: str, alphabet: str) -> str:
    """One lower-case character in the letters of the alphabet."""
    if character in alphabet:
        return character
    if character in _APOSTROPHES and "'" in alphabet:
        return "'"
    category = unicodedata.category(character)
    if character.isspace() or category == "Pd" or character in _WORD_SEPARATOR:
        return " "
    if category == "Cf" or _is_accent(character):  # a lone accent cannot be composed with the letter before it
        return ""
    letters = ""
    for cluster in _clusters(unicodedata.normalize("NFKD", character).lower()):
        # The letter with all its accents, then with ever fewer.
        candidates = (unicodedata.normalize("NFC", cluster[:end]) for end in range(len(cluster), 0, -1))
        letter = next((each for each in candidates if each in alphabet and not each.isspace()), None)
        if letter is None:
            raise ValueError(f"its transcript has {character!r}, which is not in data.alphabet")
        letters += letter
    return letters


def _clusters(decomposed: str) -> list[str]:
    """Each letter with the accents that follow it."""
    clusters: list[str] = []
    for character in decomposed:
        if clusters and _is_accent(character):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _is_accent(character: str) -> bool:
    """Of Latin, Greek and Cyrillic letters. The vowel signs of Indic scripts are letters of their own."""
    return unicodedata.name(character, "").startswith("COMBINING ")
