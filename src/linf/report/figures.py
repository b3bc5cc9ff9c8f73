"""Figures of a report: what temperature buys, perception against distortion, scales, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from linf.report.crops import details
from linf.report.evaluations import Run, told_apart
from linf.report.plane import perception, plane, regressed, sampled
from linf.report.style import DOTTED, GREY, MARKERS, STYLE, curve, grid, legend, look
from linf.report.tables import METRICS, datasets, headline, measured, of_any, safe, scales

Entries = list[tuple[Artist, str]]
MOST = 12
"""Curves in one panel."""


def all_figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """Every figure there is data for, by its name, such as ``temperature_Set5``."""
    runs = told_apart(runs)
    figures: dict[str, Figure | None] = {}
    with rc_context(STYLE):
        for dataset in datasets(runs):
            for draw in (temperature, plane, scale, calibration):
                figures[f"{draw.__name__}_{safe(dataset)}"] = draw(runs, dataset)
        figures |= details(runs)
    return {name: figure for name, figure in figures.items() if figure is not None}


def drawn_scales(runs: Sequence[Run], dataset: str) -> list[float]:
    """The scales that curves are drawn for: those trained, and of many runs' only the largest."""
    there = scales(runs, dataset)
    limits = [run.about["max_trained_scale"] for run in runs if run.about.get("max_trained_scale")]
    there = [scale for scale in there if not limits or scale <= min(limits)] or there
    return there[-max(1, MOST // max(1, len(sampled(runs, dataset)))) :]


def temperature(runs: Sequence[Run], dataset: str) -> Figure | None:
    """Each metric against τ, a curve for each run and scale; bicubic, LIIF and LTE as level lines."""
    drawn, references = sampled(runs, dataset), regressed(runs, dataset)
    if not drawn:
        return None
    first, at, alone = headline(runs), drawn_scales(runs, dataset), len(drawn) == 1
    wanted = [first, "ssim", perception(drawn, dataset), "lr_psnr", "diversity"]
    names = [name for name in wanted if name in measured(drawn, dataset)]
    last = max(run.metrics["temperature"].max() for run in drawn)
    figure, axes = grid(len(names), 3, (3.2, 2.5))
    for axis, name in zip(axes, names, strict=True):
        axis.set(title=METRICS[name].axis, xlabel="τ")
        for j, s in enumerate(at):
            for i, run in enumerate(drawn):
                of = run.curve(dataset, s)
                if name in of:
                    curve(axis, of["temperature"], of[name], **look(i, j, alone))
                if name == first == run.headline and len(of):
                    tau = np.linspace(0, of["temperature"].max(), 101)
                    law = run.closed_form(dataset, s, tau)
                    curve(axis, tau[: len(law)], law, color="black", linewidth=0.6, zorder=3)
            if name == "diversity":  # What has no temperature does not vary.
                continue
            colour, marker = look(0, j, True)["color"] if alone else GREY, MARKERS[j % len(MARKERS)]
            bicubic = of_any(runs, dataset, s, "bicubic", name)
            _level(axis, last, bicubic, color=colour, linestyle=DOTTED, marker=marker)
            for i, run in enumerate(references, len(drawn)):
                _level(axis, last, run.value(dataset, s, run.system, name), **look(i, j, alone))
    entries = _runs([*drawn, *references], alone)
    entries.append((Line2D([], [], color=GREY, linestyle=DOTTED, linewidth=1.0), "bicubic"))
    if last > 0 and any(len(run.distribution) for run in drawn):
        entries.append((Line2D([], [], color="black", linewidth=0.6), "closed form"))
    legend(figure, entries + _scales(at, alone))
    return figure


def _runs(order: Sequence[Run], alone: bool) -> Entries:
    """A legend's lines; where only one run is drawn, colours are the scales'."""
    plain: dict[str, Any] = {"marker": "", "color": GREY} if alone else {"marker": ""}
    return [(Line2D([], [], **look(n, 0, False) | plain), run.label) for n, run in enumerate(order)]


def _scales(at: Sequence[float], alone: bool) -> Entries:
    """A legend's markers."""
    plain: dict[str, Any] = {"linestyle": ""} if alone else {"linestyle": "", "color": GREY}
    return [(Line2D([], [], **look(0, n, True) | plain), f"×{s:g}") for n, s in enumerate(at)]


def _level(axis: Axes, last: float, value: float, **given: Any) -> None:
    """A level line, its marker at the right end."""
    given |= {
        "linewidth": 1.0,
        "markevery": [1],
        "markerfacecolor": "white",
        "markeredgecolor": given["color"],
    }
    if np.isfinite(value):
        axis.plot([0, last], [value, value], **given | {"markeredgewidth": 0.8})


def scale(runs: Sequence[Run], dataset: str) -> Figure | None:
    """PSNR against scale, and what of it is gained over bicubic; grey beyond what was trained."""
    there, first = scales(runs, dataset), headline(runs)
    if len(there) < 2 or first not in measured(runs, dataset):
        return None
    figure, (absolute, gain) = grid(2, 2, (4.4, 2.9))
    absolute.set(title=METRICS[first].axis)
    gain.set(title="gain over bicubic, dB ↑")
    bicubic = np.array([of_any(runs, dataset, s, "bicubic", first) for s in there])
    order = [*sampled(runs, dataset), *regressed(runs, dataset)]
    for i, run in enumerate(order):
        values = np.array([run.value(dataset, s, run.best_guess(dataset, s), first) for s in there])
        curve(absolute, there, values, **look(i, i, False))
        with np.errstate(invalid="ignore"):  # Of two perfect images.
            curve(gain, there, values - bicubic, **look(i, i, False))
    curve(absolute, there, bicubic, color=GREY, linestyle=DOTTED, marker="x")
    gain.axhline(0, color=GREY, linestyle=DOTTED)
    entries: Entries = [(Line2D([], [], **look(i, i, False)), run.label) for i, run in enumerate(order)]
    entries.append((Line2D([], [], color=GREY, linestyle=DOTTED, marker="x"), "bicubic"))
    limits = {run.about.get("max_trained_scale") or there[-1] for run in order}
    for axis in (absolute, gain):
        low, high = _ticks(axis, there)
        for limit in [limit for limit in limits if limit < there[-1]]:
            axis.axvspan(max(limit, low), high, color="0.5", alpha=0.12, linewidth=0)
    if there[-1] > min(limits, default=there[-1]):
        entries.append((Patch(color="0.5", alpha=0.2), "beyond the trained scales"))
    legend(figure, entries)
    return figure


def _ticks(axis: Axes, there: Sequence[float]) -> tuple[float, float]:
    """An axis of scales, a tick at each where there is room; returns its limits."""
    margin = (there[-1] / there[0]) ** 0.05
    axis.set(xlabel="scale", xscale="log", xlim=(there[0] / margin, there[-1] * margin))
    axis.xaxis.set_major_locator(FixedLocator(_apart(there)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"×{value:g}")
    return axis.get_xlim()


def _apart(there: Sequence[float]) -> list[float]:
    """Those of some scales whose names have room beside each other, as the larger one's has first."""
    kept = [there[-1]]
    for s in there[-2::-1]:
        if np.log(kept[-1] / s) > 0.09 * np.log(there[-1] / there[0]):
            kept.append(s)
    return kept


def calibration(runs: Sequence[Run], dataset: str) -> Figure | None:
    """The share of HR that lies within intervals of a nominal probability, means over images."""
    drawn = [run for run in sampled(runs, dataset) if (run.calibration["dataset"] == dataset).any()]
    if not drawn:
        return None
    at, alone = drawn_scales(runs, dataset), len(drawn) == 1
    figure, axes = grid(2, 2, (3.6, 3.4))
    titles = {"pixel": "HR's values in predicted intervals", "latent": "whitened residuals in N(0, 1)"}
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        axis.set(title=title, xlabel="nominal", ylabel="covered", xlim=(0, 1), ylim=(0, 1))
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        for i, run in enumerate(drawn):
            of = run.calibration[(run.calibration["dataset"] == dataset) & (run.calibration["kind"] == kind)]
            for j, s in enumerate(at):
                means = of[of["scale"] == s].groupby("nominal")["covered"].mean()
                curve(axis, means.index, means, **look(i, j, alone))
    legend(
        figure,
        [*_runs(drawn, alone), (Line2D([], [], color=GREY, linewidth=0.8), "ideal"), *_scales(at, alone)],
    )
    return figure
