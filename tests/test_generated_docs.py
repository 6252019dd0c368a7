"""What the Makefile and README say about experiments is what the experiments say."""

import pytest

import renew_docs
from novobench.places import ROOT


@pytest.mark.parametrize("name", renew_docs.BLOCKS)
def test_the_block_is_up_to_date(name):
    """If this fails, run `make docs`."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert renew_docs.renewed(name, text) == text
