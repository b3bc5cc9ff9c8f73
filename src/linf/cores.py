"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """The cores that this process may run on, or, where the system does not say, as macOS does not, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
