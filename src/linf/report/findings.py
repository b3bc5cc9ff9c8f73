"""What is said of a report's runs beside its figures: where LR came from, and how costs were measured."""

from collections.abc import Sequence

import pandas as pd

from linf.evaluation.notes import infinite_means, lr_sentences, partial_means
from linf.evaluation.schema import METRICS
from linf.report.caveats import enumerated
from linf.report.evaluations import EvaluationRun


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
