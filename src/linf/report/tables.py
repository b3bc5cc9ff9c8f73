"""Tables of a report: what they hold."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from linf.report.evaluations import Run, told_apart


@dataclass(frozen=True)
class Metric:
    """How a figure of merit is written.

    Attributes:
        title: in tables and on axes.
        digits: behind the point.
        better: 1 where more is better, -1 where less is, 0 where neither.
        unit: on axes and in sentences.
    """

    title: str
    digits: int
    better: int = 0
    unit: str = ""

    @property
    def axis(self) -> str:
        """Title and unit, and which way is better."""
        return self.title + f", {self.unit}" * bool(self.unit) + {1: " ↑", 0: "", -1: " ↓"}[self.better]

    def __call__(self, value: float) -> str:
        """A value in words, its unit behind it."""
        return f"{value:.{self.digits}f}".replace("inf", "∞") + f" {self.unit}" * bool(self.unit)


METRICS = {
    "psnr_y": Metric("PSNR (Y)", 2, 1, "dB"),
    "psnr_rgb": Metric("PSNR (RGB)", 2, 1, "dB"),
    "ssim": Metric("SSIM", 4, 1),
    "lpips_alex": Metric("LPIPS", 3, -1),
    "lpips_vgg": Metric("LPIPS (VGG)", 3, -1),
    "dists": Metric("DISTS", 3, -1),
    "lr_psnr": Metric("LR-PSNR", 2, 1, "dB"),
    "diversity": Metric("diversity", 2, 0, "grey levels"),
    "nonfinite": Metric("non-finite", 0, -1),
}
BY_TITLE = {metric.title: metric for metric in METRICS.values()}
PERCEPTION = ("lpips_alex", "lpips_vgg", "dists")
"""What the perception of the perception–distortion plane can be, the first that was measured."""


def headline(runs: Sequence[Run]) -> str:
    """The PSNR that most runs put first."""
    named = [run.headline for run in runs]
    return max(named, key=named.count)


def datasets(runs: Sequence[Run]) -> list[str]:
    """All data sets, in the order they come."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics["dataset"]))


def scales(runs: Sequence[Run], dataset: str) -> list[float]:
    """All scales at which a data set was evaluated, in order."""
    of = [run.metrics[run.metrics["dataset"] == dataset]["scale"] for run in runs]
    return sorted(set(pd.concat(of)))


def measured(runs: Sequence[Run], dataset: str | None = None) -> list[str]:
    """The metrics that have a figure, in the order of `METRICS`, others behind; of one data set or of all."""
    found = []
    for run in runs:
        of = run.metrics if dataset is None else run.metrics[run.metrics["dataset"] == dataset]
        names = [
            c for c in of.columns[5:] if c not in ("dataset", "scale", "system", "temperature", "images")
        ]
        found += [name for name in names if of[name].notna().any()]
    order = [*METRICS, *found]
    return sorted(set(found), key=order.index)


def of_any(runs: Sequence[Run], dataset: str, scale: float, system: str, metric: str) -> float:
    """One figure by the first run that has it, such as bicubic's, which is every run's."""
    values = (run.value(dataset, scale, system, metric) for run in runs)
    return next((value for value in values if not math.isnan(value)), math.nan)


def published() -> pd.DataFrame:
    """Figures of other work, each with where it was read; see ``published.csv``."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def all_tables(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Every table by its name, numbers as numbers.

    ``results_<data set>`` has a line for each system and a column for each scale and metric; ``metrics`` holds
    everything, a line for each data set, scale and system.
    """
    runs = told_apart(runs)
    tables = {f"results_{safe(dataset)}": results(runs, dataset) for dataset in datasets(runs)}
    of_law = [run for run in runs if len(run.distribution)]
    if of_law:
        tables["distribution"] = _stacked(of_law, [_distribution(run) for run in of_law])
    calibrated = [run for run in runs if len(run.calibration)]
    if calibrated:
        tables["calibration"] = _stacked(calibrated, [_calibration(run) for run in calibrated])
    here = published_here(runs)
    if len(here):
        tables["published"] = here.dropna(axis="columns", how="all")
    tables["metrics"] = _stacked(runs, [run.metrics for run in runs])
    return tables


def results(runs: Sequence[Run], dataset: str) -> pd.DataFrame:
    """One data set: systems down, scales and metrics across. Bicubic, which is every run's, stands first and once."""
    names = [m for m in measured(runs, dataset) if m == headline(runs) or not m.startswith("psnr_")]
    names = [
        m for m in names if m != "nonfinite" or any(run.metrics[m].any() for run in runs if m in run.metrics)
    ]
    lines: dict[tuple[str, str], None] = {}
    for run in runs:
        of = run.metrics[run.metrics["dataset"] == dataset]
        lines |= dict.fromkeys(("" if system == "bicubic" else run.label, system) for system in of["system"])
    by_label = {run.label: run for run in runs}
    table = []
    for label, system in sorted(lines, key=lambda line: line[0] != ""):
        line: dict[str, object] = {"run": label, "system": system}
        for scale in scales(runs, dataset):
            for name in names:
                title = METRICS[name].title if name in METRICS else name
                line[f"×{scale:g} {title}"] = of_any(
                    [by_label[label]] if label else runs, dataset, scale, system, name
                )
        table.append(line)
    return pd.DataFrame(table).dropna(axis="columns", how="all")


def _stacked(runs: Sequence[Run], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    labelled = []
    for run, table in zip(runs, tables, strict=True):
        table = table.copy()
        table.insert(0, "run", run.label)
        labelled.append(table)
    return pd.concat(labelled, ignore_index=True)


def _distribution(run: Run) -> pd.DataFrame:
    shown = {"bits_per_dim": "bits/dim"} | {
        f"whitened_{short}": long
        for short, long in (("mean", "mean of z"), ("var", "variance of z"), ("kurtosis", "kurtosis of z"))
    }
    means = run.distribution.groupby(["dataset", "scale"], sort=False)[list(shown)].mean()
    return means.rename(columns=shown).reset_index()


def _calibration(run: Run) -> pd.DataFrame:
    table = run.calibration.pivot_table(
        "covered", ["dataset", "kind", "scale"], "nominal", "mean", sort=False
    )
    table.columns = pd.Index([f"in {nominal:.0%}" for nominal in table.columns])
    return table.reset_index()


def published_here(runs: Sequence[Run]) -> pd.DataFrame:
    """What is published of the data sets, scales and PSNR that are evaluated here."""
    table = published()
    evaluated = {(dataset, scale) for dataset in datasets(runs) for scale in scales(runs, dataset)}
    keys = zip(table["dataset"], table["scale"], table["psnr_kind"], strict=True)
    here = [(dataset, scale) in evaluated and kind == headline(runs) for dataset, scale, kind in keys]
    return table[here].reset_index(drop=True)


def published_points(runs: Sequence[Run], dataset: str, perception: str | None) -> pd.DataFrame:
    """What of it has a place in a data set's perception–distortion plane, where perception is LPIPS."""
    table = published_here(runs)
    return table[(table["dataset"] == dataset) & table["lpips"].notna() & (perception == "lpips_alex")]


def safe(name: str) -> str:
    """A name as part of a file's name; two names never become one."""
    clean = re.sub(r"[^\w.-]+", "_", name)[:80]
    return clean if clean == name else f"{clean}-{zlib.crc32(name.encode()):08x}"
