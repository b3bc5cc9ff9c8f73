"""How far long work is: a share, the time left in words, and an end when its user gives it up or closes the tab."""

import math
import threading
import time
from collections.abc import Callable

REPORTED = 0.1
"""Seconds between two reports, at least."""


class Cancelled(Exception):
    """The user gave the work up."""


class Progress:
    """Progress of one piece of work.

    Args:
        report: is called with the share done and what to say of it.
        stop: set when the work is to end; whoever reports next raises `Cancelled`.
        what: the work, such as "Enlarging".
    """

    def __init__(self, report: Callable[[float, str], object], stop: threading.Event, what: str) -> None:
        self.report, self.stop, self.what = report, stop, what
        self.start, self.last = time.monotonic(), -math.inf
        report(0, what)

    def __call__(self, done: float) -> None:
        """Report the share done, from 0 to 1; raise `Cancelled` where the work was given up."""
        if self.stop.is_set():
            raise Cancelled
        now = time.monotonic()
        if now - self.last >= REPORTED:
            self.last = now
            self.report(done, self.what + time_left(now - self.start, done))


def time_left(spent: float, done: float) -> str:
    """How long the rest of some work takes, given the seconds spent and the share done: ", 12 s left"."""
    if done <= 0.01 or spent < 0.5:
        return ""
    left = spent * (1 - done) / done
    return f", {math.ceil(left)} s left" if left < 99.5 else f", {math.ceil(left / 60)} min left"
