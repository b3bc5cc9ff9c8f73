"""Entry points in processes of their own that find torch and Lightning imported: forks of a process that did it once.

Most of the time of a short run goes into those imports. A fork has its own process id, folder, environment and output,
and takes signals and kills as any process does; only what Python or torch read while they start is that of the tests.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from helpers.paths import ROOT

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "hydra",
        "pytorch_lightning",
        "linf.training.callbacks",
        "linf.evaluation.evaluation",
        "linf.report.publish",
    ]
)


class WarmProcess:
    """``script.py arguments …`` or ``linf arguments …``, started; used as a `subprocess.Popen` with text output is."""

    def __init__(self, script: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self.output = [Path(tempfile.mkstemp(prefix="linf-test-")[1]) for _ in ("stdout", "stderr")]
        script = script if script == "linf" else str(ROOT / f"{script}.py")
        entry = (script, arguments, cwd, dict(env or os.environ), self.output)
        self.process = _forks.Process(target=_enter, args=entry)
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal that killed it; None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, signum)

    def signal_all(self, signum: int) -> None:
        """Send a signal to the process and those that it started, as a terminal does."""
        if self.returncode is None:
            os.killpg(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one."""
        self.process.join(timeout)
        assert self.returncode is not None, f"still running after {timeout} s"
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed to stdout and stderr, after its end."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self.output)
        for path in self.output:
            path.unlink()
        return out, err


def _enter(
    script: str, arguments: tuple[str, ...], cwd: Path, env: dict[str, str], output: list[Path]
) -> None:
    for number, path in enumerate(output, 1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.setpgrp()
    # A shell without job control has what it starts in the background ignore the first, and `nohup` the second.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [script, *arguments]
    try:
        if script == "linf":
            runpy.run_module(script, run_name="__main__")
        else:
            runpy.run_path(script, run_name="__main__")
    finally:
        # As at Python's own end, before multiprocessing waits for its children: joblib's workers end here.
        threading._shutdown()
