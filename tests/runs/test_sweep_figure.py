"""The figure of a sweep: names of what differs, seeds pooled, bicubic's line, parameters and time, all legible."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from helpers.figures import overlapping
from linf.evaluation.schema import best_end
from linf.runs.job_names import pooled_jobs
from linf.runs.record import PROGRESS_FILE, JobRecord, TrainingProgress, read_record, write_record
from linf.runs.sweep import _best, _bicubic, headline_merits, sweep_jobs, sweep_table
from linf.runs.sweep_figure import sweep_figure

BEGAN = datetime(2026, 1, 1)


def job(folder: Path, *overrides: str, parameters: int = 1_000_000, hours: float = 2, **given: Any) -> None:
    ended = (BEGAN + timedelta(hours=hours)).isoformat()
    record = JobRecord(**{"state": "finished", "began": BEGAN.isoformat(), "ended": ended} | given)
    record.overrides = list(overrides)
    write_record(folder, record)
    progress = TrainingProgress(1000, 1000, 2.0, 0.0, parameters, ended)
    (folder / PROGRESS_FILE).write_text(json.dumps(asdict(progress)))


def drawn(sweep: Path, bicubic: Mapping[str, float] | None = None) -> Figure:
    jobs = sweep_jobs(sweep)
    table = sweep_table(sweep, jobs)
    merits = {merit: best_end(merit) == "max" for merit in headline_merits(table)}
    return sweep_figure(jobs, table, merits, dict.fromkeys(jobs, bicubic) if bicubic else {})


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def texts(figure: Figure, title: str) -> list[str]:
    (axis,) = [axis for axis in figure.axes if axis.get_title("right") == title]
    return [text.get_text() for text in axis.texts]


def test_the_best_step_is_that_of_the_best_checkpoint() -> None:
    logged = pd.DataFrame({"step": [9, 19], "speed/samples_per_s": [1.0, 2.0]})
    keeper = {"checkpoint": {"monitor": "speed/samples_per_s"}}
    assert _best(logged, JobRecord(settings={"callbacks": keeper})) == {"best": 2.0, "best_step": 20}


def test_single_scales_are_no_headline() -> None:
    """Nor those of one scale for each axis."""
    table = pd.DataFrame(
        {"val/psnr_x2": [30.0], "val/psnr_x3.3": [28.0], "val/psnr_x1.5x4": [29.0], "val/psnr": [29.0]}
    )
    assert headline_merits(table) == ["val/psnr"]


def test_jobs_are_named_by_what_differs_and_seeds_share_a_name() -> None:
    def named(*jobs: tuple[str, ...]) -> tuple[str, dict[str, list[str]]]:
        return pooled_jobs({str(n): JobRecord("finished", list(of)) for n, of in enumerate(jobs)})

    encoders = [("sweep=encoder", f"encoder={name}", f"seed={s}") for name in ("edsr", "rdn") for s in (0, 1)]
    assert named(*encoders) == ("encoder", {"edsr": ["0", "1"], "rdn": ["2", "3"]})
    several = [("+model.flow.patch_size=3", f"lr={lr}", "name=a") for lr in ("1.23456e-4", "1e-3")]
    several.append(("+model.flow.patch_size=1", "lr=1e-3", "name=a"))
    assert named(*several) == ("patch_size, lr", {"3, 0.000123": ["0"], "3, 0.001": ["1"], "1, 0.001": ["2"]})
    paths = [("init_from=/a/one.ckpt",), ("init_from=/b/two.ckpt",), ()]
    assert named(*paths) == ("init_from", {"one.ckpt": ["0"], "two.ckpt": ["1"], "2": ["2"]})
    assert named(("init_from=/a/x.ckpt",), ("init_from=/b/x.ckpt",)) == ("", {"0": ["0"], "1": ["1"]})
    assert named(("seed=0",), ("seed=1",)) == ("", {"0": ["0"], "1": ["1"]})
    trials = [("a.lr=1e-3", f"callbacks.pruning.trial={n}", f"hydra.sweep.subdir=t{n}") for n in (0, 1)]
    assert named(*trials) == ("trial", {"0": ["0"], "1": ["1"]})


@pytest.mark.parametrize("state", ["finished", "killed"])
def test_the_time_of_a_job_is_that_of_all_its_starts(tmp_path: Path, state: str) -> None:
    job(tmp_path / "a", hours=2, state=state, ended=None if state == "killed" else "2026-01-01T02:00:00")
    assert read_record(tmp_path / "a").seconds_to_go_on_from(tmp_path / "a") == 0, "nothing is saved"
    (tmp_path / "a" / "checkpoints").mkdir()
    (tmp_path / "a" / "checkpoints" / "last.ckpt").touch()
    earlier = read_record(tmp_path / "a").seconds_to_go_on_from(tmp_path / "a")
    assert earlier == 2 * 3600
    job(tmp_path / "a", ended="2026-01-01T00:00:02", earlier_seconds=earlier)
    assert list(sweep_table(tmp_path, sweep_jobs(tmp_path))["minutes"]) == [120.03]


def test_a_line_has_the_mean_over_its_seeds_and_the_seeds(tmp_path: Path) -> None:
    found = {"edsr": (28.1, 28.3), "rdn": (28.6, 28.5)}
    for encoder, values in found.items():
        for seed, psnr in enumerate(values):
            size = 1_500_000 if encoder == "edsr" else 22_000_000
            result = {"val/psnr": psnr, "val/psnr_x2": 33.0, "val/lpips": 0.1 + seed / 10}
            of = (f"encoder={encoder}", f"seed={seed}")
            job(tmp_path / f"{encoder}{seed}", *of, parameters=size, hours=1 + seed, result=result)
    figure = drawn(tmp_path, {"val/psnr": 27.9})
    assert labels(figure) == ["rdn", "edsr"], "the best at the top"
    psnr, lpips = figure.axes[:2]
    assert tuple(axis.get_title("left") for axis in (psnr, lpips)) == ("val/psnr ↑", "val/lpips ↓")
    for row, values in enumerate((found["rdn"], found["edsr"])):
        points = [tuple(line.get_xdata()) for line in psnr.lines if set(line.get_ydata()) == {row}]
        assert points == [values, (pytest.approx(np.mean(values)),)]
    bicubic = [line for line in psnr.lines if list(line.get_xdata()) == [27.9, 27.9]]
    assert len(bicubic) == 1
    assert texts(figure, "parameters") == ["22.00 M", "1.50 M"]
    assert texts(figure, "hours") == ["1.5", "1.5"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["mean over seeds", "one seed", "bicubic"]


def test_bicubic_far_away_is_an_arrow_and_leaves_the_jobs_apart(tmp_path: Path) -> None:
    for n in range(3):
        job(tmp_path / f"{n}", f"encoder=e{n}", result={"val/psnr": 28 + n / 100})
    axis = drawn(tmp_path, {"val/psnr": 20.0}).axes[0]
    assert axis.get_title("right") == "◂ bicubic 20.00"
    assert np.ptp(axis.get_xlim()) < 0.1


def test_bicubic_of_a_validation_is_read_from_the_log(tmp_path: Path) -> None:
    csv = tmp_path / "csv" / "version_0" / "metrics.csv"
    csv.parent.mkdir(parents=True)
    csv.write_text("step,val/psnr,bicubic/psnr\n1,26.5,\n1,,25.5\n2,26.75,25.5\n")
    (tmp_path / "csv" / "version_1").mkdir()
    (tmp_path / "csv" / "version_1" / "metrics.csv").touch()  # As it is for a moment when a run goes on.
    assert _bicubic(tmp_path, ["val/psnr", "val/lpips"]) == {"val/psnr": 25.5}


def test_bicubic_of_an_evaluation_is_read_from_its_table(tmp_path: Path) -> None:
    merits = ["a/b/x2.5/psnr_y", "a/b/x4/psnr_y", "a/b/x3/psnr_y"]
    assert _bicubic(tmp_path, merits) == {}
    rows = ("dataset,scale,system,psnr_y", "a/b,2.5,bicubic,27.9", "a/b,2.5,τ=0,28", "a/b,4.0,bicubic,25.5")
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert _bicubic(tmp_path, merits) == {"a/b/x2.5/psnr_y": 27.9, "a/b/x4/psnr_y": 25.5}


def test_states_are_told_where_not_all_have_finished(tmp_path: Path) -> None:
    for n, state in enumerate(("finished", "failed", "stopped")):
        result = {"val/psnr": 28.0} if state == "finished" else {}
        job(tmp_path / f"{n}", "encoder=a", f"seed={n}", state=state, result=result)
    job(tmp_path / "3", "encoder=b", result={"val/psnr": 27.0})
    assert texts(drawn(tmp_path), "state") == ["2 of 3 failed and stopped", ""]


@pytest.mark.parametrize("count", [2, 24])
def test_every_word_can_be_read(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for n in range(count):
        settings = (
            f"task.optimizer.lr={10 ** rng.uniform(-5, -3)}",
            f"model.conditioner.width={64 << n % 3}",
        )
        result = {"val/psnr": 28 + rng.normal(), "val/lpips": 0.2 + 0.01 * rng.normal()}
        given = {"state": "killed" if n == 1 else "finished", "result": result, "parameters": 10**6 + n}
        job(tmp_path / f"{n}", *settings, f"callbacks.pruning.trial={n}", **given)
    figure = drawn(tmp_path, {"val/psnr": 27.0, "val/lpips": 0.35})
    assert not overlapping(figure)
    assert len(labels(figure)) == count
    width, height = figure.get_size_inches()
    assert width < 9, "so that it is legible on a page"
    assert height < 1.5 + 0.25 * count


def test_of_many_jobs_the_best_are_drawn(tmp_path: Path) -> None:
    for n in range(70):
        job(tmp_path / f"{n}", f"encoder=e{n}", result={"val/psnr": 28.0 + n})
    figure = drawn(tmp_path)
    assert labels(figure) == [f"e{n}" for n in range(69, 9, -1)]
    assert figure.get_suptitle() == "the best 60 of 70"


def test_a_sweep_without_figures_yet_is_drawn(tmp_path: Path) -> None:
    job(tmp_path / "a", "encoder=a", state="failed", began=None, ended=None)
    figure = drawn(tmp_path)
    assert labels(figure) == ["a"]
    assert not math.isnan(figure.get_figheight())
