"""Figures of a report: metrics over temperature and over scale, the perception–distortion plane, calibration."""

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

from linf.evaluation.schema import METRICS
from linf.report.crops import detail_figures
from linf.report.evaluations import EvaluationRun, with_distinct_labels
from linf.report.plane import perceptual_metric, plane_figure, regression_runs, sampling_runs
from linf.report.style import DOTTED, GREY, MARKERS, STYLE, draw_curve, legend_below, panel_grid, series_style
from linf.report.tables import common_headline, datasets, first_value, measured_metrics, safe_name, scales

_Entries = list[tuple[Artist, str]]
# Of a legend.

MOST_CURVES = 12
"""Curves in one panel, at most."""


def all_figures(runs: Sequence[EvaluationRun]) -> dict[str, Figure]:
    """Every figure for which there are data, by its name, such as ``temperature_Set5``."""
    runs = with_distinct_labels(runs)
    kinds = {
        "temperature": temperature_figure,
        "plane": plane_figure,
        "scale": scale_figure,
        "calibration": calibration_figure,
    }
    figures: dict[str, Figure | None] = {}
    with rc_context(STYLE):
        for dataset in datasets(runs):
            for kind, draw in kinds.items():
                figures[f"{kind}_{safe_name(dataset)}"] = draw(runs, dataset)
        figures |= detail_figures(runs)
    return {name: figure for name, figure in figures.items() if figure is not None}


