"""From one command to the processes that run it: who is which rank, how they start, stop together and come again."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from linf.errors import RankFailed, Stopped, UsageError, stop_signals_to

REPORTS = "LINF_REPORTS"
"""In the environment of ranks that `launch` started: the folder where they leave word of how they ended."""

GRACE = 30.0
"""Seconds that ranks have to end by themselves after another one failed."""


# Who this process is


def launched() -> bool:
    """Whether `launch` started this process as one of the ranks of a job."""
    return REPORTS in os.environ


def rank() -> int:
    """Which of the job's processes this one is, known before they have met: by torchrun, Slurm or `launch`."""
    names = ("RANK", "SLURM_PROCID") if by_slurm() else ("RANK", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def by_slurm() -> bool:
    """Whether this process is a task of a Slurm job; a shell in an allocation is none."""
    return "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def slurm_tasks() -> int | None:
    """How many processes Slurm started for a job of which this one is a task; None for any other process."""
    if not by_slurm() or launched() or started_by_torchrun():
        return None
    return int(os.environ.get("SLURM_NTASKS", 1))


def started_by_torchrun() -> bool:
    """Whether an agent of torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started() -> str:
    """The name of a run's folder: when it began, or its Slurm job; the same on all ranks, and after a requeue."""
    if by_slurm():  # Where several commands share a job, each has its own.
        return f"slurm-{os.environ['SLURM_JOB_ID']}-{zlib.crc32(repr(sys.argv[1:]).encode()):08x}"
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun keeps a store for its ranks on all nodes, which outlives their restarts.
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        store.compare_set("linf/started", "", stamp)
        return store.get("linf/started").decode()
    return stamp


# Starting ranks


def launch(command: Sequence[str], ranks: int) -> Any:
    """Run a command once for each rank, on this machine, until all have ended; the first that fails ends the others.

    Signals go on to the ranks; where this process dies they die too.

    Returns:
        What rank 0 left with `report`.

    Raises:
        Stopped: a signal ended them.
        UsageError: one found a mistake of the user's.
        RankFailed: one failed.
    """
    with tempfile.TemporaryDirectory(prefix="linf-") as reports:
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "NODE_RANK": "0",
            REPORTS: reports,
        }
        processes: list[subprocess.Popen[bytes]] = []
        with _passed_on(processes):
            for number in range(ranks):
                environment = os.environ | shared | {"RANK": str(number), "LOCAL_RANK": str(number)}
                processes.append(subprocess.Popen(command, env=environment))
            failed = _waited_for(processes)
        told = _reports(Path(reports))
    if failed is None:
        return told.get(0, {}).get("result")
    # Other ranks may fail for want of the one that failed first.
    first = told.get(failed) or {"kind": "error", "words": _how(failed, processes[failed].returncode)}
    if first["kind"] == "stopped":
        raise Stopped(first["signal"], first["where"], first["folder"])
    raise (UsageError if first["kind"] == "mistake" else RankFailed)(first["words"])


def report(kind: str, **facts: Any) -> None:
    """Leave word for `launch`: ``result``, ``mistake`` and ``error`` with ``words``, or ``stopped``."""
    path = Path(os.environ[REPORTS]) / f"{rank()}.json"
    path.write_text(json.dumps({"kind": kind, **facts}))


def die_with_parent(signum: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the one that started it dies, however it does (Linux)."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)


def _reports(folder: Path) -> dict[int, dict[str, Any]]:
    return {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.json")}


def _waited_for(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; which of them failed first, after the others were ended."""
    while not (failed := [i for i, process in enumerate(processes) if process.poll()]):
        if all(process.returncode == 0 for process in processes):
            return None
        time.sleep(0.05)
    limit = time.monotonic() + GRACE
    while any(process.poll() is None for process in processes) and time.monotonic() < limit:
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.wait()
    return failed[0]


def _how(rank: int, status: int) -> str:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"rank {rank} {how}"


@contextmanager
def _passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def passed(signum: int, _: object) -> None:
        for process in processes:
            # A terminal sends its interrupt to all processes by itself.
            if process.poll() is None and not (signum == signal.SIGINT and sys.stdin and sys.stdin.isatty()):
                process.send_signal(signum)

    with stop_signals_to(passed):
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Slurm


def requeue() -> bool:
    """Put this Slurm job back into the queue; False outside of one, or if it was cancelled or its time is over.

    A job that Slurm preempts with a grace time and that ends in it counts as finished, unless it does this.
    """
    if not by_slurm():
        return False
    job = os.environ["SLURM_JOB_ID"]
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True
    ).stdout
    if "JobState=RUNNING " not in shown:
        return False
    return subprocess.run(["scontrol", "requeue", job], capture_output=True).returncode == 0
