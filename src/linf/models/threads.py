"""Many tasks on a CPU: a thread per core takes whole tasks, each with one intra-op thread.

Many small operations that are parallel inside stall as soon as anything else runs on the machine: for one thread waits,
spinning, for the other at each of them.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")


def workers(device: torch.device) -> int:
    """How many chunks or tiles are worked on at a time: torch's intra-op threads on a CPU, one elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def parallel(tasks: Iterable[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """The results of tasks in order, on a CPU from as many threads as torch has intra-op threads.

    Each runs with one intra-op thread. At most twice as many tasks as threads are begun before they are asked for.
    """
    threads = workers(device)
    if threads == 1:
        yield from (task() for task in tasks)
        return
    pool, running = _pool(os.getpid(), threads), deque[Future[T]]()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), *autocast
    try:
        for task in tasks:
            running.append(pool.submit(_in_modes, task, modes))
            if len(running) == 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        # Where it ends early, no thread may still use what the caller is about to free.
        wait([future for future in running if not future.cancel()])


def _in_modes(task: Callable[[], T], modes: tuple[bool, bool, bool, torch.dtype]) -> T:
    """Torch's modes belong to a thread, so each task sets those of the thread that asks for it."""
    inference, grad, on, dtype = modes
    with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.autocast("cpu", dtype, on):
        return task()


@lru_cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads with one intra-op thread each; of this process, since a fork takes none along."""
    pool, ready = ThreadPoolExecutor(threads, "linf"), Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(_start, ready)
    ready.wait()
    torch.set_num_threads(threads)  # What a thread sets for itself is also the default of threads to come.
    return pool


def _start(ready: Barrier) -> None:
    torch.get_num_threads()  # A thread takes over the default at its first look, and not after.
    torch.set_num_threads(1)
    ready.wait()
