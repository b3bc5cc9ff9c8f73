"""Every GPU of a machine is used, one job on each, whoever starts the jobs. A made-up driver lists eight."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import start
from helpers.paths import ROOT
from helpers.runs import TINY
from linf.runs.gpus import free_gpus, visible_gpus

UUIDS = [f"GPU-0000000{i}-aaaa" for i in range(8)]


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists eight GPUs, and locks of this test alone."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    lines = "\n".join(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: {uuid})" for i, uuid in enumerate(UUIDS))
    driver.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def hold(folder: str, devices: int, begun: Any, ends: Any) -> None:
    import tempfile

    tempfile.tempdir = folder
    with free_gpus("gpu", devices) as gpus:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(gpus)
        begun.put(gpus)
        ends.wait(60)


def held(folder: Path, counts: Sequence[int]) -> tuple[list[list[str]], Any, list[Any]]:
    """What each of several processes at once has chosen."""
    new = multiprocessing.get_context("fork")
    begun, ends = new.Queue(), new.Event()
    processes = [new.Process(target=hold, args=(str(folder), n, begun, ends)) for n in counts]
    for process in processes:
        process.start()
    return [begun.get(timeout=60) for _ in counts], ends, processes


def test_eight_processes_take_eight_gpus(eight: None, tmp_path: Path) -> None:
    taken, ends, processes = held(tmp_path, [1] * 8)
    ends.set()
    for process in processes:
        process.join()
    assert sorted(gpu for gpus in taken for gpu in gpus) == UUIDS


def test_a_ninth_waits_until_one_is_free(
    eight: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken, ends, processes = held(tmp_path, [4, 3])
    assert len({gpu for gpus in taken for gpu in gpus}) == 7
    with free_gpus("auto", 1) as last:
        assert last == sorted(set(UUIDS) - {gpu for gpus in taken for gpu in gpus})
    new = multiprocessing.get_context("fork")
    timer = new.Process(target=lambda: (time.sleep(1), ends.set()))
    timer.start()
    with free_gpus("gpu", "8") as everything:
        assert everything == UUIDS
    assert "waiting for 8 of 8 GPUs" in caplog.text
    for process in [timer, *processes]:
        process.join()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_only_visible_gpus_are_taken(eight: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 2")
    assert visible_gpus() == [UUIDS[5], UUIDS[2]]
    with free_gpus("gpu", 2) as both:
        assert both == [UUIDS[5], UUIDS[2]]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5, 2"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("GPU-00000003,GPU-0000", [UUIDS[3], "GPU-0000"]),
        ("3,-1,4", [UUIDS[3]]),
        ("3,8,4", [UUIDS[3]]),
        ("", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_sees(
    eight: None, monkeypatch: pytest.MonkeyPatch, given: str, seen: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == seen


def test_a_part_of_a_gpu_by_its_old_name_is_locked(eight: None, monkeypatch: pytest.MonkeyPatch) -> None:
    part = f"MIG-{UUIDS[0]}/1/0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", part)
    with free_gpus("gpu", 1) as taken:
        assert taken == [part]


def test_unlike_gpus_go_by_cudas_numbers(
    eight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a workstation with a small GPU for the screen in the first slot, which CUDA counts last."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.write_text(driver.read_text().replace("GPU 0: NVIDIA H100 80GB HBM3", "GPU 0: NVIDIA T400 4GB"))
    with free_gpus("gpu", 1) as fastest:
        assert fastest == ["0"]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert visible_gpus() == ["0", "3"]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert visible_gpus() == [UUIDS[0], UUIDS[3]]


def test_other_users_locks_are_read_or_else_held(
    eight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [tmp_path / "linf-gpus" / uuid for uuid in UUIDS[:2]]
    others[0].parent.mkdir()
    for other in others:
        other.touch()
    opened = os.open

    def protected(path: Path, flags: int, *mode: int) -> int:
        """As Linux does in folders like /tmp by ``fs.protected_regular``; the first file is its user's alone."""
        if path == others[0] or (path == others[1] and flags & os.O_CREAT):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *mode)

    umask = os.umask(0o077)
    try:
        monkeypatch.setattr("linf.runs.gpus.os.open", protected)
        with free_gpus("gpu", 2) as both:
            assert both == UUIDS[1:3]
    finally:
        os.umask(umask)
    assert (tmp_path / "linf-gpus" / UUIDS[2]).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("accelerator", "devices"), [("cpu", 2), ("gpu", "auto"), ("gpu", [1, 2]), ("gpu", -1), ("gpu", 9)]
)
def test_what_is_chosen_otherwise_stays(eight: None, accelerator: str, devices: Any) -> None:
    with free_gpus(accelerator, devices) as gpus:
        assert gpus == []
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.slow
def test_two_commands_beside_each_other_use_two_gpus(eight: None, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "other")]
    long = ("trainer.max_epochs=1000", "trainer.accelerator=auto", "trainer.devices=1")
    processes = [start(*TINY, *long, f"hydra.run.dir={run}", cwd=tmp_path) for run in runs]
    limit, chosen = time.monotonic() + 120, [None, None]
    while not all(chosen) and time.monotonic() < limit:
        time.sleep(0.1)
        records = [run / "job.json" for run in runs]
        chosen = [json.loads(path.read_text())["gpus"] if path.exists() else None for path in records]
    for process in processes:
        process.kill()
        process.wait()
    assert all(chosen)
    assert chosen[0] != chosen[1]
    assert all(len(gpus) == 1 for gpus in chosen if gpus is not None)


MEET = """
import json
import time
from pathlib import Path
from pytorch_lightning.callbacks import Callback


class Meet(Callback):
    def on_train_start(self, *_):
        for _ in range(600):
            records = [json.loads(path.read_text()) for path in Path("sweep").glob("seed-*/job.json")]
            if sum(bool(record.get("gpus")) for record in records) == 2:
                return
            time.sleep(0.2)
"""
"""A job that goes on when both jobs of its sweep have begun."""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [pytest.param("joblib", marks=pytest.mark.thorough), "local"])
def test_jobs_of_a_sweep_use_a_gpu_each(eight: None, tmp_path: Path, launcher: str) -> None:
    jobs = {"joblib": ["hydra.launcher.n_jobs=2"], "local": []}[launcher]
    settings = ["-m", f"launcher={launcher}", *jobs, *TINY, "seed=0,1", "hydra.sweep.dir=sweep"]
    settings += ["trainer.accelerator=auto", "+callbacks.meet._target_=meet.Meet"]
    (tmp_path / "meet.py").write_text(MEET)
    command = [sys.executable, str(ROOT / "train.py"), *settings]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / "sweep" / f"seed-{n}" / "job.json").read_text()) for n in (0, 1)]
    assert records[0]["gpus"] != records[1]["gpus"]
