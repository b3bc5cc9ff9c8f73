"""What a report is made of: the folders that evaluations leave, read and checked."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from linf.errors import UsageError

KEYS = ["dataset", "scale", "system"]
WORDS = {"dataset", "image", "system", "kind"}
"""Columns that are not numbers."""

COLUMNS = {
    "metrics": [*KEYS, "temperature", "images"],
    "images": ["dataset", "image", "scale", "system", "temperature"],
    "distribution": [
        *(
            "dataset",
            "image",
            "scale",
            "bits_per_dim",
            "whitened_mean",
            "whitened_var",
            "whitened_kurtosis",
        ),
        *("error_y", "variance_y", "error_rgb", "variance_rgb"),
    ],
    "calibration": ["dataset", "image", "scale", "kind", "nominal", "covered"],
}
"""What each table must have; those of `metrics` and `images` are followed by a column for each metric."""

MUST = {"label": str, "model": dict, "protocol": dict, "metrics": list, "temperatures": list}
MAY: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("checkpoint", "prior", "skipped", "git", "versions"), dict),
    "max_trained_scale": (int, float),
}
"""What ``run.json`` must say and may say, or say null, in which types."""


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluation.

    Attributes:
        folder: where it lies.
        label: what legends call it.
        about: the content of its ``run.json``.
        metrics: means over images; a line for each data set, scale and system.
        images: the same for each image.
        distribution: likelihood, whitened residuals, and what closed-form PSNR is made of; empty but for LINF.
        calibration: shares of HR within predicted intervals; empty but for LINF.
        config: Hydra's config of the run, word for word, where there is one.
    """

    folder: Path
    label: str
    about: dict[str, Any]
    metrics: pd.DataFrame
    images: pd.DataFrame
    distribution: pd.DataFrame
    calibration: pd.DataFrame
    config: str | None

    @property
    def headline(self) -> str:
        """The PSNR that its protocol puts first: ``psnr_y`` or ``psnr_rgb``."""
        return self.about["protocol"]["headline"]

    @property
    def system(self) -> str:
        """How its tables call what was evaluated where there is no temperature: LIIF, LTE, or bicubic itself."""
        name = self.about["model"]["name"]
        return "bicubic" if name == "Bicubic" else name

    @property
    def samples(self) -> bool:
        """Whether it has temperatures."""
        return bool(self.metrics["temperature"].notna().any())

    def curve(self, dataset: str, scale: float) -> pd.DataFrame:
        """Its lines at all temperatures, from the lowest; empty where there are none."""
        of = self.metrics
        of = of[(of["dataset"] == dataset) & (of["scale"] == scale) & of["temperature"].notna()]
        return of.sort_values("temperature", ignore_index=True)

    def value(self, dataset: str, scale: float, system: str, metric: str) -> float:
        """One figure; not a number where it was not measured."""
        of = self.metrics
        found = of[(of["dataset"] == dataset) & (of["scale"] == scale) & (of["system"] == system)]
        return float(found[metric].iloc[0]) if metric in of and len(found) else float("nan")

    def best_guess(self, dataset: str, scale: float) -> str:
        """The system that stands for the run where PSNR counts: its lowest temperature, LIIF, LTE or bicubic."""
        curve = self.curve(dataset, scale)
        return str(curve["system"].iloc[0]) if len(curve) else self.system

    def closed_form(self, dataset: str, scale: float, temperatures: ArrayLike) -> np.ndarray:
        """PSNR in dB at each temperature as the law says, means over images, of the headline's channels.

        Per image it is ``-10 log10(error + τ² variance)``; empty where the run has no law.
        """
        of = self.distribution
        of = of[(of["dataset"] == dataset) & (of["scale"] == scale)]
        if not len(of):
            return np.empty(0)
        channels = self.headline.removeprefix("psnr_")
        error, variance = (of[f"{part}_{channels}"].to_numpy()[:, None] for part in ("error", "variance"))
        with np.errstate(divide="ignore"):
            return (-10 * np.log10(error + np.square(np.asarray(temperatures)) * variance)).mean(0)


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The evaluations in folders, or in folders of folders at any depth; their labels are made to differ.

    Raises:
        UsageError: there is none, or one cannot be read.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(
                f"{path} is {'a file' if path.exists() else 'missing'}: give an evaluation's folder"
            )
        inside = [path] if (path / "run.json").exists() else sorted(p.parent for p in path.rglob("run.json"))
        if not inside:
            raise UsageError(
                f"{path} holds no evaluation, as there is no run.json in it or below: make one with "
                "`python eval.py ckpt_path=…`"
            )
        for folder in inside:
            folders.setdefault(folder.resolve(), folder)
    return told_apart([read_run(folder) for folder in folders.values()])


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """The same runs; where several have one label, they are numbered."""
    taken = {run.label for run in runs}
    apart = []
    for run in runs:
        label, number = run.label, 0
        if sum(other.label == run.label for other in runs) > 1:
            while not number or label in taken:
                number += 1
                label = f"{run.label} ({number})"
            taken.add(label)
        apart.append(run if label == run.label else replace(run, label=label))
    return apart


