"""A sweep's jobs side by side, while they run and after: one table, and the figure of `linf.runs.sweep_figure`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from linf.coordinates import read_scale
from linf.errors import UsageError
from linf.evaluation.fonts import save_figure
from linf.evaluation.schema import best_end
from linf.files import atomic_write, file_errors
from linf.report.logged import logged_rows
from linf.runs.record import RECORD_FILE, JobRecord, now, read_progress, read_record
from linf.runs.sweep_figure import sweep_figure

OWN_COLUMNS = (
    "job",
    "state",
    "step",
    "steps",
    "minutes",
    "speed",
    "minutes_left",
    "parameters",
    "best",
    "best_step",
)
"""The columns of a sweep's table that are no figures of merit; beside them there is the error."""


def sweep_jobs(sweep: Path) -> dict[str, JobRecord]:
    """Return the records of a sweep's jobs by folder name; raise UsageError if there are none."""
    paths = sorted(sweep.glob(f"*/**/{RECORD_FILE}"))
    if not paths:
        raise UsageError(
            f"no sweep in {sweep}: give the folder of a sweep, for instance outputs/train/<date>"
        )
    return {str(path.parent.relative_to(sweep)): read_record(path.parent) for path in paths}


def sweep_table(sweep: Path, jobs: Mapping[str, JobRecord]) -> pd.DataFrame:
    """Return a sweep's table, with one row per job: `OWN_COLUMNS`, the latest figures of merit, the error.

    Columns that no job has are left out. ``speed`` is in steps a second, and ``best`` is the best validation so far by
    the figure that ``best.ckpt`` goes by, at ``best_step``.
    """
    lines = [_line(sweep / name, name, job) for name, job in jobs.items()]
    found = pd.DataFrame(lines).astype(dict.fromkeys(("step", "steps", "parameters", "best_step"), "Int64"))
    merits = [column for column in found if column not in (*OWN_COLUMNS, "error")]
    return found[[*OWN_COLUMNS, *merits, "error"]].dropna(axis="columns", how="all")


def summarise(sweep: Path) -> pd.DataFrame:
    """Write ``sweep.csv`` and ``sweep.png`` to a sweep's folder, and return the `sweep_table`.

    Raises:
        UsageError: There is no sweep in the folder, or it cannot be written to.
    """
    jobs = sweep_jobs(sweep)
    table = sweep_table(sweep, jobs)
    with file_errors(f"cannot write to {sweep}"):
        with atomic_write(sweep / "sweep.csv") as part:
            table.to_csv(part, index=False, errors="backslashreplace")
        merits = {merit: best_end(merit) == "max" for merit in headline_merits(table)}
        bicubic = {name: found for name in jobs if (found := _bicubic(sweep / name, merits))}
        save_figure(sweep_figure(jobs, table, merits, bicubic), sweep / "sweep.png")
    return table


# One job


def _line(run: Path, name: str, job: JobRecord) -> dict[str, Any]:
    logged, progress = logged_rows(run), read_progress(run)
    steps, latest = logged["step"].dropna(), logged.filter(regex="^val/").ffill().tail(1)
    line = {
        "job": name,
        "state": job.state,
        "step": int(steps.max()) + 1 if len(steps) else None,
        "minutes": None if job.began is None else round(job.seconds_spent(run) / 60, 2),
        **_best(logged, job),
        **(job.result or {key: latest[key].item() for key in latest}),
        "error": job.error,
    }
    if progress is not None:
        line |= {"step": max(line["step"] or 0, progress.step), "steps": progress.steps}
        line |= {"parameters": progress.parameters}
        if job.state == "running":
            since = (pd.Timestamp(now()) - pd.Timestamp(progress.at)).total_seconds()
            left = progress.seconds_left
            line |= {
                "speed": progress.speed,
                "minutes_left": None if left is None else round(max(left - since, 0) / 60, 2),
            }
    return dict.fromkeys(OWN_COLUMNS) | line


def _best(logged: pd.DataFrame, job: JobRecord) -> dict[str, Any]:
    """Return the best validation of a training, by the figure that its ``best.ckpt`` goes by."""
    callbacks = job.settings.get("callbacks") or {}
    keeper = callbacks.get("checkpoint") or {}
    monitor = keeper.get("monitor") or "val/psnr"
    values = logged.set_index("step").get(monitor, pd.Series(dtype=float)).dropna()
    if not len(values):
        return {}
    mode = keeper.get("mode") or best_end(monitor)
    step = values.idxmax() if mode == "max" else values.idxmin()
    return {"best": float(values.max() if mode == "max" else values.min()), "best_step": int(step) + 1}


def _bicubic(run: Path, merits: Iterable[str]) -> dict[str, float]:
    """Return bicubic's figures of merit where a job has measured them, in its validations or as an evaluation."""
    logged, found = logged_rows(run), {}
    evaluated = _evaluated(run)
    for merit in merits:
        validated = logged.get(merit.replace("val/", "bicubic/", 1), pd.Series(dtype=float)).dropna()
        if merit.startswith("val/") and len(validated):
            found[merit] = float(validated.iloc[-1])
        *dataset, scale, metric = merit.split("/")  # Such as Set5/x4/psnr_y.
        of = evaluated[(evaluated["dataset"] == "/".join(dataset)) & (evaluated["scale"] == scale)]
        if metric in of and len(of):
            found[merit] = float(of[metric].iloc[0])
    return found


def _evaluated(run: Path) -> pd.DataFrame:
    """Return bicubic's rows of an evaluation's table, scales such as ``x4``; none if the run is a training."""
    try:
        table = pd.read_csv(run / "metrics.csv", dtype={"dataset": str, "scale": str})
    except (OSError, ValueError):
        table = pd.DataFrame(columns=["dataset", "scale", "system"], dtype=str)
    table["scale"] = [f"x{read_scale(scale):g}" for scale in table["scale"]]
    return table[table["system"] == "bicubic"]


# Its figures of merit


def headline_merits(table: pd.DataFrame) -> list[str]:
    """Return the figures of merit that stand for all of a table, at most three: not those of single scales."""
    merits = [key for key in table.select_dtypes("number") if key not in OWN_COLUMNS]
    return ([key for key in merits if not re.search(r"_x[\d.]+(x[\d.]+)?$", str(key))] or merits)[:3]
