"""Processes that load data: how they end, and what is said where one was killed."""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils.collate import default_collate_fn_map
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from linf.errors import STOP_SIGNALS, UsageError, causes

FORKS = sys.platform == "linux"
"""Whether workers are forks of this process, to which nothing need be pickled."""

_T = TypeVar("_T")

# Torch asks for it as it deletes an iterator that failed before it set this, and prints that it is not there.
_MultiProcessingDataLoaderIter._shutdown = True


class SteadyLoader(DataLoader[_T]):
    """A loader whose workers outlive the signals that stop a run; to be made with `worker_settings`.

    Ctrl-C, ``kill -TERM -GROUP``, systemd and some settings of Slurm send them to every process of a run. The one that
    trains finishes its step, for which it may need its workers, and then ends them itself.
    """

    def __iter__(self) -> Any:
        if not hasattr(signal, "pthread_sigmask"):
            return super().__iter__()
        # Workers are born with the mask; a signal that comes meanwhile arrives after it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().__iter__()
        except (OSError, RuntimeError) as error:
            shortage = isinstance(error, OSError) or "start new thread" in str(error)
            if not (self.num_workers and shortage):
                raise
            raise NoWorkersError(getattr(error, "strerror", None) or error) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class NoWorkersError(RuntimeError):
    """The system lacks what processes need: memory, room in ``/dev/shm``, or more processes, threads or files."""


def worker_settings(workers: int) -> dict[str, Any]:
    """Settings of a `SteadyLoader` with this many workers. On Linux they are forks: no second import of torch, and
    no fork server, which Python 3.14 has by default and a signal could end.
    """
    if not workers:
        return {"num_workers": 0}
    fork = "fork" if FORKS else None
    return {"num_workers": workers, "multiprocessing_context": fork, "worker_init_fn": _start_worker}


def _start_worker(worker: int) -> None:
    # Tensors go to the parent by shared memory, of which containers have little unless told otherwise: Docker 64 MB.
    # Where that is full, torch's own functions for both of these end a run, or have it wait for ever.
    default_collate_fn_map[Tensor] = _stack
    ForkingPickler.register(Tensor, _by_shared_memory_or_pipe)
    if hasattr(signal, "sigwaitinfo"):  # Not on macOS.
        # This is how the parent ends a worker that does not end by itself.
        try:
            threading.Thread(target=_end_when_the_parent_says, daemon=True).start()
        except RuntimeError:  # The system allows no more. A SIGTERM of anybody's then ends this worker.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _stack(tensors: list[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    return torch.stack(tensors)


def _by_shared_memory_or_pipe(tensor: Tensor) -> tuple[Any, ...]:
    try:
        return reduce_tensor(tensor.share_memory_())
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        return torch.from_numpy, (tensor.numpy(),)


def _end_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def lost_worker_advice(advice: str = "free some memory, or lower data.num_workers") -> Iterator[None]:
    """Raise UsageError with some advice if a worker was killed during the block, as the kernel does where memory is
    too small, or if none could be started.
    """
    try:
        yield
    except Exception as error:  # torch raises it wherever the run is, so that it may be the cause of another.
        for cause in causes(error):
            if isinstance(cause, NoWorkersError):
                raise UsageError(
                    f"processes that load images cannot be started ({cause}), as happens where /dev/shm is full or the "
                    f"number of processes or files is limited: {advice}"
                ) from error
        # An error that a worker reports begins with other words.
        if not any(re.match(r"DataLoader worker \(pid", str(cause)) for cause in causes(error)):
            raise
        raise UsageError(
            f"a process that loads images was killed, as happens where memory is too small: {advice}"
        ) from error
