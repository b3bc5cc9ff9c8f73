"""The state of a sweep on a terminal: how far each job is, drawn until all have ended."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
from rich.console import Console

from helpers.commands import Compose, Linf, assert_in_words, start, wait_for
from helpers.runs import ONE_EACH, TINY, fit
from linf.errors import UsageError
from linf.runs.progress import ProgressFile
from linf.runs.record import JobRecord, TrainingProgress, now, read_progress, read_record, write_record
from linf.runs.sweep_commands import count_jobs, expected_jobs, is_commanded, sweep_command
from linf.runs.sweep_status import print_summary, summary_line, unfinished_line, watch

HOLDS = """
import sys
from pathlib import Path
from linf.locks import run_lock
from linf.runs.sweep_commands import sweep_command
with sweep_command(Path(sys.argv[1]), 3), run_lock(Path(sys.argv[1]) / "b"):
    print(flush=True)
    sys.stdin.read()
"""


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_sweep_is_drawn_until_its_jobs_and_its_command_have_ended(tmp_path: Path) -> None:
    result = {"val/psnr": 27.125}
    finished = JobRecord(
        "finished", ["encoder=a"], result=result, began="2026-01-01", ended="2026-01-01T00:20"
    )
    write_record(tmp_path / "a", finished)
    running = JobRecord("running", ["encoder=b"], began=now())
    write_record(tmp_path / "b", running)
    progress = '{"step": 30, "steps": 120, "speed": 1.5, "seconds_left": 4000, "parameters": 7, "at": "%s"}'
    (tmp_path / "b" / "progress.json").write_text(progress % now())
    csv = tmp_path / "b" / "csv" / "version_0" / "metrics.csv"
    csv.parent.mkdir(parents=True)
    csv.write_text("step,val/psnr\n9,26.5\n19,26.75\n29,26.25\n")
    terminal = Console(file=io.StringIO(), force_terminal=True, width=150, height=30)
    found: list[Any] = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as command:
        assert command.stdout
        command.stdout.readline()
        watching = threading.Thread(
            target=lambda: found.append(watch(tmp_path, seconds=0.05, console=terminal))
        )
        watching.start()
        wait_until(lambda: terminal.file.getvalue().count("1 of 3 finished, 1 running, 1 to come") > 1)  # type: ignore[attr-defined]
        assert print_summary(tmp_path)["state"].tolist() == ["finished", "running"]
        write_record(tmp_path / "b", replace(running, state="finished", result=result))
        time.sleep(0.2)
        assert watching.is_alive(), "the third job has not begun"
        command.communicate(b"")
    watching.join(timeout=60)
    assert not watching.is_alive()
    assert found[0]["state"].tolist() == ["finished", "finished"]
    drawn = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"b +running +30 of 120 +1.5 +\d s +1 h [67] min +26.250 +26.750 +20\b", drawn)
    assert "\x1b[1A" in drawn, "in place"


def test_what_does_not_fit_on_a_terminal_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(9):
        write_record(tmp_path / f"{n}", JobRecord("finished", [f"encoder={n}"], began="2026-01-01"))
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, height=9)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as command:
        assert command.stdout
        command.stdout.readline()
        write_record(tmp_path / "b", JobRecord("running", ["encoder=b"], began=now()))
        watching = threading.Thread(
            target=watch, args=(tmp_path,), kwargs={"seconds": 0.05, "console": terminal}
        )
        watching.start()
        wait_until(lambda: "6 are not shown" in terminal.file.getvalue())  # type: ignore[attr-defined]
        command.kill()
        watching.join(timeout=60)
    assert re.search(r"\bb +running", terminal.file.getvalue()), "what runs is shown first"  # type: ignore[attr-defined]
    assert "b   killed" in capsys.readouterr().out


def test_what_is_left_of_a_sweep_whose_command_has_ended(tmp_path: Path) -> None:
    table = pd.DataFrame({"job": ["a", "b", "c"], "state": ["finished", "failed", "running"]})
    again = f"the same command with hydra.sweep.dir={tmp_path} runs only those"
    assert unfinished_line(tmp_path, table[:1]) == ""
    assert unfinished_line(tmp_path, table[:2]) == f"1 of 2 jobs did not finish: b; {again}"
    waits = f"1 still run: once they have ended, {again}"
    assert unfinished_line(tmp_path, table) == f"2 of 3 jobs did not finish: b, c; {waits}"


def test_watching_no_terminal_prints_once(run: Linf, tmp_path: Path) -> None:
    write_record(
        tmp_path / "a", JobRecord("finished", ["encoder=a"], result={"val/psnr": 27.0}, began="2026-01-01")
    )
    once, watched = run("sweep", "status", tmp_path), run("sweep", "status", "--watch", tmp_path)
    assert watched == once
    assert once.status == 0
    assert once.out.splitlines()[-1] == "1 of 1 finished"
    done = run("sweep", "status", "-w", tmp_path / "a")
    assert_in_words(done.status, done.out, done.err, "no sweep in")


@pytest.mark.parametrize("watched", [(), ("--watch",)])
def test_a_sweep_whose_jobs_wait_in_a_queue_is_one(
    run: Linf, tmp_path: Path, watched: tuple[str, ...]
) -> None:
    with sweep_command(tmp_path, 4):
        done = run("sweep", "status", tmp_path, *watched)
    assert (done.status, done.out) == (0, "0 of 4 finished, 4 to come\n")


def test_a_sweeps_commands_are_counted_and_forgotten(composed: Compose, tmp_path: Path) -> None:
    config = composed("train", "sweep=encoder", hydra=True)

    def count(*task: str) -> int | None:
        config.hydra.overrides.task = ["sweep=encoder", *task]
        return count_jobs(config)

    assert count() == 5
    assert count("seed=1,2,3", "trainer.max_epochs=2") == 15
    assert count("encoder=edsr,rdn") == 2
    assert count("seed=range(4)") == 20
    assert count("encoder=glob(*)") is None
    assert count_jobs(composed("train", "sweep=search", hydra=True)) == 40
    assert (is_commanded(tmp_path), expected_jobs(tmp_path)) == (False, 0)
    (tmp_path / ".sweep" / "nowhere-1").mkdir(parents=True)
    with sweep_command(tmp_path, 5):
        (own,) = (tmp_path / ".sweep").glob("*-*")
        assert own.name.endswith(f"-{os.getpid()}")
        assert expected_jobs(tmp_path) == 5
    assert not list((tmp_path / ".sweep").glob("*-*"))


def test_progress_counts_validations_in_the_time_left_but_not_in_the_speed(
    composed: Compose, tmp_path: Path
) -> None:
    seen: list[TrainingProgress | None] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(read_progress(tmp_path))

        def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            time.sleep(0.0 if trainer.sanity_checking else 0.2)

    config = composed("train", *TINY, "trainer.max_epochs=3", f"run_dir={tmp_path}")
    trainer = fit(config, ProgressFile(str(tmp_path), seconds=1e-9), Watch())
    assert [progress.step for progress in seen if progress] == [0, 2, 3, 4, 5, 6]
    assert {progress.steps for progress in seen if progress} == {6}
    after = seen[-1]
    assert after is not None
    assert after.parameters == sum(p.numel() for p in trainer.lightning_module.model.parameters())
    assert after.seconds_left == 0
    third = seen[3]  # After a validation of at least 0.4 s, of two scales.
    assert third is not None
    assert third.speed is not None
    assert third.seconds_left is not None
    assert third.seconds_left / 2 > 1 / third.speed, "each step takes as long, and validations come to it"
    with pytest.raises(UsageError, match="above 0"):
        ProgressFile(str(tmp_path), seconds=0)


@pytest.mark.slow
def test_a_real_sweep_is_watched_on_a_terminal_until_ctrl_c(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    given = (*TINY, "trainer.max_epochs=1000", "callbacks.progress_file.seconds=0.5")
    training = start("-m", *given, ONE_EACH, "seed=0,1", cwd=tmp_path)
    wait_for(sweep / "seed-0" / "checkpoints" / "last.ckpt", training)
    own, other = pty.openpty()
    os.environ.setdefault("TERM", "xterm")
    command = [sys.executable, "-m", "linf", "sweep", "status", "--watch", str(sweep)]
    watching = subprocess.Popen(
        command,
        stdin=other,
        stdout=other,
        stderr=other,
        env=os.environ | {"COLUMNS": "160"},
        preexec_fn=_heed_sigint,
    )
    os.close(other)
    shown = b""
    while shown.count(b"0 of 2 finished, 1 running, 1 to come") < 2:
        shown += os.read(own, 10_000)
    watching.send_signal(signal.SIGINT)
    while chunk := _read(own):
        shown += chunk
    assert watching.wait(timeout=60) == 128 + signal.SIGINT
    assert b"Traceback" not in shown
    assert re.search(rb"seed-0 +running +\d+ of \d+ ", shown)
    training.terminate()
    training.wait(60)
    assert read_record(sweep / "seed-0").state == "stopped"
    assert not is_commanded(sweep)
    assert summary_line(sweep, print_summary(sweep)) == "0 of 1 finished, 1 stopped"


def _heed_sigint() -> None:
    """Take SIGINT as on a terminal: what a shell starts in its background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 10_000)
    except OSError:  # All that wrote to it have ended.
        return b""
