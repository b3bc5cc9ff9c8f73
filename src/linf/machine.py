"""What this process may use of its machine: cores, threads and memory, also in a container or a job.

The command line imports this before torch, whose number of threads it decides.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from linf.errors import UsageError, causes

if TYPE_CHECKING:
    import torch

_ours: str | None = None
# The number of threads that `limit_threads` has asked for.


def usable_cores(system: Path = Path("/")) -> int:
    """The cores that this process may use, at least one: a container's or job's share of those that it may run on,
    rounded down.
    """
    cores = _cores()
    for folder, version in _group_folders("cpu", system):
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


def free_memory(device: torch.device) -> float:
    """Bytes that can be allocated on a device; infinite where the system does not tell."""
    if device.type == "cuda":
        import torch

        # What torch has reserved and does not use counts as taken on the device.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_machine_free(), _container_free(), _limit_free())


def _machine_free() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def _container_free(system: Path = Path("/")) -> float:
    """Bytes until a limit of this process's control group or of one above it; infinite without a limit."""
    free = math.inf
    for folder, version in _group_folders("memory", system):
        names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
        with suppress(OSError, ValueError, KeyError):  # A group may have no limit: "max".
            most, used = (int((folder / f"memory.{name}").read_text()) for name in names)
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = stat["inactive_file" if version == 2 else "total_inactive_file"]
            free = min(free, most - used + int(cached))  # Cached files make room.
    return free


def _limit_free() -> float:
    """Bytes until this process's limit, as of ``ulimit -v``, on its address space; infinite without a limit."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return math.inf
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return math.inf
    return max(most - pages * resource.getpagesize(), 0)


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error says that a device or the machine has too little memory."""
    import torch

    # It has no class of its own for the CPU's allocator.
    cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


@contextmanager
def shortage_advice(advice: str) -> Iterator[None]:
    """Raise UsageError with some advice if memory is too small for the block."""
    try:
        yield
    except Exception as error:
        if not any(map(is_shortage, causes(error))):
            raise
        raise UsageError(f"memory is too small: {advice}") from error


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where its C library is glibc.

    By default each large buffer of a training step goes back to the kernel and comes again page by page, which
    costs a fifth of the step on a CPU. The process stays as large as it ever was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # From <malloc.h>.
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _group_folders(controller: str, system: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """The folders of this process's control group and of those above it, with the version of control groups, see
    cgroups(7), by which containers and jobs limit processes.

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
