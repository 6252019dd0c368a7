"""The command line: words in, calls out. Heavy imports wait until a command needs them."""

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
    """Run one command. Exit code 0: done; 1: something failed; 2: the words were wrong; 128 + n: stopped by signal n.

    Whatever fails ends in one line on standard error; a traceback is shown with `--debug` alone.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses an older one, a checkout on PYTHONPATH does not
        sys.exit(f"novobench: Python 3.11 or newer is needed, this is {sys.version.split()[0]}.")
    with resilient_output() as lost, signals.stop_on_signals() as came:
        code = _ended(argv, came)
        sys.stdout.flush()
        if problem := output_problem(lost):
            _say(problem)
            code = code or 1
    sys.exit(code)


def _ended(argv: Sequence[str] | None, came: list[int]) -> int:
    """Run one command to its exit code, and say what failed."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as ended:  # it has shown the help, or said what was wrong
        return ended.code if isinstance(ended.code, int) else 2
    try:
        places.prepare_environment()
        if "scale" in arguments:
            from novobench.config import scale_named

            arguments.scale = scale_named(arguments.scale)
        return arguments.call(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if came or isinstance(error, KeyboardInterrupt):  # a library may take a signal for an error of its own
            if argv is None:
                signals.end_now()
            return _stopped(came[0] if came else signal.SIGINT)
        if arguments.debug:
            raise
        _say(message_for_user(error))
        return error.exit_code if isinstance(error, NovobenchError) else 1


def _stopped(number: int) -> int:
    by = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    _say(f"{by}. Run the same command again to go on where it stopped.")
    return 128 + number


def _say(problem: str) -> None:
    print(f"novobench: {one_line(problem)}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """Its errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"novobench: {one_line(message)}. Run: {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="novobench",
        description="Reproduces the NovoGrad paper and compares optimizers honestly.",
        epilog="Example: novobench run table1 --scale laptop --seeds 3",
    )
    parser.add_argument("--debug", action="store_true", help="show an error's traceback")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def debug(sub: argparse.ArgumentParser) -> None:  # before the command or after it
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")

    def verb(name: str, call: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, epilog=f"Example: novobench {example}")
        debug(sub)
        sub.set_defaults(call=call)
        return sub

    sub = verb("list", _list, "Show what there is: experiments, optimizers, tasks.", "list optimizers")
    sub.add_argument("what", nargs="?", choices=["experiments", "optimizers", "tasks"], default="experiments")

    sub = verb(
        "plan",
        _plan,
        "Show the cells of experiments: size, cost, what exists. Trains nothing.",
        "plan table1",
    )
    _add_experiments(sub)

    sub = verb(
        "config",
        _config,
        "Print the resolved config of rows as YAML, each value with where it comes from.",
        "config table1 --rows t1_sgd_100 --scale full",
    )
    _add_experiments(sub, seeds=False)

    sub = verb("run", _run, "Train what is missing, then write the tables.", "run table1 --scale laptop --seeds 3")
    _add_experiments(sub)
    _add_running(sub)

    sub = verb(
        "search",
        _search,
        "Search the rates that an experiment's rows name, with the same budget for each optimizer.",
        "search table1 --scale laptop --keys sgd-b32",
    )
    sub.add_argument("experiment")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")
    sub.add_argument("--budget", type=_positive, help="trials for each set of rates (default: the experiment's)")
    sub.add_argument("--seeds", type=_positive, help="seeds of each trial (default: the experiment's)")
    _add_list(sub, "--keys", "KEY", "only these sets of rates")
    _add_running(sub)

    verb("doctor", _doctor, "Check this machine: packages, devices, folders, disk.", "doctor")

    text = "Measure the speed of optimizers and of trainings."
    sub = verb("bench", _bench, text, "bench optimizer --rounds 15")
    kinds = sub.add_subparsers(metavar="WHAT", required=True)
    text = "Step time of optimizers, as ratios to AdamW(fused=True) inside one run."
    kind = kinds.add_parser("optimizer", help=text, description=text)
    kind.add_argument("--rounds", type=_positive, default=15, help="interleaved rounds (default: 15)")
    _add_list(kind, "--models", "NAME", "only these models' shapes")
    _add_list(kind, "--only", "NAME", "only these optimizers, and the baseline")
    kind.add_argument("--threads", type=_positive, default=2, help="CPU threads (default: 2)")
    kind.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where tensors lie (default: cpu)")
    kind.add_argument(
        "--unscale-and-clip", action="store_true", help="with a GradScaler and clipping of the global norm in each step"
    )
    text = "instead time launch settings of NovoGrad's CUDA kernels, one by one"
    kind.add_argument("--sweep", action="store_true", help=text)
    kind.add_argument("--output", type=Path, help="also write each row to this CSV file, and a plot next to it")
    debug(kind)
    kind.set_defaults(what="optimizer")
    text = "What a NovoGrad step on CUDA costs the host, as a ratio to AdamW(fused=True)'s; needs no GPU."
    kind = kinds.add_parser("host", help=text, description=text)
    kind.add_argument("--rounds", type=_positive, default=15, help="interleaved rounds (default: 15)")
    kind.add_argument("--output", type=Path, help="also write the rows to this CSV file")
    debug(kind)
    kind.set_defaults(what="host")
    text = "Training speed of the tasks' models on random data, against the card's peak and published figures."
    kind = kinds.add_parser("throughput", help=text, description=text)
    kind.add_argument("tasks", nargs="*", metavar="TASK", help="e.g. image (default: all)")
    kind.add_argument("--scale", default="full", help="laptop, gpu or full (default: full)")
    kind.add_argument("--updates", type=_positive, default=30, help="timed updates (default: 30)")
    _add_list(kind, "--set", "KEY=VALUE", "override the task's config")
    text = "kernels of attention: fused (default), or math, PyTorch's plain ones"
    kind.add_argument("--attention", choices=["fused", "math"], default="fused", help=text)
    text = "with the settings of the published figures; --set can change them"
    kind.add_argument("--published", action="store_true", help=text)
    text = "then save a whole update, load it into a new model, and compare the next update of both"
    kind.add_argument("--checkpoint", action="store_true", help=text)
    kind.add_argument("--output", type=Path, help="also write each row to this CSV file")
    debug(kind)
    kind.set_defaults(what="throughput")
    return parser


def _add_experiments(sub: argparse.ArgumentParser, *, seeds: bool = True) -> None:
    sub.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="e.g. table1; see `novobench list`")
    sub.add_argument("--scale", default="laptop", help="laptop, gpu or full (default: laptop)")
    if seeds:
        sub.add_argument("--seeds", type=_positive, default=1, help="seeds of each row: 0, 1, … (default: 1)")
    _add_list(sub, "--rows", "ID", "only these rows (default: all)")
    text = "override the config of every row, {} to empty a mapping; results of another recipe stay in runs/"
    _add_list(sub, "--set", "KEY=VALUE", text)


