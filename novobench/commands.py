"""The verbs of the command line: each hands its arguments to the module that does the work and returns the exit code.

Heavy packages are imported when a verb needs them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from novobench.suite.experiment import Experiment
    from novobench.suite.plan import Plan


def listing(arguments: argparse.Namespace) -> int:
    from novobench.suite import show

    show.listing(arguments.what)
    return 0


def plan(arguments: argparse.Namespace) -> int:
    from novobench.suite import show

    show.plan(_planned(arguments))
    return 0


def config(arguments: argparse.Namespace) -> int:
    if arguments.experiments[0].upper() == "KEYS":
        from novobench.suite import key_list

        key_list.print_keys(arguments.experiments[1:], arguments.scale)
        return 0
    from novobench.suite import show

    experiments = _experiments(arguments)
    extra = _overrides(arguments, [experiment.task for experiment in experiments])
    show.configs(experiments, arguments.scale, extra, arguments.rows)
    return 0


def run(arguments: argparse.Namespace) -> int:
    from novobench.suite import runner

    return runner.run(_planned(arguments), arguments.jobs)


def search(arguments: argparse.Namespace) -> int:
    from novobench.suite import search

    experiments, counts = _experiments(arguments), (arguments.trials, arguments.seeds, arguments.study)
    extra = _overrides(arguments, [experiment.task for experiment in experiments])
    return search.search(experiments, arguments.scale, *counts, arguments.jobs, arguments.keys, extra)


def compare(arguments: argparse.Namespace) -> int:
    from novobench.suite import compare

    tasks = compare.tasks_of(arguments.task)
    request = compare.Request(
        optimizers=arguments.optimizers,
        tasks=tasks,
        scale=arguments.scale,
        seeds=arguments.seeds,
        trials=arguments.trials,
        rates=arguments.rates,
        extra=_overrides(arguments, tasks),
        targets=compare.metric_values("--target", arguments.target),
        margins=compare.metric_values("--margin", arguments.margin),
        name=arguments.name,
        command=arguments.command_line,
    )
    return compare.compare(request, arguments.jobs, dry_run=arguments.dry_run)


def rubric(arguments: argparse.Namespace) -> int:
    from novobench.suite import rubric_report

    rubric_report.report(arguments.scale)
    return 0


def data(arguments: argparse.Namespace) -> int:
    from novobench.config_loading import parse_overrides
    from novobench.suite import own_data_report

    return own_data_report.report(arguments.task, arguments.scale, parse_overrides(arguments.settings))


def check(arguments: argparse.Namespace) -> int:
    from novobench.suite import check

    if arguments.what == "task":
        return check.task(arguments.name)
    return check.optimizer(arguments.name, arguments.options, arguments.lr, compiled=arguments.compile)


def claims(arguments: argparse.Namespace) -> int:
    from novobench.suite import claims_report

    return claims_report.report(arguments.scale)


def doctor(arguments: argparse.Namespace) -> int:
    from novobench import doctor

    return doctor.check()


def bench(arguments: argparse.Namespace) -> int:
    if arguments.what == "optimizer":
        from novobench.bench import optimizer_step

        words = arguments.models, arguments.only, arguments.rounds, arguments.threads, arguments.device
        return optimizer_step.main(*words, arguments.unscale_and_clip, arguments.output, arguments.sweep)
    if arguments.what == "host":
        from novobench.bench import host_overhead

        return host_overhead.main(arguments.rounds, arguments.output)
    from novobench.bench import throughput

    words = arguments.tasks, arguments.scale, arguments.set, arguments.updates, arguments.attention
    return throughput.main(*words, arguments.output, arguments.published, arguments.checkpoint)


def _experiments(arguments: argparse.Namespace) -> list[Experiment]:
    from novobench.suite.experiment import load_experiment

    return [load_experiment(name) for name in dict.fromkeys(arguments.experiments)]


def _planned(arguments: argparse.Namespace) -> Plan:
    from novobench.suite.plan import plan

    experiments = _experiments(arguments)
    extra = _overrides(arguments, [experiment.task for experiment in experiments])
    asked = arguments.seeds
    return plan(experiments, arguments.scale, asked.numbers, extra, arguments.rows, seeds_are_named=asked.named)


def _overrides(arguments: argparse.Namespace, tasks: Sequence[str]) -> dict[str, Any]:
    """What `--data` and `--set` change; `--set` wins."""
    from novobench.config_loading import parse_overrides

    own = parse_overrides(arguments.set)
    if not arguments.data:
        return own
    from novobench.suite import own_data

    measured = own_data.overrides_for(tasks, arguments.scale, parse_overrides(arguments.data))
    return {key: value for key, value in measured.items() if key not in own} | own
