"""The state of a sweep on the terminal: printed once, or drawn again and again until all jobs have ended."""

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from linf.errors import UsageError
from linf.runs.sweep import headline_merits, summarise, sweep_jobs, sweep_table
from linf.runs.sweep_commands import expected_jobs, is_commanded


def _table(sweep: Path) -> pd.DataFrame:
    """Return the `sweep_table`, which is empty while a command has begun none of its jobs."""
    try:
        return sweep_table(sweep, sweep_jobs(sweep))
    except UsageError:
        if not is_commanded(sweep):
            raise
        return pd.DataFrame({"job": [], "state": []})


def print_summary(sweep: Path) -> pd.DataFrame:
    """Print the table of `summarise`, also of a sweep whose folder cannot be written to, and return it.

    Raises:
        UsageError: There is no sweep in the folder, nor a command that is about to begin one.
    """
    table = _table(sweep)
    if not len(table):
        return table
    print("\n".join([shown_table(table).to_string(index=False), *_errors(table)]))
    try:
        summarise(sweep)
        print(f"table and figure: {sweep}/sweep.csv, sweep.png")
    except UsageError as error:
        print(f"no sweep.csv and sweep.png: {error}")
    return table


def watch(sweep: Path, *, seconds: float = 5, console: Console | None = None) -> pd.DataFrame:
    """Draw the state of a sweep in place until all its jobs have ended, then `print_summary`; return its table.

    Args:
        sweep: The sweep's folder.
        seconds: The time between two drawings.
        console: The terminal; None for stdout. Where it is none, the summary is printed at once.

    Raises:
        UsageError: As in `print_summary`.
    """
    console = console or Console()
    if not console.is_terminal:
        return print_summary(sweep)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            # In this order, or a job that begins in between would be missed.
            commanded = is_commanded(sweep)
            table = _table(sweep)
            if not commanded and not (table["state"] == "running").any():
                break
            live.update(_drawn(sweep, table, console.height), refresh=True)
            time.sleep(seconds)
    return print_summary(sweep)


def _drawn(sweep: Path, table: pd.DataFrame, height: int) -> Group:
    """Return the table and a line above it, running jobs first where not all fit on the terminal."""
    shown = shown_table(table)
    room = max(height - 5, 1)
    if len(shown) > room:
        order = table["state"].map({"running": 0, "failed": 1, "killed": 1}).fillna(2)
        shown = shown.loc[order.sort_values(kind="stable").index[:room]]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for title in shown:
        drawn.add_column(
            title, justify="left" if title in ("job", "state") else "right", overflow="ellipsis", no_wrap=True
        )
    for row in shown.itertuples(index=False):
        drawn.add_row(*map(Text, row))
    left_out = len(table) - len(shown)
    words = summary_line(sweep, table) + f"; {left_out} are not shown" * bool(left_out)
    return Group(Text(words, overflow="ellipsis", no_wrap=True), drawn)


def summary_line(sweep: Path, table: pd.DataFrame) -> str:
    """Return how many jobs of a sweep are in which state, such as ``2 of 5 finished, 1 running, 2 to come``."""
    states = Counter(table["state"])
    count = len(table)
    if states["running"] or is_commanded(sweep):
        count = max(count, expected_jobs(sweep))
    others = [f"{number} {state}" for state, number in states.items() if state != "finished"]
    others += [f"{count - len(table)} to come"] * (count > len(table))
    return ", ".join([f"{states['finished']} of {count} finished", *others])


def unfinished_line(sweep: Path, table: pd.DataFrame) -> str:
    """Return which jobs of a sweep, whose command has ended, did not finish, and what to do; empty if none."""
    searched = (sweep / "pareto.csv").is_file()  # Other processes may take part in the same search.
    left = table[~table["state"].isin(["finished", "running"] if searched else ["finished"])]
    if not len(left):
        return ""
    then = "continues with the unfinished trials" if searched else "runs only those"
    # A failed trial is not repeated.
    if searched and set(table["state"]) <= {"finished", "running", "failed"}:
        then = "and a higher hydra.sweeper.trials runs others in their place"
    # Slurm's, or those of another command.
    running = int((left["state"] == "running").sum())
    wait = f"{running} still run: once they have ended, " * bool(running)
    return (
        f"{len(left)} of {len(table)} jobs did not finish: {', '.join(left['job'])}; {wait}the same command with "
        f"{shlex.quote(f'hydra.sweep.dir={sweep}')} {then}"
    )


def shown_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return what is printed of a `sweep_table`, as text: without single scales, parameters and errors."""
    columns: dict[str, Sequence[str]] = {"job": table["job"], "state": table["state"]}
    numbers = table.astype(object).where(table.notna(), None)
    rows = numbers.to_dict("records")

    def column(title: str, of: Any) -> None:
        values = ["" if (value := of(row)) is None else str(value) for row in rows]
        if any(values):
            columns[title] = values

    def fixed(key: str) -> Any:
        return lambda row: None if row.get(key) is None else f"{row[key]:.3f}"

    column("step", lambda row: _steps(row.get("step"), row.get("steps")))
    column("steps/s", lambda row: None if row.get("speed") is None else f"{row['speed']:.3g}")
    column("time", lambda row: None if row.get("minutes") is None else _duration(row["minutes"]))
    column("left", lambda row: None if row.get("minutes_left") is None else _duration(row["minutes_left"]))
    for merit in headline_merits(table):
        column(merit, fixed(merit))
    column("best", fixed("best"))
    column("at step", lambda row: row.get("best_step"))
    return pd.DataFrame(columns)


def _steps(step: int | None, steps: int | None) -> str | None:
    return None if step is None else f"{step} of {steps}" if steps else f"{step}"


def _duration(minutes: float) -> str:
    """Return a time in words, in its two largest units."""
    if minutes < 1:
        return f"{minutes * 60:.0f} s"
    whole = round(minutes)
    if whole < 60:
        return f"{whole} min"
    if whole < 48 * 60:
        return f"{whole // 60} h {whole % 60} min"
    return f"{whole // 1440} d {whole % 1440 // 60} h"


def _errors(table: pd.DataFrame) -> list[str]:
    """Return the errors of a `sweep_table`, a line for each job that has one."""
    errors = table["error"].dropna() if "error" in table else pd.Series(dtype=str)
    return [f"{table.loc[i, 'job']}: {error}" for i, error in errors.items()]
