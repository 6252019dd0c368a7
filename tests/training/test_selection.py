"""`runtime.selection_points`: the weights of the lowest loss on the search split are judged, killed or not."""

import pytest

from novobench.training import cell
from novobench.training.metrics_log import read
from tests.cells import result, small_cell, train_apart

RISING = {"budget": "16steps", "optimizer__lr": 0.4, "schedule__name": "constant", "data__probe_tokens": 0}
"""A rate at which the loss rises again inside the run, and no schedule, so that a shorter run has the same start."""


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    folder = small_cell(tmp_path_factory.mktemp("selected"), "language", runtime__selection_points=8, **RISING)
    assert train_apart(folder) == 0, folder.failure_reason()
    return folder


def test_the_judged_weights_are_those_of_the_lowest_loss(selected, tmp_path):
    record = selected.read_record()
    losses = {line["update"]: line["loss"] for line in read(selected.metrics) if line["split"] == "valid"}
    best = min(losses, key=losses.__getitem__)
    assert list(losses) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert record.selected_update == best < 16
    assert record.metrics["valid"]["loss"].value == losses[best]

    shorter = small_cell(tmp_path, "language", **{**RISING, "budget": f"{best}steps"})  # as far, and its last weights
    cell.run(shorter.path)
    expected, found = result(shorter), result(selected)
    for key in ("weights_sha256", "metrics"):
        assert found["record"][key] == expected["record"][key]
    assert found["predictions"] == expected["predictions"]
    assert "selected_update" not in expected["record"]


@pytest.mark.parametrize(
    "moment", ["between two checkpoints", pytest.param("evaluating the test set", marks=pytest.mark.slow)]
)
def test_killed_and_started_again(moment, selected, tmp_path):
    folder = small_cell(tmp_path, "language", runtime__selection_points=8, **RISING)
    assert train_apart(folder, kill_at=moment) == -9
    assert train_apart(folder) == 0
    assert result(folder) == result(selected)


@pytest.mark.slow
def test_the_last_weights_may_be_the_best(tmp_path):
    folders = [
        small_cell(tmp_path / str(points), "language", runtime__selection_points=points, data__probe_tokens=0)
        for points in (0, 2)
    ]
    for folder in folders:
        cell.run(folder.path)
    last, chosen = (result(folder) for folder in folders)
    assert chosen["record"].pop("selected_update") == 8
    assert chosen["record"].pop("cell") != last["record"].pop("cell")  # another recipe
    assert chosen == last
