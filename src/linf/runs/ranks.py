"""What a process knows of its rank before the ranks have met: who started it, its number, the run's folder."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linf.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

REPORTS = "LINF_REPORTS"
"""Names the environment variable that holds the folder for `report`; `linf.runs.launch` sets it for its ranks."""

LAUNCHER = "LINF_LAUNCHER"
"""Names the environment variable that holds the number of the process that set `REPORTS`."""


def launched() -> bool:
    """Tell whether `linf.runs.launch` started this process as one of the ranks of a job."""
    return REPORTS in os.environ


def started_by_torchrun() -> bool:
    """Tell whether an agent of torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_slurm_task() -> bool:
    """Tell whether this process is a task of a Slurm job; a shell in an allocation is not."""
    return "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def check_srun() -> None:
    """Raise UsageError if Slurm has room for several processes, and this one stands in for all of them, or if it was
    not told how many belong on a node.

    A batch script runs once, whatever its number of tasks, so that the first rank would wait for the others for ever.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    by_srun = "SLURM_STEP_ID" in os.environ or "SLURM_STEPID" in os.environ
    if not is_slurm_task() or tasks == 1 or launched() or started_by_torchrun():
        return
    if not by_srun:
        raise UsageError(
            f"Slurm has room for {tasks} processes, but the command was started once, without srun: write `srun python "
            "…` in the script, or ask Slurm for one task, see docs/clusters.md"
        )
    if "SLURM_NTASKS_PER_NODE" not in os.environ:  # Lightning needs it.
        raise UsageError(
            f"Slurm was asked for {tasks} processes, and not for how many on a node: give srun or sbatch --nodes=… "
            "--ntasks-per-node=… in place of --ntasks, see docs/clusters.md"
        )


def rank() -> int:
    """Return the number of this process among those of the job, from 0 up."""
    names = ("RANK", "SLURM_PROCID") if is_slurm_task() else ("RANK", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def run_name() -> str:
    """Return the name of the run's folder, the same on all ranks: its start time, or its Slurm job.

    A Slurm job that is requeued keeps the name.
    """
    if is_slurm_task():  # Several commands in one job each have their own folder.
        return f"slurm-{os.environ['SLURM_JOB_ID']}-{zlib.crc32(repr(sys.argv[1:]).encode()):08x}"
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not launched():
        from torch.distributed import TCPStore

        # torchrun keeps a store for the ranks of all nodes, which outlives their restarts.
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        store.compare_set("linf/started", "", stamp)
        return store.get("linf/started").decode()
    return stamp


_store: "TCPStore | None" = None  # Of the first rank, for as long as its process.


def meet_in_fresh_store() -> None:
    """Let ranks that torchrun may start again meet in a store of the first rank's.

    Torchrun's store keeps the first rank's address of before a restart, where the others would wait until a timeout
    (PyTorch's issue 135712).
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not launched()
    if not (shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))):
        return
    from torch.distributed import TCPStore

    global _store
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    _store = first_ranks_store(TCPStore(host, port, is_master=False), host, rank() == 0)
    os.environ["MASTER_PORT"] = str(_store.port)


def first_ranks_store(agent: "TCPStore", host: str, first: bool) -> "TCPStore":
    """Return a store that the first rank makes on its host, of whose port it tells the others in an agent's store."""
    from torch.distributed import TCPStore

    if first:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        agent.set("linf/port", str(store.port))
        return store
    while True:
        port = int(agent.get("linf/port"))
        try:
            return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=1))
        except RuntimeError:  # It was the port of a process that has ended.
            time.sleep(0.1)


def report(kind: str, **facts: Any) -> None:
    """Report to the launching process how this rank ended.

    It ended with a ``result``, ``stopped`` by a ``signal``, or by a ``mistake`` or an ``error`` with a ``message``.
    """
    path = Path(os.environ[REPORTS]) / f"{rank()}.json"
    path.write_text(json.dumps({"kind": kind, **facts}))


def die_with_parent(signum: signal.Signals = signal.SIGKILL) -> None:
    """Have the Linux kernel send this process a signal when its parent dies, for whatever reason. If the launcher of
    this rank is dead already, send the signal now: the kernel would never do it.
    """
    if sys.platform != "linux":
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
    if (launcher := os.environ.get(LAUNCHER)) and int(launcher) != os.getppid():
        os.kill(os.getpid(), signum)


def requeue() -> bool:
    """Put this Slurm job back into the queue; return False outside of one, or if it was cancelled or timed out.

    Slurm counts a job as finished that it preempts with a grace time and that ends within it without this call.
    """
    if not is_slurm_task():
        return False
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):  # One of its jobs has the number of the whole array.
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True
    ).stdout
    if "JobState=RUNNING " not in shown:
        return False
    return subprocess.run(["scontrol", "requeue", job], capture_output=True).returncode == 0
