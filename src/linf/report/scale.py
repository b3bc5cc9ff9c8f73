"""Figure and findings of a report: PSNR over scale, and its gain over bicubic."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from linf.evaluation.schema import METRICS
from linf.report.caveats import enumerated
from linf.report.evaluations import EvaluationRun
from linf.report.selection import (
    bicubic_at,
    bicubics,
    common_headline,
    comparable_at,
    measured_metrics,
    model_runs,
    regression_runs,
    sampling_runs,
    scales,
    single_scales,
)
from linf.report.style import DOTTED, GREY, bicubic_colour, draw_curve, legend_below, panel_grid, series_style


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


def scale_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """What each run gains over bicubic, LIIF and LTE at two scales: the largest trained on and the largest of all."""
    evaluated, headline, findings = single_scales(runs, dataset), common_headline(runs), []
    rivals = regression_runs(runs, dataset)
    for run in [*sampling_runs(runs, dataset), *rivals]:
        limit = run.about.get("max_trained_scale")
        inside = [s for s in evaluated if not limit or s <= limit]
        outside = [s for s in evaluated if s not in inside]
        parts = []
        for s in [*inside[-1:], *outside[-1:]]:
            own = run.value(dataset, s, run.best_guess(dataset, s), headline)
            others = {"bicubic": bicubic_at([run, *runs], dataset, s, headline)} | {
                rival.label: rival.value(dataset, s, rival.system, headline)
                for rival in rivals
                if rival is not run and comparable_at(rival, run, dataset, s)
            }
            gains = [
                f"{abs(own - value):.2f} dB {'above' if own >= value else 'below'} {name}"
                for name, value in others.items()
                if np.isfinite(own - value)
            ]
            if gains:
                parts.append(
                    f"{enumerated(gains)} at ×{s:g}" + ", a scale it was not trained on" * (s in outside)
                )
        if parts:
            guess = f" ({run.best_guess(dataset, evaluated[0])})" if run.samples else ""
            findings.append(f"{run.label}{guess}: {METRICS[headline].title} {'; '.join(parts)}.")
    limit = min(run.about.get("max_trained_scale") or np.inf for run in runs)
    peers = any("network" in (run.about["model"].get("config") or {}) for run in runs)
    if evaluated and evaluated[-1] > limit and not peers:
        findings.append(f"No run is of a network of ×{limit:g} alone, resized beyond it: model=spandrel.")
    if len(evaluated) < 2:
        only = f"Only ×{evaluated[0]:g} was evaluated" if evaluated else "No scale was evaluated"
        alike = " that is the same on both axes" if len(scales(runs, dataset)) > len(evaluated) else ""
        findings.append(f"{only}{alike}, so there is no curve over scales.")
    return findings
