"""What surrounds a curve over τ: how sure its means over images are, and how far the samples of an image lie apart."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS, Column
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.selection import perceptual_metric
from linf.report.statistics import LEAST_IMAGES, mean_intervals


def draw_interval(axis: Axes, run: EvaluationRun, dataset: str, scale: Scale, name: str, colour: str) -> None:
    """Shade the bootstrap's interval over images around a curve, if there are images enough for a verdict."""
    of = lines_at(run.images, dataset, scale)
    table = of[of["temperature"].notna()].pivot_table(name, "image", "temperature", dropna=False)
    if len(table) < LEAST_IMAGES:
        return
    low, high = mean_intervals(table.to_numpy(float))
    good = np.isfinite(low)
    axis.fill_between(table.columns[good], low[good], high[good], color=colour, alpha=0.12, linewidth=0)


def deviation_findings(runs: Sequence[EvaluationRun], dataset: str, scale: Scale) -> list[str]:
    """How far the samples of an image lie apart in PSNR and perception, where several were drawn; bars of that length
    would hide behind the curves' markers.
    """
    findings = []
    for run in runs:
        of = lines_at(run.deviations, dataset, scale)
        names = [name for name in (run.headline, perceptual_metric([run], dataset)) if name and name in of]
        sampled = of[of["temperature"] > 0]
        if not names or not len(sampled):
            continue
        last = sampled[sampled["temperature"] == sampled["temperature"].max()]
        means = {name: last[name].mean() for name in names}
        known = {name: value for name, value in means.items() if np.isfinite(value)}
        if not known:
            continue
        parts = [f"{_short(value, METRICS[name])} of {METRICS[name].title}" for name, value in known.items()]
        findings.append(
            f"{run.label} at ×{scale:g}: the samples of an image at {last['system'].iloc[0]} have a standard "
            f"deviation of {' and '.join(parts)}."
        )
    return findings


def _short(value: float, metric: Column) -> str:
    return f"{value:.2g}" + f" {metric.unit}" * bool(metric.unit)
