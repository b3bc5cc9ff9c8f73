"""How much memory there is below the limits of containers and jobs."""

import math
from pathlib import Path

import pytest

from linf.memory import _container_free

SLURM = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
TREES = {
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


@pytest.mark.parametrize(("groups", "limits", "free"), TREES.values(), ids=TREES)
def test_limits_of_control_groups(
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
    assert _container_free(tmp_path) == free
