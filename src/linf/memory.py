"""The machine's memory: how much is free, and keeping what was freed."""

import ctypes
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from linf.errors import UsageError, causes
from linf.groups import group_folders


def free_memory(device: torch.device) -> float:
    """Bytes that can be allocated on a device; infinite where the system does not tell."""
    if device.type == "cuda":
        # What torch has reserved and does not use counts as taken on the device.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_machine_free(), _container_free())


def _machine_free() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def _container_free(system: Path = Path("/")) -> float:
    """Bytes until a limit of this process's control group or of one above it; infinite without a limit."""
    free = math.inf
    for folder, version in group_folders("memory", system):
        names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
        with suppress(OSError, ValueError, KeyError):  # A group may have no limit: "max".
            most, used = (int((folder / f"memory.{name}").read_text()) for name in names)
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = stat["inactive_file" if version == 2 else "total_inactive_file"]
            free = min(free, most - used + int(cached))  # Cached files make room.
    return free


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error says that a device or the machine has too little memory."""
    # torch has no class of its own for the CPU's allocator.
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
