"""Figure and findings of a report: the perception–distortion plane (Blau and Michaeli, CVPR 2018, arXiv 1711.06077),
in which every run is a path over τ.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS, evenly_spaced
from linf.report.caveats import without_perception
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.selection import (
    bicubic_at,
    bicubics,
    common_headline,
    curve_scales,
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


def plane_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Which system is best in perception and which in distortion, and whether published results can be compared."""
    name, headline = perceptual_metric(runs, dataset), common_headline(runs)
    if name is None:
        return without_perception(runs, dataset)
    findings, psnr, metric = [], METRICS[headline], METRICS[name]
    drawn, evaluated = plane_scales(runs, dataset), scales(runs, dataset)
    trained = [s for s in curve_scales(runs, dataset) if s in drawn] or drawn
    for who, of_lr in bicubics(runs, dataset, trained[-1]):  # Those of another LR are no rivals.
        points = _points(of_lr, dataset, trained[-1], name, headline)
        if not points:
            continue
        near, sharp = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[2])
        at = f"At ×{trained[-1]:g}{who.removeprefix('bicubic')},"
        findings.append(
            f"{at} {near[0]} is best in both {metric.title} and {psnr.title}."
            if near[0] == sharp[0]
            else f"{at} {near[0]} has the lowest {metric.title} ({metric.quantity(near[1])} at "
            f"{psnr.quantity(near[2])}) and {sharp[0]} the highest {psnr.title} ({psnr.quantity(sharp[2])} at "
            f"{metric.quantity(sharp[1])})."
        )
    sources = "; ".join(dict.fromkeys(published_points(runs, dataset, name)["source"]))
    findings += [
        f"Hollow points are published results, with other training data and code ({sources})."
        if sources
        else f"No published pair of {psnr.title} and LPIPS is known for these images."
    ]
    findings += [f"{len(drawn)} of {len(evaluated)} scales are drawn."] * (len(drawn) < len(evaluated))
    return findings + without_perception(runs, dataset)


def _points(
    runs: Sequence[EvaluationRun], dataset: str, scale: Scale, *metrics: str
) -> list[tuple[str, float, float]]:
    """Name and two metrics of each system of each run, where both are finite."""
    points = []
    for run in runs:
        of = lines_at(run.metrics, dataset, scale)
        for system in of["system"] if set(metrics) <= set(of) else ():
            who = run.label if system == run.system else f"{run.label}, {system}"
            x, y = (run.value(dataset, scale, system, metric) for metric in metrics)
            if np.isfinite([x, y]).all():
                points.append(("bicubic" if system == "bicubic" else who, x, y))
    return points
