"""Processes that load data: how they end, and what is said where one was killed."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from linf.errors import STOP_SIGNALS, UsageError, causes


def leave_stop_signals_to_parent(worker: int) -> None:
    """Let a worker outlive signals that stop a run, as ``worker_init_fn`` of a loader.

    Ctrl-C, ``kill -TERM -GROUP``, systemd and some settings of Slurm send them to every process of a run. The one that
    trains finishes its step, for which it may need its workers, and then ends them itself.
    """
    for signum in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Not on macOS.
        # This is also how the parent ends a worker that does not end by itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says, daemon=True).start()


def _end_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def lost_worker_advice(advice: str) -> Iterator[None]:
    """Raise UsageError with some advice if a worker was killed during the block, as the kernel does where memory is
    too small.
    """
    try:
        yield
    except Exception as error:
        # An error that a worker reports begins with other words.
        if not any(re.match(r"DataLoader worker \(pid", str(cause)) for cause in causes(error)):
            raise
        raise UsageError(
            f"a process that loads images was killed, as happens where memory is too small: {advice}"
        ) from error
