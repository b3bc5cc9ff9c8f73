"""A sweep's jobs side by side, while they run and after: one table and one figure."""

import csv
from datetime import datetime, timedelta
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from linf.errors import UsageError
from linf.files import atomic_write
from linf.report.style import STYLE, draw_curve, legend_below, panel_grid, series_style
from linf.runs.record import RECORD_FILE, JobRecord, now, read_record


def sweep_jobs(sweep: Path) -> dict[str, JobRecord]:
    """Return the records of a sweep's jobs by folder name; raise UsageError if there are none."""
    paths = sorted(sweep.glob(f"*/**/{RECORD_FILE}"))
    if not paths:
        raise UsageError(
            f"no sweep in {sweep}: give the folder of a sweep, for instance outputs/train/<date>"
        )
    return {str(path.parent.relative_to(sweep)): read_record(path.parent) for path in paths}


def sweep_table(sweep: Path) -> pd.DataFrame:
    """Return one row per job of a sweep: name, state, step, minutes, latest figures of merit, error."""
    lines = []
    for name, job in sweep_jobs(sweep).items():
        rows = _logged(sweep / name)
        steps = [row["step"] for row in rows if "step" in row]
        latest = {key: value for row in rows for key, value in row.items() if key.startswith("val/")}
        lines.append(
            {
                "job": name,
                "state": job.state,
                "step": int(max(steps)) + 1 if steps else None,
                "minutes": _minutes(job),
                **(job.result or latest),
                "error": job.error,
            }
        )
    found = pd.DataFrame(lines).astype({"step": "Int64"})
    return found[[*found.columns.drop("error"), "error"]].dropna(axis="columns", how="all")


def _minutes(job: JobRecord) -> float | None:
    if job.began is None:
        return None
    ended = job.ended or (now() if job.state == "running" else job.began)
    return round(
        (datetime.fromisoformat(ended) - datetime.fromisoformat(job.began)) / timedelta(minutes=1), 1
    )


def _logged(run: Path) -> list[dict[str, float]]:
    """Return the rows of a run's CSV files, over all its starts."""
    rows: list[dict[str, float]] = []
    for file in sorted(run.glob("csv/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with file.open(newline="") as lines:
            rows += [{key: float(v) for key, v in row.items() if key and v} for row in csv.DictReader(lines)]
    return rows


def sweep_figure(sweep: Path) -> Figure:
    """Draw a sweep: the validation curve of each job, and a panel for each figure of merit."""
    jobs = sweep_jobs(sweep)
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in jobs:
        found = {
            row["step"] + 1: row["val/psnr"]
            for row in _logged(sweep / name)
            if {"step", "val/psnr"} <= row.keys()
        }
        if found:
            curves[name] = sorted(found.items())
    results = sweep_table(sweep).set_index("job")
    merits = [key for key in results.select_dtypes("number") if key not in ("step", "minutes")][:3]
    with matplotlib.rc_context(STYLE):
        panels = bool(curves) + len(merits) or 1
        drawn, axes = panel_grid(panels, panels, (3.4, 0.6 + max(2.2, 0.24 * len(jobs))))
        looks = {name: series_style(i, i, alone=False) for i, name in enumerate(jobs)}
        if curves:
            for name, points in curves.items():
                draw_curve(axes[0], *zip(*points, strict=True), **looks[name])
            axes[0].set(title="validation", xlabel="step", ylabel="PSNR on Y (dB)")
        for axis, merit in zip(axes[bool(curves) :], merits, strict=False):
            for place, name in enumerate(jobs):
                if pd.notna(value := results.loc[name, merit]):
                    axis.plot(value, place, **looks[name] | {"linestyle": "none"})
            axis.set(title=merit, ylim=(len(jobs) - 0.5, -0.5), yticks=[])
        for axis in axes:
            axis.locator_params(axis="x", nbins=4)
            axis.ticklabel_format(useOffset=False)
        legend_below(
            drawn, [(Line2D([], [], **looks[name]), f"{name}: {job.state}") for name, job in jobs.items()]
        )
    return drawn


def summarise(sweep: Path) -> pd.DataFrame:
    """Write ``sweep.csv`` and ``sweep.png`` to a sweep's folder, and return its `sweep_table`."""
    found = sweep_table(sweep)
    with atomic_write(sweep / "sweep.csv") as part:
        found.to_csv(part, index=False)
    with atomic_write(sweep / "sweep.png") as part:
        sweep_figure(sweep).savefig(part, format="png")
    return found


def table_text(table: pd.DataFrame) -> str:
    """Return a `sweep_table` as text, with the errors below it."""
    errors = table["error"].dropna() if "error" in table else pd.Series(dtype=str)
    with pd.option_context("display.width", 200):
        lines = [table.drop(columns="error", errors="ignore").to_string(index=False, na_rep="")]
    return "\n".join([*lines, *(f"{table.loc[i, 'job']}: {error}" for i, error in errors.items())])
