"""Files that are written whole or not at all, caches, and locks: one process at a time, one run a folder."""

import errno
import fcntl
import logging
import os
import re
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from weakref import WeakSet

from linf.errors import DISK_FULL, UsageError

log = logging.getLogger(__name__)

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""How file systems without locks, or without a flush to the disk, answer the call for one."""

LOCK = ".lock"
"""The name of the file in a run's folder that the run locks while it lives, and that says who it is."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what the block writes there replaces ``path`` at its end.

    If the block fails the temporary file is removed. A reader always finds the old file or the new one, even after a
    power failure.

    Raises:
        OSError: Writing failed, for instance because the disk is full; it names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by the process's number, which one on another machine may have, too.
    part = path.with_name(f"{_hidden(path)}{secrets.token_hex(4)}")
    try:
        yield part
        with open(part, "rb+") as file:
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
        os.replace(part, path)
    except OSError as error:
        if error.errno in DISK_FULL or (error.errno and error.filename in (None, part, str(part))):
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def _hidden(path: Path) -> str:
    """Return how the names of a file's temporary files begin, short enough that a whole one has at most 255 bytes."""
    return f".{os.fsencode(path.name)[:180].decode(errors='ignore')}."


def search_working_folder() -> None:
    """Let modules in the folder where the command was started be imported, after all others."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def expand_home(text: str) -> str:
    """Return text with ``~`` and ``~user`` as the home folder wherever a path may begin: ``--out=~/x``, ``[~/x,~/y]``.

    Raises:
        UsageError: There is a ``~``, but the user has no home.
    """

    def home(found: re.Match[str]) -> str:
        path = os.path.expanduser(found[0])
        if path == found[0] == "~":
            raise UsageError(f"{text} has a ~, but this user has no home: give the whole path, or set HOME")
        return path

    return re.sub(r"""(?<![^=\[{,:\s'"])~[\w.-]*(?=/)|(?<=file://)~(?=/)|(?<![^=])~$""", home, text)


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of decoded images and fetched weights: a given one, ``$LINF_CACHE`` or ``~/.cache/linf``.

    A process of no user, as in some containers, has no home; it gets `temporary_cache`.
    """
    try:
        return Path(given or os.environ.get("LINF_CACHE") or "~/.cache/linf").expanduser()
    except RuntimeError:
        return temporary_cache()


def temporary_cache() -> Path:
    """Return a cache folder for where no other can be used, one for all processes of this user until the next boot.

    Raises:
        UsageError: Another user has made a folder of its name.
    """
    folder = Path(tempfile.gettempdir()) / f"linf-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UsageError(
            f"{folder} is another user's: choose a folder with the environment variable LINF_CACHE"
        )
    return folder


def clear(path: Path) -> None:
    """Remove the temporary files that killed processes left of `atomic_write`; no other process may be writing."""
    for part in path.parent.glob(f"{_hidden(path)}*"):
        part.unlink()


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file during the block, after waiting for any other process or thread that holds it, or raising
    BlockingIOError unless ``wait``. It ends with the process, whatever ends that, and holds across machines by NFS. On
    a file system without locks there is one warning, nobody is waited for, and the block is given False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        lock_files.add(file)
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            held = False
            _warn_without_locks(path.parent, error)
        yield held


lock_files = WeakSet[IO[str]]()
"""Files that this process has locked. One that it forks lets go of them, or they would be locked until its end."""
os.register_at_fork(after_in_child=lambda: [file.close() for file in list(lock_files)])


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Own a run's folder during the block. Without locks on its file system there is a warning, and it counts as free.

    Raises:
        UsageError: Another run on any machine owns the folder, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+")  # noqa: SIM115
    except OSError as error:
        raise UsageError(unwritable(folder, error)) from error
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


def unwritable(folder: Path, error: OSError, setting: str = "hydra.run.dir") -> str:
    """Return a message about a run's folder that cannot be written to, with the setting that chooses another."""
    reason = "it is a file" if folder.is_file() else error.strerror or error
    then = "free some space, or choose" if error.errno in DISK_FULL else "choose"
    return f"cannot write to {folder}: {reason}; {then} another folder with {setting}=…"


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