def curve_scales(runs: Sequence[EvaluationRun], dataset: str) -> list[float]:
    """The scales for which curves are drawn: those trained on, and only the largest ones if runs are many."""
    evaluated = scales(runs, dataset)
    limits = [run.about["max_trained_scale"] for run in runs if run.about.get("max_trained_scale")]
    trained = [scale for scale in evaluated if not limits or scale <= min(limits)] or evaluated
    return trained[-max(1, MOST_CURVES // max(1, len(sampling_runs(runs, dataset)))) :]


def temperature_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """Each metric against τ, a curve for each run and scale, with bicubic, LIIF and LTE as level lines."""
    drawn, references = sampling_runs(runs, dataset), regression_runs(runs, dataset)
    if not drawn:
        return None
    first, at, alone = common_headline(runs), curve_scales(runs, dataset), len(drawn) == 1
    wanted = [first, "ssim", perceptual_metric(drawn, dataset), "lr_psnr", "diversity"]
    names = [name for name in wanted if name in measured_metrics(drawn, dataset)]
    last = max(run.metrics["temperature"].max() for run in drawn)
    figure, axes = panel_grid(len(names), 3, (3.2, 2.5))
    for axis, name in zip(axes, names, strict=True):
        axis.set(title=METRICS[name].axis, xlabel="τ")
        for j, s in enumerate(at):
            for i, run in enumerate(drawn):
                of = run.curve(dataset, s)
                if name in of:
                    draw_curve(axis, of["temperature"], of[name], **series_style(i, j, alone))
                if name == first == run.headline and len(of):
                    tau = np.linspace(0, of["temperature"].max(), 101)
                    exact = run.closed_form(dataset, s, tau)
                    draw_curve(axis, tau[: len(exact)], exact, color="black", linewidth=0.6, zorder=3)
            if name == "diversity":  # Systems without a temperature have none.
                continue
            colour, marker = series_style(0, j, True)["color"] if alone else GREY, MARKERS[j % len(MARKERS)]
            bicubic = first_value(runs, dataset, s, "bicubic", name)
            _level(axis, last, bicubic, color=colour, linestyle=DOTTED, marker=marker)
            for i, run in enumerate(references, len(drawn)):
                _level(axis, last, run.value(dataset, s, run.system, name), **series_style(i, j, alone))
    entries = _runs([*drawn, *references], alone)
    entries.append((Line2D([], [], color=GREY, linestyle=DOTTED, linewidth=1.0), "bicubic"))
    if last > 0 and any(len(run.distribution) for run in drawn):
        entries.append((Line2D([], [], color="black", linewidth=0.6), "closed form"))
    legend_below(figure, entries + _scales(at, alone))
    return figure


def _runs(order: Sequence[EvaluationRun], alone: bool) -> _Entries:
    """Legend entries of runs; where only one is drawn, colours stand for scales instead."""
    plain: dict[str, Any] = {"marker": "", "color": GREY} if alone else {"marker": ""}
    return [(Line2D([], [], **series_style(n, 0, False) | plain), run.label) for n, run in enumerate(order)]


def _scales(at: Sequence[float], alone: bool) -> _Entries:
    """Legend entries of scales."""
    plain: dict[str, Any] = {"linestyle": ""} if alone else {"linestyle": "", "color": GREY}
    return [(Line2D([], [], **series_style(0, n, True) | plain), f"×{s:g}") for n, s in enumerate(at)]


def _level(axis: Axes, last: float, value: float, **given: Any) -> None:
    """Draw a level line with a marker at its right end."""
    given |= {
        "linewidth": 1.0,
        "markevery": [1],
        "markerfacecolor": "white",
        "markeredgecolor": given["color"],
    }
    if np.isfinite(value):
        axis.plot([0, last], [value, value], **given | {"markeredgewidth": 0.8})


def scale_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """PSNR against scale, and its gain over bicubic; shaded beyond the scales trained on."""
    there, first = scales(runs, dataset), common_headline(runs)
    if len(there) < 2 or first not in measured_metrics(runs, dataset):
        return None
    figure, (absolute, gain) = panel_grid(2, 2, (4.4, 2.9))
    absolute.set(title=METRICS[first].axis)
    gain.set(title="gain over bicubic, dB ↑")
    bicubic = np.array([first_value(runs, dataset, s, "bicubic", first) for s in there])
    order = [*sampling_runs(runs, dataset), *regression_runs(runs, dataset)]
    for i, run in enumerate(order):
        values = np.array([run.value(dataset, s, run.best_guess(dataset, s), first) for s in there])
        draw_curve(absolute, there, values, **series_style(i, i, False))
        with np.errstate(invalid="ignore"):  # Infinity less infinity, for perfect images.
            draw_curve(gain, there, values - bicubic, **series_style(i, i, False))
    draw_curve(absolute, there, bicubic, color=GREY, linestyle=DOTTED, marker="x")
    gain.axhline(0, color=GREY, linestyle=DOTTED)
    entries: _Entries = [
        (Line2D([], [], **series_style(i, i, False)), run.label) for i, run in enumerate(order)
    ]
    entries.append((Line2D([], [], color=GREY, linestyle=DOTTED, marker="x"), "bicubic"))
    limits = {run.about.get("max_trained_scale") or there[-1] for run in order}
    for axis in (absolute, gain):
        low, high = _ticks(axis, there)
        for limit in [limit for limit in limits if limit < there[-1]]:
            axis.axvspan(max(limit, low), high, color="0.5", alpha=0.12, linewidth=0)
    if there[-1] > min(limits, default=there[-1]):
        entries.append((Patch(color="0.5", alpha=0.2), "beyond the scales trained on"))
    legend_below(figure, entries)
    return figure


def _ticks(axis: Axes, there: Sequence[float]) -> tuple[float, float]:
    """Set an axis to scales, with a tick at each that has room, and return its limits."""
    margin = (there[-1] / there[0]) ** 0.05
    axis.set(xlabel="scale", xscale="log", xlim=(there[0] / margin, there[-1] * margin))
    axis.xaxis.set_major_locator(FixedLocator(_apart(there)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"×{value:g}")
    return axis.get_xlim()


def _apart(there: Sequence[float]) -> list[float]:
    """The scales whose tick labels have room beside each other, larger scales first."""
    kept = [there[-1]]
    for s in there[-2::-1]:
        if np.log(kept[-1] / s) > 0.09 * np.log(there[-1] / there[0]):
            kept.append(s)
    return kept


def calibration_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """The share of HR within predicted intervals against their nominal probability, as means over images."""
    drawn = [run for run in sampling_runs(runs, dataset) if (run.calibration["dataset"] == dataset).any()]
    if not drawn:
        return None
    at, alone = curve_scales(runs, dataset), len(drawn) == 1
    figure, axes = panel_grid(2, 2, (3.6, 3.4))
    titles = {
        "pixel": "HR values in predicted intervals",
        "latent": "whitened residuals in N(0, 1) intervals",
    }
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        axis.set(title=title, xlabel="nominal", ylabel="covered", xlim=(0, 1), ylim=(0, 1))
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        for i, run in enumerate(drawn):
            of = run.calibration[(run.calibration["dataset"] == dataset) & (run.calibration["kind"] == kind)]
            for j, s in enumerate(at):
                means = of[of["scale"] == s].groupby("nominal")["covered"].mean()
                draw_curve(axis, means.index, means, **series_style(i, j, alone))
    legend_below(
        figure,
        [*_runs(drawn, alone), (Line2D([], [], color=GREY, linewidth=0.8), "ideal"), *_scales(at, alone)],
    )
    return figure
