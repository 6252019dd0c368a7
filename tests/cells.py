"""Small cells for the tests: the laptop recipe with a narrow net and a few updates."""

import gzip
import json
import multiprocessing
import os
import signal
from pathlib import Path

from novobench import places
from novobench.config import CellConfig, to_yaml
from novobench.config_loading import override
from novobench.files import write_text
from novobench.tasks.catalog import default_list, load_task, resolve
from novobench.training.run_folder import RunFolder

SHARED = {
    "seed": 0,
    "budget": "8steps",
    "optimizer.name": "novograd",
    "optimizer.lr": 0.02,
    "optimizer.weight_decay": 0.001,
    "schedule.name": "cosine",
    "runtime.curve_points": 2,
    "runtime.checkpoint_every": 3,
    "runtime.log_every": 1,
    "runtime.accelerator": "cpu",
}
SMALL = {
    "image": {
        "batch": {"size": 32, "micro": 16},
        "model.stem_width": 4,
        "model.widths": [4, 8],
        "model.depths": [1, 1],
        "data.test_copies": 1,
        "data.test_size": 597,
    },
    "language": {
        "batch": {"size": 4096, "micro": 2048},  # 7 updates an epoch, so that one ends inside the run
        "schedule.warmup": 0,
        "model.vocabulary_size": 75,
        "model.width": 8,
        "model.heads": 2,
        "model.head_width": 4,
        "model.inner_width": 16,
        "model.cutoffs": [20, 40],
        "model.memory_length": 12,
        "model.dropout": 0.1,
        "data.minimum_count": 300,
        "data.segment_length": 8,
        "data.probe_tokens": 2000,
        "data.evaluation_streams": 50,
    },
    "speech": {
        "batch": {"size": 32, "micro": 16},  # 7 updates an epoch, so that one ends inside the run
        "model.blocks": [
            {"channels": 8, "kernel": 5, "stride": 2, "dropout": 0.1},
            {"channels": 8, "kernel": 5, "repeat": 2, "dropout": 0.1, "residual": True},
            {"channels": 12, "kernel": 3, "dropout": 0.1, "residual": True},
            {"channels": 16, "kernel": 3, "dilation": 2, "dropout": 0.1},
        ],
        "data.train_splits": ["dev-other"],
        "data.train_size": 200,
        "data.dev_sets": [],
        "data.test_sets": ["test-clean"],
        "data.speeds": [0.9, 1.0, 1.1],
        "data.frequency_masks": 1,
        "data.time_masks": 1,
        "data.keep_features": False,
    },
}


def small_config(task: str = "image", /, **changes: object) -> CellConfig:
    """A cell of eight updates; `changes` are dotted keys with `__` for the dot."""
    tree = load_task(task, places.workspace().task_config(task, "laptop"))
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve(override(tree, {"task": task, **SHARED, **SMALL[task], **dotted}, "test", default_list), "test")


def small_cell(path: Path, task: str = "image", /, **changes: object) -> RunFolder:
    """A run folder with its config, ready to be trained."""
    folder = RunFolder(path)
    write_text(folder.config, to_yaml(small_config(task, **changes)))
    return folder


def train_apart(folder: RunFolder, kill_at: str | None = None) -> int:
    """Train in a process of its own and return its exit code; `kill_at` names a moment to die at, by SIGKILL."""
    process = start_apart(folder, kill_at)
    process.join()
    return process.exitcode or 0


def start_apart(folder: RunFolder, kill_at: str | None = None):
    """The process itself, started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["novobench.training.preload"])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    process = context.Process(target=_train, args=(str(folder.path), kill_at))
    process.start()
    return process


def result(folder: RunFolder) -> dict:
    """All that must be the same bits in two runs of one cell: the record, the log of metrics, the predictions."""
    timed = ("train_seconds", "finished", "dirty", "code", "files")
    record = {key: value for key, value in json.loads(folder.record.read_text()).items() if key not in timed}
    record["metrics"] = {split: _untimed(found) for split, found in record["metrics"].items()}
    lines = [_untimed(json.loads(line)) for line in folder.metrics.read_text().splitlines()]
    predictions = {
        path.name: gzip.decompress(path.read_bytes()) for path in sorted(folder.path.glob("predictions-*.jsonl.gz"))
    }
    return {"record": record, "metrics": lines, "predictions": predictions}


def _untimed(values: dict) -> dict:
    return {name: value for name, value in values.items() if "seconds" not in name and "per_second" not in name}


# ------------------------------------------------------------------------------------ moments to die at


def _train(path: str, kill_at: str | None) -> None:
    from novobench.training import cell

    if kill_at is not None:
        KILL_POINTS[kill_at]()
    cell.run(Path(path))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _between_checkpoints() -> None:
    from novobench.training.loop import UpdateLoop

    original = UpdateLoop._set_rates

    def dying(self, optimizer):
        if self.update == 5:
            _die()
        original(self, optimizer)

    UpdateLoop._set_rates = dying


def disk_full_from_update_5(*arguments) -> None:
    """`worker.train`, but from update 5 on the system lets no file of this process grow, as on a full disk."""
    import resource

    from novobench.training import worker
    from novobench.training.loop import UpdateLoop

    original = UpdateLoop._set_rates

    def filling(self, optimizer):
        if self.update == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        original(self, optimizer)

    UpdateLoop._set_rates = filling
    worker.train(*arguments)


def _before_the_first_checkpoint() -> None:
    from novobench.training.loop import UpdateLoop

    original = UpdateLoop._set_rates

    def dying(self, optimizer):
        if self.update == 1:
            _die()
        original(self, optimizer)

    UpdateLoop._set_rates = dying


def _half_a_checkpoint_written() -> None:
    from novobench.training import checkpoints

    original = checkpoints.write_bytes

    def dying(path, content):
        if path.name == "update-000000006.ckpt":
            path.write_bytes(content[: len(content) // 2])  # even without an atomic write the run must survive
            _die()
        original(path, content)

    checkpoints.write_bytes = dying


def _checkpoint_written() -> None:
    from novobench.training import checkpoints

    original = checkpoints.write_bytes

    def dying(path, content):
        original(path, content)
        if path.name == "update-000000003.ckpt":
            _die()

    checkpoints.write_bytes = dying


def _half_a_line_logged() -> None:
    from novobench.training.metrics_log import MetricsLog

    original = MetricsLog.append

    def dying(self, update, split, values):
        if update == 7:
            with self.path.open("a") as file:
                file.write('{"update": 7, "spl')
            _die()
        original(self, update, split, values)

    MetricsLog.append = dying


def _evaluating() -> None:
    from novobench.training import loop

    original = loop.evaluate

    def dying(trainer, module, data, split, after_batch):
        if split.role == "test":
            _die()
        return original(trainer, module, data, split, after_batch)

    loop.evaluate = dying


def _before_the_record() -> None:
    from novobench.training import cell

    cell._write_record = lambda *_: _die()


KILL_POINTS = {
    "before the first checkpoint": _before_the_first_checkpoint,
    "a checkpoint written": _checkpoint_written,
    "between two checkpoints": _between_checkpoints,
    "half a checkpoint written": _half_a_checkpoint_written,
    "half a line logged": _half_a_line_logged,
    "evaluating the test set": _evaluating,
    "before the record": _before_the_record,
}
