"""The perception–distortion plane (Blau and Michaeli, CVPR 2018, arXiv 1711.06077): every run's path over τ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linf.report.evaluations import Run
from linf.report.style import GREY, curve, grid, label_points, legend, look, spread, words
from linf.report.tables import (
    METRICS,
    PERCEPTION,
    datasets,
    headline,
    measured,
    of_any,
    published_points,
    scales,
)


def sampled(runs: Sequence[Run], dataset: str) -> list[Run]:
    """The runs that have temperatures on a data set."""
    return [run for run in runs if any(len(run.curve(dataset, scale)) for scale in scales([run], dataset))]


def regressed(runs: Sequence[Run], dataset: str) -> list[Run]:
    """LIIF and LTE."""
    others = [run for run in runs if not run.samples and run.system != "bicubic"]
    return [run for run in others if dataset in datasets([run])]


def perception(runs: Sequence[Run], dataset: str) -> str | None:
    """The metric that stands for perception, where one was measured."""
    return next((name for name in PERCEPTION if name in measured(runs, dataset)), None)


class Panel:
    """One scale's axes, and what its figure's legend and labels take from it."""

    def __init__(self, axis: Axes, x: str, y: str) -> None:
        self.axis, self.x, self.y = axis, x, y
        self.entries: dict[str, Artist] = {}
        self.labels: list[tuple[Axes, float, float, str]] = []

    def path(self, run: Run, dataset: str, scale: float, labels: int, style: dict[str, Any]) -> None:
        """A run's curve over τ; its best perception, its ends and its middle are labelled, up to so many of them."""
        of = run.curve(dataset, scale)
        if not {self.x, self.y} <= set(of):
            return
        of = of[np.isfinite(of[[self.x, self.y]]).all(axis=1)].reset_index(drop=True)
        if len(of):
            curve(self.axis, of[self.x], of[self.y], **style)
            self.entries.setdefault(run.label, self.axis.lines[-1])
            named = list(dict.fromkeys([of[self.y].idxmin(), 0, len(of) - 1, len(of) // 2]))[:labels]
            self.labels += [(self.axis, of[self.x][n], of[self.y][n], of["system"][n]) for n in named]

    def point(self, entry: str, at: Sequence[float], label: str | None = None, **style: Any) -> None:
        """What does not vary with τ."""
        if np.isfinite(at).all():
            self.entries.setdefault(
                entry, *self.axis.plot(*at, **{"markersize": 6} | style | {"linestyle": ""})
            )
            if label:
                self.labels.append((self.axis, at[0], at[1], label))


def drawn_panels(runs: Sequence[Run], dataset: str) -> list[float]:
    """The scales that have a plane, of many some."""
    name = perception(runs, dataset)
    of = [run.metrics[run.metrics["dataset"] == dataset] for run in runs if name in run.metrics]
    has = {scale for lines in of for scale in lines[lines[name].notna()]["scale"]}
    return spread([scale for scale in scales(runs, dataset) if scale in has], 9)


def plane(runs: Sequence[Run], dataset: str) -> Figure | None:
    """Perception against distortion, a panel for each scale; published points are hollow."""
    name, first = perception(runs, dataset), headline(runs)
    if name is None or first not in measured(runs, dataset):
        return None
    known, at = published_points(runs, dataset, name), drawn_panels(runs, dataset)
    order = [*sampled(runs, dataset), *regressed(runs, dataset)]
    figure, axes = grid(len(at), 3, (3.2, 2.9))
    panels = [Panel(axis, first, name) for axis in axes]
    for s, panel in zip(at, panels, strict=True):

        def both(run: Run, system: str, s: float = s) -> list[float]:
            return [run.value(dataset, s, system, metric) for metric in (first, name)]

        panel.axis.set(xlabel=METRICS[first].axis, ylabel=f"{METRICS[name].title}, axis reversed ↑")
        panel.axis.set_title(words(f"{dataset} ×{s:g}"))
        panel.axis.set_title("better ↗", loc="right", color=GREY)
        for i, run in enumerate(order):
            style = look(i, i, False)
            panel.path(run, dataset, s, 4 if len(order) < 5 else 1, style)
            panel.point(run.label, both(run, run.system), **style)
            star = style | {"marker": "*", "markersize": 11, "markeredgecolor": "black"}
            panel.point("learned prior", both(run, "prior"), **star)
        bicubic = [of_any(runs, dataset, s, "bicubic", metric) for metric in (first, name)]
        panel.point("bicubic", bicubic, color="black", marker="x")
        for line in known[known["scale"] == s].to_dict("records"):
            hollow = {"color": "black", "marker": "o", "fillstyle": "none"}
            panel.point("published", (line["psnr"], line["lpips"]), line["system"], **hollow)
        panel.axis.margins(0.15)
        panel.axis.invert_yaxis()
    entries = {label: artist for panel in panels for label, artist in panel.entries.items()}
    legend(figure, [(artist, label) for label, artist in entries.items()])
    label_points(figure, [label for panel in panels for label in panel.labels])
    return figure
