"""Figure of a report: metrics against the severity of a degradation, over evaluations that differ in it."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from linf.evaluation.schema import METRICS, evenly_spaced
from linf.report.evaluations import EvaluationRun
from linf.report.selection import common_headline, measured_metrics, perceptual_metric, scales
from linf.report.style import DOTTED, GREY, draw_curve, legend_below, panel_grid, series_style

MOST_SCALES = 3
MOST_TEMPERATURES = 4


def severity_runs(runs: Sequence[EvaluationRun], dataset: str) -> tuple[str, dict[str, list[EvaluationRun]]]:
    """The evaluations that differ in one setting of the degradation of their LR images, by the model's own label.

    Returns:
        The setting's name, and each model's evaluations from the lowest value to the highest; none where no model was
        evaluated at two values, or several settings differ.
    """
    degraded = [run for run in runs if run.severity and dataset in set(run.metrics["dataset"])]
    names = {name for run in degraded for name in run.severity}
    varied = [name for name in names if len({run.severity.get(name) for run in degraded}) > 1]
    if len(varied) != 1:
        return "", {}
    (name,) = varied
    of: dict[str, dict[float, EvaluationRun]] = {}
    for run in degraded:
        if name in run.severity:
            of.setdefault(run.model, {}).setdefault(run.severity[name], run)
    return name, {who: [at[value] for value in sorted(at)] for who, at in of.items() if len(at) > 1}


def severity_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """The headline PSNR and the perceptual metric against the severity: a row for each scale, a line for each model and
    temperature, and bicubic's.
    """
    name, models = severity_runs(runs, dataset)
    drawn = [run for of in models.values() for run in of]
    if not drawn:
        return None
    metrics = [m for m in (common_headline(drawn), perceptual_metric(drawn, dataset)) if m is not None]
    metrics = [m for m in metrics if m in measured_metrics(drawn, dataset)]
    at = evenly_spaced(scales(drawn, dataset), MOST_SCALES)
    figure, axes = panel_grid(len(metrics) * len(at), len(metrics), (4.2, 2.6))
    entries: dict[str, Line2D] = {}
    for axis, (s, metric) in zip(axes, [(s, metric) for s in at for metric in metrics], strict=True):
        axis.set(title=f"{METRICS[metric].axis}, ×{s:g}", xlabel=name)
        for n, (who, of) in enumerate(models.items()):
            x = [run.severity[name] for run in of]
            for m, system in enumerate(_systems(of, dataset, s)):
                y = [run.value(dataset, s, system, metric) for run in of]
                # Colours stand for temperatures and dashes for models.
                style = series_style(n, m, False) | {"color": series_style(n, m, True)["color"]}
                draw_curve(axis, x, y, **style)
                entries.setdefault(f"{who}, {system}" if system != of[0].system else who, axis.lines[-1])
        of = max(models.values(), key=len)
        bicubic = [run.value(dataset, s, "bicubic", metric) for run in of]
        draw_curve(
            axis, [run.severity[name] for run in of], bicubic, color=GREY, linestyle=DOTTED, marker="x"
        )
        entries.setdefault("bicubic", axis.lines[-1])
    legend_below(figure, [(line, label) for label, line in entries.items()])
    return figure


def _systems(runs: Sequence[EvaluationRun], dataset: str, scale: float) -> list[str]:
    curve = runs[0].curve(dataset, scale)
    return evenly_spaced(curve["system"].tolist(), MOST_TEMPERATURES) if len(curve) else [runs[0].system]


def severity_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """What each model gains over bicubic at each severity, at the largest scale."""
    name, models = severity_runs(runs, dataset)
    findings = []
    for who, of in models.items():
        scale, headline = max(scales(of, dataset)), METRICS[common_headline(of)]
        gains = []
        for run in of:
            best = run.value(dataset, scale, run.best_guess(dataset, scale), common_headline(of))
            gain = best - run.value(dataset, scale, "bicubic", common_headline(of))
            gains.append(f"{headline.format(gain)} at {run.severity[name]:g}")
        findings.append(
            f"{who} at ×{scale:g}: {headline.title} less bicubic's, in {headline.unit}, at its lowest temperature, "
            f"over {name}: {', '.join(gains)}."
        )
    return findings
