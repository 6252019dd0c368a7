"""BLEU against its definition and published scores, and words against the known results of the rules."""

import csv
import math
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from novobench.errors import ConfigError, DataError
from novobench.places import data_root
from novobench.tasks.translation.scoring import (
    fairseq_words,
    nearest_neighbours,
    sacrebleu,
    signatures,
    token_bleu,
)
from novobench.tasks.translation.sources import Pairs, read_lines
from tests.tasks.translation.small import small_config

WMT21 = data_root() / "wmt-en-de" / "wmt21-systems"


def bleu_by_definition(outputs: list[str], references: list[str]) -> float:
    """Papineni et al. (2002) over words between blanks, for corpora where every n-gram order has a match."""
    matches, totals = [0] * 4, [0] * 4
    for output, reference in zip(outputs, references, strict=True):
        for n in range(1, 5):
            grams = [
                Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
                for words in (output.split(), reference.split())
            ]
            matches[n - 1] += sum((grams[0] & grams[1]).values())
            totals[n - 1] += sum(grams[0].values())
    lengths = [sum(len(line.split()) for line in lines) for lines in (outputs, references)]
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / 4)
    return 100 * precision * min(1.0, math.exp(1 - lengths[1] / lengths[0]))


OUTPUTS = ["der Hund bellt laut im Garten", "die Katze schläft auf dem Sofa heute", "er geht"]
REFERENCES = ["der Hund bellt sehr laut im Garten", "die Katze schläft auf dem alten Sofa", "er geht jetzt nach Haus"]


def test_bleu_is_bleu():
    expected = bleu_by_definition(OUTPUTS, REFERENCES)
    assert 20 < expected < 80
    assert sacrebleu(OUTPUTS, REFERENCES) == pytest.approx(expected)
    assert token_bleu(OUTPUTS, REFERENCES) == pytest.approx(expected)


def test_the_two_scores_differ_where_their_words_do():
    """13a keeps `E-Mail` as one word; the port of fairseq splits it into three words, which can match one by one."""
    outputs, references = ["Die E-Mail ist leider nicht hier"], ["Die A-Mail ist leider nicht hier"]
    assert sacrebleu(outputs, references) == pytest.approx(bleu_by_definition(outputs, references))
    cut = [["Die E @-@ Mail ist leider nicht hier"], ["Die A @-@ Mail ist leider nicht hier"]]
    assert token_bleu(outputs, references) == pytest.approx(bleu_by_definition(*cut))


def test_signatures_say_what_was_done():
    assert signatures() == {
        "sacrebleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
        "tokenbleu": "nrefs:1|case:mixed|eff:no|tok:fairseq_words|smooth:exp|version:2.6.0",
    }
    assert "|tok:zh|" in signatures("zh")["sacrebleu"]


def test_text_without_spaces_is_cut_as_data_tokenize_says():
    """One of nine characters differs: sentences of one word by 13a, of nine by sacreBLEU's rules for Chinese."""
    outputs, references = ["我们今天去北京开会"], ["我们明天去北京开会"]
    assert sacrebleu(outputs, references) == 0
    cut = [[" ".join(line) for line in lines] for lines in (outputs, references)]
    assert sacrebleu(outputs, references, tokenize="zh") == pytest.approx(bleu_by_definition(*cut))


@pytest.mark.skipif(find_spec("MeCab") is not None, reason="MeCab is installed")
def test_a_tokenizer_that_is_not_installed_is_reported():
    with pytest.raises(DataError, match=r"'data.tokenize' ja-mecab needs .*sacrebleu\[ja\]"):
        signatures("ja-mecab")


@pytest.mark.parametrize("language", ["zh", "zh-CN", "JA", "kor", "th"])
def test_a_language_without_spaces_needs_a_tokenizer_of_its_own(language):
    mine = {"data__source": "files", "data__name": "mine", "data__target_language": language}
    with pytest.raises(ConfigError, match=r"'data.tokenize' 13a .* Set data.tokenize="):
        small_config(**mine)
    assert small_config(**mine, data__tokenize="char").data.tokenize == "char"


@pytest.mark.skipif(not WMT21.is_dir(), reason="needs wmt-en-de/wmt21-systems under $NOVOBENCH_DATA")
def test_published_scores_of_wmt21():
    """Six systems against references A, C, D, and all of them at once, as WMT's organizers published them."""
    references = {name: read_lines(WMT21 / f"newstest2021.en-de.ref.{name}.de") for name in "ACD"}
    with (WMT21 / "automatic-scores.en-de.tsv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file, delimiter="\t") if line["metric"].startswith("bleu")]
    assert len(lines) == 24
    for line in lines:
        outputs = read_lines(WMT21 / f"newstest2021.en-de.hyp.{line['system']}.de")
        which = line["metric"].removeprefix("bleu-")
        against = references.values() if which == "all" else [references[which]]
        assert sacrebleu(outputs, *against) == pytest.approx(float(line["score"]), abs=1e-4), line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Das ist gut.", "Das ist gut ."),
        ("z.B. Dr. Müller", "z.B . Dr . Müller"),  # no list of abbreviations
        ("1,5 Mio., sagt er", "1,5 Mio . , sagt er"),
        ("im Jahr 5,", "im Jahr 5 ,"),
        ("E-Mail - oder", "E @-@ Mail - oder"),
        ("warte... nein", "warte ... nein"),
        ("it's the boys' 1990's", "it 's the boys ' 1990 's"),
        ("a_b (c)!", "a _ b ( c ) !"),
        ("  tab\tund   mehr ", "tab und mehr"),
        ("x²", "x ²"),
        ("", ""),
    ],
)
def test_words(line, words):
    """What the port of fairseq makes of these lines, apart from its HTML entities."""
    assert fairseq_words(line) == words


def test_nearest_neighbours_by_brute_force():
    memory = Pairs(["a b c", "a b", "d e f g", "g h i j k"], ["0", "1", "2", "3"])
    queries = ["B a", "e f x", "k j", "unknown words"]

    def dice(one: str, other: str) -> float:
        first, second = set(one.lower().split()), set(other.lower().split())
        return 2 * len(first & second) / (len(first) + len(second))

    expected = [memory.targets[max(range(4), key=lambda i, s=s: (dice(s, memory.sources[i]), -i))] for s in queries]
    assert nearest_neighbours(queries, memory) == expected
    assert expected == ["1", "2", "3", "0"]


def test_data_file_lines_are_cut_at_newlines_alone(tmp_path: Path):
    path = tmp_path / "x.en"
    path.write_bytes("\ufeffone\u2028still one\r\ntwo\x85\n three \n\n".encode())
    assert read_lines(path) == ["one\u2028still one", "two", "three", ""]


def test_an_empty_set_has_no_neighbours():
    assert nearest_neighbours([], Pairs(["a"], ["b"])) == []
    assert nearest_neighbours(["a"], Pairs([], [])) == [""]
    assert nearest_neighbours(["", "a c"], Pairs(["", "a"], ["x", "b"])) == ["x", "b"]