def read_run(folder: str | Path) -> Run:
    """One evaluation, checked.

    Raises:
        UsageError: a file is missing, truncated or not as this version writes it.
    """
    folder = Path(folder)
    about = _about(folder / "run.json")
    tables = {}
    for name in COLUMNS:
        path = folder / f"{name}.csv"
        needed = name in ("metrics", "images")
        tables[name] = _table(path, name) if needed or path.exists() else pd.DataFrame(columns=COLUMNS[name])
    there = tables["images"].groupby(KEYS).size()
    told = tables["metrics"].set_index(KEYS)["images"]
    if told.index.has_duplicates or not told.sort_index().astype(int).equals(there.sort_index()):
        raise UsageError(
            f"{folder}: metrics.csv and images.csv do not belong together; run eval.py there again"
        )
    config = folder / ".hydra" / "config.yaml"
    label = " ".join(about["label"].split()) or folder.resolve().name
    return Run(folder, label, about, **tables, config=_text(config) if config.exists() else None)


def _about(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        about = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is truncated or no JSON ({error}); run eval.py there again") from error
    if not isinstance(about, dict):
        about = {}
    wrong = [key for key, kind in MUST.items() if not isinstance(about.get(key), kind)]
    wrong += [
        key for key, kind in MAY.items() if about.get(key) is not None and not isinstance(about[key], kind)
    ]
    if not wrong:
        wrong = ["model: name"] * (not isinstance(about["model"].get("name"), str))
        wrong += ["protocol: headline"] * (about["protocol"].get("headline") not in ("psnr_y", "psnr_rgb"))
    if wrong:
        raise UsageError(f"{path} was not written by this version's eval.py: see its {', '.join(wrong)}")
    return about


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        go_on = f"start eval.py again with hydra.run.dir={path.parent}, or leave this folder out"
        raise UsageError(f"{path} is missing, so the evaluation is not finished: {go_on}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _table(path: Path, name: str) -> pd.DataFrame:
    text = _text(path)
    try:
        header, *lines = csv.reader(io.StringIO(text), strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{path} is empty or damaged ({error}); run eval.py there again") from error
    lacking = [column for column in COLUMNS[name] if column not in header]
    if lacking:
        raise UsageError(f"{path} was not written by this version's eval.py: it lacks {', '.join(lacking)}")
    short = next((number for number, line in enumerate(lines, 2) if len(line) != len(header)), None)
    if short or not text.endswith("\n"):
        raise UsageError(f"{path} is truncated at line {short or len(lines) + 1}; run eval.py there again")
    if not lines:
        raise UsageError(f"{path} has no lines: nothing was evaluated")
    table = pd.DataFrame(lines, columns=header)
    for column in table.columns.difference(list(WORDS)):
        try:
            table[column] = [float(value or "nan") for value in table[column]]
        except ValueError as error:
            raise UsageError(f"{path}: its column {column} is not of numbers ({error})") from error
    return table
