"""Run the commands as a user does, and check what they print."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from helpers.warm import WarmProcess


@dataclass
class Outcome:
    """Exit status of a command, and what it printed."""

    status: int
    out: str
    err: str


Linf = Callable[..., Outcome]
"""``linf …``, the fixture `run`."""
Command = Callable[..., Outcome]
"""An entry point, ``train.py`` or ``eval.py``, the fixture `command`."""
Compose = Callable[..., DictConfig]
"""A config from ``conf``, the fixture `composed`."""


def assert_in_words(status: int, out: str, err: str, *words: str) -> None:
    """Check that a command failed with one line at the end of stderr that has these words, and without a traceback."""
    assert "Traceback" not in out + err
    assert status == 2
    line = err.rstrip("\n").splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    # What Python or a library says to a programmer.
    assert not re.search(r"<class|object at 0x|torch\.Size|weights_only|full_key|provider=|: None$", line)
    reasons = [part for part in line.split(": ") if len(part) > 20]
    assert len(reasons) == len(set(reasons)), "says it twice"


def start(
    *arguments: str, cwd: Path, script: str = "train", env: Mapping[str, str] | None = None
) -> WarmProcess:
    """Start an entry point in a process of its own."""
    return WarmProcess(script, *arguments, cwd=cwd, env=env)


def finish(
    *arguments: str,
    cwd: Path,
    script: str = "train",
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> Outcome:
    """Run an entry point to its end in a process of its own."""
    process = start(*arguments, cwd=cwd, script=script, env=env)
    try:
        out, err = process.communicate(seconds)
    finally:
        process.kill()
    return Outcome(process.wait(), out, err)


def wait_for(path: Path, process: WarmProcess) -> None:
    """Wait until a running process has made a file."""
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit, f"{path} did not come"
        time.sleep(0.01)
