"""The command `linf`: one module for each of its commands.

The modules import only the standard library at their top, so that `linf --help` answers at once.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from linf.cli.compare import add_compare
from linf.cli.completion import add_completion, complete
from linf.cli.convert import add_convert
from linf.cli.demo import add_demo
from linf.cli.export import add_export
from linf.cli.info import add_info
from linf.cli.jobs import JOBS, add_jobs, run_job
from linf.cli.latents import add_latents
from linf.cli.models import add_models
from linf.cli.report import add_report
from linf.cli.shard import add_shard
from linf.cli.sweep import add_sweep
from linf.cli.upscale import add_upscale
from linf.cli.weights import add_weights
from linf.errors import Stopped, UsageError, end, find_mistake, stop_signals_to
from linf.files import expand_home
from linf.machine import limit_threads
from linf.runs.output import lost_output, protect_output, use_utf8


class _Parser(argparse.ArgumentParser):
    """A parser that raises UsageError where argparse would print its usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here already: argparse leaves what a command does not know to `linf` itself."""
        self.given = args
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        lists = [option for each in self._actions if each.nargs == "+" for option in each.option_strings]
        if "required" in message and (taking := [option for option in lists if option in self.given]):
            message += f"; write them before {taking[0]}, which takes all that follows it"
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``linf …``; a user's mistake ends it with one line and status 2, a defect of ours with its traceback.

    What cannot be printed ends it with status 1, but only after all of its work; a signal with 128 + signal.
    """
    use_utf8()
    protect_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] and arguments[0] in JOBS:  # What follows is Hydra's.
        run_job(*arguments)
        return
    limit_threads()
    parser = linf_parser()
    complete(parser)
    try:
        if "" in arguments:  # As a path it would be the working folder.
            raise UsageError("an argument is empty: perhaps a variable of the shell is not set")
        # A shell leaves the ~ in --out=~/images, and in quotes, as it is.
        given = parser.parse_args(list(map(expand_home, arguments)))
        with stop_signals_to():
            given.run(given)
        if lost_output():
            raise SystemExit(1)
    except KeyboardInterrupt:  # Before the command has begun.
        raise Stopped(signal.SIGINT) from None
    except BrokenPipeError:  # Who reads an image from stdout has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if (mistake := find_mistake(error)) is None:
            raise
        end(mistake)


def linf_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what it parses has the function ``run`` to call with it."""
    parser = _Parser(
        "linf",
        description="Arbitrary-scale, generative super-resolution: enlarge images, train and evaluate models, compare "
        "and report results, and work with checkpoints, weights and sweeps.",
    )
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.set_defaults(run=partial(_version_or_help, parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (
        add_upscale,
        add_demo,
        add_jobs,
        add_models,
        add_info,
        add_convert,
        add_latents,
        add_export,
        add_shard,
        add_report,
        add_compare,
        add_sweep,
        add_weights,
        add_completion,
    ):
        add(commands)
    return parser


def _version_or_help(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.version:
        from importlib.metadata import version

        print(f"linf {version('linf')}")
    else:
        parser.print_help()