def _add_running(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--jobs",
        type=_positive,
        help="cells at a time, sharing GPUs if need be (default: runtime.cells_per_gpu a GPU, else one a core)",
    )


def _add_list(sub: argparse.ArgumentParser, flag: str, metavar: str, text: str) -> None:
    """An option of one or more words. Given again, it adds to those before."""
    sub.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=text)


_MOST = 1_000_000


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:  # no number, or one of thousands of digits
        number = 0
    if not 1 <= number <= _MOST:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to {_MOST:,}")
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
    from novobench.config import parse_overrides
    from novobench.suite import show

    show.configs(_experiments(arguments), arguments.scale, parse_overrides(arguments.set), arguments.rows)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from novobench.suite import runner

    return runner.run(_planned(arguments), arguments.jobs)


def _search(arguments: argparse.Namespace) -> int:
    from novobench.suite import runner
    from novobench.suite.experiment import load_experiment

    experiment = load_experiment(arguments.experiment)
    return runner.search(experiment, arguments.scale, arguments.budget, arguments.seeds, arguments.jobs, arguments.keys)


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
    from novobench.config import parse_overrides
    from novobench.suite.plan import plan

    extra = parse_overrides(arguments.set)
    return plan(_experiments(arguments), arguments.scale, range(arguments.seeds), extra, arguments.rows)
