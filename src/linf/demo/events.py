"""What the page of `linf demo` does on each event, for whichever tab it comes from."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from linf.demo.session import Enlargement, Session
from linf.errors import UsageError
from linf.images.read import read_photo
from linf.models.linf import LINF
from linf.upscale.heat_map import heat_map

SCALES = (1, 8)

MAX_SESSIONS = 4
"""Number of tabs whose images are kept, the most recent ones; each takes up to 200 MB and its image."""

NO_IMAGE = f"There is no image, or not any more: the last {MAX_SESSIONS} tabs are kept. Drop one on the page."

CLOSE_UP, WHOLE_IMAGE = "Close-up", "Whole"

# Gradio passes its own progress bar to each handler that has this default.
PROGRESS = gr.Progress()


class Events:
    """The handlers of the page's events, with one session for each open tab; the model enlarges the images."""

    def __init__(self, model: LINF) -> None:
        self.model = model
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.dropped: set[str] = set()

    def open_image(
        self,
        upload: dict[str, Any] | None,
        scale: float | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        """Handle an image that was dropped or removed; return image, caption, canvas, map and temperature."""
        key, scale, path = str(request.session_hash), _clamp(scale), Path(upload["path"]) if upload else None
        known = self.sessions.get(key)
        # A browser may report an image twice.
        if path is None or (known and (known.source, known.enlargement.scale) == (path, scale)):
            return (gr.skip(),) * 5
        try:
            session = Session(read_photo(path), path)
        except UsageError as error:
            gr.Warning(f"{path.name}: {error}. Choose another image.", duration=30)
            return None, *(gr.skip(),) * 4
        made = self._enlarge(session, progress, scale, (session.size[0] / 2, session.size[1] / 2))
        self.sessions[key] = session
        self.dropped.discard(key)
        while len(self.sessions) > MAX_SESSIONS:
            self.dropped.add(self.sessions.popitem(last=False)[0])
        return gr.skip(), *made, session.temperature if session.unlike else gr.skip()

    def rescale(
        self, scale: float | None, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> tuple[Any, ...]:
        """Handle another scale; return caption, canvas and map."""
        session, now = self._current(request)
        return self._enlarge(session, progress, _clamp(scale), now.point, now.seed)

    def move(
        self, clicked: gr.SelectData, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> tuple[Any, ...]:
        """Handle a click on the image, which moves the close-up; return view, caption, canvas and map."""
        session, now = self._current(request)
        point = clicked.index[1], clicked.index[0]
        if all(s.start <= p <= s.stop for p, s in zip(point, now.part, strict=True)):
            now.point = point
            return CLOSE_UP, *(gr.skip(),) * 3
        return CLOSE_UP, *self._enlarge(session, progress, now.scale, point, now.seed)

    def resample(self, request: gr.Request, progress: gr.Progress = PROGRESS) -> str:
        """Draw another sample; return the caption."""
        session, before = self._current(request)
        caption = self._enlarge(session, progress, before.scale, before.point, before.seed + 1)[0]
        session.enlargement.region = before.region
        return caption

    def paint(self, canvas: dict[str, Any] | None, request: gr.Request) -> None:
        """Handle a region that was painted or erased."""
        _, now = self._current(request)
        ink = next((layer.getchannel("A") for layer in (canvas or {}).get("layers", [])), None)
        now.region = now.mixture.region(ink) if ink is not None and ink.getbbox() else None

    def mix(self, temperature: float, region_temperature: float, view: str, request: gr.Request) -> Any:
        """Handle a move of a temperature; return the files on both sides of the divider."""
        key = str(request.session_hash)
        if key in self.dropped:
            self.dropped.remove(key)
            gr.Warning(NO_IMAGE)
        if key not in self.sessions:
            return gr.skip()
        return self._current(request)[0].comparison(temperature, region_temperature, view == CLOSE_UP)

    def measure(self, request: gr.Request, progress: gr.Progress = PROGRESS) -> Path:
        """Return the file of the map of uncertainty."""
        session, now = self._current(request)
        with _errors_on_page():
            deviation = now.mixture.deviation(self.model, lambda done: progress(done, "Measuring"))
        path = Path(session.folder.name, f"uncertainty-{now.scale:g}.png")
        heat_map(deviation).save(path)
        return path

    def save(self, temperature: float, region_temperature: float, request: gr.Request) -> Path:
        """Return the image as a lossless file to download."""
        session, now = self._current(request)
        name = f"{session.source.stem}_x{now.scale:g}_t{temperature:g}.png"
        return session.write(now.mixed(temperature, region_temperature), name)

    def _enlarge(
        self,
        session: Session,
        progress: gr.Progress,
        scale: float,
        point: tuple[float, float],
        seed: int = 0,
    ) -> tuple[Any, ...]:
        """Enlarge, and return the caption, an empty canvas and no map."""
        progress(0, "Enlarging")
        with _errors_on_page():
            session.enlarge(self.model, scale, point, seed, lambda done: progress(done, "Enlarging"))
        canvas = session.preview(session.enlargement.mixture.lr, "canvas")
        return session.caption(), {"background": str(canvas), "layers": [], "composite": None}, None

    def _current(self, request: gr.Request) -> tuple[Session, Enlargement]:
        key = str(request.session_hash)
        if key not in self.sessions:
            raise gr.Error(NO_IMAGE, print_exception=False)
        self.sessions.move_to_end(key)
        return self.sessions[key], self.sessions[key].enlargement


def _clamp(scale: float | None) -> float:
    """The scale on the slider for what was typed beside it."""
    return min(max(scale or 0, SCALES[0]), SCALES[1])


@contextmanager
def _errors_on_page() -> Iterator[None]:
    """Show a user's error on the page."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=not isinstance(error, UsageError)) from error
