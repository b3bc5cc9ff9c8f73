"""Figure and findings of a report: how well each system keeps LR, beside its distortion and perception.

An image is consistent with LR if reduced it is LR again: the space of such images is what super-resolution may choose
from (Lugmayr et al., NTIRE 2021, "Learning the super-resolution space"). LR-PSNR measures it.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS
from linf.report.evaluations import EvaluationRun
from linf.report.rows import row_panels
from linf.report.selection import (
    bicubic_at,
    bicubics,
    common_headline,
    curve_scales,
    measured_metrics,
    model_runs,
    perceptual_metric,
)
from linf.report.style import COLOURS, GREY, plain_label

CONSISTENCY = "lr_psnr"
"""The metric of consistency with LR."""


def consistency_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """PSNR, perception and LR-PSNR side by side at one scale, in a row for bicubic and for each system of several runs.

    Of one run the figure over τ says as much.
    """
    measured, scale = measured_metrics(runs, dataset), curve_scales(runs, dataset)[-1]
    rows = [(run, system) for run in model_runs(runs, dataset) for system in _shown(run, dataset, scale)]
    wanted = [common_headline(runs), perceptual_metric(runs, dataset), CONSISTENCY]
    names = [name for name in wanted if name in measured]
    if len(model_runs(runs, dataset)) < 2 or CONSISTENCY not in names:
        return None
    of_lr = bicubics(runs, dataset, scale)
    names_of_rows = [*(who for who, _ in of_lr), *(run.label for run, _ in rows)]
    labels = [plain_label(label) for label in names_of_rows]
    shown = ["" if system == run.system else system for run, system in rows]
    systems = {"system": [""] * len(of_lr) + shown}
    figure, axes = row_panels(plain_label(f"{dataset} ×{scale:g}"), labels, len(names), systems)
    for axis, name in zip(axes, names, strict=True):
        values = [run.value(dataset, scale, system, name) for run, system in rows]
        beside = [bicubic_at(each, dataset, scale, name) for _, each in of_lr]
        for row, value in enumerate([*beside, *values]):
            if np.isfinite(value):
                axis.plot(value, row, "o", color=GREY if row < len(of_lr) else COLOURS[0], markersize=5.5)
        axis.set_title(METRICS[name].axis)
    return figure


def consistency_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """What LR-PSNR each run has, at the lowest temperature and at the best for perception, and bicubic's."""
    metric, scale, findings = METRICS[CONSISTENCY], curve_scales(runs, dataset)[-1], list[str]()
    for run in model_runs(runs, dataset):
        of = {
            system: run.value(dataset, scale, system, CONSISTENCY) for system in _shown(run, dataset, scale)
        }
        known = [
            metric.quantity(value) + (f" at {system}" if system != run.system else "")
            for system, value in of.items()
            if not np.isnan(value)
        ]
        if known:
            findings.append(f"{run.label} at ×{scale:g}: {metric.title} is {' and '.join(known)}.")
    for who, of_lr in bicubics(runs, dataset, scale):
        if np.isfinite(beside := bicubic_at(of_lr, dataset, scale, CONSISTENCY)):
            findings.append(f"{metric.title} of {who} at ×{scale:g} is {metric.quantity(beside)}.")
    return findings if len(model_runs(runs, dataset)) > 1 else []


def _shown(run: EvaluationRun, dataset: str, scale: Scale) -> list[str]:
    """The systems of a run that stand for it: its model, or the lowest temperature and the best for perception."""
    curve, name = run.curve(dataset, scale), perceptual_metric([run], dataset)
    if not len(curve):
        return [run.system] if not run.samples else []
    shown = [curve["system"].iloc[0]]
    if name in curve and curve[name].notna().any():
        shown.append(curve.loc[curve[name].idxmin(), "system"])
    return list(dict.fromkeys(shown))
