import pytest

from tests.tasks.language.texts import write


@pytest.fixture
def root(tmp_path):
    """A data root with the small text in the folder `wiki`."""
    write(tmp_path / "wiki")
    return tmp_path
