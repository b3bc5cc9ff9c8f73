"""Locks: one process at a time, one run a folder."""

import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from weakref import WeakSet

from linf.errors import UsageError
from linf.files import UNSUPPORTED, folder_errors

log = logging.getLogger(__name__)

LOCK = ".lock"
"""The name of the file in a run's folder that the run locks while it lives, and that says who it is."""


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file during the block, after waiting for any other process or thread that holds it, or raising
    BlockingIOError unless ``wait``. It ends with the process, whatever ends that, and holds across machines by NFS. On
    a file system without locks there is one warning, nobody is waited for, and the block is given False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        _lock_files.add(file)
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            held = False
            _warn_without_locks(path.parent, error)
        yield held


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file that any user of this machine may lock, without waiting; return it open, since closing it unlocks it,
    or None if it is locked already.
    """
    # Opened for reading, which another user's file allows; a lock needs no more. O_CREAT is denied on such a file in
    # a folder like /tmp, see fs.protected_regular.
    try:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
            os.fchmod(descriptor, 0o644)  # Whatever the umask.
    except PermissionError:  # Another user's, perhaps of just now.
        return None
    file = os.fdopen(descriptor)
    _lock_files.add(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


_lock_files = WeakSet[IO[str]]()
# Files that this process has locked. One that it forks lets go of them, or they would be locked until its end.
os.register_at_fork(after_in_child=lambda: [file.close() for file in list(_lock_files)])


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Own a run's folder during the block. Without locks on its file system there is a warning, and it counts as free.

    Raises:
        UsageError: Another run on any machine owns the folder, or it cannot be written to.
    """
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+")  # noqa: SIM115
    with file:
        locks, tries = True, 5
        try:
            while not _acquire(file, fcntl.LOCK_EX):
                if not (tries := tries - 1):
                    other = "wait for it, or choose another folder with hydra.run.dir=…"
                    raise UsageError(f"{folder} is in use by {_holder(file)}: {other}")
                time.sleep(0.05)  # It may be another process's `owner` that asks.
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            locks = False
            _warn_without_locks(folder, error)
        file.truncate(0)
        slurm = f" (Slurm job {job})" if (job := os.environ.get("SLURM_JOB_ID")) else ""
        place = os.path.realpath(folder)
        _owned[place] = f"process {os.getpid()} on {socket.gethostname()}{slurm}"
        with suppress(OSError):  # A full disk is told where the run writes what it cannot do without.
            os.write(file.fileno(), _owned[place].encode())
        try:
            yield
        finally:
            del _owned[place]
            if not locks:  # Only its text then tells that the folder is owned.
                file.truncate(0)


_owned: dict[str, str] = {}
# The folders of this process, and what it wrote there. Opened and closed once more, a file would lose its lock.


def owner(folder: Path) -> str | None:
    """Return which process owns a run's folder, as `run_lock` describes it, or None if none does.

    Where that cannot be found out, the process that was last there is taken to run still, unless it was one of this
    machine and has ended.
    """
    if (place := os.path.realpath(folder)) in _owned:
        return _owned[place]
    try:
        with open(folder / LOCK) as file:
            try:
                return None if _acquire(file, fcntl.LOCK_SH) else _holder(file)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                text = file.read()
    except FileNotFoundError:
        return None
    except PermissionError:
        return "another user's run"
    last = re.match(r"process (\d+) on (\S+)", text)
    if last and last[2] == socket.gethostname() and not _is_alive(int(last[1])):
        return None
    return text or None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # It is another user's.
    return True


def _acquire(file: IO[str], kind: int) -> bool:
    try:
        # Unlike flock's, this kind of lock is not inherited by forked data loading processes.
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another run"


def _warn_without_locks(folder: Path, error: OSError) -> None:
    if (device := os.stat(folder).st_dev) not in _without_locks:
        _without_locks.add(device)
        message = "the file system of %s has no locks (%s): let no other command write there"
        log.warning(message, folder, error.strerror)


_without_locks: set[int] = set()  # The file systems of which this process has warned.
