"""The command ``linf report``: evaluations side by side, in tables, figures and one page."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from linf.cli.options import add_command


def add_report(commands: Any) -> None:
    parser = add_command(commands, "report", _report, "put evaluations into tables, figures and one page")
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of an evaluation, or a folder that holds several",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="folder for the report (default: report)",
    )
    parser.add_argument("--force", action="store_true", help="replace an older report in DIR")


def _report(given: Namespace) -> None:
    """Put evaluations side by side, in DIR/index.html, DIR/figures/ and DIR/tables/."""
    from linf import report

    # A pattern of the shell such as sweep/* has the files beside the folders, too.
    folders = [path for path in given.runs if not path.is_file()]
    runs = report.find_runs(folders or given.runs)
    page = report.write_report(runs, given.out, force=given.force)
    print(f"{page}, {len(runs)} evaluation{'s' * (len(runs) > 1)}")
