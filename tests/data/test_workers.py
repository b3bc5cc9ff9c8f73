"""Processes that load data live as long as the one that reads from them, and no longer."""

import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import Dataset

from linf.data.workers import SteadyLoader, lost_worker_advice, worker_settings
from linf.errors import STOP_SIGNALS, UsageError


class Numbers(Dataset[int]):
    """Their own indices, and errors from 1000 on."""

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, index: int) -> int:
        if index >= 1000:
            raise RuntimeError(f"no number {index}")
        return index


def loader(first: int = 0) -> Iterator[int]:
    return iter(SteadyLoader(Numbers(), batch_size=None, sampler=range(first, 2000), **worker_settings(2)))


def workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def test_signals_that_stop_a_run_leave_its_workers_alone() -> None:
    before = set(workers())
    numbers = loader()
    assert [next(numbers) for _ in range(5)] == [*range(5)]
    started = set(workers()) - before
    assert len(started) == 2
    sender = os.fork()  # The parent's own SIGTERM does end a worker.
    if not sender:
        for pid in started:
            for signum in STOP_SIGNALS:
                os.kill(pid, signum)
        os._exit(0)
    os.waitpid(sender, 0)
    assert [next(numbers) for _ in range(200)] == [*range(5, 205)]
    assert started <= set(workers())
    del numbers
    assert not started & set(workers())


@pytest.mark.parametrize("threads", [True, False])
def test_the_parent_ends_a_worker(threads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_no_thread(**_: object) -> None:
        raise RuntimeError("can't start new thread")

    if not threads:
        monkeypatch.setattr("linf.data.workers.threading", SimpleNamespace(Thread=start_no_thread))
    before = set(workers())
    numbers = loader()
    next(numbers)
    (process, *_) = (p for p in multiprocessing.active_children() if p.pid not in before)
    process.terminate()
    process.join(10)
    assert process.exitcode == 0


def test_a_killed_worker_is_told_in_words() -> None:
    before = set(workers())
    numbers = loader()
    next(numbers)
    killed = next(pid for pid in workers() if pid not in before)

    def read_on() -> None:
        os.kill(killed, signal.SIGKILL)
        with lost_worker_advice("buy some"):
            for _ in numbers:
                time.sleep(0.01)

    with pytest.raises(UsageError, match="memory is too small: buy some"):
        read_on()
    for process in multiprocessing.active_children():  # The other one, which some later test would wait for.
        if process.pid not in before:
            process.kill()


def test_workers_that_cannot_be_started_are_told_in_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    unheard = list[Any]()
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    gc.collect()  # Of what has files open, which would make room.
    before = set(workers())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.open(os.devnull, os.O_RDONLY)  # The lowest number that is free.
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor + 1, hard))
    try:
        with (
            pytest.raises(
                UsageError, match=r"cannot be started \(Too many open files\).*: buy some"
            ) as error,
            lost_worker_advice("buy some"),
        ):
            loader()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    del error
    gc.collect()
    assert not unheard
    assert set(workers()) <= before


def test_an_error_of_a_workers_own_stays_what_it_is() -> None:
    with (
        pytest.raises(RuntimeError, match="no number 1000") as error,
        lost_worker_advice("buy some"),
    ):
        next(loader(1000))
    traceback.clear_frames(error.tb)  # The loader with them, which some later test would wait for.


LARGE = """
import torch
from linf.data.workers import SteadyLoader, worker_settings
for batch_size in (None, 2):
    tensors = [torch.full((50_000,), float(n)) for n in range(12)]
    found = list(SteadyLoader(tensors, batch_size=batch_size, **worker_settings(2)))
    assert torch.equal(torch.cat(found).flatten(), torch.cat(tensors))
print(sum(tensor.is_shared() for tensor in found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("size", "by_memory"), [("64k", False), ("64m", True)])
def test_batches_larger_than_shared_memory_arrive(size: str, by_memory: bool) -> None:
    alone = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"',
        "sh",
    ]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("shared memory of one's own needs root, unshare and mount")
    done = subprocess.run([*alone, sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (6 if by_memory else 0)
