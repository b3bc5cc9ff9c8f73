"""Figure and findings of a report: every metric over temperature, and what its steps gain and cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS, Column, evenly_spaced
from linf.report.caveats import without_perception
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.selection import (
    bicubic_at,
    bicubics,
    common_headline,
    curve_scales,
    measured_metrics,
    perceptual_metric,
    regression_runs,
    sampling_runs,
    scales,
)
from linf.report.statistics import LEAST_IMAGES, mean_intervals
from linf.report.style import (
    BEST,
    DOTTED,
    GREY,
    MARKERS,
    bicubic_colour,
    draw_curve,
    mark_best,
    panel_grid,
    series_legend,
    series_style,
)

MOST_BANDS = 3
"""Curves in a panel around which intervals are still told apart."""

MOST_CURVES = 4
"""Curves that share a panel; of more, each scale has its own."""

MOST_COLUMNS = 4


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
                        _draw_interval(axis, run, dataset, s, name, colour)
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
    series_legend(figure, [run.label for run in (*drawn, *references)], others, () if apart else at)
    return figure


def _level(axis: Axes, last: float, value: float, **given: Any) -> None:
    """Draw a level line with a marker at its right end."""
    hollow = {"markerfacecolor": "white", "markeredgecolor": given["color"], "markeredgewidth": 0.8}
    if np.isfinite(value):
        axis.plot([0, last], [value, value], **given | hollow, linewidth=1.0, markevery=[1])


def _draw_interval(
    axis: Axes, run: EvaluationRun, dataset: str, scale: Scale, name: str, colour: str
) -> None:
    """Shade the bootstrap's interval over images around a curve, if there are images enough for a verdict."""
    of = lines_at(run.images, dataset, scale)
    table = of[of["temperature"].notna()].pivot_table(name, "image", "temperature", dropna=False)
    if len(table) < LEAST_IMAGES:
        return
    low, high = mean_intervals(table.to_numpy(float))
    good = np.isfinite(low)
    axis.fill_between(table.columns[good], low[good], high[good], color=colour, alpha=0.12, linewidth=0)


def temperature_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """What each run gains at its best temperature, and how close samples are to the closed form."""
    drawn, at = sampling_runs(runs, dataset), curve_scales(runs, dataset)
    if not drawn:
        return ["No run has temperatures here."]
    headline = common_headline(runs)
    findings = [_trade(run, dataset, at[-1], headline, perceptual_metric([run], dataset)) for run in drawn]
    findings += [sentence for run in drawn for sentence in _closed_form(run, dataset, at)]
    findings += without_perception(drawn, dataset)
    left_out = [f"×{s:g}" for s in scales(runs, dataset) if s not in at]
    findings += [f"In the table but not drawn: {', '.join(left_out)}."] * bool(left_out)
    return findings + deviation_findings(runs, dataset, at[-1])


def _trade(run: EvaluationRun, dataset: str, scale: Scale, headline: str, name: str | None) -> str:
    who, of, psnr = f"{run.label} at ×{scale:g}", run.curve(dataset, scale), METRICS[headline]
    if not len(of) or headline not in of:
        return f"{who} was not evaluated."
    name = name if name is not None and of[name].notna().sum() > 1 else None
    of = of if name is None else of[of[name].notna()]
    low, high = of.iloc[0], of.iloc[-1]
    at_low = psnr.quantity(low[headline])
    if len(of) == 1:
        return f"{who} was evaluated at {low['system']} alone: {psnr.title} {at_low}."
    if name is None:
        return (
            f"{who}: {psnr.title} goes from {at_low} at {low['system']} to {psnr.quantity(high[headline])} at "
            f"{high['system']}."
        )
    metric, best = METRICS[name], of.loc[of[name].idxmin()]
    if best["system"] == low["system"]:
        return (
            f"{who}: {metric.title} is lowest at {low['system']} ({metric.quantity(low[name])}); a higher τ does not "
            "improve it."
        )
    cost = low[headline] - best[headline]
    return (
        f"{who}: {metric.title} falls from {metric.quantity(low[name])} at {low['system']} to "
        f"{metric.quantity(best[name])} at {best['system']}"
        + (f", at a cost of {psnr.quantity(cost)} of {psnr.title}." if np.isfinite(cost) else ".")
    )


def _closed_form(run: EvaluationRun, dataset: str, at: Sequence[Scale]) -> list[str]:
    gaps = []
    for scale in at:
        of = run.curve(dataset, scale)
        exact = run.closed_form(dataset, scale, of["temperature"])
        if len(exact) and run.headline in of:
            gaps += [gap for gap in abs(exact - of[run.headline]) if np.isfinite(gap)]
    within = f"within {max(gaps, default=0):.2f} dB of the samples"
    return [f"{run.label}: the closed form, which does not clamp, is {within}."] * bool(gaps)


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
