"""Files that are written whole or not at all, and the folders in which they lie."""

import errno
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linf.errors import DISK_FULL, UsageError

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""How file systems without locks, or without a flush to the disk, answer the call for one."""


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
def file_errors(problem: str, remedy: str = "") -> Iterator[None]:
    """Raise UsageError where files fail the block: the problem, such as ``cannot write x``, the reason and a remedy."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{problem}: {error.strerror or error}" + f"; {remedy}" * bool(remedy)) from error


@contextmanager
def folder_errors(folder: Path, setting: str = "hydra.run.dir") -> Iterator[None]:
    """Raise UsageError where a run's folder cannot be written to, with the setting that chooses another."""
    try:
        yield
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror or error
        then = "free some space, or choose" if error.errno in DISK_FULL else "choose"
        raise UsageError(
            f"cannot write to {folder}: {reason}; {then} another folder with {setting}=…"
        ) from error
