"""The open tabs of the page, what is being made for each, and what is said there of what its user can mend."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gradio as gr

from linf.demo.progress import Cancelled, Progress
from linf.demo.session import Session
from linf.demo.shown import Shown
from linf.errors import find_mistake, message
from linf.machine import is_shortage

MAX_SESSIONS = 4
"""Number of tabs whose images are kept, the most recent ones; each takes up to 700 MB and its image."""

NO_IMAGE = f"There is no image, or not any more: the last {MAX_SESSIONS} tabs are kept. Drop one on the page."


class Answer(NamedTuple):
    """What an event changes on the page; the rest stays."""

    upload: Any = gr.skip()
    view: Any = gr.skip()
    caption: Any = gr.skip()
    canvas: Any = gr.skip()
    heat: Any = gr.skip()
    temperature: Any = gr.skip()
    consistent: Any = gr.skip()
    correlated: Any = gr.skip()


class Tab(NamedTuple):
    """An open tab: its image, and the files that it shows."""

    session: Session
    shown: Shown


class Tabs:
    """The tabs with an image, by what Gradio calls them."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Tab] = OrderedDict()
        self.dropped: set[str] = set()
        self.stops: defaultdict[str, threading.Event] = defaultdict(threading.Event)

    def find(self, request: gr.Request) -> Tab | None:
        """The tab of a request, if it has an image."""
        return self.kept.get(str(request.session_hash))

    def current(self, request: gr.Request) -> Tab:
        """The same, from now on the most recent one; an error on the page if it has no image."""
        key = str(request.session_hash)
        if key not in self.kept:
            raise gr.Error(NO_IMAGE, print_exception=False)
        self.kept.move_to_end(key)
        return self.kept[key]

    def keep(self, request: gr.Request, tab: Tab) -> None:
        """Give a tab an image; the oldest tab loses its own where there are too many."""
        key = str(request.session_hash)
        self.kept[key] = tab
        self.kept.move_to_end(key)
        self.dropped.discard(key)
        while len(self.kept) > MAX_SESSIONS:
            self.dropped.add(self.kept.popitem(last=False)[0])

    def lost(self, request: gr.Request) -> bool:
        """Whether a tab has lost its image to newer ones, which is said once."""
        key = str(request.session_hash)
        if key not in self.dropped:
            return False
        self.dropped.remove(key)
        return True

    def ask(self, request: gr.Request) -> None:
        """Handle a wish for long work, for which no cancel before is meant."""
        self.stops[str(request.session_hash)].clear()

    def cancel(self, request: gr.Request) -> None:
        """Give up what is being made for a tab, or what waits for its turn."""
        self.stops[str(request.session_hash)].set()

    def close(self, request: gr.Request) -> None:
        """Handle a tab that was closed: nothing of it is kept, and nothing made for it any longer."""
        self.cancel(request)
        self.kept.pop(str(request.session_hash), None)
        self.dropped.discard(str(request.session_hash))

    @contextmanager
    def work(self, request: gr.Request, report: gr.Progress, what: str) -> Iterator[Progress]:
        """Long work for a tab, which ends early where it is cancelled, or was while it waited."""
        stop = self.stops[str(request.session_hash)]
        try:
            with errors_on_page():
                yield Progress(report, stop, what)
        except Cancelled:
            pass
        finally:
            stop.clear()


@contextmanager
def errors_on_page() -> Iterator[None]:
    """Show on the page what a user can mend, without a traceback on the terminal."""
    try:
        yield
    except (gr.Error, Cancelled):
        raise
    except Exception as error:
        if is_shortage(error):
            small = "Memory is too small for it: choose a smaller scale, or close other tabs."
            raise gr.Error(small, print_exception=False) from error
        mistake = find_mistake(error)
        raise gr.Error(message(mistake or error), print_exception=mistake is None) from error
