"""The ends of a program that does not finish: a user's mistake, a signal, a rank that failed."""

import dis
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""The signals that end a run after its current step, with a checkpoint. A terminal that closes sends the last."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

DENIED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
"""The errors of a file or folder that is another user's, read-only, or not what its place asks for."""


class UsageError(ValueError):
    """A mistake that the user can correct: the message says what was given, what is allowed and what to do."""


class Stopped(SystemExit):
    """A signal ended the program in good order; the status is 128 + signal, as shells report it.

    The user reads ``where`` the program stopped after "stopped by SIGTERM"; ``folder`` is the run's, if it is known.
    """

    def __init__(self, signum: int, where: str = "", folder: str | None = None) -> None:
        super().__init__(128 + signum)
        self.signum, self.where, self.folder = signal.Signals(signum), where, folder


def raise_stopped(signum: int, _: object) -> NoReturn:
    """Handle a signal by ending what is not in the middle of a step, so that it removes what it has half written."""
    raise Stopped(signum)


class Mistake(SystemExit):
    """A user's mistake on its way past Hydra, which would report an ordinary exception as an error of the job."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(2)
        self.error = error


class RankFailed(RuntimeError):
    """A rank ended without finishing, and not through a mistake of the user's."""


def check_distinct(name: str, values: Sequence[object]) -> None:
    """Raise UsageError if two of some numbers are equal or print alike: tables and files are named after them."""
    printed: dict[str, object] = {}
    for value in values:
        text = f"{value:g}" if isinstance(value, int | float) else str(value)
        if text in printed:
            same = "is given twice" if printed[text] == value else f"prints as {printed[text]!r} does"
            raise UsageError(
                f"{name} is {list(values)}: {value!r} {same}; give each only once, apart in six digits"
            )
        printed[text] = value


def check_least(name: str, value: float | None, least: int) -> None:
    """Raise UsageError if a setting is below its least value; None stands for no value."""
    if value is not None and value < least:
        raise UsageError(f"{name} is {value}: give a whole number of at least {least}")


def shorten(names: Sequence[object], most: int = 5) -> str:
    """The first ``most`` names separated by commas, and the number of the others."""
    shown = ", ".join(map(str, names[:most])) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def find_mistake(error: BaseException) -> BaseException | None:
    """Return the user's mistake in an error's chain of causes, or None if there is none.

    A `UsageError` is one, and so are a ValueError that the torch core raised, a full disk, a file or folder that
    is denied, and the errors of Hydra, OmegaConf, Lightning and W&B about settings. A ValueError raised inside torch
    or NumPy is a defect.
    """
    chain = list(causes(error))
    for found in chain:
        # W&B's error about a missing account has the same name as ours.
        named = type(found).__name__ in ("UsageError", "MisconfigurationException")
        if named or _raised_by_core(found):
            return found
    # A denied file that is only a context is one that a library went on without.
    files = [*filter(_is_full, chain), *filter(_is_denied, causes(error, implied=False))]
    library = type(error).__module__.partition(".")[0]
    return next(iter(files), error if library in ("hydra", "omegaconf") else None)


def causes(error: BaseException | None, implied: bool = True) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on; ``implied`` are those that no ``from`` names."""
    while error is not None:
        yield error
        error = error.__cause__ or (error.__context__ if implied else None)


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL


def _is_denied(error: BaseException) -> bool:
    # Without a file's name it is something else, a signal or a socket for example.
    return isinstance(error, OSError) and error.errno in DENIED and bool(error.filename)


def _raised_by_core(error: BaseException) -> bool:
    """Tell whether the torch core raised a plain ValueError, which it does for what a user got wrong."""
    last = error.__traceback__
    if not isinstance(error, ValueError) or last is None:
        return False
    while last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "")
    # An error from C code has no frame of its own, so the frame that called it does not stand at a raise.
    raised = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    package, name = f"{module}.".split(".")[:2]
    return raised and package == "linf" and name in ("models", "losses", "metrics", "coordinates")


def message(error: BaseException) -> str:
    """Return an error's message as one line."""
    if isinstance(error, OSError) and _is_full(error):
        return f"cannot write {error.filename or 'a file'}: {error.strerror}; files written before are intact"
    if isinstance(error, OSError) and _is_denied(error):
        path = error.filename if error.filename2 is None else error.filename2
        return f"cannot use {os.fsdecode(path)}: {error.strerror}; choose another, or change its permissions"
    return " ".join(str(error).split())


def end(error: BaseException | str, status: int = 2) -> NoReturn:
    """End the program with a status and one line on stderr."""
    print(f"error: {message(error) if isinstance(error, BaseException) else error}", file=sys.stderr)
    raise SystemExit(status)


@contextmanager
def stop_signals_to(handler: Callable[[int, object], None] = raise_stopped) -> Iterator[None]:
    """Send `STOP_SIGNALS` to a handler during the block, but for those that are ignored, as ``nohup`` does; in a thread
    other than the main one, change nothing. A handler that another took the place of during the block stays away:
    Lightning puts back those of before the training, before its callbacks are told that it has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, handler) for signum in heeded}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            if signal.getsignal(signum) == handler:
                signal.signal(signum, signal.SIG_DFL if earlier is None else earlier)
