"""Figures and findings of a report: details of images side by side, by every system of every run that has kept them."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from linf.evaluation.schema import METRICS, PERCEPTUAL
from linf.report.details import SIDE, Detail
from linf.report.evaluations import EvaluationRun
from linf.report.selection import common_headline
from linf.report.style import GREY, STYLE, folded_label, image_grid


@rc_context(STYLE)
def detail_figures(details: Sequence[Detail]) -> dict[str, Figure]:
    """A figure for each detail, by its name: first what does not depend on τ, then a row for each run."""
    return {detail.shown.name: _draw(detail) for detail in details}


def _draw(detail: Detail) -> Figure:
    (y, x), rows = detail.square, detail.rows
    top = [("LR", detail.lr), *detail.shared, ("HR", detail.hr)]
    # In a column of its own in all rows, so that what stands below each other compares.
    columns = sorted({system: None for _, own, _ in rows for system in own}, key=_column)
    across = [1 + len(top), *(len(columns) + 1 + len(maps) for *_, maps in rows)]
    figure, axes = image_grid(1 + len(rows), max(across))
    _show(axes[0, 0], folded_label(f"{detail.shown.image} ×{detail.shown.scale:g}", 22), detail.whole)
    frame = Rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, fill=False, edgecolor="red")
    axes[0, 0].add_patch(frame)
    for axis, (title, image) in zip(axes[0, 1:], top, strict=False):
        _show(axis, title, image)
    highest: dict[str, float] = {}  # Of a kind of map, for one scale of grey in all rows.
    for title, values in (each for *_, maps in rows for each in maps):
        highest[title] = max(_highest(values), highest.get(title, 0))
    for line, (run, own, maps) in zip(axes[1:], rows, strict=True):
        line[0].set_ylabel(folded_label(run.label, 24), fontsize=8)
        cells = [own.get(system) for system in columns]
        for axis, cell in zip(line, [*cells, ("HR", detail.hr), *maps], strict=False):
            if cell is not None:
                title, image = cell
                _show(axis, title, image, highest.get(title, 1))
    for axis in axes.flat:
        axis.set_visible(bool(axis.images or axis.get_ylabel()))
    return figure


def _column(system: str) -> tuple[int, float]:
    """Where a system stands in the rows: LR, bicubic, temperatures, others."""
    if system.startswith("τ="):
        return 2, float(system.removeprefix("τ="))
    return {"LR": 0, "bicubic": 1}.get(system, 3), 0


def _highest(values: np.ndarray) -> float:
    return max(float(values.max(where=np.isfinite(values), initial=0)), 1e-6)


def _show(axis: Axes, title: str, image: np.ndarray, highest: float = 1) -> None:
    """Show an image (H,W,3), or a map (H,W) from 0 to ``highest`` with a colour bar."""
    drawn = axis.imshow(image, cmap="gray", vmin=0, vmax=highest, interpolation="nearest")
    axis.set_title(title, fontsize=7.5, loc="center")
    if image.ndim == 2:
        # Where all of a map is white, the page is, too.
        axis.spines[:].set(visible=True, color=GREY, linewidth=0.6)
        bar = axis.inset_axes((0.05, -0.1, 0.9, 0.06))
        axis.figure.colorbar(drawn, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=6, length=2)
        bar.grid(False)


def detail_findings(runs: Sequence[EvaluationRun], details: Sequence[Detail]) -> list[str]:
    """How to read the details, and which runs lack them."""
    if not details:
        return ["No run has kept images."]
    keepers = [run for detail in details for run in detail.keepers]
    lacking = "; ".join(run.label for run in runs if run not in keepers)
    perceptual = [[name for name in PERCEPTUAL if name in run.images][:1] for run in keepers]
    titles = dict.fromkeys(METRICS[name].title for names in perceptual for name in names) or ["LPIPS"]
    return [
        f"Each detail is the square of {SIDE} pixels in which the systems differ most. Above it stand "
        f"{METRICS[common_headline(runs)].title} and {' or '.join(titles)} of the whole image, where measured; ★ is "
        "a run's lowest.",
        *[f"{lacking} did not keep these images."] * bool(lacking),
    ]
