"""Figure and findings of a report: whether predicted intervals hold as much of HR as they should."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from linf.report.caveats import enumerated
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.selection import curve_scales, sampling_runs
from linf.report.style import GREY, draw_curve, panel_grid, series_legend, series_style


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
    series_legend(figure, [run.label for run in drawn], {"ideal": {"color": GREY, "linewidth": 0.8}}, at)
    return figure


def calibration_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Whether predicted intervals cover what they should, at the largest scale trained on."""
    findings, s = [], curve_scales(runs, dataset)[-1]
    for run in sampling_runs(runs, dataset):
        who = f"{run.label} at ×{s:g}"
        found, predicted = run.covered(dataset, s), lines_at(run.distribution, dataset, s)
        held = (f"the {p:.0%} intervals hold {at:.1%} ({_verdict(at - p)})" for p, at in found.items())
        findings.append(
            f"{who}: {' and '.join(held)} of HR values. The variance of whitened residuals is "
            f"{predicted['whitened_var'].mean():.2f}, ideally 1; the likelihood is "
            f"{predicted['bits_per_dim'].mean():.2f} bits per dimension."
            if found
            else f"{who}: calibration was not measured."
        )
    if changed := [run.label for run in sampling_runs(runs, dataset) if run.about.get("consistency")]:
        findings.append(
            f"The distribution of {enumerated(changed)}, with its likelihood, calibration and σ, is the model's own, "
            "before images are made consistent with LR."
        )
    return findings or ["No run predicts a distribution whose calibration could be measured."]


def _verdict(excess: float) -> str:
    return "as they should" if abs(excess) < 0.02 else "too wide" if excess > 0 else "too narrow"
