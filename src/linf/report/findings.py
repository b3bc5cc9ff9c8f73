"""Findings of a report: sentences, computed from the data, on what each figure shows, what is missing, and why."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from linf.coordinates import Scale
from linf.evaluation.notes import infinite_means, lr_sentences, partial_means
from linf.evaluation.schema import METRICS, PERCEPTUAL
from linf.report.caveats import enumerated
from linf.report.crops import SIDE, shown_images
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.plane import plane_scales
from linf.report.selection import (
    bicubic_at,
    bicubics,
    common_headline,
    curve_scales,
    measured_metrics,
    perceptual_metric,
    regression_runs,
    runs_on,
    sampling_runs,
    scales,
    single_scales,
)
from linf.report.tables import published_points


def source_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Where LR came from, and which means leave images out or are infinite; a run is named where runs differ."""
    sentences: dict[str, list[str]] = {}
    of = [run for run in runs if dataset in set(run.metrics["dataset"])]
    for run in of:
        means, images = (table[table["dataset"] == dataset] for table in (run.metrics, run.images))
        names = [name for name in METRICS if name in images]
        for sentence in lr_sentences(means) + partial_means(images, names) + infinite_means(images, names):
            sentences.setdefault(sentence, []).append(run.label)
    findings = [
        f"{text}{f' ({enumerated(who)})' if len(who) < len(of) else ''}." for text, who in sentences.items()
    ]
    sources = pd.concat([run.metrics[run.metrics["dataset"] == dataset] for run in of])
    if (sources.groupby("scale")["lr"].nunique() > 1).any():
        findings.append(
            "The runs differ in LR and cannot be compared there; each LR has a bicubic of its own."
        )
    return findings


def temperature_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """What each run gains at its best temperature, and how close samples are to the closed form."""
    drawn, at = sampling_runs(runs, dataset), curve_scales(runs, dataset)
    if not drawn:
        return ["No run has temperatures here."]
    headline = common_headline(runs)
    findings = [_trade(run, dataset, at[-1], headline, perceptual_metric([run], dataset)) for run in drawn]
    findings += [sentence for run in drawn for sentence in _closed_form(run, dataset, at)]
    findings += _without_perception(drawn, dataset)
    left_out = [f"×{s:g}" for s in scales(runs, dataset) if s not in at]
    return findings + [f"In the table but not drawn: {', '.join(left_out)}."] * bool(left_out)


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


def _without_perception(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Which runs lack the metric that stands for perception, and why."""
    name = perceptual_metric(runs, dataset) or PERCEPTUAL[0]
    reasons: dict[str, list[str]] = {}
    for run in [run for run in runs_on(runs, dataset) if name not in measured_metrics([run], dataset)]:
        why = (run.about.get("skipped") or {}).get(name, "it was not among the metrics")
        reasons.setdefault(str(why), []).append(run.label)
    who = {why: enumerated(labels) for why, labels in reasons.items()}
    return [f"{METRICS[name].title} was not measured for {labels}: {why}." for why, labels in who.items()]


def plane_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Which system is best in perception and which in distortion, and whether published results can be compared."""
    name, headline = perceptual_metric(runs, dataset), common_headline(runs)
    if name is None:
        return _without_perception(runs, dataset)
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
    return findings + _without_perception(runs, dataset)


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
                if rival is not run and rival.lr(dataset, s) == run.lr(dataset, s)
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
    return findings or ["No run predicts a distribution whose calibration could be measured."]


def _verdict(excess: float) -> str:
    return "as they should" if abs(excess) < 0.02 else "too wide" if excess > 0 else "too narrow"


def detail_findings(runs: Sequence[EvaluationRun]) -> list[str]:
    """How to read the details, and which runs lack them."""
    chosen = shown_images(runs)
    if not chosen:
        return ["No run has kept images."]
    keepers = [run for of in chosen.values() for run in of]
    lacking = "; ".join(run.label for run in runs if run not in keepers)
    perceptual = [[name for name in PERCEPTUAL if name in run.images][:1] for run in keepers]
    titles = dict.fromkeys(METRICS[name].title for names in perceptual for name in names) or ["LPIPS"]
    return [
        f"Each detail is the square of {SIDE} pixels in which the systems differ most. Above it stand "
        f"{METRICS[common_headline(runs)].title} and {' or '.join(titles)} of the whole image, where measured; ★ is "
        "a run's lowest.",
        *[f"{lacking} did not keep these images."] * bool(lacking),
    ]


def cost_finding(runs: Sequence[EvaluationRun]) -> str:
    """How the columns of seconds, memory and multiplications were measured; nothing where they were not."""
    timed = [run.cost for run in runs if len(run.cost)]
    if not timed:
        return ""
    sizes, devices = (
        " and ".join(sorted({str(v) for of in timed for v in of[name]})) for name in ("lr_size", "device")
    )
    return (
        f"Time, memory beyond the weights, and multiplications (MACs) are of one image from {sizes} LR pixels on "
        f"{devices}."
    )
