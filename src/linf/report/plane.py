"""The perception–distortion plane (Blau and Michaeli, CVPR 2018, arXiv 1711.06077): every run's path over τ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linf.evaluation.schema import METRICS, PERCEPTUAL, evenly_spaced
from linf.report.evaluations import EvaluationRun
from linf.report.style import (
    GREY,
    draw_curve,
    label_points,
    legend_below,
    panel_grid,
    plain_label,
    series_style,
)
from linf.report.tables import (
    common_headline,
    datasets,
    first_value,
    measured_metrics,
    published_points,
    scales,
)


def sampling_runs(runs: Sequence[EvaluationRun], dataset: str) -> list[EvaluationRun]:
    """The runs whose model samples, of those on a data set."""
    return [run for run in runs if any(len(run.curve(dataset, scale)) for scale in scales([run], dataset))]


def regression_runs(runs: Sequence[EvaluationRun], dataset: str) -> list[EvaluationRun]:
    """The runs of LIIF and LTE on a data set."""
    others = [run for run in runs if not run.samples and run.system != "bicubic"]
    return [run for run in others if dataset in datasets([run])]


def perceptual_metric(runs: Sequence[EvaluationRun], dataset: str) -> str | None:
    """The metric that stands for perception, or None where none was measured."""
    return next((name for name in PERCEPTUAL if name in measured_metrics(runs, dataset)), None)


class Panel:
    """The axes of one scale, with their contributions to the figure's legend and labels."""

    def __init__(self, axis: Axes, x: str, y: str) -> None:
        self.axis, self.x, self.y = axis, x, y
        self.entries: dict[str, Artist] = {}
        self.labels: list[tuple[Axes, float, float, str]] = []

    def path(
        self, run: EvaluationRun, dataset: str, scale: float, labels: int, style: dict[str, Any]
    ) -> None:
        """Draw a run's curve over τ, with up to ``labels`` labels: best perception, both ends, and the middle."""
        of = run.curve(dataset, scale)
        if not {self.x, self.y} <= set(of):
            return
        of = of[np.isfinite(of[[self.x, self.y]]).all(axis=1)].reset_index(drop=True)
        if len(of):
            draw_curve(self.axis, of[self.x], of[self.y], **style)
            self.entries.setdefault(run.label, self.axis.lines[-1])
            named = list(dict.fromkeys([of[self.y].idxmin(), 0, len(of) - 1, len(of) // 2]))[:labels]
            self.labels += [(self.axis, of[self.x][n], of[self.y][n], of["system"][n]) for n in named]

    def point(self, entry: str, at: Sequence[float], label: str | None = None, **style: Any) -> None:
        """Draw a point that does not depend on τ."""
        if np.isfinite(at).all():
            self.entries.setdefault(
                entry, *self.axis.plot(*at, **{"markersize": 6} | style | {"linestyle": ""})
            )
            if label:
                self.labels.append((self.axis, at[0], at[1], label))


def plane_scales(runs: Sequence[EvaluationRun], dataset: str) -> list[float]:
    """The scales that are drawn: those where the perceptual metric was measured, at most nine."""
    name = perceptual_metric(runs, dataset)
    of = [run.metrics[run.metrics["dataset"] == dataset] for run in runs if name in run.metrics]
    measured = {scale for lines in of for scale in lines[lines[name].notna()]["scale"]}
    return evenly_spaced([scale for scale in scales(runs, dataset) if scale in measured], 9)


def plane_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """Perception against distortion, a panel for each scale; published results are hollow points."""
    name, first = perceptual_metric(runs, dataset), common_headline(runs)
    if name is None or first not in measured_metrics(runs, dataset):
        return None
    published, at = published_points(runs, dataset, name), plane_scales(runs, dataset)
    order = [*sampling_runs(runs, dataset), *regression_runs(runs, dataset)]
    figure, axes = panel_grid(len(at), 3, (3.2, 2.9))
    panels = [Panel(axis, first, name) for axis in axes]
    for s, panel in zip(at, panels, strict=True):

        def both(run: EvaluationRun, system: str, s: float = s) -> list[float]:
            return [run.value(dataset, s, system, metric) for metric in (first, name)]

        panel.axis.set(xlabel=METRICS[first].axis, ylabel=f"{METRICS[name].title}, axis reversed ↑")
        panel.axis.set_title(plain_label(f"{dataset} ×{s:g}"))
        panel.axis.set_title("better ↗", loc="right", color=GREY)
        for i, run in enumerate(order):
            style = series_style(i, i, False)
            panel.path(run, dataset, s, 4 if len(order) < 5 else 1, style)
            panel.point(run.label, both(run, run.system), **style)
            star = style | {"marker": "*", "markersize": 11, "markeredgecolor": "black"}
            panel.point("learned prior", both(run, "prior"), **star)
        bicubic = [first_value(runs, dataset, s, "bicubic", metric) for metric in (first, name)]
        panel.point("bicubic", bicubic, color="black", marker="x")
        for line in published[published["scale"] == s].to_dict("records"):
            hollow = {"color": "black", "marker": "o", "fillstyle": "none"}
            panel.point("published", (line["psnr"], line["lpips"]), line["system"], **hollow)
        panel.axis.margins(0.15)
        panel.axis.invert_yaxis()
    entries = {label: artist for panel in panels for label, artist in panel.entries.items()}
    legend_below(figure, [(artist, label) for label, artist in entries.items()])
    label_points(figure, [label for panel in panels for label in panel.labels])
    return figure
