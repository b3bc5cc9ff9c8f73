"""The figure of a sweep: a line for each job, its figures of merit as dots, its size and time as text beside them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from linf.report.rows import row_panels
from linf.report.style import COLOURS, DOTTED, GREY, STYLE, legend_below, plain_label
from linf.runs.job_names import pooled_jobs
from linf.runs.record import JobRecord

MOST_ROWS = 60
"""Lines that are drawn; of more, the best."""

FAR = 3
"""Bicubic is on the axis up to this many times the width that the jobs take; further away, an arrow points to it."""


def sweep_figure(
    jobs: Mapping[str, JobRecord],
    table: pd.DataFrame,
    merits: Mapping[str, bool],
    bicubic: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Draw a sweep, the best job at the top; jobs that differ in nothing but the seed share a line.

    Args:
        jobs: The records of the jobs by folder name.
        table: Of `linf.runs.sweep.sweep_table`.
        merits: The figures of merit that are drawn, and whether higher values are better.
        bicubic: Bicubic's figures of merit by folder name, where they are known.
    """
    (heading, groups), table = pooled_jobs(jobs), table.set_index("job")
    means = pd.DataFrame(
        {name: table.loc[folders, list(merits)].mean() for name, folders in groups.items()},
        index=list(merits),
    ).T
    if merits:
        first, higher = next(iter(merits.items()))
        means = means.sort_values(first, ascending=not higher, kind="stable", na_position="last")
    rows = list(means.index[:MOST_ROWS])
    lined = False
    with matplotlib.rc_context(STYLE):
        labels = [plain_label(name) for name in rows]
        figure, axes = row_panels(
            plain_label(heading), labels, len(merits), _texts(jobs, table, groups, rows)
        )
        if not merits:
            axes[0].set_xticks([])
        for axis, (merit, higher) in zip(axes, merits.items(), strict=False):
            _draw(axis, [table.loc[groups[name], merit].dropna() for name in rows])
            values = [
                [bicubic.get(folder, {}).get(merit, math.nan) for folder in groups[name]] for name in rows
            ]
            lined |= _draw_bicubic(axis, np.array([np.mean(row) for row in values]))
            axis.set_title(plain_label(merit) + (" ↑" if higher else " ↓"))
        _legend(figure, pooled=any(len(groups[name]) > 1 for name in rows), bicubic=lined)
        if len(means) > len(rows):
            figure.suptitle(f"the best {len(rows)} of {len(means)}", x=0, ha="left", fontsize=9)
    return figure


def _texts(
    jobs: Mapping[str, JobRecord],
    table: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    rows: Sequence[str],
) -> dict[str, list[str]]:
    """Return the columns of text beside the panels: parameters if jobs differ, time, state if not all have finished."""
    found = {}
    if "parameters" in table and table["parameters"].nunique() > 1:
        counts = [table.loc[groups[name], "parameters"].mean() for name in rows]
        found["parameters"] = ["" if pd.isna(count) else f"{count / 1e6:.2f} M" for count in counts]
    times = [table.loc[groups[name], "minutes"].mean() if "minutes" in table else math.nan for name in rows]
    longest = max(times, default=math.nan, key=lambda minutes: -math.inf if pd.isna(minutes) else minutes)
    unit, divisor = ("hours", 60) if longest >= 60 else ("minutes", 1)
    if any(pd.notna(times)):
        found[unit] = ["" if pd.isna(minutes) else f"{minutes / divisor:.1f}" for minutes in times]
    if any(job.state != "finished" for job in jobs.values()):
        found["state"] = [_state([jobs[folder].state for folder in groups[name]]) for name in rows]
    return found


def _state(states: Sequence[str]) -> str:
    """Return what is said of the state of jobs that share a line; nothing where all have finished."""
    others = [state for state in states if state != "finished"]
    count = f"{len(others)} of {len(states)} " if len(states) > 1 and others else ""
    return count + " and ".join(dict.fromkeys(others))


def _draw(axis: Axes, rows: Sequence[pd.Series]) -> None:
    """Draw the mean of each row, and the jobs themselves where there are several."""
    for row, values in enumerate(rows):
        if len(values) > 1:
            axis.plot(
                values,
                [row] * len(values),
                "o",
                color=COLOURS[0],
                markersize=3,
                alpha=0.45,
                markeredgewidth=0,
            )
        if len(values):
            axis.plot(values.mean(), row, "o", color=COLOURS[0], markersize=5.5)


def _draw_bicubic(axis: Axes, values: np.ndarray) -> bool:
    """Draw bicubic's value as a line, in each row by itself where the jobs' images differ; tell whether it could be."""
    (rows,) = np.isfinite(values).nonzero()
    if not len(rows):
        return False
    if np.ptp(values[rows]) > 1e-3:
        for row in rows:
            axis.plot([values[row]] * 2, [row - 0.4, row + 0.4], color=GREY, linestyle=DOTTED)
        return True
    value, (low, high) = values[rows[0]], axis.get_xlim()
    if low - FAR * (high - low) <= value <= high + FAR * (high - low):
        axis.axvline(value, color=GREY, linestyle=DOTTED)
        return True
    text = f"◂ bicubic {value:.2f}" if value < low else f"bicubic {value:.2f} ▸"
    axis.set_title(text, loc="right", color=GREY, fontsize=7)
    return False


def _legend(figure: Figure, *, pooled: bool, bicubic: bool) -> None:
    dot: dict[str, Any] = {"color": COLOURS[0], "linestyle": "none", "marker": "o"}
    entries: list[tuple[Artist, str]] = []
    if pooled:
        entries = [
            (Line2D([], [], **dot, markersize=5.5), "mean over seeds"),
            (Line2D([], [], **dot, markersize=3, alpha=0.45, markeredgewidth=0), "one seed"),
        ]
    if bicubic:
        entries.append((Line2D([], [], color=GREY, linestyle=DOTTED), "bicubic"))
    if entries:
        legend_below(figure, entries)
