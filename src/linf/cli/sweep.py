"""The command ``linf sweep``: the jobs of a sweep, running or not."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from linf.cli.options import add_command


def add_sweep(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep", help="the jobs of a sweep", description="Look into a sweep's folder."
    )
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    status = add_command(actions, "status", _status, "every job: state, step, figures, errors")
    status.add_argument("folder", type=Path, metavar="DIR", help="the sweep's folder")


def _status(given: Namespace) -> None:
    """Show the state of a sweep's jobs, running or not; write DIR/sweep.csv and DIR/sweep.png."""
    from linf.runs.sweep import print_summary

    table = print_summary(given.folder)
    print(f"{(table['state'] == 'finished').sum()} of {len(table)} finished")
