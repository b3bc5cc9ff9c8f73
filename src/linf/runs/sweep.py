"""What a run says of itself in its folder, and a sweep's runs side by side: while they go on, and after."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from linf.errors import UsageError
from linf.files import atomic_write, owner
from linf.report.style import STYLE, draw_curve, legend_below, panel_grid, series_style

FILE = "job.json"
"""In a run's folder: a `Job`."""


@dataclass
class Job:
    """A run, as its folder tells it.

    Attributes:
        state: ``running``, ``finished``, ``failed``, ``stopped`` by a signal; and as `read` finds it also ``killed``,
            which had no time to say so, and ``new``.
        overrides: its settings beyond the defaults.
        settings: all of them.
        result: its figures of merit, when it has finished.
        error: why it failed, in words.
        began, ended: local times, ISO 8601.
    """

    state: str = "new"
    overrides: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    result: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    began: str | None = None
    ended: str | None = None


def read(folder: Path) -> Job:
    """What the run in a folder says; of one that was killed, what is true."""
    try:
        job = Job(**json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        return Job()
    except (OSError, ValueError, TypeError) as error:
        return Job("killed", error=f"{folder / FILE} cannot be read: {error}")
    if job.state == "running" and owner(folder) is None:
        job.state = "killed"
    return job


def write(folder: Path, job: Job) -> None:
    """Leave word; UsageError where the folder cannot be written."""
    try:
        with atomic_write(folder / FILE) as part:
            part.write_text(json.dumps(asdict(job), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextmanager
def recorded(
    folder: Path,
    overrides: Sequence[str],
    settings: dict[str, Any],
    words: Callable[[BaseException], str] = str,
) -> Iterator[Job]:
    """Note in a folder that a run begins there, and how it ends; the block sets the ``result``.

    Args:
        folder: of the run.
        overrides: see `Job`, as for settings.
        settings: all of them.
        words: for an error.
    """
    job = Job("running", list(overrides), settings, began=_now())
    write(folder, job)
    try:
        yield job
        job.state = "finished"
    except SystemExit:
        job.state = "stopped"
        raise
    except BaseException as error:
        job.state, job.error = "failed", " ".join(words(error).split()) or type(error).__name__
        raise
    finally:
        job.ended = _now()
        write(folder, job)


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")


# A sweep


def of_sweep(sweep: Path) -> dict[str, Job]:
    """The jobs of a sweep by folder name; UsageError where there are none."""
    jobs = {
        str(path.parent.relative_to(sweep)): read(path.parent) for path in sorted(sweep.glob(f"*/**/{FILE}"))
    }
    if not jobs:
        raise UsageError(f"no sweep in {sweep}: give the folder of a sweep, such as outputs/train/<date>")
    return jobs


def table(sweep: Path) -> pd.DataFrame:
    """A line for each job of a sweep: name, state, step, minutes, its latest figures, and what went wrong."""
    lines = []
    for name, job in of_sweep(sweep).items():
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


def _minutes(job: Job) -> float | None:
    if job.began is None:
        return None
    ended = job.ended or (_now() if job.state == "running" else job.began)
    return round(
        (datetime.fromisoformat(ended) - datetime.fromisoformat(job.began)) / timedelta(minutes=1), 1
    )


def _logged(run: Path) -> list[dict[str, float]]:
    """The rows of a run's CSV files, over all its starts."""
    rows: list[dict[str, float]] = []
    for file in sorted(run.glob("csv/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with file.open(newline="") as lines:
            rows += [{key: float(v) for key, v in row.items() if key and v} for row in csv.DictReader(lines)]
    return rows


def figure(sweep: Path) -> Figure:
    """A sweep in one figure: how validation went in each job, and where each figure of merit came out."""
    jobs = of_sweep(sweep)
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in jobs:
        found = {
            row["step"] + 1: row["val/psnr"]
            for row in _logged(sweep / name)
            if {"step", "val/psnr"} <= row.keys()
        }
        if found:
            curves[name] = sorted(found.items())
    results = table(sweep).set_index("job")
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
        legend_below(drawn, [(Line2D([], [], **looks[name]), f"{name}: {job.state}") for name, job in jobs.items()])
    return drawn


def summarise(sweep: Path) -> pd.DataFrame:
    """Write ``sweep.csv`` and ``sweep.png`` to a sweep's folder, and return its `table`."""
    found = table(sweep)
    with atomic_write(sweep / "sweep.csv") as part:
        found.to_csv(part, index=False)
    with atomic_write(sweep / "sweep.png") as part:
        figure(sweep).savefig(part, format="png")
    return found


def told(table: pd.DataFrame) -> str:
    """A sweep's `table` to be printed; errors stand below it."""
    errors = table["error"].dropna() if "error" in table else pd.Series(dtype=str)
    with pd.option_context("display.width", 200):
        lines = [table.drop(columns="error", errors="ignore").to_string(index=False, na_rep="")]
    return "\n".join([*lines, *(f"{table.loc[i, 'job']}: {error}" for i, error in errors.items())])
