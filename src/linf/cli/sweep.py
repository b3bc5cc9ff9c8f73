"""The command ``linf sweep``: the jobs of a sweep, running or not."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from linf.cli.options import add_command


def add_sweep(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep", help="show the jobs of a sweep", description="Show what the jobs of a sweep are doing."
    )
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    status = add_command(
        actions,
        "status",
        _status,
        "show the state, step, speed, time left, validation and error of every job",
    )
    status.add_argument("folder", type=Path, metavar="DIR", help="the sweep's folder")
    status.add_argument(
        "-w",
        "--watch",
        action="store_true",
        help="on a terminal, refresh the table every 5 s until all jobs have ended",
    )


def _status(given: Namespace) -> None:
    """Show the state of all jobs of a sweep, and write DIR/sweep.csv and DIR/sweep.png."""
    from linf.runs.sweep_status import print_summary, summary_line, watch

    table = (watch if given.watch else print_summary)(given.folder)
    print(summary_line(given.folder, table))
