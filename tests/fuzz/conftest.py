"""One `fuzz` per test; its counts go into the summary."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fuzz.judge import Fuzz
from tests.fuzz.summary import PROPERTY


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, record_property: Any) -> Iterator[Fuzz]:
    inputs = Fuzz()
    yield inputs
    kind = request.node.originalname.removeprefix("test_").replace("_", " ")
    record_property(PROPERTY, f"{kind}: {dict(inputs.counts)}")
