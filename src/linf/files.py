"""Files that are whole or not there, and folders that belong to one run at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from linf.errors import UsageError

LOCK = ".lock"
"""In a run's folder: held while the run lives, whatever kills it, and says who holds it."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write to: what was written takes its place at the end, or is gone where that failed.

    Whatever happens in between, a reader finds the old file or the new one; also after the power went.

    Raises:
        OSError: of the writing, such as a full disk.
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
    """Remove what a kill left half written of `atomic_write` a path, for whoever is sure that nobody else is at it."""
    for part in path.parent.glob(f".{path.name}.*"):
        part.unlink()


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Be the one run in a folder; UsageError where another one lives there, on this machine or, by NFS, on another."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as file:
        if not _lock(file):
            raise UsageError(
                f"{folder} is in use by {_told(file)}: wait for it, or choose another folder with hydra.run.dir=…"
            )
        file.truncate(0)
        file.write(_oneself())
        file.flush()
        yield


def owner(folder: Path) -> str | None:
    """Who runs in a folder, in words; None if nobody does."""
    try:
        with open(folder / LOCK) as file:
            return None if _lock(file, fcntl.LOCK_SH) else _told(file)
    except FileNotFoundError:
        return None


def _lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        # Unlike flock's, this kind of lock does not live on in forked loading processes.
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _told(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another run"


def _oneself() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (f" (Slurm job {job})" if job else "")
