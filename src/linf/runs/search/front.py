"""The Pareto front of a search in one figure."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from linf.report.style import COLOURS, GREY, label_points, legend_below, panel_grid


def front_figure(table: pd.DataFrame, objectives: Mapping[str, str]) -> Figure:
    """Draw a search: every trial by its two objectives, and the Pareto front as a line."""
    (x, y), directions = objectives, list(objectives.values())
    entries = []
    drawn, (axis,) = panel_grid(1, 1, (6.0, 4.0))
    finished = table["state"] == "finished"
    groups: list[tuple[str, Any, dict[str, Any]]] = [
        ("finished", finished & ~table["front"], {"color": "0.6", "marker": "o"}),
        ("pruned", table["state"] == "pruned", {"color": "0.6", "marker": "o", "fillstyle": "none"}),
    ]
    for label, chosen, style in groups:
        if chosen.any():
            lines = axis.plot(table.loc[chosen, x], table.loc[chosen, y], linestyle="", **style)
            entries.append((lines[0], label))
    front = table[table["front"]].sort_values([x, y])
    # Between two trials of the front, only the later one is at least as good in x.
    steps = "steps-pre" if directions[0] == "maximize" else "steps-post"
    if len(front):
        line = axis.plot(front[x], front[y], drawstyle=steps, color=COLOURS[0], marker="o", markersize=6)
        entries.append((line[0], "Pareto front, with the trials' numbers"))
    axis.set(xlabel=x, ylabel=y)
    axis.set_title("better ↗", loc="right", color=GREY)
    axis.margins(0.12)
    axis.ticklabel_format(useOffset=False)
    if directions[0] == "minimize":
        axis.invert_xaxis()
        axis.set_xlabel(f"{x}, axis reversed →")
    if directions[1] == "minimize":
        axis.invert_yaxis()
        axis.set_ylabel(f"{y}, axis reversed ↑")
    if entries:
        legend_below(drawn, entries)
        named = zip(front[x], front[y], front.index, strict=True)
        label_points(drawn, [(axis, at_x, at_y, str(number)) for at_x, at_y, number in named])
    return drawn
