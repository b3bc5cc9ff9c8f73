"""Input of a report: the folders that evaluations leave, read and checked."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from linf.coordinates import Scale, read_scale
from linf.errors import UsageError
from linf.evaluation.schema import ADDED, CELL, FORMER_NAMES, TABLES, column, stored_path
from linf.report.about import read_about, read_text, repeat


@dataclass(frozen=True, eq=False)
class EvaluationRun:
    """One evaluation, read from its folder.

    Attributes:
        folder: where it lies.
        label: its name in legends.
        model: its model's name there, the same for all LR images.
        about: the content of its ``run.json``.
        metrics: means over images; a line for each data set, scale and system.
        images: the same for each image.
        distribution: likelihood, whitened residuals, and the terms of the closed-form PSNR; empty except for LINF.
        calibration: shares of HR within the predicted intervals; empty except for LINF.
        cost: seconds, memory, multiplications and parameters of each system at one scale; empty where not measured.
        deviations: of each metric over the samples of each image; empty where there is one sample.
        config: the text of Hydra's config of the run, where there is one.
        members: the runs of single seeds whose mean this is; none for a run of one seed.
    """

    folder: Path
    label: str
    model: str
    about: dict[str, Any]
    metrics: pd.DataFrame
    images: pd.DataFrame
    distribution: pd.DataFrame
    calibration: pd.DataFrame
    cost: pd.DataFrame
    deviations: pd.DataFrame
    config: str | None
    members: tuple["EvaluationRun", ...] = ()

    @property
    def headline(self) -> str:
        """The PSNR that its protocol puts first, ``psnr_y`` or ``psnr_rgb``."""
        return self.about["protocol"]["headline"]

    @property
    def checkpoint(self) -> str:
        """The file or name of its model; empty where there is none."""
        return str((self.about.get("checkpoint") or {}).get("path") or "")

    @property
    def severity(self) -> dict[str, float]:
        """How its LR images were degraded, by setting; empty where they were not, or by chance."""
        return self.about.get("severity") or {}

    @property
    def system(self) -> str:
        """The name, in its tables, of a model without temperatures: LIIF, LTE or bicubic."""
        name = self.about["model"]["name"]
        return "bicubic" if name == "Bicubic" else name

    @property
    def samples(self) -> bool:
        """Whether its model samples, so that there are temperatures."""
        return bool(self.metrics["temperature"].notna().any())

    def curve(self, dataset: str, scale: Scale) -> pd.DataFrame:
        """Its means at all temperatures, from the lowest to the highest; empty where there are none."""
        of = lines_at(self.metrics, dataset, scale)
        return of[of["temperature"].notna()].sort_values("temperature", ignore_index=True)

    def value(self, dataset: str, scale: Scale, system: str, metric: str) -> float:
        """One mean; not a number where it was not measured."""
        of = lines_at(self.metrics, dataset, scale)
        of = of[of["system"] == system]
        return float(of[metric].iloc[0]) if metric in of and len(of) else float("nan")

    def lr(self, dataset: str, scale: Scale) -> str:
        """Where its LR images of a data set came from; empty where it was not evaluated."""
        of = lines_at(self.metrics, dataset, scale)
        return str(of["lr"].iloc[0]) if len(of) else ""

    def best_guess(self, dataset: str, scale: Scale) -> str:
        """The system with the highest expected PSNR: the lowest temperature, or the model itself."""
        curve = self.curve(dataset, scale)
        return str(curve["system"].iloc[0]) if len(curve) else self.system

    def covered(self, dataset: str, scale: Scale) -> dict[float, float]:
        """The share of HR values in its predicted intervals, by their nominal probability, of those nearest to 0.5 and
        0.9; empty where this or the likelihood was not measured.
        """
        of = lines_at(self.calibration, dataset, scale)
        means = of[of["kind"] == "pixel"].groupby("nominal")["covered"].mean()
        if not len(means) or not len(lines_at(self.distribution, dataset, scale)):
            return {}
        nearest = [min(means.index, key=lambda p: abs(p - wanted)) for wanted in (0.5, 0.9)]
        return {p: means[p] for p in nearest}

    def closed_form(self, dataset: str, scale: Scale, temperatures: ArrayLike) -> np.ndarray:
        """PSNR in dB at each temperature in closed form, as a mean over images, on the headline's channels. For one
        image it is ``-10 log10(error + τ² variance)``, with the squared error of the predicted mean and the predicted
        variance; over seeds the mean of those that have a table of it. Empty where the model predicts no distribution,
        or its images were made consistent.
        """
        if self.members:
            of_seeds = [run.closed_form(dataset, scale, temperatures) for run in self.members]
            known = [psnr for psnr in of_seeds if len(psnr)]
            return np.mean(known, axis=0) if known else np.empty(0)
        of = lines_at(self.distribution, dataset, scale)
        if not len(of) or self.about.get("consistency"):
            return np.empty(0)
        channels = self.headline.removeprefix("psnr_")
        error, variance = (of[f"{part}_{channels}"].to_numpy()[:, None] for part in ("error", "variance"))
        with np.errstate(divide="ignore"):
            return (-10 * np.log10(error + np.square(np.asarray(temperatures)) * variance)).mean(0)


def lines_at(table: pd.DataFrame, dataset: str, scale: Scale) -> pd.DataFrame:
    """The lines of a table that are of one data set at one scale."""
    return table[(table["dataset"] == dataset) & (table["scale"] == scale)]


def read_run(folder: str | Path) -> EvaluationRun:
    """Read and check one evaluation, by this or an earlier version.

    Raises:
        UsageError: a file is missing, truncated or damaged, or was not written by ``linf eval``.
    """
    folder = Path(folder)
    about = read_about(folder / "run.json")
    tables = {}
    for name, columns in TABLES.items():
        path = stored_path(folder, f"{name}.csv")
        required = name in ("metrics", "images")
        tables[name] = _table(path, columns) if required or path.exists() else _empty(columns)
    lines = tables["images"].groupby(list(CELL)).size()
    means = tables["metrics"].set_index(list(CELL))["images"]
    if means.index.has_duplicates or not means.sort_index().astype(int).equals(lines.sort_index()):
        raise UsageError(f"{folder}: metrics.csv and images.csv do not belong together: {repeat(folder)}")
    path = folder / ".hydra" / "config.yaml"
    config = read_text(path, repeat(folder)) if path.exists() else None
    label = " ".join(about["label"].split()) or folder.resolve().name
    return EvaluationRun(folder, label, label, about, **tables, config=config)


def _read_scale(text: str) -> Scale:
    """A scale to the six digits in which it is printed, so that those of several runs that print alike are one."""
    return read_scale(f"{read_scale(text):g}")


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    """A table without lines, whose numbers stay numbers when lines of another run follow."""
    return pd.DataFrame({name: pd.Series(dtype=str if column(name).text else float) for name in columns})


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    text = read_text(path, repeat(path.parent))
    try:
        header, *lines = csv.reader(io.StringIO(text), strict=True) if text else [[]]
    except csv.Error as error:
        raise UsageError(f"{path} is damaged ({error}): {repeat(path.parent)}") from error
    if not header:
        raise UsageError(f"{path} is empty: {repeat(path.parent)}")
    header = [FORMER_NAMES.get(name, name) for name in header]
    missing = [name for name in columns if name not in (*header, *ADDED)]
    if missing:
        raise UsageError(
            f"{path} was not written by this version's `linf eval`: it lacks {', '.join(missing)}"
        )
    short = next((number for number, line in enumerate(lines, 2) if len(line) != len(header)), None)
    if short or not text.endswith("\n"):
        raise UsageError(f"{path} is truncated at line {short or len(lines) + 1}: {repeat(path.parent)}")
    if not lines:
        raise UsageError(f"{path} has no lines: nothing was evaluated")
    # Not by pandas' reader, which would take an image's name such as 0001 or NA for a number.
    table = pd.DataFrame(lines, columns=header)
    for name in header:
        if not column(name).text:
            try:
                read = _read_scale if name == "scale" else float
                table[name] = [read(value or "nan") for value in table[name]]
            except ValueError as error:
                raise UsageError(
                    f"{path}: column {name} is not numeric ({error}): {repeat(path.parent)}"
                ) from error
    return table.assign(**{name: ADDED[name] for name in columns if name in ADDED and name not in header})
