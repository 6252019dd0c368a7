"""Updates whose gradients are multiplied on purpose: which ones, when, and after a kill."""

import json

import pytest

from novobench.training import cell
from tests.cells import result, small_cell, train_apart

OUTLIERS = {"optimizer__outlier_updates": [2, 5], "optimizer__outlier_factor": 1000.0}


def test_the_gradients_of_these_updates_are_larger_and_others_are_not(tmp_path):
    """With a rate of 0 the gradients of both cells would be equal. The log counts updates from 1."""
    norms = {}
    for name, changes in {"without": {}, "with": OUTLIERS}.items():
        folder = small_cell(tmp_path / name, optimizer__name="sgd", optimizer__lr=0.0, **changes)
        cell.run(folder.path)
        lines = map(json.loads, folder.metrics.read_text().splitlines())
        norms[name] = {line["update"]: line["gradient_norm"] for line in lines if line["split"] == "train"}
    ratios = {update: norms["with"][update] / norm for update, norm in norms["without"].items()}
    assert ratios == pytest.approx({update: 1000.0 if update in (3, 6) else 1.0 for update in range(1, 9)})


def test_clipping_removes_outliers(tmp_path):
    """The norm of every gradient is far above the limit, so each becomes as long as the limit, with outliers or not."""
    accuracy = []
    for name, changes in {"without": {}, "with": OUTLIERS}.items():
        settings = {"optimizer__name": "sgd", "optimizer__clip_norm": 1e-3, **changes}
        folder = small_cell(tmp_path / name, optimizer__lr=1.0, **settings)
        cell.run(folder.path)
        accuracy.append(folder.read_record().metrics["test"]["loss"].value)
    assert accuracy[0] == pytest.approx(accuracy[1], rel=1e-4)


def test_a_killed_cell_has_the_same_outliers(tmp_path):
    whole, killed = (small_cell(tmp_path / name, **OUTLIERS) for name in ("whole", "killed"))
    assert train_apart(whole) == 0
    assert train_apart(killed, kill_at="between two checkpoints") == -9
    assert train_apart(killed) == 0
    assert result(killed) == result(whole)
