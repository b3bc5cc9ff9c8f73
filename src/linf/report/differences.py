"""Paired differences between runs: image by image, with the bootstrap's interval and a verdict in words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS, OF_SEVERAL_SAMPLES, TABLES, UNIT, Column, column
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.statistics import LEAST_IMAGES, LEVEL, judge, mean_intervals

DIFFERENCES = (
    *("dataset", "scale", "system", "metric", "images"),
    *("first", "second", "difference", "low", "high", "verdict"),
)
"""Columns of a table of differences; ``difference`` is the first run's mean less the second's."""

CLEAR = ("better", "worse", "higher", "lower")
_VERBS = {"no clear difference": "shows no clear difference", "not finite": "has no finite difference"}


@lru_cache(maxsize=32)  # A report asks once for its table, and twice for each data set.
def differences(first: EvaluationRun, second: EvaluationRun) -> pd.DataFrame:
    """Differences between two runs on the images that both have, per data set, scale, system and metric.

    Systems of one name are paired: temperatures with the same, and bicubic where its LR images differ. Where a run has
    no temperatures, its model is paired with each temperature of the other. Metrics that grow with the number of
    samples are left out where that differs.
    """
    lines, left_out = [], {*TABLES["images"], "nonfinite"}
    if first.samples and second.samples and first.about.get("samples") != second.about.get("samples"):
        left_out.update(OF_SEVERAL_SAMPLES)
    for dataset in pd.unique(first.metrics["dataset"]):
        there = [name for name in first.images if name in second.images and name not in left_out]
        names = sorted(there, key=[*METRICS, *there].index)
        for scale in pd.unique(first.metrics["scale"][first.metrics["dataset"] == dataset]):
            for system, one, other in _pairs(first, second, dataset, scale):
                both = one.add_suffix(" 1").join(other.add_suffix(" 2"), how="inner")
                a, b = (both[[f"{name} {n}" for name in names]].to_numpy(float) for n in (1, 2))
                with np.errstate(invalid="ignore"):  # Of perfect images, infinity less infinity.
                    each = np.where(_alike(a, b) & np.isfinite(a), 0, a - b)
                low, high = mean_intervals(each)
                for k, name in enumerate(names):
                    known = ~np.isnan(each[:, k])
                    if known.any():
                        with np.errstate(invalid="ignore"):
                            means = [of[known, k].mean() for of in (a, b, each)]
                        count, better = int(known.sum()), column(name).better
                        verdict = judge(low[k], high[k], count, better)
                        lines.append((dataset, scale, system, name, count, *means, low[k], high[k], verdict))
    return pd.DataFrame(lines, columns=list(DIFFERENCES))


def _pairs(
    first: EvaluationRun, second: EvaluationRun, dataset: str, scale: Scale
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """The name of each pair of systems, and their lines by image."""
    one, other = (
        {
            system: of.set_index("image").drop(columns=[*UNIT[::2], "system", "temperature"])
            for system, of in lines_at(run.images, dataset, scale).groupby("system", sort=False)
        }
        for run in (first, second)
    )
    for system in one:
        if system in other and not (system == "bicubic" and _same(one[system], other[system])):
            yield system, one[system], other[system]
    for run, own, others in ((first, one, other), (second, other, one)):
        if run is second and not first.samples:  # Both have one system, and it is paired already.
            return
        if not run.samples and run.system in own and run.system not in (*others, "bicubic"):
            for system in [name for name in others if name != "bicubic" and name not in own]:
                if run is first:
                    yield f"{run.system} – {system}", own[run.system], others[system]
                else:
                    yield f"{system} – {run.system}", others[system], own[run.system]


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two systems have the same figures where both were measured, but for rounding."""
    a, b = (of.to_numpy(float) for of in one.align(other, join="inner"))
    known = ~(np.isnan(a) | np.isnan(b))  # Diversity is known of several samples only.
    return bool(_alike(a[known], b[known]).all())


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether figures differ by no more than the rounding of single precision, in which metrics are computed: on other
    devices or with other threads, and in a mean over seeds.
    """
    return np.isclose(a, b, rtol=1e-6, atol=1e-12)


def verdicts(table: pd.DataFrame, first: str, second: str) -> list[str]:
    """A table of differences in words: a sentence for each data set, scale and metric.

    Args:
        table: of `differences`.
        first: the first run's label.
        second: the second run's.
    """
    sentences = []
    judged = table[table["verdict"] != "too few images"]  # Said once, at the end.
    for (dataset, scale, name), of in judged.groupby(["dataset", "scale", "metric"], sort=False):
        metric, parts = column(name), list[str]()
        for verdict, group in of.groupby("verdict", sort=False):
            at = ", ".join(map(short_pair, group["system"]))
            phrase = _VERBS.get(verdict, f"is {verdict}") + f" at {at}" * (" – " not in at)
            if verdict in CLEAR:
                # One example stands for all: the clearest.
                example = group.loc[np.abs(group["difference"]).idxmax()]
                finer = _finer(metric, example["low"], example["high"])
                amount = f"{finer.quantity(abs(example['difference']))} {_interval(example, finer)}"
                where = f" at {short_pair(example['system'])}" if len(group) > 1 else ""
                phrase += f" (by {amount}{where})"
            parts.append(phrase)
        sentences.append(
            f"{dataset} ×{scale:g}, {metric.title}: {first} against {second} {'; '.join(parts)}."
        )
    few = sorted({int(n) for n in table["images"] if n < LEAST_IMAGES})
    if few:
        sentences.append(f"Fewer than {LEAST_IMAGES} images ({', '.join(map(str, few))}) allow no verdict.")
    return sentences


def short_pair(system: str) -> str:
    """A pair's name in a sentence or below an axis: the temperature, where one of the two models has none."""
    parts = system.split(" – ")
    return next((part for part in parts if part.startswith("τ=")), system)


