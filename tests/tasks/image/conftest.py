import pytest

from tests.tasks.image.pets import FILES, save


@pytest.fixture
def pets(tmp_path):
    """The folder of the small tree, no two images alike."""
    for seed, name in enumerate(FILES):
        save(tmp_path / "pets" / f"{name}.png", seed)
    return tmp_path / "pets"
