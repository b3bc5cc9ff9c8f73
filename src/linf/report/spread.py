"""What is drawn around a curve over τ: how sure its means over images are, and how far samples lie apart."""

import numpy as np
from matplotlib.axes import Axes

from linf.coordinates import Scale
from linf.report.evaluations import EvaluationRun
from linf.report.statistics import LEAST_IMAGES, mean_intervals


def draw_interval(axis: Axes, run: EvaluationRun, dataset: str, scale: Scale, name: str, colour: str) -> None:
    """Shade the bootstrap's interval over images around a curve, if there are images enough for a verdict."""
    of = run.images
    of = of[(of["dataset"] == dataset) & (of["scale"] == scale) & of["temperature"].notna()]
    table = of.pivot_table(name, "image", "temperature", dropna=False)
    if len(table) < LEAST_IMAGES:
        return
    low, high = mean_intervals(table.to_numpy(float))
    good = np.isfinite(low)
    axis.fill_between(table.columns[good], low[good], high[good], color=colour, alpha=0.12, linewidth=0)


def draw_deviation(
    axis: Axes, run: EvaluationRun, dataset: str, scale: Scale, name: str, colour: str
) -> None:
    """Draw the standard deviation of a metric over the samples of an image, a mean over images, as bars on a curve."""
    curve, of = run.curve(dataset, scale), run.deviations
    of = of[(of["dataset"] == dataset) & (of["scale"] == scale)]
    if name not in of or name not in curve:
        return
    each = of.groupby("temperature")[name].mean().reindex(curve["temperature"]).to_numpy(float)
    x, y = curve["temperature"].to_numpy(float), curve[name].to_numpy(float)
    good = (each > 0) & np.isfinite(y)
    axis.errorbar(x[good], y[good], each[good], fmt="none", ecolor=colour, elinewidth=0.8, capsize=2)
