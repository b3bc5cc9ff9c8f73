"""Tables of a report: what they hold."""

import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from linf.evaluation.schema import CELL, COSTS, METRICS, TABLES, column
from linf.report.differences import against_first
from linf.report.evaluations import EvaluationRun
from linf.report.selection import common_headline, datasets, measured_metrics, scales
from linf.report.statistics import mean_intervals


def published_results() -> pd.DataFrame:
    """Results of other work, each with its source; see ``published.csv``."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def all_tables(runs: Sequence[EvaluationRun]) -> dict[str, pd.DataFrame]:
    """Every table by its name, with numbers as numbers. ``results_<data set>`` has a line for each system and a column
    for each scale and metric; ``metrics`` holds all means, with a line for each data set, scale and system; `intervals`
    and `against_first` say how sure they are.
    """
    tables = {f"results_{safe_name(dataset)}": results_table(runs, dataset) for dataset in datasets(runs)}
    for name, summary in {"distribution": _distribution, "calibration": _calibration}.items():
        holders = [run for run in runs if len(getattr(run, name))]
        if holders:
            tables[name] = _stacked(holders, [summary(run) for run in holders])
    published = published_for(runs)
    if len(published):
        tables["published"] = published.dropna(axis="columns", how="all")
    tables["metrics"] = _stacked(runs, [run.metrics for run in runs])
    tables["intervals"] = _stacked(runs, list(map(intervals, runs)))
    if sampled := [run for run in runs if len(run.deviations)]:
        tables["deviations"] = _stacked(sampled, [_over_samples(run) for run in sampled])
    if len(gaps := against_first(runs)):
        tables["differences"] = gaps
    if timed := [run for run in runs if len(run.cost)]:
        tables["cost"] = _stacked(timed, [run.cost for run in timed])
    return tables


def results_table(runs: Sequence[EvaluationRun], dataset: str) -> pd.DataFrame:
    """Results on one data set: systems down, scales and metrics across. Bicubic, which is the same in all runs of the
    same images and LR, has one line for these, the first. The column ``nonfinite`` is left out where all values were
    finite, and so is the PSNR that is not the headline. A column whose title ends in ± is the deviation over seeds of
    the one before. What an image costs stands beside the scale where it was measured.
    """
    headline = common_headline(runs)
    names = [
        name
        for name in measured_metrics(runs, dataset)
        if (name == headline or not name.startswith("psnr_"))
        and (name != "nonfinite" or any(run.metrics[name].any() for run in runs if name in run.metrics))
    ]
    of = _stacked(runs, [run.metrics for run in runs])
    of = of[of["dataset"] == dataset]
    keys = ["run", "system", "scale"]
    of = of.merge(
        _stacked(runs, [run.cost for run in runs]).astype({"scale": of["scale"].dtype}), "left", on=keys
    )
    of = of.merge(_stacked(runs, [_deviation(run, dataset, names) for run in runs]), "left", on=keys)
    if of.groupby("scale")[["lr", "images"]].nunique().max().max() <= 1:
        of = of.assign(run=of["run"].mask(of["system"] == "bicubic", ""))
    shown = [column for name in names for column in (name, f"{name} ±")] + list(COSTS)
    means = of.groupby(keys, sort=False)[shown].first()
    lines = means.index.droplevel("scale").unique()  # Their order, which pandas 2 loses on the way.
    columns = [(name, scale) for scale in scales(runs, dataset) for name in shown]
    table = (
        means.unstack("scale")
        .loc[lines, columns]
        .set_axis([f"×{scale:g} {_title(name)}" for name, scale in columns], axis="columns")
    )
    table = table.dropna(axis="columns", how="all").reset_index()
    return table.sort_values("run", key=lambda run: run != "", kind="stable", ignore_index=True)


def _title(name: str) -> str:
    stem, space, sign = name.partition(" ")
    return column(stem).title + space + sign


def _deviation(run: EvaluationRun, dataset: str, names: Sequence[str]) -> pd.DataFrame:
    """The deviation over seeds of each mean on a data set; no lines for a run of one seed."""
    members = [of.metrics[of.metrics["dataset"] == dataset] for of in run.members]
    if not members:
        return pd.DataFrame(columns=["system", "scale", *(f"{name} ±" for name in names)])
    known = [name for name in names if name in run.metrics]
    found = pd.concat(members).groupby(["system", "scale"], sort=False)[known].std().reset_index()
    return found.rename(columns={name: f"{name} ±" for name in known})


def intervals(run: EvaluationRun) -> pd.DataFrame:
    """Every mean of a run with its bootstrap interval over images, by data set, scale, system and metric."""
    lines = []
    names = [name for name in run.images if name not in (*TABLES["images"], "nonfinite")]
    for (dataset, scale), of in run.images.groupby(["dataset", "scale"], sort=False):
        for system, each in of.groupby("system", sort=False):
            values = each[names].to_numpy(float)
            for name, value, low, high in zip(
                names, each[names].mean(), *mean_intervals(values), strict=True
            ):
                if not math.isnan(value):
                    lines.append((dataset, scale, system, name, each[name].count(), value, low, high))
    return pd.DataFrame(lines, columns=[*CELL, "metric", "images", "mean", "low", "high"])


def _stacked(runs: Sequence[EvaluationRun], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    labelled = pd.concat(list(tables), keys=[run.label for run in runs], names=["run"])
    return labelled.reset_index("run").reset_index(drop=True)


def _distribution(run: EvaluationRun) -> pd.DataFrame:
    joint = ["joint_bits_per_dim"] if run.distribution["joint_bits_per_dim"].notna().any() else []
    names = ["bits_per_dim", *joint, "whitened_mean", "whitened_var", "whitened_kurtosis"]
    means = run.distribution.groupby(["dataset", "scale"], sort=False)[names].mean()
    return means.rename(columns={name: column(name).title for name in names}).reset_index()


def _over_samples(run: EvaluationRun) -> pd.DataFrame:
    """The deviation of each metric over the samples of an image, as a mean over images."""
    names = [name for name in run.deviations if name in METRICS and run.deviations[name].notna().any()]
    return run.deviations.groupby(list(CELL), sort=False)[names].mean().reset_index()


def _calibration(run: EvaluationRun) -> pd.DataFrame:
    table = run.calibration.pivot_table(
        "covered", ["dataset", "kind", "scale"], "nominal", "mean", sort=False
    )
    table.columns = pd.Index([f"in {nominal:.0%}" for nominal in table.columns])
    return table.reset_index()


def published_for(runs: Sequence[EvaluationRun]) -> pd.DataFrame:
    """Published results on the data sets and scales that are evaluated, with the PSNR that comes first."""
    table, headline = published_results(), common_headline(runs)
    evaluated = {(dataset, scale) for dataset in datasets(runs) for scale in scales(runs, dataset)}
    keys = zip(table["dataset"], table["scale"], table["psnr_kind"], strict=True)
    matching = [(dataset, scale) in evaluated and kind == headline for dataset, scale, kind in keys]
    return table[matching].reset_index(drop=True)


def published_points(runs: Sequence[EvaluationRun], dataset: str, perceptual: str | None) -> pd.DataFrame:
    """Published results that belong in a data set's perception–distortion plane: those with LPIPS, if that is drawn."""
    table = published_for(runs)
    return table[(table["dataset"] == dataset) & table["lpips"].notna() & (perceptual == "lpips_alex")]


def safe_name(name: str) -> str:
    """A name as part of a file's name, distinct for distinct names, and so short that three of them fit in one."""
    # A file's name may have 255 bytes, and a letter several.
    clean = re.sub(r"[^\w.-]+", "_", name).encode()[:60].decode(errors="ignore")
    return clean if clean == name else f"{clean}-{zlib.crc32(name.encode()):08x}"
