"""Figure and findings of a report: every run against the first, image by image, with the bootstrap's intervals."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS, evenly_spaced
from linf.report.differences import comparable, differences, short_pair, verdicts
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.selection import common_headline, curve_scales, model_runs, perceptual_metric, runs_on
from linf.report.statistics import LEAST_IMAGES
from linf.report.style import GREY, legend_below, panel_grid, series_style

MOST_RUNS = 7
"""Runs that are held against the first in one figure."""

MOST_SYSTEMS = 7


def gap_figure(runs: Sequence[EvaluationRun], dataset: str) -> Figure | None:
    """Differences to the first run at one scale: a panel for each metric, a colour for each run, systems across."""
    scale = curve_scales(runs, dataset)[-1]
    labels = [run.label for run in [*model_runs(runs, dataset), *runs]]
    runs = _held_against_first(runs, dataset)
    if len(runs) < 2:
        return None
    tables = {}
    for label, of in _gaps(runs, dataset, scale).items():
        of = of[of["low"].notna()]
        if len(of):
            # Of a model without temperatures, a pair stands where the other model's temperature does.
            tables[label] = of.assign(system=of["system"].map(short_pair))
    names = [
        name
        for name in _metrics(runs, dataset)
        if any((of["metric"] == name).any() for of in tables.values())
    ]
    if not names:
        return None
    figure, axes = panel_grid(len(names), 3, (3.2, 2.7))
    systems = sorted({system for of in tables.values() for system in of["system"]}, key=_by_temperature)
    systems = evenly_spaced(systems, MOST_SYSTEMS)
    tau = all(system.startswith("τ=") for system in systems)  # Seven labels with it would touch.
    entries: dict[str, Artist] = {}
    for axis, name in zip(axes, names, strict=True):
        axis.set(title=f"Δ {METRICS[name].axis}, ×{scale:g}")
        entries[f"{runs[0].label} (0)"] = axis.axhline(0, color=GREY, linewidth=0.8)
        for n, (label, of) in enumerate(tables.items()):
            lines = of[(of["metric"] == name) & of["system"].isin(systems)]
            x = [systems.index(system) + 0.12 * (n - (len(tables) - 1) / 2) for system in lines["system"]]
            lines = lines.mask(lines["images"] < LEAST_IMAGES, lines.assign(low=np.nan, high=np.nan))
            ends = [lines["difference"] - lines["low"], lines["high"] - lines["difference"]]
            own = labels.index(label)
            style = series_style(own, own, False) | {"linestyle": "", "elinewidth": 1.2, "capsize": 2}
            entries.setdefault(label, axis.errorbar(x, lines["difference"], ends, **style).lines[0])
        axis.xaxis.set_major_locator(FixedLocator(range(len(systems))))
        axis.set_xticklabels([system.removeprefix("τ=") for system in systems] if tau else systems)
        axis.set_xlabel("τ" * tau)
        axis.set_xlim(-0.6, len(systems) - 0.4)
    legend_below(figure, [(artist, label) for label, artist in entries.items()])
    return figure


def _by_temperature(system: str) -> tuple[float, str]:
    """Where a system stands on the axis: from the lowest temperature to the highest, and then those without one."""
    return (float(system.removeprefix("τ=")) if system.startswith("τ=") else math.inf), system


def _metrics(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    wanted = [common_headline(runs), perceptual_metric(runs, dataset), "lr_psnr"]
    return [name for name in wanted if name is not None]


def gap_findings(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """Verdicts on every other run against the first, on the headline PSNR, perception and LR-PSNR at one scale."""
    findings, scale = [], curve_scales(runs, dataset)[-1]
    runs = _held_against_first(runs, dataset)
    for label, of in _gaps(runs, dataset, scale).items():
        findings += verdicts(of[of["metric"].isin(_metrics(runs, dataset))], label, runs[0].label)
    left_out = len(runs) - 1 - MOST_RUNS
    are = "runs are" if left_out > 1 else "run is"
    return findings + [f"{left_out} more {are} in tables/differences.csv."] * (left_out > 0)


def _held_against_first(runs: Sequence[EvaluationRun], dataset: str) -> list[EvaluationRun]:
    """The first run and those that are compared with it on a data set; none where the first is not on it."""
    runs = comparable(runs)
    return runs_on(runs, dataset) if runs_on(runs[:1], dataset) else []


def _gaps(runs: Sequence[EvaluationRun], dataset: str, scale: Scale) -> dict[str, pd.DataFrame]:
    """The differences of other runs to the first, but for bicubic's, by their labels."""
    tables = {
        run.label: lines_at(differences(run, runs[0]), dataset, scale) for run in runs[1 : MOST_RUNS + 1]
    }
    return {label: of[of["system"] != "bicubic"] for label, of in tables.items()}
