"""The scripts in `scripts/examples` run, and their networks learn."""

import importlib.util

import pytest

from novobench.places import ROOT

EXAMPLES = sorted((ROOT / "scripts" / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
@pytest.mark.filterwarnings(
    "ignore::Warning:pytorch_lightning", "ignore::Warning:transformers", "ignore::Warning:torch"
)
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
def test_the_loss_falls(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    losses = module.main()
    quarter = max(1, len(losses) // 4)
    assert sum(losses[-quarter:]) < 0.7 * sum(losses[:quarter])
