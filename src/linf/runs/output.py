"""Printing that costs no work: a stream that cannot take a text loses the text, and the command goes on."""

import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast


class _Patient:
    """A text stream whose ``write`` and ``flush`` never fail. After the first failure it writes to nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failed: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self._give_up(error)
        except UnicodeError:  # The stream is of a kind that cannot be told how to write other characters.
            self.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self.failed is not None:
            return
        self.failed = error
        # What is still in buffers, and what processes started from here print, goes there too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)
        if error.errno != errno.EPIPE and self is sys.stdout:
            print(f"cannot print to stdout: {error.strerror}; the command goes on", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def use_utf8() -> None:
    """Begin the command again in Python's UTF-8 mode, unless it writes and names files in UTF-8 already.

    In the locale ``en_US``, for example, no file could have a τ in its name. What is printed stays in the locale's
    encoding.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.environ["PYTHONUTF8"] = "1"  # For the processes that this one starts.
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def protect_output() -> None:
    """Let nothing that is printed from now on end the command.

    Characters that a stream's encoding lacks are written as Python's escapes. What a closed pipe or a full disk does
    not take is lost; a full disk is told on stderr, once.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # Closed by the caller; the next file opened would take its place.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Patient):
            setattr(sys, name, cast(TextIO, _Patient(stream)))


def lost_output() -> OSError | None:
    """Return why stdout lost some of what was printed, or None if it did not or its reader had seen enough."""
    sys.stdout.flush()
    failed = getattr(sys.stdout, "failed", None)
    return None if failed is None or failed.errno == errno.EPIPE else failed
