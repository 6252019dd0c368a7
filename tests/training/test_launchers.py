"""A cell in a process that a launcher or a batch job has started for something else is a cell like any other."""

import threading

import pytest
from filelock import FileLock
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from novobench.training import cell
from tests.cells import result, small_cell

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "novobench",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node1",
    "SLURM_JOB_NODELIST": "node1",
}
ENVIRONMENTS = {
    "rank 0": {"RANK": "0"},
    "rank 1": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    "torchrun": {"RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "3"},
    "slurm": {**SLURM, "SLURM_NTASKS": "4"},
    "slurm, tasks a node": {**SLURM, "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"},
    "mpi": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1"},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = small_cell(tmp_path_factory.mktemp("undisturbed"))
    cell.run(folder.path)
    return result(folder)


@pytest.fixture(params=ENVIRONMENTS)
def inherited(request, monkeypatch):
    for name, value in ENVIRONMENTS[request.param].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning is imported in such an environment


def test_it_trains_and_writes_its_record(inherited, undisturbed, tmp_path):
    folder = small_cell(tmp_path)
    cell.run(folder.path)
    assert result(folder) == undisturbed
    assert rank_zero_only.rank == 0  # else trackers would get nothing


def test_it_takes_the_lock(inherited, tmp_path):
    folder = small_cell(tmp_path)
    with FileLock(folder.lock):
        thread = threading.Thread(target=cell.run, args=(folder.path,))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits for the record
        assert not folder.metrics.exists()
        folder.record.write_text("{}")
    thread.join(10)
    assert not thread.is_alive()
    assert not folder.metrics.exists()


def test_two_devices_inside_a_job_are_a_training_of_their_own(monkeypatch, tmp_path):
    """The lock is taken here; an argument tells torchrun's processes what they are, not variables."""
    for name, value in {**ENVIRONMENTS["rank 1"], **ENVIRONMENTS["slurm"]}.items():
        monkeypatch.setenv(name, value)
    folder, started = small_cell(tmp_path, runtime__devices=2), []
    monkeypatch.setattr("torch.distributed.run.main", started.append)
    cell.run(folder.path)
    assert started[0][-3:] == ["novobench.training.cell", str(folder.path), "--process"]
