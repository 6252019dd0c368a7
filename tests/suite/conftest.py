"""A workspace whose rows all have rates."""

from pathlib import Path

import pytest


@pytest.fixture
def results(workspace) -> Path:
    """The folder of results at laptop scale; nothing is there yet."""
    (workspace / "configs" / "image" / "tuned-laptop.yaml").write_text("novograd-b32: {optimizer.lr: 0.02}\n")
    return workspace / "results" / "laptop"
