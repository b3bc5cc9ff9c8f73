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

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS, evenly_spaced
from linf.report.collection import with_distinct_labels
from linf.report.consistency import consistency_figure
from linf.report.crops import detail_figures
from linf.report.evaluations import EvaluationRun
from linf.report.gaps import gap_figure
from linf.report.plane import plane_figure
from linf.report.selection import (
    bicubic_at,
    bicubics,
    common_headline,
    curve_scales,
    datasets,
    measured_metrics,
    model_runs,
    perceptual_metric,
    regression_runs,
    sampling_runs,
    single_scales,
)
from linf.report.severity import severity_figure
from linf.report.spread import draw_interval
from linf.report.style import (
    BEST,
    DOTTED,
    GREY,
    MARKERS,
    STYLE,
    bicubic_colour,
    draw_curve,
    legend_below,
    mark_best,
    panel_grid,
    series_style,
)
from linf.report.tables import safe_name

MOST_BANDS = 3
"""Curves in a panel around which intervals are still told apart."""


MOST_CURVES = 4
"""Curves that share a panel; of more, each scale has its own."""

MOST_COLUMNS = 4


def all_figures(runs: Sequence[EvaluationRun]) -> dict[str, Figure]:
    """Every figure for which there are data, by its name, such as ``temperature_Set5``."""
    runs = with_distinct_labels(runs)
    kinds = {
        "temperature": temperature_figure,
        "plane": plane_figure,
        "scale": scale_figure,
        "severity": severity_figure,
        "calibration": calibration_figure,
    }
    figures: dict[str, Figure | None] = {}
    with rc_context(STYLE):
        for dataset in datasets(runs):
            for kind, draw in kinds.items():
                figures[f"{kind}_{safe_name(dataset)}"] = draw(runs, dataset)
            gaps = gap_figure(runs, dataset, curve_scales(runs, dataset)[-1])
            figures[f"differences_{safe_name(dataset)}"] = gaps
            kept = consistency_figure(runs, dataset, curve_scales(runs, dataset)[-1])
            figures[f"consistency_{safe_name(dataset)}"] = kept
        figures |= detail_figures(runs)
    return {name: figure for name, figure in figures.items() if figure is not None}


def temperature_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """Each metric against τ, a curve for each run and scale, with bicubic, LIIF and LTE as level lines. Where more than
    `MOST_CURVES` would cross, each scale has a panel of its own.
    """
    drawn, references = sampling_runs(runs, dataset), regression_runs(runs, dataset)
    if not drawn:
        return None
    first, at, alone = common_headline(runs), curve_scales(runs, dataset), len(drawn) + len(references) == 1
    perceptual = perceptual_metric(drawn, dataset)
    wanted = [first, perceptual, "detail", "ssim", "lr_psnr", "diversity"]
    names = [name for name in wanted if name in measured_metrics(drawn, dataset)]
    last = max(run.metrics["temperature"].max() for run in drawn)
    apart = len(drawn) > 1 and len(at) > 1 and len(drawn) * len(at) > MOST_CURVES  # A column for each scale.
    columns = [(s,) for s in evenly_spaced(at, MOST_COLUMNS)] if apart else [tuple(at)]
    panels = [(name, of) for name in names for of in columns]
    others: dict[str, Any] = {}
    figure, axes = panel_grid(len(panels), len(columns) if apart else 3, (3.2, 2.2 if apart else 2.5))
    for axis, (name, of_axis) in zip(axes, panels, strict=True):
        axis.set(title=METRICS[name].axis + f", ×{of_axis[0]:g}" * apart, xlabel="τ")
        for j, s in enumerate(of_axis):
            for i, run in enumerate(drawn):
                of = run.curve(dataset, s)
                if name in of:
                    draw_curve(axis, of["temperature"], of[name], **series_style(i, j, alone))
                    mark_best(axis, of, perceptual, "temperature", name)
                    if len(drawn) * len(of_axis) <= MOST_BANDS:
                        colour = series_style(i, j, alone)["color"]
                        draw_interval(axis, run, dataset, s, name, colour)
                if name == first == run.headline and len(of):
                    tau = np.linspace(0, of["temperature"].max(), 101)
                    exact = run.closed_form(dataset, s, tau)
                    draw_curve(axis, tau[: len(exact)], exact, color="black", linewidth=0.6, zorder=3)
            if name == "diversity":  # Systems without a temperature have none.
                continue
            if name == "detail":
                axis.axhline(100, color="black", linewidth=0.6)
            colour, marker = series_style(0, j, True)["color"] if alone else GREY, MARKERS[j % len(MARKERS)]
            for who, of_lr in bicubics(runs, dataset, s):
                of_bicubic = {"color": bicubic_colour(of_lr, [*drawn, *references], who, colour)}
                shown = of_bicubic | {"linestyle": DOTTED, "marker": marker}
                _level(axis, last, bicubic_at(of_lr, dataset, s, name), **shown)
                given = of_bicubic if who != "bicubic" else {"color": GREY}
                others.setdefault(who, given | {"linestyle": DOTTED, "linewidth": 1.0})
            for i, run in enumerate(references, len(drawn)):
                _level(axis, last, run.value(dataset, s, run.system, name), **series_style(i, j, alone))
    if last > 0 and any(len(run.distribution) for run in drawn):
        others["closed form; HR's detail"] = {"color": "black", "linewidth": 0.6}
    if perceptual:
        others[f"lowest {METRICS[perceptual].title}"] = BEST
    _legend(figure, [*drawn, *references], others, () if apart else at)
    return figure


