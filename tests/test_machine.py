"""How many cores and threads, and how much memory, there are below the limits of containers and jobs."""

import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from linf import machine

CORES = {
    "container": ("0::/\n", {"cpu.max": "250000 100000"}, 2),
    "a part of a core": ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    "no limit": ("0::/a\n", {"a/cpu.max": "max 100000"}, 8),
    "the least of several": ("0::/a/b\n", {"a/b/cpu.max": "700000 100000", "a/cpu.max": "300000 100000"}, 3),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000"}, 8),
    "version 1": (
        "5:cpu,cpuacct:/x\n0::/\n",
        {"cpu/x/cpu.cfs_quota_us": "400000", "cpu/x/cpu.cfs_period_us": "100000"},
        4,
    ),
    "version 1, no limit": (
        "5:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        8,
    ),
    "no groups": (None, {}, 8),
}
"""What this process's groups are, their files, and how many of eight cores it may use."""


@pytest.mark.parametrize(("group", "files", "cores"), CORES.values(), ids=CORES)
def test_threads_are_as_many_as_a_containers_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    if group is not None:
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(group)
    for name, content in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    assert machine.usable_cores(tmp_path) == cores
    monkeypatch.setattr(machine, "_ours", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    machine.limit_threads(tmp_path)
    assert (os.environ["OMP_NUM_THREADS"], machine.threads_are_given()) == ("7", True)
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.limit_threads(tmp_path)
    # Elsewhere torch knows best.
    assert os.environ.get("OMP_NUM_THREADS") == (str(cores) if cores < 8 else None)
    assert not machine.threads_are_given()


SLURM = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
MEMORY = {
    "container": ("0::/\n", {"": 1000}, 700),
    "Slurm's job": (f"0::{SLURM}\n", {SLURM: "max", "/system.slice/slurmstepd.scope/job_7": 1000}, 700),
    "the least of several": ("0::/a/b\n", {"/a/b": 5000, "/a": 1000, "": 3000}, 700),
    "no limit": ("0::/a\n", {"/a": "max"}, math.inf),
    "version 1": (
        "5:cpu:/x\n4:memory:/slurm/job_7\n0::/\n",
        {"/memory/slurm/job_7": 1000, "/memory": 2**63},
        700,
    ),
    "version 1 in a container": ("4:cpuset,memory:/docker/7\n", {"/memory": 1000}, 700),
    "no groups": (None, {}, math.inf),
}
"""What this process's groups are, their limits where 400 bytes are in use and 100 of these cached, and what is free."""


@pytest.mark.parametrize(("groups", "limits", "free"), MEMORY.values(), ids=MEMORY)
def test_memory_is_free_below_the_limits_of_control_groups(
    tmp_path: Path, groups: str | None, limits: dict[str, int | str], free: float
) -> None:
    if groups is not None:
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for group, limit in limits.items():
        folder = Path(f"{tmp_path}/sys/fs/cgroup{group}")
        folder.mkdir(parents=True, exist_ok=True)
        first = group.startswith("/memory")
        names = ("limit_in_bytes", "usage_in_bytes") if first else ("max", "current")
        for name, value in zip(names, (limit, 400), strict=True):
            (folder / f"memory.{name}").write_text(f"{value}\n")
        cached = "inactive_file 7\ntotal_inactive_file 100" if first else "inactive_file 100"
        (folder / "memory.stat").write_text(f"anon 300\n{cached}\n")
    assert machine._container_free(tmp_path) == free


def test_limit_of_the_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    used = 1024 * int(re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 10**8, resource.RLIM_INFINITY))
    assert machine.free_memory(torch.device("cpu")) == pytest.approx(10**8, rel=0.2)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used // 2, used // 2))
    assert machine.free_memory(torch.device("cpu")) == 0


@pytest.mark.slow
def test_a_command_in_a_group_of_one_core_has_one_thread() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")
    folder = next((folder for folder, _ in machine._group_folders("cpu")), Path("/none"))
    mine = folder / f"linf-test-{os.getpid()}"
    try:
        mine.mkdir()
        one = ("cpu.max", "100000 100000") if (mine / "cpu.max").exists() else ("cpu.cfs_quota_us", "100000")
        (mine / one[0]).write_text(one[1])
        (mine / "cgroup.procs").write_text("0")
        (folder / "cgroup.procs").write_text("0")
    except OSError:
        pytest.skip("a control group of one's own needs root")
    code = (
        "import sys; from pathlib import Path; Path(sys.argv.pop(1)).write_text('0'); from linf import cli; "
        "cli.main(['info', 'default']); import torch; print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code, str(mine / "cgroup.procs")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    mine.rmdir()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1"
