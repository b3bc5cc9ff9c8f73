"""How figures look: series that differ in grey too, legends outside the axes, labels that do not overlap."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which the colour-blind can tell apart; its yellow is too pale for lines."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2.5, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^DvPX<>"
DOTTED = (0, (1, 1.5))
GREY = "0.35"

NEAR = ((6, 3), (6, -3), (-6, 3), (-6, -3), (0, 7), (0, -7))
BESIDE = (*NEAR, *((x, y) for y in (10, -10, 18, -18) for x in (14, -14, 0)), (26, 3), (-26, 3))
"""Where a label may stand, in points from what it names, the best places first."""

STYLE: dict[Any, Any] = {
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
"""Matplotlib's settings while a figure is made and written."""


def look(run: int, scale: int, alone: bool) -> dict[str, Any]:
    """Dashes tell runs apart and markers scales; colours tell runs, or where only one is drawn the scales."""
    colour = COLOURS[(scale if alone else run) % len(COLOURS)]
    return {
        "color": colour,
        "linestyle": DASHES[run % len(DASHES)],
        "marker": MARKERS[scale % len(MARKERS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """So many of them, evenly from the first to the last."""
    return [items[round(n)] for n in np.linspace(0, len(items) - 1, min(most, len(items)))]


def curve(axis: Axes, x: Iterable[float], y: Iterable[float], **given: Any) -> None:
    """A line through what is finite; of many points only some have a marker."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y)
    axis.plot(x[good], y[good], markevery=max(1, math.ceil(good.sum() / 12)), **given)


def words(label: str) -> str:
    """A label as it is, never as mathematics or as matplotlib's sign for no label; not too long."""
    label = label if len(label) <= 48 else f"{label[:47]}…"
    return ("\N{THIN SPACE}" * label.startswith("_") + label).replace("$", r"\$")


def legend(figure: Figure, entries: Sequence[tuple[Artist, str]]) -> None:
    """Below the axes, in as many columns as there is room for."""
    names = [words(label) for _, label in entries]
    longest = max(map(len, names), default=1) + 7
    columns = max(1, min(len(names), int(figure.get_figwidth() * 14 / longest)))
    figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(len(names) / columns))
    figure.legend(
        [handle for handle, _ in entries], names, loc="outside lower center", ncols=columns, handlelength=3.2
    )


def grid(panels: int, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, each of ``size`` inches."""
    columns = 2 if panels == 4 else min(across, panels)
    rows = math.ceil(panels / columns)
    # Room for a legend, whose lines are as wide as a figure of two panels at least.
    width = max(size[0] * columns, 6.0)
    figure = Figure(figsize=(width, size[1] * rows + 0.2), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes[panels:]:
        axis.remove()
    for axis in axes[:panels]:  # Ticks are made when they are drawn, perhaps under other settings.
        axis.tick_params(labelsize=STYLE["font.size"], grid_color=STYLE["grid.color"])
    return figure, axes[:panels]


def label_points(figure: Figure, labels: Sequence[tuple[Axes, float, float, str]]) -> None:
    """Words beside points, where they hide neither each other nor a line; those without room are left out.

    Args:
        figure: all drawn but its labels.
        labels: axis, x, y, words; the first have the first choice.
    """
    canvas = FigureCanvasAgg(figure)
    for _ in range(2):  # The second layout makes room for the ticks that the first one chose.
        canvas.draw()
    figure.set_layout_engine("none")  # Labels stand where they are for this layout.
    taken: dict[Axes, list[Bbox]] = {}
    for axis, x, y, label in labels:
        if axis not in taken:
            points = np.concatenate(
                [_along(axis.transData.transform(line.get_xydata())) for line in axis.lines]
            )
            taken[axis] = [Bbox.from_extents(*(point - 4), *(point + 4)) for point in points]
        for dx, dy in BESIDE:
            text = axis.annotate(
                words(label),
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
    """Points in pixels, and others between them every few pixels."""
    between = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 6)) for a, b in pairwise(points)]
    return np.concatenate([points, *between])
