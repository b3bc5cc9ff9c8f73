"""The commands in processes of their own: forks of one that has imported torch and Lightning and not touched CUDA."""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.gpu.work import ROOT


class Command:
    """``train.py``, ``eval.py`` or ``linf`` with arguments, started in a process of its own.

    Args:
        script: ``train``, ``eval`` or ``linf``.
        arguments: What follows on the command line.
        folder: Where it is started.
        env: Variables beside those of this process.
        before: Called in the process before the command.
    """

    started = 0

    def __init__(
        self,
        script: str,
        *arguments: str,
        folder: Path,
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        Command.started += 1
        self.log = folder / f"{script}-{os.getpid()}-{Command.started}.log"
        environment = {**os.environ, **(env or {})}
        entry = (script, arguments, folder, environment, self.log, os.getpgrp(), before)
        self.process = multiprocessing.get_context("forkserver").Process(target=_enter, args=entry)
        self.process.start()

    @property
    def status(self) -> int | None:
        """The exit status, minus the signal that killed it, or None while it runs."""
        return self.process.exitcode

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        assert self.status is None, f"it ended before it was to be killed:\n{self.words()}"
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    def words(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, expected: int | None = 0, seconds: float = 120) -> str:
        """What it printed until its end; AssertionError if it ends with another status than expected."""
        self.process.join(seconds)
        assert self.status is not None, f"it still runs after {seconds} s:\n{self.words()[-2000:]}"
        assert expected in (None, self.status), f"it ended with status {self.status}:\n{self.words()[-3000:]}"
        return self.words()


def _enter(
    script: str,
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    log: Path,
    group: int,
    before: Callable[[], None] | None,
) -> None:
    os.setpgid(0, group)  # So that the section's end is this one's, too.
    redirect(log)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    path = ROOT / f"{script}.py"
    sys.argv = [str(path), *arguments]
    if before is not None:
        before()
    if script == "linf":
        runpy.run_module("linf", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(path), run_name="__main__")


def redirect(log: Path) -> None:
    """Write what this process prints to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)


def wait_until(true: Callable[[], bool], command: Command, seconds: float = 60) -> None:
    """Wait for something that a running command does."""
    limit = time.monotonic() + seconds
    while not true():
        assert command.status is None, f"it ended with status {command.status}:\n{command.words()[-3000:]}"
        assert time.monotonic() < limit, f"nothing for {seconds} s:\n{command.words()[-2000:]}"
        time.sleep(0.02)