def _finer(metric: Column, low: float, high: float) -> Column:
    """A metric with as many digits more, at most four, as tell the ends of an interval from each other and from 0."""
    for digits in range(metric.digits or 0, (metric.digits or 0) + 4):
        ends = {metric.format(end) for end in (0, low, high)}
        if math.isclose(low, high) or not low < high or len(ends) == len({0, low, high}):
            break
        metric = replace(metric, digits=digits + 1)
    return metric


def _interval(line: pd.Series, metric: Column) -> str:
    low, high = sorted(abs(line[end]) for end in ("low", "high"))
    return f"[{metric.format(low)}, {metric.format(high)}]"


def comparable(runs: Sequence[EvaluationRun]) -> list[EvaluationRun]:
    """The first run and those whose LR images are degraded as its are."""
    return [run for run in runs if run.severity == runs[0].severity]


def against_first(runs: Sequence[EvaluationRun]) -> pd.DataFrame:
    """Differences of the other `comparable` runs against the first, each with its label in the column ``run``."""
    tables = [differences(run, runs[0]).assign(run=run.label) for run in comparable(runs)[1:]]
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame(columns=["run", *DIFFERENCES])
    return pd.concat(tables, ignore_index=True)[["run", *DIFFERENCES]]


def comparison_text(first: EvaluationRun, second: EvaluationRun, table: pd.DataFrame) -> str:
    """What `linf compare` prints: a table in text for each data set and scale, and the verdicts.

    Args:
        first: the run that is judged.
        second: the run that it is held against.
        table: of `differences`.
    """
    lines = [f"first   {first.label}: {first.folder}", f"second  {second.label}: {second.folder}"]
    for (dataset, scale), of in table.groupby(["dataset", "scale"], sort=False):
        counts = sorted({int(n) for n in of["images"]})
        lines += ["", f"{dataset} ×{scale:g}, {' or '.join(map(str, counts))} image{'s' * (counts != [1])}"]
        text = pd.DataFrame(
            {
                "metric": [column(name).title for name in of["metric"]],
                "system": of["system"].tolist(),
                **{key: _numbers(of, key) for key in ("first", "second", "difference")},
                f"{LEVEL:.0%} interval": [
                    f"[{low}, {high}]"
                    for low, high in zip(_numbers(of, "low"), _numbers(of, "high"), strict=True)
                ],
                "verdict": of["verdict"].tolist(),
            }
        )
        lines.append(
            text.sort_values(
                "metric", kind="stable", key=lambda m: m.map(list(dict.fromkeys(m)).index)
            ).to_string(index=False)
        )
    return "\n".join([*lines, "", *verdicts(table, first.label, second.label)])


def _numbers(table: pd.DataFrame, key: str) -> list[str]:
    """A column in print, each number to its metric's digits; differences with their sign and the digits they need."""
    found, signed = [], key in ("difference", "low", "high")
    for name, value, low, high in zip(*(table[of] for of in ("metric", key, "low", "high")), strict=True):
        text = (_finer(column(name), low, high) if signed else column(name)).format(value)
        found.append(f"{'+' * (signed and value > 0)}{text}")
    return found
