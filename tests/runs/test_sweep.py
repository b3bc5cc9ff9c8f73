"""Sweeps: each job once, in its own folder, with its own result, on every launcher; failures and kills cost one job."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import linf
from helpers.commands import Command, assert_in_words, finish, start, wait_for
from helpers.runs import ONE_EACH, RANKS, SMOKE, TINY, assert_each_job_once, same, state
from linf.runs.folders import _folder_name
from linf.runs.record import JobRecord, read_record, write_record
from linf.runs.sweep import summarise, sweep_jobs


def began(sweep: Path) -> dict[str, str | None]:
    return {name: job.began for name, job in sweep_jobs(sweep).items()}


# What a sweep leaves


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """A sweep of two patch sizes that are possible and one that is not: its folder, status and words."""
    folder = tmp_path_factory.mktemp("swept")
    done = finish("-m", *TINY, ONE_EACH, "model.flow.patch_size=1,2,3", cwd=folder)
    return folder / "sweep", done.status, done.out, done.err


@pytest.mark.slow
def test_a_failing_job_is_recorded_and_the_others_go_on(swept: tuple[Path, int, str, str]) -> None:
    sweep, status, out, err = swept
    assert status == 1
    assert "Traceback" not in out + err
    assert "1 of 3 jobs did not finish: model.flow.patch_size-2" in err.splitlines()[-1]
    assert f"hydra.sweep.dir={sweep} runs only those" in err.splitlines()[-1]
    states = {name: job.state for name, job in sweep_jobs(sweep).items()}
    assert states == {f"model.flow.patch_size-{p}": "failed" if p == 2 else "finished" for p in (1, 2, 3)}
    assert "patch size 2 is not a positive odd number" in (
        read_record(sweep / "model.flow.patch_size-2").error or ""
    )
    assert [linf.load(sweep / f"model.flow.patch_size-{p}/model.safetensors").patch_size for p in (1, 3)] == [
        1,
        3,
    ]


def test_jobs_that_run_in_their_own_folder_find_the_sweep(command: Command, tmp_path: Path) -> None:
    done = command("eval", "-m", "ckpt_path=nowhere.ckpt", "seed=0", ONE_EACH, "hydra.job.chdir=true")
    (job,) = sweep_jobs(tmp_path / "sweep").values()
    assert "no checkpoint at nowhere.ckpt" in (job.error or "")
    assert "no table of the sweep" not in done.out + done.err


def test_a_file_that_a_full_disk_cut_short_costs_no_table(tmp_path: Path) -> None:
    for job, text in (("whole", "epoch,step,val/psnr\n0,2,30.5\n"), ("cut", "epoch,st")):
        write_record(tmp_path / job, JobRecord("running", began="2026-01-01T00:00:00"))
        csv = tmp_path / job / "csv" / "version_0" / "metrics.csv"
        csv.parent.mkdir(parents=True)
        csv.write_text(text)
    best = summarise(tmp_path).set_index("job")["best"]
    assert best["whole"] == 30.5
    assert math.isnan(best["cut"])


def test_a_sweep_leaves_one_table_and_one_figure(swept: tuple[Path, int, str, str]) -> None:
    sweep, _, out, _ = swept
    table = pd.read_csv(sweep / "sweep.csv").set_index("job")
    assert list(table["state"]) == ["finished", "failed", "finished"]
    for name, row in table.iterrows():
        if row["state"] == "finished":
            model = state(sweep / str(name) / "checkpoints" / "last.ckpt")
            assert row["step"] == row["steps"] == row["best_step"] == model["global_step"] == 2
            weights = linf.load(sweep / str(name) / "model.safetensors")
            assert row["parameters"] == sum(p.numel() for p in weights.parameters())
            assert row["best"] == row["val/psnr"]
            assert row["val/psnr"] == pytest.approx((row["val/psnr_x2"] + row["val/psnr_x3.3"]) / 2)
    assert "patch size 2 is not a positive odd number" in table.loc["model.flow.patch_size-2", "error"]
    width, height = Image.open(sweep / "sweep.png").size
    assert width > 600
    assert height > 150
    assert "model.flow.patch_size-3 finished" in out


@pytest.mark.slow
def test_a_sweep_started_again_runs_only_what_is_missing(
    swept: tuple[Path, int, str, str], command: Command, tmp_path: Path
) -> None:
    sweep = shutil.copytree(swept[0], tmp_path / "sweep")
    settings = json.loads((sweep / "model.flow.patch_size-1" / "job.json").read_text())["settings"]
    assert settings["run_dir"] == str(swept[0] / "model.flow.patch_size-1")
    before = began(swept[0])
    again = ["-m", *TINY, f"hydra.sweep.dir={swept[0]}", "model.flow.patch_size=1,2,3,5"]
    done = command("train", *again)
    assert done.status == 1, "2 is still no patch size"
    after = began(swept[0])
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {"model.flow.patch_size-1", "model.flow.patch_size-3"}
    assert read_record(swept[0] / "model.flow.patch_size-5").state == "finished"
    shutil.rmtree(swept[0])
    shutil.copytree(sweep, swept[0])


@pytest.mark.slow
def test_a_finished_job_of_a_sweep_that_was_moved_is_not_run_again(command: Command, tmp_path: Path) -> None:
    sweep, moved = tmp_path / "sweep", tmp_path / "elsewhere" / "2"
    assert command("train", "-m", *TINY, f"hydra.sweep.dir={sweep}", "seed=0").status == 0
    before = read_record(sweep / "job")
    shutil.move(sweep, moved)
    again = command("train", "-m", *TINY, f"hydra.sweep.dir={moved}", "seed=0")
    assert f"finished before: {moved / 'job'}" in again.out
    assert read_record(moved / "job") == before
    assert before.result


def test_settings_are_the_same_in_a_moved_folder_only() -> None:
    one = {"run_dir": "/a/run", "seed": 0, "callbacks": {"last": {"folder": "/a/run", "at": "/a/run/x"}}}
    moved = {"run_dir": "/b", "seed": 0, "callbacks": {"last": {"folder": "/b", "at": "/b/x"}}}
    finished = JobRecord("finished", settings=one)
    logged = moved | {"logger": {"wandb": {"save_dir": "/b", "group": "of/the sweep's folder"}}}
    assert finished.has_finished(logged)
    assert JobRecord("finished", settings=logged).has_finished(one)
    others = one | {"seed": 1}, moved | {"seed": 1}, one | {"run_dir": "/c"}
    assert [finished.has_finished(settings) for settings in (one, moved, *others)] == [True, True] + [
        False
    ] * 3
    assert not JobRecord("failed", settings=one).has_finished(one)


@pytest.mark.thorough
def test_other_settings_run_again(
    swept: tuple[Path, int, str, str], command: Command, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    longer = command("train", "-m", *TINY, ONE_EACH, "model.flow.patch_size=1,3")
    assert longer.status == 0, longer.err
    longer = command("train", "-m", *TINY, ONE_EACH, "model.flow.patch_size=1,3", "trainer.max_epochs=2")
    assert longer.status == 0, longer.err
    steps = [state(path)["global_step"] for path in sweep.glob("*/checkpoints/last.ckpt")]
    assert steps == [4, 4], "they went on from their checkpoints"


@pytest.mark.thorough
def test_a_job_whose_settings_are_wrong_is_recorded_too(command: Command, tmp_path: Path) -> None:
    done = command("train", "-m", *TINY, ONE_EACH, "seed=1,-1")
    assert done.status == 1
    assert "1 of 2 jobs did not finish: seed--1" in done.err.splitlines()[-1]
    assert "seed is -1" in (read_record(tmp_path / "sweep" / "seed--1").error or "")


def test_status_of_a_sweep(
    swept: tuple[Path, int, str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from linf.cli import main

    main(["sweep", "status", str(swept[0])])
    printed = capsys.readouterr().out
    assert "2 of 3 finished" in printed
    assert "patch size 2 is not a positive odd number" in printed
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "status", str(tmp_path)])
    assert "no sweep in" in capsys.readouterr().err


def test_the_figure_shows_what_has_no_figures_yet(tmp_path: Path) -> None:
    for name, job in {
        "a": JobRecord("failed", error="it broke"),
        "b": JobRecord("running", began="2026-01-01"),
    }.items():
        write_record(tmp_path / name, job)
    table = summarise(tmp_path)
    assert list(table["state"]) == ["failed", "killed"]
    assert (tmp_path / "sweep.png").is_file()


# Their folders


@pytest.mark.slow
def test_jobs_are_named_by_what_differs(command: Command, tmp_path: Path) -> None:
    done = command("train", "-m", *TINY, ONE_EACH, "seed=3", f"init_from={tmp_path}/a.ckpt,{tmp_path}/b.ckpt")
    assert done.status == 1, "there are no such files"
    place = str(tmp_path).replace("/", "_")
    assert set(sweep_jobs(tmp_path / "sweep")) == {f"init_from-{place}_{name}.ckpt" for name in "ab"}


@pytest.mark.slow
def test_jobs_that_bring_a_name_stay_in_the_sweeps_folder(command: Command, tmp_path: Path) -> None:
    done = command(
        "train",
        "sweep=claims",
        f"init_from={tmp_path}/none.ckpt",
        "callbacks=null",
        "logger=null",
        "name=mine",
    )
    assert done.status == 1, "there is no such file"
    (sweep,) = (tmp_path / "outputs").glob("*/*")
    assert sweep.parent.name == "claims"
    jobs = ("patch", "likelihood", "pixel", "patch5", "local", "regression")
    assert set(sweep_jobs(sweep)) == {f"claims_{name}" for name in jobs}
    assert len(summarise(sweep)) == len(jobs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("sweep=claims", "seed=0,1"),
            ("seed=1", "claims_patch", "'hydra.sweep.subdir=${hydra:runtime.choices.experiment}_${seed}'"),
        ),
        (
            ("-m", "encoder=edsr_tiny,rdn_tiny", "hydra.sweep.subdir=x"),
            ("_${hydra.runtime.choices.encoder}",),
        ),
        (("-m", "init_from=a/b,a_b"), ("init_from=a/b", "init_from=a_b", "one folder, init_from-a_b")),
    ],
)
def test_jobs_that_would_share_a_folder_are_told_before_the_first(
    command: Command, tmp_path: Path, settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = command("train", *settings, ONE_EACH)
    assert_in_words(done.status, done.out, done.err, *words)
    assert not list(tmp_path.glob("sweep/*/*"))


@pytest.mark.slow
def test_jobs_of_one_name_with_the_folders_that_the_message_gives(command: Command, tmp_path: Path) -> None:
    for number, (subdir, jobs) in enumerate(
        (
            ("${name}_${seed}", {"smoke_0", "smoke_1"}),
            ("number_${hydra:job.num}", {"number_0", "number_1", "number_2"}),
            ("${hydra:job.override_dirname}", {"seed-0", "seed-1"}),
        )
    ):
        sweep = (f"hydra.sweep.dir=sweep_{number}", f"hydra.sweep.subdir={subdir}")
        done = command("train", "-m", *TINY, *sweep, "seed=0,1,1", "trainer.max_steps=0", "data.val=null")
        assert done.status == 0, done.err
        assert set(sweep_jobs(tmp_path / f"sweep_{number}")) == jobs


def test_a_folders_name_fits_a_file_system() -> None:
    one, other = (_folder_name("key-" + "very" * 100 + end) for end in "ab")
    assert one != other
    assert max(map(len, (one, other))) <= 200
    assert _folder_name("init_from-/a/b") == "init_from-_a_b"


def test_a_mistake_in_a_sweep_is_told_once(command: Command) -> None:
    done = command("train", "-m", *TINY, "task.optimzer.lr=1,2")
    assert_in_words(done.status, done.out, done.err, "did you mean 'task.optimizer.lr'?")


def test_torchrun_starts_no_sweep(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    done = command("train", "-m", *TINY, ONE_EACH, "seed=0,1")
    assert_in_words(done.status, done.out, done.err, "torchrun")


# Killed half-way


@pytest.mark.slow
def test_a_killed_sweep_runs_only_what_is_missing(command: Command, tmp_path: Path) -> None:
    settings = ["-m", *TINY, "trainer.max_epochs=6", ONE_EACH, "seed=0,1,2"]
    process = start(*settings, cwd=tmp_path)
    wait_for(tmp_path / "sweep" / "seed-1" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: job.state for name, job in sweep_jobs(tmp_path / "sweep").items()}
    assert before == {"seed-0": "finished", "seed-1": "killed"}
    first = began(tmp_path / "sweep")["seed-0"]
    done = command("train", *settings)
    assert done.status == 0, done.err
    assert began(tmp_path / "sweep")["seed-0"] == first
    assert len(list(tmp_path.glob("sweep/seed-1/csv/*"))) == 2, "it went on"
    alone = command("train", *TINY, "trainer.max_epochs=6", "seed=1", "hydra.run.dir=alone")
    assert alone.status == 0, alone.err
    for run in ("sweep/seed-1", "alone"):
        assert state(tmp_path / run / "checkpoints" / "last.ckpt")["global_step"] == 12
    one, other = (linf.load(tmp_path / run / "model.safetensors") for run in ("sweep/seed-1", "alone"))
    assert same(dict(one.state_dict()), dict(other.state_dict()))


# Launchers, with two ranks in each job

LAUNCHERS = {
    "basic": ["-m"],
    "joblib": ["-m", "launcher=joblib"],
    "submitit_local": ["-m", "launcher=local"],
}


@pytest.mark.thorough  # Slurm's tests have a sweep of two ranks, too.
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_every_launcher_runs_each_job_once_on_two_ranks(
    command: Command, tmp_path: Path, launcher: str
) -> None:
    done = finish(*LAUNCHERS[launcher], *TINY, *RANKS, ONE_EACH, "seed=0,1,2", cwd=tmp_path, seconds=600)
    assert done.status == 0, done.err
    assert_each_job_once(tmp_path / "sweep", command)


@pytest.mark.thorough  # test_launch.py has ranks that report a mistake.
def test_a_mistake_that_only_ranks_can_find_is_one_line(tmp_path: Path) -> None:
    process = start(*TINY, *RANKS, "data.val_scales=[2]", "hydra.run.dir=run", cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert_in_words(process.returncode, "", errors, "1 validation images", "2 ranks", "fewer devices")
    assert "cannot be shared among" in (read_record(tmp_path / "run").error or "")


@pytest.mark.thorough  # As test_launch.py shows without a sweep.
def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    process = start(*SMOKE, *RANKS, "trainer.max_epochs=1000", "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    died = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - died < 60
    assert process.returncode == 1
    assert "rank 1 was killed by SIGKILL" in errors.splitlines()[-1]
    assert read_record(tmp_path / "run").state == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "signum",
    [*(pytest.param(n, marks=pytest.mark.thorough) for n in (signal.SIGTERM, signal.SIGINT)), signal.SIGUSR1],
)
def test_a_signal_stops_all_ranks_at_one_step(tmp_path: Path, signum: signal.Signals) -> None:
    process = start(*SMOKE, *RANKS, "trainer.max_epochs=1000", "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    steps = state(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    words = errors.splitlines()[-1]
    assert words.startswith(f"stopped by {signum.name} ")
    assert f"after step {steps}, which is saved; the same" in words
    assert "Traceback" not in errors
    assert read_record(tmp_path / "run").state == "stopped"


@pytest.mark.slow
def test_jobs_of_joblib_stop_with_their_sweep(tmp_path: Path) -> None:
    settings = ("trainer.max_epochs=1000", "hydra.sweep.dir=sweep", "seed=0,1")
    process = start("-m", "launcher=joblib", *SMOKE, *settings, cwd=tmp_path)
    lasts = [tmp_path / "sweep" / f"seed-{seed}" / "checkpoints" / "last.ckpt" for seed in (0, 1)]
    for last in lasts:
        wait_for(last, process)
    process.kill()
    process.wait()
    limit = time.monotonic() + 60
    while any(read_record(last.parents[1]).state == "running" for last in lasts):
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.slow
def test_ranks_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    process = start(*SMOKE, *RANKS, "trainer.max_epochs=1000", "hydra.run.dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.kill()
    process.wait()
    time.sleep(1)
    # One that has ended may wait there for its new parent to take notice.
    alive = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-p", ",".join(ranks)], capture_output=True, text=True
    ).stdout
    assert not [line for line in alive.splitlines() if line.split()[1][0] != "Z"]
    assert read_record(tmp_path / "run").state == "killed"
