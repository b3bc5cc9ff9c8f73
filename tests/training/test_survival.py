"""Nothing is lost when a run is stopped, killed or starved of space; and a folder has one run at a time."""

import contextlib
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.commands import Command, Compose, assert_in_words, start, wait_for
from helpers.runs import QUIET, RANKS, SMOKE, TINY, Interrupt, PowerCut, assert_same_end, fit, state
from linf.checkpoints.start import newest, next_start, to_resume
from linf.errors import STOP_SIGNALS, UsageError
from linf.files import atomic_write
from linf.locks import LOCK, owner, run_lock

LONG = (*QUIET, "trainer.max_epochs=40", "data.batches_per_epoch=5")


def whole_run(folder: Path, command: Command, *more: str) -> Path:
    done = command("train", *LONG, *more, f"hydra.run.dir={folder}")
    assert done.status == 0, done.err
    return folder


# Signals


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A run that SIGTERM, sent to it and its workers, ended: its folder, status and words."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(*LONG, f"hydra.run.dir={folder}", "data.num_workers=2", cwd=folder)
    wait_for(folder / "checkpoints" / "last.ckpt", process)
    time.sleep(0.2)
    process.signal_all(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    return folder, process.returncode, errors


def test_sigterm_ends_a_run_in_words_with_its_last_step_saved(stopped: tuple[Path, int, str]) -> None:
    folder, status, errors = stopped
    assert status == 128 + signal.SIGTERM
    steps = state(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert steps < 200
    words = errors.rstrip().splitlines()[-1]
    assert re.match(
        rf"stopped by SIGTERM (in the validation )?after step {steps}, which is saved; the same command with",
        words,
    )
    assert f"hydra.run.dir={folder} goes on" in words
    assert "Traceback" not in errors
    assert json.loads((folder / "job.json").read_text())["state"] == "stopped"


@pytest.mark.parametrize(
    ("stop", "ranks"),
    [
        (signal.SIGHUP, ()),
        pytest.param(signal.SIGTERM, RANKS, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, (), marks=pytest.mark.thorough),
        pytest.param(signal.SIGUSR1, (), marks=pytest.mark.thorough),
    ],
)
def test_a_signal_before_the_first_step_stops_a_run_too(
    tmp_path: Path, stop: signal.Signals, ranks: tuple[str, ...]
) -> None:
    process = start(*LONG, *ranks, f"hydra.run.dir={tmp_path}", cwd=tmp_path)
    wait_for(tmp_path / "job.json", process)
    process.signal_all(stop)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + stop
    words = errors.rstrip().splitlines()[-1]
    assert words == (
        f"stopped by {stop.name}; the same command with hydra.run.dir={tmp_path} goes on from there"
    )
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "stopped"


def test_a_training_leaves_neither_handlers_nor_its_trainer_behind(composed: Compose, tmp_path: Path) -> None:
    stops = [signal.getsignal(signum) for signum in STOP_SIGNALS]
    config = composed("train", *TINY, f"run_dir={tmp_path}", "data.num_workers=0")
    trainers = [weakref.ref(fit(config)) for _ in range(2)]
    assert [signal.getsignal(signum) for signum in STOP_SIGNALS] == stops
    gc.collect()
    assert [trainer() for trainer in trainers] == [None, None]


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(
    stopped: tuple[Path, int, str], command: Command, tmp_path: Path
) -> None:
    resumed = shutil.copytree(stopped[0], tmp_path / "resumed")
    whole = whole_run(tmp_path / "whole", command)
    again = command("train", *LONG, f"hydra.run.dir={resumed}")
    assert again.status == 0, again.err
    assert_same_end(whole, resumed)
    assert json.loads((resumed / "job.json").read_text())["state"] == "finished"


@pytest.mark.thorough
def test_twenty_kills_change_no_bit(command: Command, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    longer = ("data.batches_per_epoch=10", "trainer.max_epochs=150")
    arguments = [*LONG, *longer, "callbacks.last.minutes=0.005", f"hydra.run.dir={killed}"]
    moments = random.Random(0)
    for number in range(20):
        process = start(*arguments, cwd=tmp_path)
        wait_for(killed / "csv" / f"version_{number}", process)  # It is about to train.
        time.sleep(moments.uniform(0, 1.5))
        assert process.poll() is None, "it finished before it was killed"
        process.kill()
        process.communicate()
    steps = state(killed / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < steps < 1500
    assert command("train", *arguments).status == 0
    assert_same_end(whole_run(tmp_path / "whole", command, *longer), killed)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        killed / "model.safetensors"
    ).read_bytes()
    left = [path for path in killed.rglob(".*") if path.is_file() and path.name != LOCK]
    assert not left, "half-written files"


@pytest.mark.slow
def test_a_validation_in_the_middle_of_an_accumulated_gradient_is_saved_after_the_step(
    composed: Compose, tmp_path: Path
) -> None:
    accumulating = (
        "trainer.accumulate_grad_batches=2",
        "+trainer.val_check_interval=3",
        "data.batches_per_epoch=6",
    )
    given = (*QUIET, *accumulating, "trainer.max_epochs=2")
    fit(composed("train", *given, f"run_dir={tmp_path / 'whole'}"))
    cut = composed("train", *given, f"run_dir={tmp_path / 'cut'}")
    with pytest.raises(PowerCut):
        fit(cut, Interrupt(2))  # The validation came after three batches: one and a half steps.
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert state(last)["global_step"] == 2
    cut.ckpt_path = str(last)
    fit(cut)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_an_accumulated_gradient_is_never_cut(command: Command, tmp_path: Path) -> None:
    accumulating = [
        *QUIET,
        "trainer.accumulate_grad_batches=2",
        "data.batches_per_epoch=6",
        "trainer.max_epochs=2",
    ]
    assert command("train", *accumulating, "hydra.run.dir=whole").status == 0
    saving = [*accumulating, "callbacks.last.minutes=1e-9", "hydra.run.dir=cut"]
    assert command("train", *saving, "trainer.max_steps=2").status == 0
    assert state(tmp_path / "cut" / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert command("train", *saving).status == 0
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


# Damaged checkpoints


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A run's folder with checkpoints after 3 and 6 steps."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, steps in (("previous", 3), ("last", 6)):
        torch.save(
            {"global_step": steps, "state_dict": {"w": torch.arange(10000.0)}}, folder / f"{name}.ckpt"
        )
    return folder


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"empty": b"", "half": content[: len(content) // 2], "bit": content, "text": b"words"}[how]
    )


def test_the_newest_checkpoint_has_most_steps(pair: Path) -> None:
    os.utime(pair / "last.ckpt", (0, 0))
    assert newest(pair) == pair / "last.ckpt"
    assert newest(pair / "nowhere") is None


@pytest.mark.parametrize("how", ["empty", "half", "bit", "text"])
def test_a_damaged_checkpoint_is_left_out_and_told(
    pair: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    damaged(pair / "last.ckpt", how)
    assert newest(pair) == pair / "previous.ckpt"
    assert f"{pair / 'last.ckpt'} is damaged" in caplog.text


def test_what_a_run_goes_on_from(pair: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert to_resume(None, own) is None
    assert to_resume(pair / "previous.ckpt", own) == pair / "previous.ckpt", "a new run from another one's"
    assert to_resume(pair / "previous.ckpt", pair) == pair / "previous.ckpt", "its own as the user chose"
    shutil.copytree(pair, own, ignore=shutil.ignore_patterns("own"))
    assert to_resume(pair / "previous.ckpt", own) == own / "last.ckpt", "a requeued run from its own"


def test_a_run_that_went_back_goes_on_from_where_it_came_since(pair: Path) -> None:
    (pair / "last.ckpt").rename(pair / "best.ckpt")
    assert next_start(pair) == 1
    for name in ("previous", "last"):
        state = {"global_step": 4, "start": (2, ["task.optimizer.lr=1e-5"])}
        torch.save(state, pair / f"{name}.ckpt")
    assert newest(pair) == pair / "last.ckpt", "and not the one with more steps that it left"
    assert to_resume(pair / "best.ckpt", pair, ["task.optimizer.lr=1e-5"]) == pair / "last.ckpt"
    assert to_resume(pair / "best.ckpt", pair, ["task.optimizer.lr=1e-6"]) == pair / "best.ckpt"
    assert next_start(pair) == 3


@pytest.mark.slow
def test_a_command_that_goes_back_does_so_once(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    run = (*TINY, "hydra.run.dir=run", "callbacks.checkpoint.save_top_k=-1")
    assert command("train", *run, "trainer.max_epochs=3").status == 0
    back = (
        *run,
        f"ckpt_path={folder}/best_step_0000002.ckpt",
        "trainer.max_steps=3",
        "trainer.max_epochs=-1",
    )
    for from_there in ("best_step_0000002", "last"):
        done = command("train", *back)
        assert done.status == 0, done.err
        assert f"resumed from: {folder}/{from_there}.ckpt" in done.out
    assert "resumed from its newest checkpoint" not in done.out
    assert state(folder / "last.ckpt")["global_step"] == 3
    again = command("train", *run, "trainer.max_epochs=2")
    assert f"resumed from: {folder}/last.ckpt" in again.out
    assert "from step 3;" in again.out


@pytest.mark.parametrize("how", ["half", "bit"])
def test_a_damaged_checkpoint_that_is_asked_for_gives_way_to_the_one_beside_it(pair: Path, how: str) -> None:
    damaged(pair / "last.ckpt", how)
    assert to_resume(pair / "last.ckpt", pair / "own") == pair / "previous.ckpt"


@pytest.mark.parametrize(("folder", "name"), [("collection", "last"), ("checkpoints", "run_b")])
def test_a_damaged_checkpoint_never_gives_way_to_one_of_another_run(
    pair: Path, tmp_path: Path, folder: str, name: str
) -> None:
    damaged(pair / "last.ckpt", "half")
    (pair / "previous.ckpt").rename(pair / f"{name}_of_another.ckpt")
    given = pair.rename(tmp_path / folder) / "last.ckpt"
    with pytest.raises(UsageError, match=rf"last\.ckpt is damaged.*ckpt_path=.*{name}_of_another\.ckpt"):
        to_resume(given, tmp_path / "own")


def test_a_damaged_checkpoint_alone_is_refused(pair: Path) -> None:
    damaged(pair / "last.ckpt", "bit")
    (pair / "previous.ckpt").unlink()
    with pytest.raises(UsageError, match=r"last\.ckpt is damaged"):
        to_resume(pair / "last.ckpt", pair / "own")


@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param("half", marks=pytest.mark.thorough), "bit"])
def test_a_run_with_a_damaged_last_goes_on_from_the_one_before(
    command: Command, tmp_path: Path, how: str
) -> None:
    run = [*QUIET, "trainer.max_epochs=3"]
    assert command("train", *run, "hydra.run.dir=whole").status == 0
    assert command("train", *QUIET, "trainer.max_epochs=2", "hydra.run.dir=hurt").status == 0
    checkpoints = tmp_path / "hurt" / "checkpoints"
    (checkpoints / "best.ckpt").unlink()
    assert state(checkpoints / "previous.ckpt")["global_step"] == 3
    damaged(checkpoints / "last.ckpt", how)
    again = command("train", *run, "hydra.run.dir=hurt")
    assert again.status == 0, again.err
    assert f"{checkpoints / 'last.ckpt'} is damaged" in again.out + again.err
    assert_same_end(tmp_path / "whole", tmp_path / "hurt")


@pytest.mark.slow
def test_a_damaged_last_never_takes_the_place_of_the_one_before(command: Command, tmp_path: Path) -> None:
    assert command("train", *QUIET, "hydra.run.dir=run").status == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    damaged(checkpoints / "last.ckpt", "bit")
    (checkpoints / "best.ckpt").unlink()
    assert command("train", *QUIET, "hydra.run.dir=run", "trainer.max_epochs=2").status == 0
    assert [state(checkpoints / f"{name}.ckpt")["global_step"] for name in ("previous", "last")] == [3, 6]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_in_words_and_costs_no_checkpoint(command: Command, small_disk: Path) -> None:
    run = small_disk / "run"
    assert command("train", *QUIET, "trainer.max_epochs=1", f"hydra.run.dir={run}").status == 0
    config = (run / ".hydra" / "config.yaml").read_bytes()
    before = {path.name: path.read_bytes() for path in run.glob("checkpoints/*.ckpt")}
    filling = small_disk / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    full = command("train", *QUIET, "trainer.max_epochs=2", f"hydra.run.dir={run}")
    assert_in_words(full.status, full.out, full.err, "cannot write")
    assert f"cannot write {run}/.hydra/config.yaml: No space left" in full.err.splitlines()[-1]
    assert (run / ".hydra" / "config.yaml").read_bytes() == config
    assert {path.name: path.read_bytes() for path in run.glob("checkpoints/*.ckpt")} == before
    filling.unlink()
    assert command("train", *QUIET, "trainer.max_epochs=2", f"hydra.run.dir={run}").status == 0
    assert state(run / "checkpoints" / "last.ckpt")["global_step"] == 6


def test_a_file_is_whole_or_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as part:
        part.write_text("one")
    with pytest.raises(RuntimeError), atomic_write(path) as part:  # noqa: PT012
        part.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


# One folder, one run

HOLDING = """
import sys, time
from pathlib import Path
from linf.locks import run_lock
with run_lock(Path(sys.argv[1])):
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the folder ``run``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("script", ["train", "eval"])
def test_a_second_run_in_a_folder_is_refused(
    command: Command, held: subprocess.Popen[str], checkpoint: Path, tmp_path: Path, script: str
) -> None:
    arguments = SMOKE if script == "train" else (f"ckpt_path={checkpoint}",)
    done = command(script, *arguments, "hydra.run.dir=run")
    assert_in_words(done.status, done.out, done.err, "in use by process", str(held.pid), "hydra.run.dir=")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {LOCK, f"{script}.log"}


def test_a_killed_owner_owns_no_more(held: subprocess.Popen[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert str(held.pid) in (owner(folder) or "")
    with pytest.raises(UsageError, match=str(held.pid)), run_lock(folder):
        pass
    held.kill()
    held.wait()
    assert owner(folder) is None
    with run_lock(folder):
        pass


def test_an_owner_that_asks_stays_one(tmp_path: Path) -> None:
    """As a run does that reads its record."""
    (tmp_path / "same").symlink_to(tmp_path / "run")
    with run_lock(tmp_path / "run"):
        assert str(os.getpid()) in (owner(tmp_path / "same") or "")
        second = subprocess.run([sys.executable, "-c", HOLDING, str(tmp_path / "run")], capture_output=True)
        assert b"in use by process %d" % os.getpid() in second.stderr
    assert owner(tmp_path / "run") is None


ASKING = """
import fcntl, sys
with open(sys.argv[1]) as file:
    fcntl.lockf(file, fcntl.LOCK_SH)
    print(1, flush=True)
    sys.stdin.read()
"""


def test_a_run_starts_although_its_owner_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOCK).touch()
    command = [sys.executable, "-c", ASKING, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == "1\n"
        monkeypatch.setattr("linf.locks.time.sleep", lambda _: asking.communicate())
        with run_lock(tmp_path):
            pass
