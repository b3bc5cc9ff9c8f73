"""The command ``linf compare``: two evaluations, image by image, with a verdict."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from linf.cli.options import add_command, check_output


def add_compare(commands: Any) -> None:
    parser = add_command(
        commands, "compare", _compare, "compare two evaluations image by image, with intervals and a verdict"
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs=2,
        metavar="RUN",
        help="folder of an evaluation, or a folder with one evaluation for each seed",
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="also write the differences to this CSV file"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the CSV file")


def _compare(given: Namespace) -> None:
    """Compare the first run with the second: print the differences, first minus second, of each metric per data set,
    scale and temperature, paired by image, with bootstrap intervals and verdicts.
    """
    from linf.errors import UsageError
    from linf.files import atomic_write
    from linf.report.caveats import caveats
    from linf.report.collection import find_runs, with_distinct_labels
    from linf.report.differences import comparison_text, differences

    if given.out is not None:
        check_output(given.out, given.force)
    runs = []
    for path in given.runs:
        found = find_runs([path])
        if len(found) > 1:
            raise UsageError(
                f"{path} holds {len(found)} evaluations that differ in more than their seed "
                f"({'; '.join(run.label for run in found)}): give the folder of one"
            )
        runs += found
    first, second = with_distinct_labels(runs)
    table = differences(first, second)
    if not len(table):
        raise UsageError(
            f"{given.runs[0]} and {given.runs[1]} have no image, scale, system and metric in common: "
            "evaluate both on the same data"
        )
    if given.out is not None:
        with atomic_write(given.out) as part:
            table.to_csv(part, index=False)
    print(comparison_text(first, second, table))
    for caveat in caveats([first, second]):
        print(f"note: {caveat}")
