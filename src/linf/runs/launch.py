"""Starting the ranks of a job on this machine, ending them together, and collecting what they report.

Lightning would start them by running the same command again, which repeats a sweep instead of one of its jobs.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig

from linf.errors import RankFailed, Stopped, UsageError, stop_signals_to
from linf.runs import ranks
from linf.runs.command_line import quoted

GRACE = 30.0
"""Seconds that ranks have to end by themselves after another one failed."""


def needs_ranks(trainer: Any) -> bool:
    """Tell whether a Lightning trainer needs processes that nobody has started yet.

    Raises:
        UsageError: Slurm started processes in other numbers, or the trainer needs several machines.
    """
    nodes, devices = trainer.num_nodes, trainer.num_devices
    tasks, asked = int(os.environ.get("SLURM_NTASKS", 1)), f"{nodes} × {devices}"
    started = f"{os.environ.get('SLURM_NNODES', nodes)} × {os.environ.get('SLURM_NTASKS_PER_NODE', devices)}"
    by_slurm = ranks.is_slurm_task() and not ranks.launched() and not ranks.started_by_torchrun()
    if by_slurm and (tasks != nodes * devices or (tasks > 1 and started != asked)):
        raise UsageError(
            f"trainer.num_nodes and trainer.devices ask for {asked} processes, but Slurm started "
            f"{tasks if tasks != nodes * devices else started}: give srun or sbatch --nodes={nodes} "
            f"--ntasks-per-node={devices} and start the command with srun, see docs/clusters.md"
        )
    strategy = trainer.strategy
    if strategy.launcher is None or strategy.cluster_environment.creates_processes_externally:
        return False
    if trainer.num_nodes > 1:
        raise UsageError(
            f"trainer.num_nodes is {trainer.num_nodes}, but nobody started processes on other machines: use torchrun "
            "or Slurm, see docs/clusters.md"
        )
    return True


def run_in_ranks(trainer: Any, script: str) -> dict[str, float] | None:
    """Run the current job again in one process per device of a Lightning trainer; see `launch`.

    ``script`` is a file with the name of the job's command, ``train.py`` or ``eval.py``.
    """
    hydra = HydraConfig.get()
    config = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        option = {"main": "--config-path", "command-line": "--config-dir"}.get(source.provider)
        if option and source.schema == "file":
            config += [option, os.path.join(hydra.runtime.cwd, source.path)]
    folders = {"hydra.run.dir": hydra.runtime.output_dir, "hydra.sweep.dir": hydra.sweep.dir}
    last = [*(f"{key}={quoted(str(path))}" for key, path in folders.items()), "hydra.mode=RUN"]
    overrides = [*hydra.overrides.hydra, *hydra.overrides.task, *last]
    command = [sys.executable, "-P", "-m", "linf", Path(script).stem, *config, *overrides]
    # Where the command began, for with hydra.job.chdir=true this process is elsewhere by now.
    return launch(command, trainer.num_devices, hydra.runtime.cwd, Path(hydra.runtime.output_dir) / "ranks")


def launch(command: Sequence[str], count: int, folder: str | None = None, logs: Path | None = None) -> Any:
    """Run a command in ``count`` ranks on this machine, wait until all have ended, and return what rank 0 reported.

    They begin in ``folder``, by default that of this process, and each with its share of the cores. What ranks other
    than the first print goes to ``rank_1.log``, … in the folder ``logs``, if one is given.

    The first rank that fails ends the others. Signals are passed on to the ranks, and if this process dies they die
    too.

    Raises:
        Stopped: A signal ended the ranks.
        UsageError: A rank found a mistake of the user's.
        RankFailed: A rank failed.
    """
    from torch.distributed import TCPStore

    from linf.machine import threads_are_given, usable_cores

    # Held here, its port cannot be taken by another program before the first rank listens.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="linf-") as reports_folder:
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "NODE_RANK": "0",
            ranks.REPORTS: reports_folder,
            ranks.LAUNCHER: str(os.getpid()),
            # Ranks find what this process finds, modules of the user's beside a script for example.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        # Else each rank would start a thread for every core, as torch does.
        cores = str(max(1, usable_cores() // count))
        threads = {} if threads_are_given() else {"OMP_NUM_THREADS": cores}
        processes: list[subprocess.Popen[bytes]] = []
        signals: list[int] = []

        def pass_on(signum: int, _: object) -> None:
            signals.append(signum)
            # A terminal sends its interrupt to all processes by itself.
            if signum == signal.SIGINT and sys.stdin and sys.stdin.isatty():
                return
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signum)

        with stop_signals_to(pass_on):
            for number in range(count):
                environment = os.environ | threads | shared | {"RANK": str(number), "LOCAL_RANK": str(number)}
                with _log_file(logs, number) as file:
                    streams: Any = {} if file is None else {"stdout": file, "stderr": subprocess.STDOUT}
                    processes.append(subprocess.Popen(command, env=environment, cwd=folder, **streams))
            for signum in list(signals):  # Those that came before all ranks were there.
                pass_on(signum, None)
            failed = _first_failed(processes)
        files = Path(reports_folder).glob("*.json")
        reports = {int(path.stem): json.loads(path.read_text()) for path in files}
    if failed is None:
        if reports.get(0, {}).get("kind") != "result":
            raise RankFailed("rank 0 ended without a result")
        return reports[0].get("result")
    # Other ranks may report errors that are only consequences of the first failure.
    status = processes[failed].returncode
    if -status in signals:  # Before the rank could report so.
        raise Stopped(-status)
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    seen = f"; what it printed is in {logs}/rank_{failed}.log" if logs is not None and failed else ""
    first = reports.get(failed) or {"kind": "error", "message": f"rank {failed} {how}{seen}"}
    if first["kind"] == "stopped":
        raise Stopped(first["signal"], first["where"], first["folder"])
    raise (UsageError if first["kind"] == "mistake" else RankFailed)(first["message"])


@contextmanager
def _log_file(logs: Path | None, rank: int) -> Iterator[IO[str] | None]:
    if logs is None or rank == 0:
        yield None
        return
    logs.mkdir(parents=True, exist_ok=True)
    with open(logs / f"rank_{rank}.log", "a") as file:
        yield file


def _first_failed(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all processes; if one fails, end the others and return its number."""
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
