"""One `fuzz` a test, whose counts go to the report."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fuzz.judge import Fuzz
from tests.fuzz.summary import PROPERTY


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, record_property: Any) -> Iterator[Fuzz]:
    made = Fuzz()
    yield made
    kind = request.node.originalname.removeprefix("test_").replace("_", " ")
    record_property(PROPERTY, f"{kind}: {dict(made.counts)}")
