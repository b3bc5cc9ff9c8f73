"""Files that are written whole or not at all, and locks: one process at a time, one run per folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from linf.errors import UsageError

LOCK = ".lock"
"""The name of the file in a run's folder that the run locks while it lives, and that says who it is."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what the block writes there replaces ``path`` at its end.

    If the block fails the temporary file is removed. A reader always finds the old file or the new one, even after a
    power failure.

    Raises:
        OSError: Writing failed, for instance because the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove the temporary files that killed processes left of `atomic_write`; no other process may be writing."""
    for part in path.parent.glob(f".{path.name}.*"):
        part.unlink()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file during the block, after waiting for any other process or thread that holds it.

    The lock ends with the process, whatever ends that, and holds across machines that share the folder by NFS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Own a run's folder during the block; raise UsageError if another run on any machine owns it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as file:
        if not _acquire(file, fcntl.LOCK_EX):
            raise UsageError(
                f"{folder} is in use by {_holder(file)}: wait for it, or choose another folder with hydra.run.dir=…"
            )
        file.truncate(0)
        job = os.environ.get("SLURM_JOB_ID")
        slurm = f" (Slurm job {job})" if job else ""
        file.write(f"process {os.getpid()} on {socket.gethostname()}{slurm}")
        file.flush()
        yield


def owner(folder: Path) -> str | None:
    """Return which process owns a run's folder, as `run_lock` describes it, or None if none does."""
    try:
        with open(folder / LOCK) as file:
            return None if _acquire(file, fcntl.LOCK_SH) else _holder(file)
    except FileNotFoundError:
        return None


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
