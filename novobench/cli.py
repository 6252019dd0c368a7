"""The command line: parses arguments and calls the verb in `commands.py`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from novobench import commands, places, seeds, signals
from novobench.console import output_problem, resilient_output
from novobench.errors import NovobenchError, message_for_user, one_line


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
        arguments.command_line = shlex.join(["novobench", *(sys.argv[1:] if argv is None else argv)])
    except SystemExit as exit:  # argparse has printed the help or an error
        return exit.code if isinstance(exit.code, int) else 2
    try:
        places.prepare_environment()
        if getattr(arguments, "scale", None) is not None:
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

    sub = verb("list", commands.listing, "List experiments, optimizers or tasks.", "list optimizers")
    sub.add_argument("what", nargs="?", choices=["experiments", "optimizers", "tasks"], default="experiments")

    sub = verb(
        "plan",
        commands.plan,
        "Show the cells (training runs) of experiments with their size and expected time. Trains nothing.",
        "plan table1",
    )
    _add_experiments(sub)

    sub = verb(
        "config",
        commands.config,
        "Print the resolved config of rows as YAML with the origin of each value; KEYS in place of an experiment's "
        "name lists every key with its meaning, KEYS TASK those of a task, KEYS optimizer those of optimizers.",
        "config table1 --rows t1_sgd_100 --scale full",
    )
    _add_experiments(sub, with_seeds=False)

    sub = verb(
        "run",
        commands.run,
        "Train missing cells (training runs), then write the tables.",
        "run table1 --scale laptop --seeds 3",
    )
    _add_experiments(sub)
    _add_running(sub)

    sub = verb(
        "search",
        commands.search,
        "Search learning rates for experiments' rows, with the same number of trials for each optimizer.",
        "search table1 table4 --scale laptop",
    )
    sub.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="each is searched by itself")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")
    _add_overrides(sub, "override the config of every row; the outcome is then only printed")
    text = "trials per set of rates and round, a power of two (default: the experiment's)"
    sub.add_argument("--trials", type=_positive, help=text)
    sub.add_argument("--seeds", type=_positive, help="seeds per trial (default: the experiment's)")
    text = "number of an independent search, with points of its own; only study 0 sets the tuned rates (default: 0)"
    sub.add_argument("--study", type=_not_negative, default=0, help=text)
    _add_list(sub, "--keys", "KEY", "only these sets of rates (default: all; then all are widened together)")
    _add_running(sub)

    sub = verb(
        "compare",
        commands.compare,
        "Compare optimizers on a task: equal searches, then paired seeds and a verdict.",
        "compare ./mine.py:MyOptimizer adamw --task language",
    )
    text = "two or more: names, package.module:Class or ./file.py:Class; the first is compared with each other"
    sub.add_argument("optimizers", nargs="+", metavar="OPTIMIZER", help=text)
    sub.add_argument("--task", required=True, help="image, speech, translation, language or all")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")
    sub.add_argument("--seeds", type=_positive, default=10, help="compared trainings per optimizer (default: 10)")
    text = "search trials per optimizer and round, a power of two (default: 8)"
    sub.add_argument("--trials", type=_positive, default=8, help=text)
    text = "YAML file of rates that are not searched, or of other ranges: {adamw: {lr: 0.001, weight_decay: 0.01}}"
    sub.add_argument("--rates", type=Path, metavar="FILE", help=text)
    _add_overrides(sub, "override the config of every training")
    text = "value to measure updates and time to (default: one that every optimizer reaches)"
    _add_list(sub, "--target", "METRIC=VALUE", text)
    text = "largest difference that does not matter, for the verdict `equivalent`; declare it before you have results"
    _add_list(sub, "--margin", "METRIC=VALUE", text)
    sub.add_argument("--name", default="", help="folder below results/<scale>/compare/ (default: task and optimizers)")
    sub.add_argument("--dry-run", action="store_true", help="only show what would be trained, and how long it takes")
    _add_running(sub)

    text = "Compare everything that the paper prints with the recipes and results, leaf by leaf."
    sub = verb("rubric", commands.rubric, text, "rubric --scale laptop")
    sub.add_argument("--scale", help="laptop, gpu or full: print every leaf (default: only counts, of all scales)")

    text = "Show what is in a folder of your own data, and the options that train on it."
    sub = verb("data", commands.data, text, "data image path=photos")
    sub.add_argument("task", metavar="TASK", help="image, speech, translation or language")
    sub.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="path=FOLDER, and other keys of `data.`")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")

    text = "Check that an optimizer or a task keeps its contract, with a verdict per point."
    sub = verb("check", commands.check, text, "check optimizer ./mine.py:MyOptimizer --lr 0.01")
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

    text = "Judge the paper's claims by the records in results/, and write claims.md and claims.csv there."
    sub = verb("claims", commands.claims, text, "claims --scale laptop")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")

    verb("doctor", commands.doctor, "Check packages, devices, folders and disk space.", "doctor")

    text = "Measure the speed of optimizers and of training."
    sub = verb("bench", commands.bench, text, "bench optimizer --rounds 15")
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


def _add_experiments(sub: argparse.ArgumentParser, *, with_seeds: bool = True) -> None:
    sub.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="e.g. table1; see `novobench list`")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")
    if with_seeds:
        text = (
            "N: the N seeds from 100, trained on this machine; A-B, e.g. 100-109 or 0-0: these seeds, of which those "
        )
        text += "in results/ are not trained again (default: 1)"
        sub.add_argument("--seeds", type=_seeds, default="1", metavar="N|A-B", help=text)
    _add_list(sub, "--rows", "ID", "only these rows (default: all)")
    _add_overrides(sub, "override the config of every row; {} empties a mapping. Results of it stay in runs/")


def _add_overrides(sub: argparse.ArgumentParser, text: str) -> None:
    _add_list(sub, "--set", "KEY=VALUE", text)
    text = "train on your own data, e.g. path=photos: they are measured, and every size that depends on them is set"
    _add_list(sub, "--data", "KEY=VALUE", text)


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


def _seeds(text: str) -> seeds.Seeds:
    try:
        return seeds.parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
