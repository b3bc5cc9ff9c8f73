"""Style of the figures: series that differ even in grey, legends outside the axes, labels that do not overlap."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from linf.coordinates import Scale
from linf.evaluation.fonts import font_families

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart, without its yellow, too pale for lines."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2.5, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^DvPX<>"
DOTTED = (0, (1, 1.5))
GREY = "0.35"

BEST: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 9,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
}
"""A ring, around the point of a curve where perception is best."""

_NEAR = ((6, 3), (6, -3), (-6, 3), (-6, -3), (0, 7), (0, -7))
_OFFSETS = (*_NEAR, *((x, y) for y in (10, -10, 18, -18) for x in (14, -14, 0)), (26, 3), (-26, 3))
# Positions of a label relative to its point, in points, the best ones first.

STYLE: dict[Any, Any] = {
    "font.family": font_families(),
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "linf",
}
"""Matplotlib's settings while a figure is drawn and saved."""


def series_style(run: int, scale: int, alone: bool) -> dict[str, Any]:
    """Line style of a run at a scale. Dashes distinguish runs and markers distinguish scales. Colours distinguish runs,
    or scales where one run is drawn.

    Args:
        run: its index among those that are drawn.
        scale: its index likewise.
        alone: whether only one run is drawn.
    """
    colour = COLOURS[(scale if alone else run) % len(COLOURS)]
    return {
        "color": colour,
        "linestyle": DASHES[run % len(DASHES)],
        "marker": MARKERS[scale % len(MARKERS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def bicubic_colour(of_lr: Sequence[Any], order: Sequence[Any], name: str, alone: str) -> str:
    """The colour of bicubic of one LR: that of the first run drawn of the same LR, or the usual one where all have one.

    Args:
        of_lr: the runs of that LR.
        order: the runs that are drawn, in the order of their colours.
        name: bicubic's.
        alone: the usual colour.
    """
    drawn = [n for n, run in enumerate(order) if run in of_lr]
    return series_style(drawn[0], 0, False)["color"] if name != "bicubic" and drawn else alone


def draw_curve(axis: Axes, x: Iterable[float], y: Iterable[float], **given: Any) -> None:
    """Draw a line through the finite points, with markers at some of them if there are many."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y)
    axis.plot(x[good], y[good], markevery=max(1, math.ceil(good.sum() / 12)), **given)


def mark_best(axis: Axes, curve: pd.DataFrame, perceptual: str | None, x: str, y: str) -> None:
    """Ring the point of a curve over temperatures where the perceptual metric is lowest, if that was measured.

    Args:
        axis: where the curve is drawn.
        curve: a line for each temperature.
        perceptual: the column of that metric.
        x: the column across.
        y: the column upwards.
    """
    if perceptual in curve and curve[perceptual].notna().sum() > 1:
        best = curve.loc[curve[perceptual].idxmin()]
        axis.plot([best[x]], [best[y]], **BEST)


def plain_label(label: str) -> str:
    """A label that matplotlib draws literally: no mathematics, no leading underscore, at most 48 characters."""
    label = label if len(label) <= 48 else f"{label[:47]}…"
    return ("\N{THIN SPACE}" * label.startswith("_") + label).replace("$", r"\$")


def folded_label(label: str, width: int) -> str:
    """Break a label into at most two lines."""
    return plain_label(textwrap.fill(label, width, max_lines=2, placeholder="…"))


def legend_below(figure: Figure, entries: Sequence[tuple[Artist, str]]) -> None:
    """Draw a legend below the axes, in as many columns as fit, and make the figure higher by it."""
    names = [plain_label(label) for _, label in entries]
    longest = max(map(len, names), default=1) + 7
    columns = max(1, min(len(names), int(figure.get_figwidth() * 14 / longest)))
    figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(len(names) / columns))
    figure.legend(
        [handle for handle, _ in entries], names, loc="outside lower center", ncols=columns, handlelength=3.2
    )


def series_legend(figure: Figure, runs: Sequence[str], others: dict[str, Any], at: Sequence[Scale]) -> None:
    """Draw a legend of runs, by their labels, other lines and scales; of one run alone, colours stand for scales."""
    of_runs, of_scales = ({"color": GREY}, {}) if len(runs) == 1 else ({}, {"color": GREY})
    styles = [(label, series_style(n, 0, False) | {"marker": ""} | of_runs) for n, label in enumerate(runs)]
    styles += others.items()
    styles += [
        (f"×{s:g}", series_style(0, n, True) | {"linestyle": ""} | of_scales) for n, s in enumerate(at)
    ]
    legend_below(figure, [(Line2D([], [], **style), label) for label, style in styles])


def panel_grid(panels: int, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of ``panels`` axes, ``across`` of them side by side, each of ``size`` (width, height) in inches."""
    columns = 2 if panels == 4 else min(across, panels)
    rows = math.ceil(panels / columns)
    # A legend needs the width of two panels.
    width = max(size[0] * columns, 6.0)
    figure = Figure(figsize=(width, size[1] * rows + 0.2), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes[panels:]:
        axis.remove()
    for axis in axes[:panels]:  # Ticks are made as late as they are drawn, perhaps under other settings.
        axis.tick_params(labelsize=STYLE["font.size"], grid_color=STYLE["grid.color"])
    return figure, axes[:panels]


def image_grid(rows: int, across: int) -> tuple[Figure, np.ndarray]:
    """Square axes without ticks, with room for three lines of text above and a colour bar below each, in inches."""
    side, gap, above, below, left = 1.4, 0.08, 0.46, 0.34, 0.4
    width, height = left + across * (side + gap), rows * (above + side + below)
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.subplots(rows, across, squeeze=False)
    spaces = {"wspace": gap / side, "hspace": (above + below) / side}
    figure.subplots_adjust(left / width, below / height, 1 - gap / width, 1 - above / height, **spaces)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def label_points(figure: Figure, labels: Sequence[tuple[Axes, float, float, str]]) -> None:
    """Write labels beside points where they cover neither each other nor a line; leave out those that do not fit.

    Args:
        figure: complete except for these labels.
        labels: axis, x, y and text of each; earlier ones choose their position first.
    """
    canvas = FigureCanvasAgg(figure)
    for _ in range(2):  # The second layout makes room for the ticks that the first one chose.
        canvas.draw()
    figure.set_layout_engine("none")  # The labels' positions hold for this layout only.
    taken: dict[Axes, list[Bbox]] = {}
    for axis, x, y, label in labels:
        if axis not in taken:
            points = np.concatenate(
                [_along(axis.transData.transform(line.get_xydata())) for line in axis.lines]
            )
            taken[axis] = [Bbox.from_extents(*(point - 4), *(point + 4)) for point in points]
        for dx, dy in _OFFSETS:
            text = axis.annotate(
                plain_label(label),
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top",
                fontsize=7,
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2},
            )
            text.set_in_layout(False)
            text.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(text, canvas.get_renderer()).padded(2)  # Without its arrow.
            inside = axis.bbox.contains(box.x0, box.y0) and axis.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken[axis]):
                taken[axis].append(box)
                break
            text.remove()


def _along(points: np.ndarray) -> np.ndarray:
    """Points (N,2) in pixels, and more between them, every few pixels."""
    between = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 6)) for a, b in pairwise(points)]
    return np.concatenate([points, *between])
