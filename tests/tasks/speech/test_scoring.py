"""Decoding and error rates against other implementations, on random strings."""

import random

import pytest
import torch
from torchaudio.functional import edit_distance

from novobench.errors import DataError
from novobench.tasks.speech import scoring

ALPHABET = " abc'"


def test_greedy_decoding_merges_repeats_then_drops_blanks():
    draw = random.Random(0)
    for _ in range(200):
        outputs = [draw.randrange(6) for _ in range(draw.randrange(40))]
        merged = torch.unique_consecutive(torch.tensor(outputs, dtype=torch.int64)).tolist()
        letters = "".join((ALPHABET + "_")[i] for i in merged).replace("_", "")
        assert scoring.greedy(outputs, ALPHABET) == " ".join(letters.split())
    assert scoring.greedy([1, 1, 5, 1, 0, 0, 2, 5, 5], ALPHABET) == "aa b"
    assert scoring.greedy([5, 5, 0, 5], ALPHABET) == ""


def strings(seed):
    draw = random.Random(seed)
    words = ["one", "two", "three", "blue", "it's"]
    references = [" ".join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(40)]
    hypotheses = [" ".join(draw.choices(words, k=draw.randint(0, 5))) for _ in range(40)]
    return references, hypotheses


def test_error_rates_are_edit_distances_over_the_corpus():
    for seed in range(5):
        references, hypotheses = strings(seed)
        metrics = scoring.errors(references, hypotheses).metrics()
        words = [edit_distance(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]
        letters = [edit_distance(r, h) for r, h in zip(references, hypotheses, strict=True)]
        assert metrics["wer"].value == pytest.approx(100 * sum(words) / sum(len(r.split()) for r in references))
        assert metrics["cer"].value == pytest.approx(100 * sum(letters) / sum(map(len, references)))
        assert metrics["wer"].n == sum(len(r.split()) for r in references)
        kinds = ("substitutions", "insertions", "deletions")
        assert sum(metrics[kind].value for kind in kinds) == pytest.approx(metrics["wer"].value)


def test_kinds_of_errors():
    metrics = scoring.errors(["one two three four"], ["one too three four five six"]).metrics()
    assert [metrics[kind].value for kind in ("substitutions", "insertions", "deletions")] == [25.0, 50.0, 0.0]
    metrics = scoring.errors(["one two three four"], [""]).metrics()
    assert [metrics[kind].value for kind in ("substitutions", "insertions", "deletions")] == [0.0, 0.0, 100.0]


def test_errors_of_shares_add_up():
    references, hypotheses = strings(9)
    whole = scoring.errors(references, hypotheses)
    shares = [scoring.errors(references[part], hypotheses[part]) for part in (slice(0, 13), slice(13, 40), slice(0, 0))]
    assert tuple(map(sum, zip(*shares, strict=True))) == tuple(whole)


@pytest.mark.parametrize("reference", ["", " "])
def test_references_without_words_have_no_error_rate(reference):
    with pytest.raises(DataError, match="1 of 2 references have no words, so there is no word error rate"):
        scoring.errors(["one", reference], ["one", "two"])
