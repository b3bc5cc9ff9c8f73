"""Who is which rank, how ranks are started and ended, and what they leave word of."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from torch.distributed import TCPStore

from helpers.commands import Command, assert_in_words
from helpers.runs import SMOKE
from linf.errors import RankFailed, Stopped, UsageError
from linf.runs import launch as launching
from linf.runs import ranks

# A rank that needs no torch; the runs of other tests leave their word with `ranks.report`.
SAY = f"""
import json, os, signal, sys, time
rank = int(os.environ["RANK"])
def report(kind, **facts):
    with open(f"{{os.environ['{ranks.REPORTS}']}}/{{rank}}.json", "w") as file:
        json.dump({{"kind": kind, **facts}}, file)
"""


def launch(code: str, ranks: int = 2) -> object:
    return launching.launch([sys.executable, "-c", SAY + code], ranks)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"LOCAL_RANK": "1"}, 1),
        ({"SLURM_PROCID": "2", "SLURM_JOB_ID": "7"}, 2),
        ({"SLURM_PROCID": "2", "SLURM_JOB_NAME": "interactive"}, 0),
        ({"SLURM_PROCID": "0", "RANK": "1"}, 1),
    ],
)
def test_the_rank_is_known_before_ranks_have_met(environment: dict[str, str], rank: int) -> None:
    with mock.patch.dict(os.environ, environment):
        assert ranks.rank() == rank


def test_a_slurm_job_has_a_folder_for_each_command_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    names = []
    for arguments in (["a=1"], ["a=2"], ["a=1"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        names.append(ranks.run_name())
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("slurm-42-") for name in names)


def test_ranks_that_are_started_again_do_not_meet_where_they_met_before() -> None:
    host = "127.0.0.1"
    agent = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    before = ranks.first_ranks_store(agent, host, first=True)
    stale = before.port
    del before  # As when its process is killed.
    with ThreadPoolExecutor() as pool:
        other = pool.submit(
            ranks.first_ranks_store, TCPStore(host, agent.port, is_master=False), host, first=False
        )
        assert not wait([other], 0.3).done, "the first rank is late"
        store = ranks.first_ranks_store(agent, host, first=True)
        assert other.result(30).port == store.port != stale
    store.set("from", "0")
    assert other.result().get("from") == b"0"


def test_every_rank_runs_and_the_first_reports() -> None:
    assert launch(
        "report('result', result={'rank': rank, 'port': int(os.environ['MASTER_PORT']) > 0})", 3
    ) == {
        "rank": 0,
        "port": True,
    }


@pytest.mark.parametrize(
    ("code", "words", "error"),
    [
        ("rank and os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was killed by SIGKILL", RankFailed),
        ("sys.exit(3 * rank)", "rank 1 ended with status 3", RankFailed),
        ("rank and report('result', result={})", "rank 0 ended without a result", RankFailed),
        ("rank and (report('mistake', message='too big'), sys.exit(2))", "too big", UsageError),
    ],
)
def test_a_failed_rank_raises(code: str, words: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=words):
        launch(code)


def test_a_rank_that_fails_ends_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GRACE", 0.5)
    began = time.monotonic()
    with pytest.raises(RankFailed, match="rank 1 ended with status 1"):
        launch("sys.exit(1) if rank else time.sleep(600)")
    assert time.monotonic() - began < 60


def test_signals_reach_all_ranks(tmp_path: Path) -> None:
    code = SAY + (
        "signal.signal(signal.SIGUSR1, lambda *_: (report('stopped', signal=10, where='here', folder='run'),"
        f" open(f'{tmp_path}/{{rank}}', 'w').close(), os._exit(138)));"
        f" open(f'{tmp_path}/ready{{rank}}', 'w').close(); time.sleep(600)"
    )
    parent = (
        "import sys; from linf.errors import Stopped; from linf.runs import launch as d\n"
        f"try: d.launch([sys.executable, '-c', {code!r}], 2)\n"
        "except Stopped as stop: print(stop.signum.name, stop.where, stop.folder, stop.code)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    while not all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=60)
    assert out == "SIGUSR1 here run 138\n"
    assert all((tmp_path / str(rank)).exists() for rank in (0, 1))


def test_a_signal_stops_ranks_that_do_not_listen_yet() -> None:
    assert threading.current_thread() is threading.main_thread(), "or it would end this process"
    with pytest.raises(Stopped) as stopped:
        launch("rank or os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)")
    assert stopped.value.signum == signal.SIGTERM


def test_a_rank_whose_launcher_died_before_it_ends_too() -> None:
    code = "from linf.runs.ranks import die_with_parent; die_with_parent(); print('alive')"
    for launcher, status, out in ((os.getpid(), 0, "alive\n"), (os.getppid(), -signal.SIGKILL, "")):
        given = os.environ | {ranks.LAUNCHER: str(launcher)}
        done = subprocess.run([sys.executable, "-c", code], env=given, stdout=subprocess.PIPE, text=True)
        assert (done.returncode, done.stdout) == (status, out)


def test_a_rank_of_torchrun_stops_if_that_is_killed() -> None:
    rank = "import time; from linf.runs.entry import run; run(lambda: print(flush=True) or time.sleep(60), 'train')"
    agent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    given = os.environ | {"TORCHELASTIC_RUN_ID": "1"}
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", agent], env=given, text=True, **streams) as process:
        process.stdout.readline()
        process.kill()
        assert process.stderr.read() == "stopped by SIGTERM\n", "of the rank, which holds it open"


def test_stopped_has_a_status_that_shells_know() -> None:
    assert Stopped(signal.SIGTERM).code == 143


def test_only_a_job_of_slurms_queues_again() -> None:
    assert not ranks.requeue()


def test_too_few_tasks_are_told_in_words(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PROCID", 0),
        ("LOCALID", 0),
        ("NODEID", 0),
        ("JOB_ID", 1),
        ("NTASKS", 1),
        ("JOB_NAME", "train"),
    ):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    done = command("train", *SMOKE, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert_in_words(done.status, done.out, done.err, "--ntasks-per-node=2", "srun", "docs/clusters.md")


def test_nodes_that_nobody_started_are_told_in_words(command: Command) -> None:
    nodes = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2")
    done = command("train", *SMOKE, *nodes)
    assert_in_words(done.status, done.out, done.err, "num_nodes is 2", "torchrun", "docs/clusters.md")


SLURM_BATCH = {"PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 1, "NTASKS": 2, "JOB_NAME": "train"}
"""What Slurm gives to a batch script; a step by srun also has a STEP_ID."""


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_script_without_srun_is_told(
    command: Command, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    for name, value in SLURM_BATCH.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    done = command("train", *SMOKE, "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={devices}")
    assert_in_words(
        done.status, done.out, done.err, "room for 2 processes", "without srun", "docs/clusters.md"
    )


def test_a_step_by_srun_is_not_if_it_says_how_many_belong_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM_BATCH | {"STEP_ID": 0}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    with pytest.raises(
        UsageError, match=r"for 2 processes, .* --ntasks-per-node=… in place of --ntasks, see docs"
    ):
        ranks.check_srun()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    monkeypatch.setenv("SLURM_NNODES", "1")
    ranks.check_srun()
    assert not launching.needs_ranks(mock.MagicMock(num_devices=2, num_nodes=1))
    with pytest.raises(UsageError, match=r"for 2 × 1 processes, but Slurm started 1 × 2: .* --nodes=2 "):
        launching.needs_ranks(mock.MagicMock(num_devices=1, num_nodes=2))


@pytest.mark.parametrize("devices", ["auto", "[0,1]", "-1"])
def test_slurms_launcher_needs_a_number_of_devices(command: Command, devices: str) -> None:
    done = command("train", "-m", *SMOKE, "launcher=slurm", f"trainer.devices={devices}", "seed=0,1")
    given = devices.replace(",", ", ")
    assert_in_words(done.status, done.out, done.err, f"trainer.devices is {given}", "trainer.devices=2")


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "report('result', result=os.environ['OMP_NUM_THREADS'])"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7))
    assert [launch(code, count) for count in (1, 2, 8)] == ["7", "3", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launch(code) == "5"


def test_ranks_begin_where_the_command_did(tmp_path: Path) -> None:
    code = SAY + "report('result', result=os.getcwd())"
    assert launching.launch([sys.executable, "-c", code], 1, str(tmp_path)) == str(tmp_path)