def _legend(
    figure: Figure, runs: Sequence[EvaluationRun], others: dict[str, Any], at: Sequence[Scale]
) -> None:
    """Draw a legend of runs, other lines and scales; of one run alone, colours stand for scales."""
    of_runs, of_scales = ({"color": GREY}, {}) if len(runs) == 1 else ({}, {"color": GREY})
    styles = [(run.label, series_style(n, 0, False) | {"marker": ""} | of_runs) for n, run in enumerate(runs)]
    styles += others.items()
    styles += [
        (f"×{s:g}", series_style(0, n, True) | {"linestyle": ""} | of_scales) for n, s in enumerate(at)
    ]
    legend_below(figure, [(Line2D([], [], **style), label) for label, style in styles])


def _level(axis: Axes, last: float, value: float, **given: Any) -> None:
    """Draw a level line with a marker at its right end."""
    hollow = {"markerfacecolor": "white", "markeredgecolor": given["color"], "markeredgewidth": 0.8}
    if np.isfinite(value):
        axis.plot([0, last], [value, value], **given | hollow, linewidth=1.0, markevery=[1])


def scale_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """PSNR against scale, where it is one for both axes, and its gain over bicubic; shaded beyond those trained on."""
    there, first = single_scales(runs, dataset), common_headline(runs)
    if len(there) < 2 or first not in measured_metrics(runs, dataset):
        return None
    figure, (absolute, gain) = panel_grid(2, 2, (4.4, 2.9))
    absolute.set(title=METRICS[first].axis)
    gain.set(title="gain over bicubic, dB ↑")
    order = model_runs(runs, dataset)
    for i, run in enumerate(order):
        values = np.array([run.value(dataset, s, run.best_guess(dataset, s), first) for s in there])
        draw_curve(absolute, there, values, **series_style(i, i, False))
        own = np.array([bicubic_at([run, *runs], dataset, s, first) for s in there])
        with np.errstate(invalid="ignore"):  # Infinity less infinity, for perfect images.
            draw_curve(gain, there, values - own, **series_style(i, i, False))
    labels = [run.label for run in order]
    at = {s: dict(bicubics(runs, dataset, s)) for s in there}
    for who in dict.fromkeys(name for of in at.values() for name in of):
        bicubic = [bicubic_at(at[s].get(who, []), dataset, s, first) for s in there]
        of_lr = [run for of in at.values() for run in of.get(who, [])]
        colour = bicubic_colour(of_lr, order, who, GREY)
        draw_curve(absolute, there, bicubic, color=colour, linestyle=DOTTED, marker="x")
        labels.append(who)
    gain.axhline(0, color=GREY, linestyle=DOTTED)
    entries: list[tuple[Artist, str]] = list(zip(absolute.lines, labels, strict=True))
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
    """Set an axis to scales, with a tick at each that has room, larger ones first, and return its limits."""
    margin = (there[-1] / there[0]) ** 0.05
    axis.set(xlabel="scale", xscale="log", xlim=(there[0] / margin, there[-1] * margin))
    labelled = [there[-1]]
    for s in there[-2::-1]:
        if np.log(labelled[-1] / s) > 0.09 * np.log(there[-1] / there[0]):
            labelled.append(s)
    axis.xaxis.set_major_locator(FixedLocator(labelled))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"×{value:g}")
    return axis.get_xlim()


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
    _legend(figure, drawn, {"ideal": {"color": GREY, "linewidth": 0.8}}, at)
    return figure
