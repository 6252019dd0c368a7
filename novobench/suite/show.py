"""What `list`, `config` and `plan` print."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

from novobench.config import SCALES, CellConfig
from novobench.config_loading import check_overridable
from novobench.console import console, counted, duration
from novobench.errors import ConfigError
from novobench.places import display_path
from novobench.suite.collected import collected_cells
from novobench.suite.experiment import Experiment, experiment_names, load_experiment
from novobench.suite.forecast import forecast, measured_speeds
from novobench.suite.plan import Plan, PlannedCell, check_not_empty, check_rows
from novobench.suite.provenance import annotated_yaml
from novobench.suite.results import Results
from novobench.tasks.catalog import task_names


def listing(what: str) -> None:
    """Print the experiments, optimizers or tasks."""
    table = Table(box=None, pad_edge=False)
    if what == "experiments":
        for heading in ("experiment", "task", "rows", "where", "what", *(f"{scale} cost" for scale in SCALES)):
            table.add_column(heading)
        for experiment in map(load_experiment, experiment_names()):
            summary, cost = experiment.summary or experiment.title, experiment.cost
            rows = str(len(experiment.rows))
            costs = (cost.laptop, cost.gpu, cost.full)
            table.add_row(experiment.name, experiment.task, rows, experiment.where, summary, *costs)
    elif what == "optimizers":
        from novobench.optim import registry
        from novobench.optim.entry import ROLES

        for heading in ("optimizer", "state B/param", "waits", "schedule", "takes", "presets", "what", "reference"):
            table.add_column(heading)
        # "waits": how often training on a GPU waits for the host to learn whether gradients are finite. "takes": the
        # roles of its parameters; `optimizer.others` gets the rest.
        for entry in registry.entries():
            state = f"{entry.state_bytes_per_parameter:g}"
            waits = "never" if entry.guards_on_device else "per update"
            roles = "all" if set(entry.roles) == set(ROLES) else ", ".join(entry.roles)
            columns = (entry.name, state, waits, entry.schedule, roles, ", ".join(entry.presets))
            table.add_row(*columns, entry.description, entry.reference)
        for name, reason in registry.broken().items():
            table.add_row(name, "-", "-", "-", "-", "", f"its entry point cannot be loaded: {reason}", "")
    else:
        table.add_column("task")
        for name in task_names():
            table.add_row(name)
    console().print(table)


def configs(experiments: Sequence[Experiment], scale: str, extra: Mapping[str, Any], only: Sequence[str]) -> None:
    """Print the resolved config of each row, or of the rows in `only`: YAML documents with the origin of each value."""
    check_rows(experiments, only)
    check_overridable(extra, "--set")
    documents = []
    for experiment in experiments:
        for row in (row for row in experiment.rows if not only or row.id in only):
            document = annotated_yaml(experiment, row, scale, extra)
            if document is not None:
                documents.append(document)
            elif only:
                reason = f"it quotes the result of {row.quoted}" if row.quoted else f"it has no `{scale}:`"
                raise ConfigError(f"{experiment.name} row '{row.id}' has no cell at {scale} scale: {reason}.")
    if not documents:
        raise ConfigError(f"{', '.join(e.name for e in experiments)}: no row has a cell at {scale} scale.")
    print("\n".join(documents))


def plan(plan: Plan) -> None:
    """Print each cell with its size and expected time, the rows that train nothing, and the total."""
    check_not_empty(plan)
    out, results = console(), Results.load(plan.scale)
    speeds, collected = measured_speeds(results), collected_cells(plan, results)
    table = Table(box=None, pad_edge=False)
    for heading in ("cell", "rows"):
        table.add_column(heading)
    for heading in ("parameters", "updates", "per epoch", "epochs"):
        table.add_column(heading, justify="right")
    table.add_column("batch")
    table.add_column("expected", justify="right")
    table.add_column("state")
    seconds_to_do, unknown, sources, cells_per_gpu = 0.0, 0, set(), set()
    for cell in plan.cells:
        config = cell.config
        expected = forecast(cell, speeds)
        finished = cell.id in collected or cell.folder.finished
        if not finished and expected.seconds is not None:
            seconds_to_do += expected.seconds / config.runtime.cells_per_gpu
            cells_per_gpu.add(config.runtime.cells_per_gpu)
            sources.add(expected.source)
        unknown += not finished and expected.seconds is None
        table.add_row(
            cell.id,
            " ".join(cell.requested_by),
            f"{parameters(config):,}",
            f"{config.total_updates:,}",
            f"{config.epoch_updates:,}",
            f"{config.epochs:g}",
            batch_arithmetic(config),
            "?" if expected.seconds is None else duration(expected.seconds),
            _state(cell, collected),
        )
    out.print(table)
    for experiment in plan.experiments:
        quoted = [row.id for row in experiment.rows if row.quoted]
        if quoted:
            out.print(f"{experiment.name}: the paper quotes these rows, they are not run: {', '.join(quoted)}")
    to_do = sum(cell.id not in collected and not cell.folder.finished for cell in plan.cells)
    without = f", and {unknown} of unknown speed" if unknown else ""
    basis = f" (speed: {'; '.join(sorted(sources))})" if sources else ""
    at_a_time = max(cells_per_gpu, default=1)
    order = f"{at_a_time} at a time on one GPU" if at_a_time > 1 else "one after another"
    total = duration(seconds_to_do)
    before = f", {len(collected)} in {display_path(results.folder)}" if collected else ""
    cells = counted(len(plan.cells), "cell")
    out.print(f"{cells}{before}, {to_do} to do: {total} of training {order}{without}{basis}.")


def _state(cell: PlannedCell, collected: Collection[str]) -> str:
    if cell.id in collected:
        return "collected"
    if cell.folder.finished:
        return "finished"
    return "has a checkpoint" if any(cell.folder.checkpoints.glob("*.ckpt")) else "to do"


def batch_arithmetic(config: CellConfig) -> str:
    """`1024 = 128 × 8 × 1`: micro-batch × devices × accumulation."""
    devices = config.runtime.devices
    return f"{config.batch.size} = {config.batch.micro} × {devices} × {config.accumulation}"


_parameter_counts: dict[str, int] = {}


def parameters(config: CellConfig) -> int:
    """The number of trainable parameters, counted on torch's meta device: without memory and without data."""
    key = repr((config.task, config.model))
    if key not in _parameter_counts:
        import torch

        model = importlib.import_module(f"novobench.tasks.{config.task}.model")
        with torch.device("meta"):
            network = model.build(config.model)
        _parameter_counts[key] = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return _parameter_counts[key]
