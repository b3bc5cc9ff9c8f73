"""The lock that processes and threads wait for, and files that several write, of any name."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from linf.files import atomic_write, clear
from linf.locks import lock

HOLDING = "import sys, time; from pathlib import Path; from linf.locks import lock\n" + (
    "with lock(Path(sys.argv[1])): print(1, flush=True); time.sleep(float(sys.argv[2]))"
)


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDING, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    return process


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    process = hold(path, 0.5)
    with lock(path):
        assert process.wait(timeout=5) == 0


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock", 600)
    process.kill()
    process.wait()
    with lock(tmp_path / "lock"):
        pass


def test_a_forked_process_holds_no_lock_of_a_killed_one(tmp_path: Path) -> None:
    """As the loading processes of a command do, which outlive it by seconds."""
    forking = "import os\n" + HOLDING.replace(
        "print(1, flush=True)", "os.fork(); os.write(1, b'%d ' % os.getpid())"
    )
    command = [sys.executable, "-c", forking, str(tmp_path / "lock"), "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = b""
    while told.count(b" ") < 2:
        told += os.read(process.stdout.fileno(), 100)
    (forked,) = {int(number) for number in told.split()} - {process.pid}
    try:
        with pytest.raises(BlockingIOError), lock(tmp_path / "lock", wait=False):
            pass
        process.kill()
        process.wait()
        with lock(tmp_path / "lock", wait=False):
            os.kill(forked, 0)  # It lives.
    finally:
        process.kill()
        os.kill(forked, signal.SIGKILL)
        process.communicate()


def test_a_lock_keeps_threads_apart(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter(_: int) -> None:
        nonlocal inside, most
        with lock(tmp_path / "lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(8)))
    assert most == 1


def test_a_file_that_cannot_be_written_is_called_by_its_own_name(tmp_path: Path) -> None:
    for number, name in (
        (errno.EACCES, True),
        (errno.ENOSPC, False),
        (errno.EFBIG, False),
        (errno.EIO, False),
    ):
        with pytest.raises(OSError, match="reason") as error, atomic_write(tmp_path / "a.txt") as part:
            raise OSError(number, "reason", *[str(part)] * name)
        assert error.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(OSError, match=r"^encoder error -2$"), atomic_write(tmp_path / "a.txt"):
        raise OSError("encoder error -2")  # Without a number, as Pillow raises it.


def test_processes_of_one_number_write_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two machines, or two containers, have them."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with atomic_write(tmp_path / "table") as one:
        one.write_text("one")
        with atomic_write(tmp_path / "table") as other:
            other.write_text("other")
        assert (tmp_path / "table").read_text() == "other"
    assert (tmp_path / "table").read_text() == "one"
    assert os.listdir(tmp_path) == ["table"]


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "a.png"])
def test_a_name_of_any_legal_length_is_written_and_cleared(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with atomic_write(path) as part:
        part.write_text("whole")
        left = part.name
    assert path.read_text() == "whole"
    (tmp_path / left).write_text("half")  # As a killed process leaves it.
    clear(path)
    assert list(tmp_path.iterdir()) == [path]
