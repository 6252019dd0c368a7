"""The command line: parses arguments and calls the command. Heavy packages are imported when a command needs them."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from novobench import places, signals
from novobench.console import output_problem, resilient_output
from novobench.errors import NovobenchError, message_for_user, one_line

if TYPE_CHECKING:
    from novobench.suite.experiment import Experiment
    from novobench.suite.plan import Plan


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command. Exit code 0: done; 1: something failed; 2: invalid arguments or config; 128 + n: stopped by
    signal n.

    Every error is one line on standard error; only `--debug` shows a traceback.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses an older one, a checkout on PYTHONPATH does not
        sys.exit(f"novobench: Python 3.11 or newer is needed, this is {sys.version.split()[0]}.")
    with resilient_output() as output_errors, signals.stop_on_signals() as received_signals:
        code = _exit_code(argv, received_signals)
        sys.stdout.flush()
        if problem := output_problem(output_errors):
            _print_error(problem)
            code = code or 1
    sys.exit(code)


def _exit_code(argv: Sequence[str] | None, received_signals: list[int]) -> int:
    """Run one command, print its error if it fails, and return the exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exit:  # argparse has printed the help or an error
        return exit.code if isinstance(exit.code, int) else 2
    try:
        places.prepare_environment()
        if "scale" in arguments:
            from novobench.config import scale_named

            arguments.scale = scale_named(arguments.scale)
        return arguments.call(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if received_signals or isinstance(error, KeyboardInterrupt):  # a library may turn a signal into another error
            if argv is None:
                signals.end_now()
            return _stopped(received_signals[0] if received_signals else signal.SIGINT)
        if arguments.debug:
            raise
        _print_error(message_for_user(error))
        return error.exit_code if isinstance(error, NovobenchError) else 1


def _stopped(number: int) -> int:
    how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    _print_error(f"{how}. Run the same command again to resume.")
    return 128 + number


def _print_error(problem: str) -> None:
    print(f"novobench: {one_line(problem)}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """Prints errors in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"novobench: {one_line(message)}. Run: {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="novobench",
        description="Reproduces the NovoGrad paper and compares optimizers fairly.",
        epilog="Example: novobench run table1 --scale laptop --seeds 3",
    )
    parser.add_argument("--debug", action="store_true", help="show an error's traceback")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def debug(sub: argparse.ArgumentParser) -> None:  # so that it works before and after the command
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")

    def verb(name: str, call: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, epilog=f"Example: novobench {example}")
        debug(sub)
        sub.set_defaults(call=call)
        return sub

    sub = verb("list", _list, "List experiments, optimizers or tasks.", "list optimizers")
    sub.add_argument("what", nargs="?", choices=["experiments", "optimizers", "tasks"], default="experiments")

    sub = verb(
        "plan",
        _plan,
        "Show the cells (training runs) of experiments with their size and expected time. Trains nothing.",
        "plan table1",
    )
    _add_experiments(sub)

    sub = verb(
        "config",
        _config,
        "Print the resolved config of rows as YAML with the origin of each value.",
        "config table1 --rows t1_sgd_100 --scale full",
    )
    _add_experiments(sub, seeds=False)

    sub = verb(
        "run",
        _run,
        "Train missing cells (training runs), then write the tables.",
        "run table1 --scale laptop --seeds 3",
    )
    _add_experiments(sub)
    _add_running(sub)

    sub = verb(
        "search",
        _search,
        "Search learning rates for experiments' rows, with the same budget for each optimizer.",
        "search table1 table4 --scale laptop",
    )
    sub.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="each is searched by itself")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")
    text = "trials per set of rates and round, a power of two (default: the experiment's)"
    sub.add_argument("--budget", type=_positive, help=text)
    sub.add_argument("--seeds", type=_positive, help="seeds per trial (default: the experiment's)")
    text = "number of an independent search, with points of its own; only study 0 sets the tuned rates (default: 0)"
    sub.add_argument("--study", type=_not_negative, default=0, help=text)
    _add_list(sub, "--keys", "KEY", "only these sets of rates (default: all; then all are widened together)")
    _add_running(sub)

    text = "Check that an optimizer or a task keeps its contract, with a verdict per point."
    sub = verb("check", _check, text, "check optimizer ./mine.py:MyOptimizer --lr 0.01")
    kinds = sub.add_subparsers(metavar="WHAT", required=True)
    text = "Check an optimizer: a registered name, package.module:Class or ./file.py:Class."
    example = "Example: novobench check optimizer ./mine.py:MyOptimizer --lr 0.01 --options betas='[0.9, 0.99]'"
    kind = kinds.add_parser("optimizer", help=text, description=text, epilog=example)
    kind.add_argument("name", metavar="OPTIMIZER", help="e.g. ./mine.py:MyOptimizer")
    _add_list(kind, "--options", "KEY=VALUE", "arguments of its constructor")
    kind.add_argument("--lr", type=_positive_number, help="learning rate (default: the constructor's, else 0.01)")
    kind.add_argument("--compile", action="store_true", help="also compile its step (about a minute)")
    debug(kind)
    kind.set_defaults(what="optimizer")
    text = "Check a task: a folder of novobench/tasks, at laptop scale."
    kind = kinds.add_parser("task", help=text, description=text, epilog="Example: novobench check task image")
    kind.add_argument("name", metavar="TASK", help="e.g. image; see `novobench list tasks`")
    debug(kind)
    kind.set_defaults(what="task")

    verb("doctor", _doctor, "Check packages, devices, folders and disk space.", "doctor")

    text = "Measure the speed of optimizers and of training."
    sub = verb("bench", _bench, text, "bench optimizer --rounds 15")
    kinds = sub.add_subparsers(metavar="WHAT", required=True)
    text = "Measure step times of optimizers, relative to AdamW(fused=True) in the same run."
    kind = kinds.add_parser("optimizer", help=text, description=text)
    kind.add_argument("--rounds", type=_positive, default=15, help="interleaved rounds (default: 15)")
    _add_list(kind, "--models", "NAME", "only these models' shapes")
    _add_list(kind, "--only", "NAME", "only these optimizers, and the baseline")
    kind.add_argument("--threads", type=_positive, default=2, help="CPU threads (default: 2)")
    kind.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device of the tensors (default: cpu)")
    kind.add_argument(
        "--unscale-and-clip", action="store_true", help="unscale gradients and clip their global norm in each step"
    )
    text = "time launch settings of NovoGrad's CUDA kernels instead"
    kind.add_argument("--sweep", action="store_true", help=text)
    kind.add_argument("--output", type=Path, help="also write each row to this CSV file, and a plot next to it")
    debug(kind)
    kind.set_defaults(what="optimizer")
    text = "Measure the host time of a NovoGrad step on CUDA, relative to AdamW(fused=True). Needs no GPU."
    kind = kinds.add_parser("host", help=text, description=text)
    kind.add_argument("--rounds", type=_positive, default=15, help="interleaved rounds (default: 15)")
    kind.add_argument("--output", type=Path, help="also write the rows to this CSV file")
    debug(kind)
    kind.set_defaults(what="host")
    text = "Measure training speed on random data, relative to the GPU's peak and to published figures."
    kind = kinds.add_parser("throughput", help=text, description=text)
    kind.add_argument("tasks", nargs="*", metavar="TASK", help="e.g. image (default: all)")
    kind.add_argument("--scale", default="full", help="laptop, gpu or full (default: full)")
    kind.add_argument("--updates", type=_positive, default=30, help="timed updates (default: 30)")
    _add_list(kind, "--set", "KEY=VALUE", "override the task's config")
    text = "attention kernels: fused (default), or math, PyTorch's unfused ones"
    kind.add_argument("--attention", choices=["fused", "math"], default="fused", help=text)
    text = "use the settings of the published figures; --set can change them"
    kind.add_argument("--published", action="store_true", help=text)
    text = "afterwards save a checkpoint, load it into a new model, and compare the next update of both"
    kind.add_argument("--checkpoint", action="store_true", help=text)
    kind.add_argument("--output", type=Path, help="also write each row to this CSV file")
    debug(kind)
    kind.set_defaults(what="throughput")
    return parser


