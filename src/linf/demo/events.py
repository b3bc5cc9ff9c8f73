"""What the page of `linf demo` does on each event, for whichever tab it comes from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from linf.demo.mixture import Advance, device_of
from linf.demo.session import Session
from linf.demo.shown import BY_BICUBIC, BY_MEAN, Shown
from linf.demo.tabs import NO_IMAGE, Answer, Tab, Tabs, errors_on_page
from linf.errors import UsageError
from linf.images.read import read_photo
from linf.models.linf import LINF
from linf.models.super_resolver import SuperResolver
from linf.upscale.heat_map import heat_map

SCALES = (1, 8)

CLOSE_UP, WHOLE_IMAGE = "Close-up", "Whole image"

# Gradio passes its own progress bar to each handler that has this default.
PROGRESS = gr.Progress()


class Events:
    """The handlers of the page's events.

    Args:
        model: enlarges the images.
        others: what loads other models to compare with, by their names.
    """

    def __init__(self, model: LINF, others: Mapping[str, Callable[[], SuperResolver]] | None = None) -> None:
        self.model, self.others = model, dict(others or {})
        self.loaded: dict[str, SuperResolver] = {}
        self.tabs = Tabs()

    def open_image(
        self,
        upload: dict[str, Any] | None,
        scale: float | None,
        against: str,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Answer:
        """Handle an image that was dropped, chosen or removed: show its most detailed part close up."""
        path, known = Path(upload["path"]) if upload else None, self.tabs.find(request)
        # A browser may report an image twice, and reports what the page itself shows.
        if path is None or (known and (known.session.source == path or known.shown.owns(path))):
            return Answer()
        with self.tabs.work(request, progress, "Enlarging") as advance:
            try:
                session = Session(self.model, read_photo(path), path, _clamped(scale))
            except UsageError as error:
                gr.Warning(f"{path.name}: {error}. Choose another image.", duration=30)
                return Answer(known.shown.framed(False) if known else None)
            session.guard()
            if known:
                session.latents = known.session.latents
            self._make(session, False, against, advance)
            tab = Tab(session, Shown(session))
            self.tabs.keep(request, tab)
            unlike = session.temperature if session.unlike else gr.skip()
            answer = self._answer(tab, False)._replace(temperature=unlike, consistent=False)
            return answer._replace(correlated=session.latents == "correlated")
        return Answer(known.shown.framed(False) if known else None)

    def rescale(
        self, scale: float | None, against: str, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> Answer:
        """Handle another scale: show it close up."""
        tab = self.tabs.find(request)
        if tab is None:
            return Answer()
        tab.session.rescale(_clamped(scale))
        return self.look(CLOSE_UP, against, 0, 0, request, progress)

    def move(
        self, clicked: gr.SelectData, against: str, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> Answer:
        """Handle a click on the image, which moves the close-up."""
        tab = self.tabs.current(request)
        tab.session.point = tab.shown.point_of(clicked.index)
        return self.look(CLOSE_UP, against, 0, 0, request, progress)

    def resample(
        self,
        view: str,
        against: str,
        temperature: float,
        within: float,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Answer:
        """Draw another sample."""
        self.tabs.current(request).session.seed += 1
        return self.look(view, against, temperature, within, request, progress)

    def correlate(
        self,
        correlated: bool,
        view: str,
        against: str,
        temperature: float,
        within: float,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Answer:
        """Draw the latents of neighbouring patches together, or each by itself."""
        self.tabs.current(request).session.latents = "correlated" if correlated else "independent"
        return self.look(view, against, temperature, within, request, progress)

    def agree(
        self,
        consistent: bool,
        view: str,
        against: str,
        temperature: float,
        within: float,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Answer:
        """Make the result, downscaled, the image again, or leave it as the model makes it."""
        tab = self.tabs.find(request)
        if tab is None:
            return Answer()
        try:
            tab.session.agree(consistent)
        except UsageError as error:
            gr.Warning(
                str(error).replace("--consistent", "consistency").split(": leave")[0] + ".", duration=30
            )
            return Answer(consistent=False)
        return self.look(view, against, temperature, within, request, progress)

    def look(
        self,
        view: str,
        against: str,
        temperature: float,
        within: float,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Answer:
        """Show the close-up or all of the image, compared with something else; make what is not there."""
        tab, whole = self.tabs.current(request), view == WHOLE_IMAGE
        with self.tabs.work(request, progress, "Enlarging") as advance:
            self._make(tab.session, whole, against, advance, (temperature, within))
            return self._answer(tab, whole)
        tab.session.make(False)  # Given up, and back to what is soon there.
        return self._answer(tab, False)

    def enlarge_all(
        self,
        against: str,
        temperature: float,
        within: float,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> Answer:
        """Enlarge all of the image, and show it; a large one anew."""
        self.tabs.current(request).session.fixed = None
        return self.look(WHOLE_IMAGE, against, temperature, within, request, progress)

    def paint(self, canvas: dict[str, Any] | None, view: str, request: gr.Request) -> None:
        """Handle a region that was painted or erased."""
        ink = next((layer.getchannel("A") for layer in (canvas or {}).get("layers", [])), None)
        session = self.tabs.current(request).session
        session.paint(ink, view == WHOLE_IMAGE)

    def mix(
        self, temperature: float, within: float, view: str, against: str, outlined: bool, request: gr.Request
    ) -> tuple[Any, Any]:
        """Show what was made at some temperatures: the files on both sides of the divider, and what they are."""
        if self.tabs.lost(request):
            gr.Warning(NO_IMAGE)
        if self.tabs.find(request) is None:
            return gr.skip(), gr.skip()
        shown, whole = self.tabs.current(request).shown, view == WHOLE_IMAGE
        model = self.loaded.get(against)
        files = shown.comparison(whole, temperature, within, against, outlined, model)
        if files is None:
            return gr.skip(), gr.skip()
        return files, shown.labels(whole, temperature, against)

    def measure(self, view: str, request: gr.Request, progress: gr.Progress = PROGRESS) -> Any:
        """Return the file of the map of uncertainty."""
        tab = self.tabs.current(request)
        with self.tabs.work(request, progress, "Measuring") as advance:
            mixture = tab.session.make(self._kept(tab, view), advance=advance)
            path = tab.shown.path("uncertainty", "png")
            heat_map(mixture.deviation(advance)).save(path)
            return path
        return gr.skip()

    def save_map(self, view: str, request: gr.Request, progress: gr.Progress = PROGRESS) -> Any:
        """Return the deviation as a file to download."""
        tab = self.tabs.current(request)
        with self.tabs.work(request, progress, "Measuring") as advance:
            whole = self._kept(tab, view)
            return tab.shown.deviation(whole, tab.session.make(whole, advance=advance).deviation(advance))
        return gr.skip()

    def save(self, temperature: float, within: float, view: str, request: gr.Request) -> Path:
        """Return the image that is shown as a lossless file to download."""
        with errors_on_page():
            return self.tabs.current(request).shown.download(view == WHOLE_IMAGE, temperature, within)

    def _make(
        self,
        session: Session,
        whole: bool,
        against: str,
        advance: Advance,
        at: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Make what a view shows unless it is there, and what another model makes of it if that is compared with."""
        if whole and not session.keeps_whole():
            if session.fixed is None or session.fixed.sample != (session.seed, session.latents):
                session.make_fixed(*at, advance)
            return
        session.make(whole, advance=advance)
        if against in (BY_BICUBIC, BY_MEAN):
            return
        if against not in self.loaded:
            self.loaded[against] = self.others[against]().to(device_of(self.model))
        session.make(whole, self.loaded[against], advance)

    def _kept(self, tab: Tab, view: str) -> bool:
        """Whether a view is of all of an image that is kept; of others the close-up is measured."""
        return view == WHOLE_IMAGE and tab.session.keeps_whole()

    def _answer(self, tab: Tab, whole: bool) -> Answer:
        """Show a view; where it is of another part than before, with an empty map."""
        shown = tab.shown
        view, caption = WHOLE_IMAGE if whole else CLOSE_UP, shown.caption(whole)
        if not shown.turns_to(whole):
            return Answer(view=view, caption=caption)
        return Answer(shown.framed(whole), view, caption, shown.canvas(whole), None)


def _clamped(scale: float | None) -> float:
    """The scale on the slider for what was typed beside it."""
    taken = min(max(scale or 0, SCALES[0]), SCALES[1])
    if scale is not None and taken != scale:
        gr.Warning(f"Scale {scale:g} is not from {SCALES[0]} to {SCALES[1]}: {taken:g} is taken.")
    return taken
