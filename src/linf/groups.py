"""Control groups, by which containers and jobs limit processes; see cgroups(7)."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ours: str | None = None
# The number of threads that `limit_threads` has asked for.


def group_folders(controller: str, system: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """The folders of this process's control group and of those above it, with the version of control groups.

    A container may not see its own group, only the one at the mount.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mount = system / "sys/fs/cgroup"
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers:
            root, version = mount, 2
        elif controller in controllers.split(","):
            root, version = mount / controller, 1
        else:
            continue
        group = root / path.lstrip("/")
        yield from ((folder, version) for folder in (group, *group.parents) if folder.is_relative_to(root))


def usable_cores(system: Path = Path("/")) -> int:
    """The cores that this process may use, at least one: a container's or job's share of those that it may run on,
    rounded down.
    """
    cores = _cores()
    for folder, version in group_folders("cpu", system):
        with suppress(OSError, ValueError):  # A group may have no limit: "max", or less than 0.
            names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int(n) for n in " ".join((folder / name).read_text() for name in names).split())
            if quota > 0:
                cores = min(cores, quota // period)
    return max(cores, 1)


def _cores() -> int:
    """Those that this process may run on, or, where the system does not say, as macOS does not, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(system: Path = Path("/")) -> None:
    """Have torch start no more threads than there are `usable_cores`, if it is imported after this.

    By itself it starts one for each core that it sees, and beyond a container's share of them each operation waits for
    threads that may not run. ``OMP_NUM_THREADS`` of the user's own holds.
    """
    global _ours
    if "OMP_NUM_THREADS" not in os.environ and (cores := usable_cores(system)) < _cores():
        _ours = os.environ["OMP_NUM_THREADS"] = str(cores)


def threads_are_given() -> bool:
    """Whether the user has set ``OMP_NUM_THREADS``."""
    return os.environ.get("OMP_NUM_THREADS") not in (None, _ours)
