"""Transcripts in the letters of an alphabet."""

import unicodedata

import pytest

from novobench.errors import ConfigError
from novobench.tasks.speech.transcripts import in_alphabet
from tests.tasks.speech.small import (
    small,
)

pytestmark = pytest.mark.usefixtures("own_cache")


ALPHABET = " abcdefghijklmnopqrstuvwxyz'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  IT'S   Two\tbooks ", "it's two books"),
        ("Café déjà Ångström naïve", "cafe deja angstrom naive"),
        ("Cafe\u0301", "cafe"),  # the accent by itself
        ("ｆｕｌｌ ﬁne", "full fine"),  # full width, and a ligature
        ("I don’t, I won‘t, I ca`nt".replace(",", ""), "i don't i won't i ca'nt"),
        ("well-known yes—no 1".replace(" 1", ""), "well known yes no"),
        ("one\u2013two\u2010three\u2212".replace("\u2212", ""), "one two three"),
        ("one\u2028two\u00a0three\u200bfour", "one two three four"),  # separators of lines and words
        ("\ufeffco\u00adop", "coop"),  # a byte-order mark, a soft hyphen
        ("İSTANBUL", "istanbul"),
    ],
)
def test_transcripts_become_plain_letters(text, expected):
    assert in_alphabet(text, ALPHABET) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("alphabet", "text", "expected"),
    [
        (" abcdefghijklmnopqrstuvwxyzäöüß", "Schöne GRÜẞE, Café".replace(",", ""), "schöne grüße cafe"),
        (" abcdefghijklmnopqrstuvwxyzæøå'", "Smørrebrød på Århus", "smørrebrød på århus"),
        (" abcdefghijklmnoprstuwyząćęłńóśźż", "Łódź ŻÓŁĆ", "łódź żółć"),
        (" абвгдежзийклмнопрстуфхцчшщъыьэюя", "Ёлка й", "елка й"),
        (" abcçdefgğhıijklmnoöprsştuüvyz", "ISPARTA İzmir", "ısparta izmir"),
        (" abcdeêghinoôơprstuưvxy", "thế", "thê"),  # the tone is removed, the letter kept
        (" abcdefghijklmnopqrstuvwxyz-", "well-known", "well-known"),
    ],
)
def test_letters_of_the_alphabet_are_kept(alphabet, text, expected, form):
    assert in_alphabet(unicodedata.normalize(form, text), alphabet) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it has no transcript"),
        (" \t ", "it has no transcript"),
        ("—", "its transcript '—' has no letter"),
        ("中文", "its transcript has '中', which is not in data.alphabet"),
        ("ROOM 7", "its transcript has '7', which is not in data.alphabet"),
        ("straße", "its transcript has 'ß'"),
        ("smørrebrød", "its transcript has 'ø'"),
        ("łódź", "its transcript has 'ł'"),
        ("привет you", "its transcript has 'п'"),
        ("two 😀", "its transcript has '😀'"),
        ("“two”", "its transcript has '“'"),
        ("one \ud83d two", r"its transcript has '\\ud83d'"),
        ("कि", "its transcript has 'क'"),
    ],
)
def test_characters_outside_the_alphabet_are_reported(text, expected):
    with pytest.raises(ValueError, match=expected):
        in_alphabet(text, ALPHABET)


def test_a_vowel_sign_is_not_an_accent():
    with pytest.raises(ValueError, match="which is not in data.alphabet"):
        in_alphabet("कि", " कखग")


@pytest.mark.parametrize("alphabet", [" Abc", " ae\u0308"])
def test_alphabets_are_lower_case_and_composed(alphabet):
    with pytest.raises(ConfigError, match="'data.alphabet' must hold lower-case letters, each one character"):
        small(data__alphabet=alphabet, model__outputs=len(alphabet) + 1)