def _add_experiments(sub: argparse.ArgumentParser, *, seeds: bool = True) -> None:
    sub.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="e.g. table1; see `novobench list`")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")
    if seeds:
        sub.add_argument("--seeds", type=_positive, default=1, help="seeds per row: 0, 1, … (default: 1)")
    _add_list(sub, "--rows", "ID", "only these rows (default: all)")
    text = "override the config of every row; {} empties a mapping. Results of a changed recipe stay in runs/"
    _add_list(sub, "--set", "KEY=VALUE", text)


def _add_running(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--jobs",
        type=_positive,
        help="cells to train at a time (default: runtime.cells_per_gpu per GPU; without GPUs, one per core)",
    )


def _add_list(sub: argparse.ArgumentParser, flag: str, metavar: str, text: str) -> None:
    """Add an option that takes one or more values. If it is repeated, the values add up."""
    sub.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=text)


_MAX_COUNT = 1_000_000


def _positive(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:  # not a number, or one with thousands of digits
        number = -1
    if not least <= number <= _MAX_COUNT:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} to {_MAX_COUNT:,}")
    return number


# ---------------------------------------------------------------------------------------------- commands


def _list(arguments: argparse.Namespace) -> int:
    from novobench.suite import show

    show.listing(arguments.what)
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from novobench.suite import show

    show.plan(_planned(arguments))
    return 0


def _config(arguments: argparse.Namespace) -> int:
    from novobench.config_loading import parse_overrides
    from novobench.suite import show

    show.configs(_experiments(arguments), arguments.scale, parse_overrides(arguments.set), arguments.rows)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from novobench.suite import runner

    return runner.run(_planned(arguments), arguments.jobs)


def _search(arguments: argparse.Namespace) -> int:
    from novobench.suite import search

    counts = arguments.budget, arguments.seeds, arguments.study
    return search.search(_experiments(arguments), arguments.scale, *counts, arguments.jobs, arguments.keys)


def _check(arguments: argparse.Namespace) -> int:
    from novobench.suite import check

    if arguments.what == "task":
        return check.task(arguments.name)
    return check.optimizer(arguments.name, arguments.options, arguments.lr, compiled=arguments.compile)


def _doctor(arguments: argparse.Namespace) -> int:
    from novobench import doctor

    return doctor.check()


def _bench(arguments: argparse.Namespace) -> int:
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
    from novobench.config_loading import parse_overrides
    from novobench.suite.plan import plan

    extra = parse_overrides(arguments.set)
    return plan(_experiments(arguments), arguments.scale, range(arguments.seeds), extra, arguments.rows)
