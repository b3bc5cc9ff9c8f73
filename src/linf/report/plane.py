"""The perception–distortion plane (Blau and Michaeli, CVPR 2018, arXiv 1711.06077): every run's path over τ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS, evenly_spaced
from linf.report.evaluations import EvaluationRun
from linf.report.selection import (
    bicubic_at,
    bicubics,
    common_headline,
    measured_metrics,
    model_runs,
    perceptual_metric,
    scales,
)
from linf.report.style import (
    GREY,
    bicubic_colour,
    draw_curve,
    label_points,
    legend_below,
    mark_best,
    panel_grid,
    plain_label,
    series_style,
)
from linf.report.tables import published_points


def plane_scales(runs: Sequence[EvaluationRun], dataset: str) -> list[Scale]:
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
    order = model_runs(runs, dataset)
    figure, axes = panel_grid(len(at), 3, (3.2, 2.9))
    entries: dict[str, Artist] = {}
    labels: list[tuple[Axes, float, float, str]] = []

    def point(axis: Axes, entry: str, at: Sequence[float], label: str | None = None, **style: Any) -> None:
        """Draw what does not depend on τ."""
        if np.isfinite(at).all():
            style = {"markersize": 6} | style | {"linestyle": ""}
            entries.setdefault(entry, *axis.plot(*at, **style))
            labels.extend([(axis, at[0], at[1], label)] if label else [])

    for s, axis in zip(at, axes, strict=True):
        axis.set(xlabel=METRICS[first].axis, ylabel=f"{METRICS[name].title}, axis reversed ↑")
        axis.set_title(plain_label(f"{dataset} ×{s:g}"))
        axis.set_title("better ↗", loc="right", color=GREY)
        for i, run in enumerate(order):
            style = series_style(i, i, False)
            of = run.curve(dataset, s).reindex(columns=["system", first, name])
            of = of[np.isfinite(of[[first, name]]).all(axis=1)].reset_index(drop=True)
            if len(of):
                draw_curve(axis, of[first], of[name], **style)
                entries.setdefault(run.label, axis.lines[-1])
                mark_best(axis, of, name, first, name)
                # Best perception, both ends, and the middle.
                named = list(dict.fromkeys([of[name].idxmin(), 0, len(of) - 1, len(of) // 2]))
                named = named[: 4 if len(order) < 5 else 1]
                labels += [(axis, of[first][n], of[name][n], of["system"][n]) for n in named]
            star = style | {"marker": "*", "markersize": 11, "markeredgecolor": "black"}
            for entry, system, look in ((run.label, run.system, style), ("learned prior", "prior", star)):
                both = [run.value(dataset, s, system, metric) for metric in (first, name)]
                point(axis, entry, both, **look)
        for who, of_lr in bicubics(runs, dataset, s):
            colour = bicubic_colour(of_lr, order, who, "black")
            point(
                axis,
                who,
                [bicubic_at(of_lr, dataset, s, metric) for metric in (first, name)],
                color=colour,
                marker="x",
            )
        for line in published[published["scale"] == s].to_dict("records"):
            hollow = {"color": "black", "marker": "o", "fillstyle": "none"}
            point(axis, "published", (line["psnr"], line["lpips"]), line["system"], **hollow)
        axis.margins(0.15)
        axis.invert_yaxis()
    legend_below(figure, [(artist, label) for label, artist in entries.items()])
    label_points(figure, labels)
    return figure
