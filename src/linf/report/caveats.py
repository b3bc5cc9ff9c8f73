"""What a report says beside its figures: why not to compare its runs, how metrics are read, over how much means are,
where LR came from, how costs were measured.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from linf.evaluation.notes import infinite_means, lr_sentences, partial_means
from linf.evaluation.schema import HEADLINES, METRICS, OF_SEVERAL_SAMPLES, PERCEPTUAL
from linf.report.evaluations import EvaluationRun
from linf.report.selection import (
    bicubics,
    common_headline,
    datasets,
    measured_metrics,
    perceptual_metric,
    runs_on,
    sampling_runs,
    scales,
)


def caveats(runs: Sequence[EvaluationRun]) -> list[str]:
    """Reasons not to compare the runs, and what went wrong in them."""
    found = []
    protocols = {(run.headline, str(run.about["protocol"].get("border"))) for run in runs}
    if len(protocols) > 1:
        named = sorted(f"{METRICS[headline].title}, border {border}" for headline, border in protocols)
        found.append(
            f"The runs follow different protocols ({'; '.join(named)}), so their figures cannot be compared."
        )
    for metric in METRICS:
        measured = [run.about.get("measured_by") or {} for run in runs if metric in run.metrics]
        by = {str(of[metric]) for of in measured if metric in of}
        if len(by) > 1:
            found.append(
                f"{METRICS[metric].title} was measured with different networks or weights "
                f"({'; '.join(sorted(by))}), so its figures cannot be compared."
            )
    for metric in OF_SEVERAL_SAMPLES:
        sampled = [run for run in runs if run.samples and metric in run.metrics]
        drawn = sorted({run.about.get("samples") or 1 for run in sampled if run.metrics[metric].any()})
        if len(drawn) > 1:
            found.append(
                f"The runs drew {enumerated([*map(str, drawn)])} samples of an image, and {METRICS[metric].title} "
                "grows with their number, so its figures cannot be compared."
            )
    for dataset in datasets(runs):
        for s in scales(runs, dataset):
            counts, values = (
                sorted({v for run in runs if np.isfinite(v := run.value(dataset, s, "bicubic", column))})
                for column in ("images", common_headline(runs))
            )
            where = f"{dataset} ×{s:g}"
            if len(counts) > 1:
                numbers = enumerated([f"{n:g}" for n in counts])
                found.append(
                    f"{where}: the runs were evaluated on {numbers} images, so their figures cannot be compared."
                )
            elif len(protocols) == 1 and np.ptp(values or [0]) > 0.01:
                images = "LR images" if len(bicubics(runs, dataset, s)) > 1 else "images"
                found.append(
                    f"{where}: bicubic differs by {np.ptp(values):.2f} dB between runs, so their {images} differ."
                )
    for run in runs:
        if "nonfinite" in run.metrics and run.metrics["nonfinite"].any():
            worst = run.metrics.loc[run.metrics["nonfinite"].idxmax()]
            found.append(
                f"{run.label}: some values were not finite, most of them in {worst['dataset']} ×{worst['scale']:g} "
                f"{worst['system']} ({worst['nonfinite']:g} per image)."
            )
    modified = "; ".join(run.label for run in runs if (run.about.get("git") or {}).get("dirty"))
    return found + [f"Evaluated with uncommitted changes to the code: {modified}."] * bool(modified)


def metric_sentences(runs: Sequence[EvaluationRun]) -> str:
    """Which direction of each metric in the tables of results is better, and its unit."""
    measured = {name for dataset in datasets(runs) for name in measured_metrics(runs, dataset)}
    left_out = {*HEADLINES, "nonfinite"} - {common_headline(runs)}
    columns = [METRICS[name] for name in METRICS if name in measured - left_out]

    def titles(kind: str, value: object) -> str:
        return enumerated([column.title for column in columns if getattr(column, kind) == value])

    words = {1: "higher is better for", -1: "lower is better for", 0: "neither is better for"}
    better = [f"{word} {which}" for sign, word in words.items() if (which := titles("better", sign))]
    units = dict.fromkeys(column.unit for column in columns if column.unit)
    of_units = enumerated([f"{unit} for {titles('unit', unit)}" for unit in units])
    sentences = ["; ".join(better), f"units are {of_units}" * bool(of_units)]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences if text)


def _sizes(runs: Sequence[EvaluationRun], dataset: str) -> str:
    """Over how many images and samples the means of a data set are."""

    def counted(numbers: set[int], what: str) -> str:
        return f"{' or '.join(map(str, sorted(numbers)))} {what}{'s' * (numbers != {1})}"

    of = [run.metrics[run.metrics["dataset"] == dataset] for run in runs_on(runs, dataset)]
    images = counted({int(n) for lines in of for n in lines["images"]}, "image")
    drawn = {run.about.get("samples") or 1 for run in sampling_runs(runs, dataset)}
    samples = f", and over {counted(drawn, 'sample')} of each at τ above 0" if drawn else ""
    return f"Means over {images}{samples}."


def source_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Over how much means are, where LR came from, and which means leave images out or are infinite; a run is named
    where runs differ.
    """
    sentences: dict[str, list[str]] = {}
    of = [run for run in runs if dataset in set(run.metrics["dataset"])]
    for run in of:
        means, images = (table[table["dataset"] == dataset] for table in (run.metrics, run.images))
        names = [name for name in METRICS if name in images]
        for sentence in lr_sentences(means) + partial_means(images, names) + infinite_means(images, names):
            sentences.setdefault(sentence, []).append(run.label)
    findings = [_sizes(runs, dataset)]
    findings += [
        f"{text}{f' ({enumerated(who)})' if len(who) < len(of) else ''}." for text, who in sentences.items()
    ]
    sources = pd.concat([run.metrics[run.metrics["dataset"] == dataset] for run in of])
    if (sources.groupby("scale")["lr"].nunique() > 1).any():
        findings.append(
            "The runs differ in LR and cannot be compared there; each LR has a bicubic of its own."
        )
    return findings


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


def enumerated(names: Sequence[str]) -> str:
    """Names as in a sentence: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def without_perception(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Which runs lack the metric that stands for perception, and why."""
    name = perceptual_metric(runs, dataset) or PERCEPTUAL[0]
    reasons: dict[str, list[str]] = {}
    for run in [run for run in runs_on(runs, dataset) if name not in measured_metrics([run], dataset)]:
        why = (run.about.get("skipped") or {}).get(name, "it was not among the metrics")
        reasons.setdefault(str(why), []).append(run.label)
    who = {why: enumerated(labels) for why, labels in reasons.items()}
    return [f"{METRICS[name].title} was not measured for {labels}: {why}." for why, labels in who.items()]
