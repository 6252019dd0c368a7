"""Seeds on a command line and in sentences."""

import re

import pytest

from novobench.seeds import Seeds, parse_seeds, seeds_text


@pytest.mark.parametrize(
    ("text", "numbers", "named"),
    [
        ("1", [100], False),
        ("3", [100, 101, 102], False),
        ("0-0", [0], True),
        ("100-103", [100, 101, 102, 103], True),
        ("100,103-105", [100, 103, 104, 105], True),
        (" 7, 5-6,6 ", [7, 5, 6], True),
        ("999999-999999", [999_999], True),
    ],
)
def test_a_count_starts_at_100_and_a_range_names_its_seeds(text, numbers, named):
    assert parse_seeds(text) == Seeds(numbers, named)


@pytest.mark.parametrize("text", ["0", "-1", "", "1.5", "three", "5-3", "3-", "1,,2", "0-1000000", "9" * 5000, "1e3"])
def test_other_texts_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=re.escape(f"'{text}'")) as error:
        parse_seeds(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([7], "seed 7"),
        ([1, 0], "seeds 0, 1"),
        ([2, 0, 2], "seeds 0, 2"),
        ([*range(100, 110), 111], "seeds 100-109, 111"),
        ([1, 2, 3, 5, 6, 8], "seeds 1-3, 5, 6, 8"),
    ],
)
def test_sentences_name_seeds_by_ranges(seeds, text):
    assert seeds_text(seeds) == text
