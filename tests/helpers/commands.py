"""Commands as a user gives them, and what they left behind."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from helpers.paths import ROOT

Compose = Callable[..., DictConfig]


@dataclass
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


Linf = Callable[..., Outcome]


def assert_in_words(status: int, out: str, err: str, *words: str) -> None:
    """A failing status and, at the end of stderr, one line with these words; no traceback anywhere."""
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


Command = Callable[..., Outcome]


def start(*arguments: str, cwd: Path, script: str = "train") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{script}.py"), *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit, f"{path} did not come"
        time.sleep(0.01)
