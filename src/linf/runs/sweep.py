"""A sweep's jobs side by side, while they run and after: one table and one figure."""

import logging
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from linf.errors import UsageError
from linf.files import atomic_write
from linf.report.style import STYLE, draw_curve, legend_below, panel_grid, series_style
from linf.runs.record import RECORD_FILE, JobRecord, now, read_record

log = logging.getLogger(__name__)


def sweep_jobs(sweep: Path) -> dict[str, JobRecord]:
    """Return the records of a sweep's jobs by folder name; raise UsageError if there are none."""
    paths = sorted(sweep.glob(f"*/**/{RECORD_FILE}"))
    if not paths:
        raise UsageError(
            f"no sweep in {sweep}: give the folder of a sweep, for instance outputs/train/<date>"
        )
    return {str(path.parent.relative_to(sweep)): read_record(path.parent) for path in paths}


def summarise(sweep: Path) -> pd.DataFrame:
    """Write ``sweep.csv`` and ``sweep.png`` to a sweep's folder, and return the table.

    It has one row per job: name, state, step, minutes, latest figures of merit, error.

    Raises:
        UsageError: There is no sweep in the folder, or it cannot be written to.
    """
    return _write(sweep, *_read(sweep))


def print_summary(sweep: Path) -> pd.DataFrame:
    """Print the table of `summarise`, also of a sweep whose folder cannot be written to, and return it.

    Raises:
        UsageError: There is no sweep in the folder.
    """
    jobs, logged, table = _read(sweep)
    print(table_text(table))
    try:
        _write(sweep, jobs, logged, table)
        print(f"table and figure: {sweep}/sweep.csv, sweep.png")
    except UsageError as error:
        print(f"no sweep.csv and sweep.png: {error}")
    return table


def _read(sweep: Path) -> tuple[dict[str, JobRecord], dict[str, pd.DataFrame], pd.DataFrame]:
    jobs = sweep_jobs(sweep)
    logged = {name: _logged(sweep / name) for name in jobs}
    return jobs, logged, _table(jobs, logged)


def _write(
    sweep: Path, jobs: Mapping[str, JobRecord], logged: Mapping[str, pd.DataFrame], table: pd.DataFrame
) -> pd.DataFrame:
    try:
        with atomic_write(sweep / "sweep.csv") as part:
            table.to_csv(part, index=False, errors="backslashreplace")
        with atomic_write(sweep / "sweep.png") as part:
            _figure(jobs, logged, table.set_index("job")).savefig(part, format="png")
    except OSError as error:
        raise UsageError(f"cannot write to {sweep}: {error.strerror or error}") from error
    return table


def _logged(run: Path) -> pd.DataFrame:
    """Return the rows of a run's CSV files, over all its starts."""
    files = sorted(run.glob("csv/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    # A file is empty for a moment after it was created.
    frames = []
    for file in files:
        try:
            if file.stat().st_size:
                frames.append(pd.read_csv(file))
        except OSError as error:
            log.warning("%s is left out: %s", file, error.strerror)
    return pd.concat(frames) if frames else pd.DataFrame({"step": []})


def _table(jobs: Mapping[str, JobRecord], logged: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    lines = []
    for name, job in jobs.items():
        steps = logged[name]["step"].dropna()
        latest = logged[name].filter(regex="^val/").ffill().tail(1)
        ended = job.ended or (now() if job.state == "running" else job.began)
        spent = pd.Timestamp(ended) - pd.Timestamp(job.began)  # Not a time before the job began.
        lines.append(
            {
                "job": name,
                "state": job.state,
                "step": int(steps.max()) + 1 if len(steps) else None,
                "minutes": round(spent.total_seconds() / 60, 1),
                **(job.result or {key: latest[key].item() for key in latest}),
                "error": job.error,
            }
        )
    found = pd.DataFrame(lines).astype({"step": "Int64"})
    return found[[*found.columns.drop("error"), "error"]].dropna(axis="columns", how="all")


def _figure(
    jobs: Mapping[str, JobRecord], logged: Mapping[str, pd.DataFrame], results: pd.DataFrame
) -> Figure:
    """Draw a sweep: the validation curve of each job, and a panel for each figure of merit."""
    curves = {
        name: rows.dropna(subset="val/psnr").drop_duplicates("step", keep="last").sort_values("step")
        for name, rows in logged.items()
        if "val/psnr" in rows
    }
    merits = [key for key in results.select_dtypes("number") if key not in ("step", "minutes")][:3]
    with matplotlib.rc_context(STYLE):
        panels = bool(curves) + len(merits) or 1
        drawn, axes = panel_grid(panels, panels, (3.4, 0.6 + max(2.2, 0.24 * len(jobs))))
        looks = {name: series_style(i, i, alone=False) for i, name in enumerate(jobs)}
        if curves:
            for name, rows in curves.items():
                draw_curve(axes[0], rows["step"] + 1, rows["val/psnr"], **looks[name])
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


def table_text(table: pd.DataFrame) -> str:
    """Return the table of `summarise` as text, with the errors below it."""
    errors = table["error"].dropna() if "error" in table else pd.Series(dtype=str)
    with pd.option_context("display.width", 200):
        lines = [table.drop(columns="error", errors="ignore").to_string(index=False, na_rep="")]
    return "\n".join([*lines, *(f"{table.loc[i, 'job']}: {error}" for i, error in errors.items())])
