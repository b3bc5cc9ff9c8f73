"""The page itself: what stands where, and what happens when something is moved."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from linf.data.sources import bundled
from linf.demo.mixture import HIGHEST
from linf.demo.session import Visitor
from linf.errors import UsageError
from linf.images.read import read_photo
from linf.models.linf import LINF
from linf.upscale.heat_map import heat_map

SCALES = (1, 8)

VISITORS = 4
"""Open tabs whose images are kept, the last ones: each takes up to 200 MB and its image."""

NO_IMAGE = (
    f"There is no image, or no longer: those of the last {VISITORS} tabs are kept. Drop one on the page."
)

ABOUT = """# One small image, many large ones
A small image does not say what its lost detail looked like. [LINF](https://arxiv.org/abs/2303.05156) predicts, at any
scale, how all large images that fit it are distributed: a mean, and the texture around it. **Temperature** is how
much of the texture is added. At 0 you see the mean: smooth, and on average closest to the truth. Further up there is
more detail that *could* have been there, and less certainty that it was."""

CLOSE_UP, ALL = "Close-up", "Whole"
REGION = "Paint over what is to have a temperature of its own, such as hair, grass or a wall."
MAP = "Bright is where the large image could have looked otherwise: edges and texture. It takes as long as enlarging."

CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto}
#compare::before, #compare::after {position: absolute; bottom: 8px; z-index: 15; padding: 2px 8px; border-radius: 4px;
  font-size: 13px; color: white; background: rgba(0, 0, 0, 0.6); pointer-events: none}
#compare::before {content: "Bicubic"; left: 8px}
#compare::after {content: "LINF"; right: 8px}
"""

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])

PROGRESS = gr.Progress()

# The slider tells of a value that was dragged, not of one that was typed or stepped to.
KEYS = """() => document.querySelector('#scale').addEventListener('keyup', event => {
    if (/^(Arrow|Home|End|Page|Enter)/.test(event.key))
        document.querySelector('#scale input[type=range]').dispatchEvent(new Event('pointerup', {bubbles: true}));
})"""

# A browser downloads only what is clicked, and the file is there only after a click.
FETCH = "() => setTimeout(() => document.querySelector('#fetch').click(), 100)"


class Events:
    """What happens, for whichever tab it happens in.

    Args:
        model: that enlarges.
    """

    def __init__(self, model: LINF) -> None:
        self.model = model
        self.visitors: OrderedDict[str, Visitor] = OrderedDict()
        self.let_go: set[str] = set()

    def opened(
        self,
        upload: dict[str, Any] | None,
        scale: float | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        """An image is dropped, or taken away: image, words, canvas, map."""
        key, scale, path = str(request.session_hash), clamped(scale), Path(upload["path"]) if upload else None
        known = self.visitors.get(key)
        # A browser may tell of an image twice.
        if path is None or (known and (known.source, known.now.scale) == (path, scale)):
            return (gr.skip(),) * 4
        try:
            visitor = Visitor(read_photo(path), path)
        except UsageError as error:
            gr.Warning(f"{path.name}: {error}. Choose another image.", duration=30)
            return None, *(gr.skip(),) * 3
        made = self._enlarged(visitor, progress, scale, (visitor.size[0] / 2, visitor.size[1] / 2))
        self.visitors[key] = visitor
        self.let_go.discard(key)
        while len(self.visitors) > VISITORS:
            self.let_go.add(self.visitors.popitem(last=False)[0])
        return gr.skip(), *made

    def rescaled(
        self, scale: float | None, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> tuple[Any, ...]:
        """Another scale is chosen: words, canvas, map."""
        visitor = self._visitor(request)
        return self._enlarged(visitor, progress, clamped(scale), visitor.now.point, visitor.now.seed)

    def pointed(
        self, where: gr.SelectData, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> tuple[Any, ...]:
        """Another place is chosen; beyond what is enlarged, another detail too: view, words, canvas, map."""
        visitor = self._visitor(request)
        now, point = visitor.now, (where.index[1], where.index[0])
        if all(s.start <= p <= s.stop for p, s in zip(point, now.part, strict=True)):
            now.point = point
            return CLOSE_UP, *(gr.skip(),) * 3
        return CLOSE_UP, *self._enlarged(visitor, progress, now.scale, point, now.seed)

    def redrawn(self, request: gr.Request, progress: gr.Progress = PROGRESS) -> str:
        """Another sample is asked for: words."""
        visitor = self._visitor(request)
        before = visitor.now
        self._enlarge(visitor, progress, before.scale, before.point, before.seed + 1)
        visitor.now.region = before.region
        return visitor.told()

    def painted(self, drawn: dict[str, Any] | None, request: gr.Request) -> None:
        """A region is painted, or wiped off."""
        now = self._visitor(request).now
        ink = next((layer.getchannel("A") for layer in (drawn or {}).get("layers", [])), None)
        now.region = now.mixture.region(ink) if ink is not None and ink.getbbox() else None

    def mixed(self, temperature: float, within: float, view: str, request: gr.Request) -> Any:
        """A temperature is moved: both sides of the divider."""
        key = str(request.session_hash)
        if key in self.let_go:
            self.let_go.remove(key)
            gr.Warning(NO_IMAGE)
        if key not in self.visitors:
            return gr.skip()
        return self._visitor(request).sides(temperature, within, view == CLOSE_UP)

    def mapped(self, request: gr.Request, progress: gr.Progress = PROGRESS) -> Path:
        """The map of uncertainty is asked for: its file."""
        visitor = self._visitor(request)
        with in_words():
            deviation = visitor.now.mixture.deviation(self.model, lambda done: progress(done, "Measuring"))
        path = Path(visitor.folder.name, f"uncertainty-{visitor.now.scale:g}.png")
        heat_map(deviation).save(path)
        return path

    def saved(self, temperature: float, within: float, request: gr.Request) -> Path:
        """The image is to be downloaded: its file, without loss."""
        visitor = self._visitor(request)
        now = visitor.now
        name = f"{visitor.source.stem}_x{now.scale:g}_t{temperature:g}.png"
        return visitor.saved(now.mixed(temperature, within), name)

    def _enlarged(
        self,
        visitor: Visitor,
        progress: gr.Progress,
        scale: float,
        point: tuple[float, float],
        seed: int = 0,
    ) -> tuple[Any, ...]:
        """Words, a fresh canvas and no map yet."""
        self._enlarge(visitor, progress, scale, point, seed)
        canvas = visitor.shown(visitor.now.mixture.lr, "canvas")
        return visitor.told(), {"background": str(canvas), "layers": [], "composite": None}, None

    def _enlarge(
        self,
        visitor: Visitor,
        progress: gr.Progress,
        scale: float,
        point: tuple[float, float],
        seed: int,
    ) -> None:
        progress(0, "Enlarging")
        with in_words():
            visitor.enlarge(self.model, scale, point, seed, lambda done: progress(done, "Enlarging"))

    def _visitor(self, request: gr.Request) -> Visitor:
        key = str(request.session_hash)
        if key not in self.visitors:
            raise gr.Error(NO_IMAGE, print_exception=False)
        self.visitors.move_to_end(key)
        return self.visitors[key]


def clamped(scale: float | None) -> float:
    """The scale that a slider shows for what is typed beside it."""
    return min(max(scale or 0, SCALES[0]), SCALES[1])


@contextmanager
def in_words() -> Iterator[None]:
    """A user's mistake as a message on the page."""
    try:
        yield
    except UsageError as error:
        raise gr.Error(str(error), print_exception=False) from error


def page(model: LINF) -> gr.Blocks:
    """The page of a model; `gradio.Blocks.launch` wants `THEME` and `CSS` with it."""
    events = Events(model)
    with gr.Blocks(title="LINF", analytics_enabled=False) as blocks:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                upload = gr.Image(
                    type="filepath",
                    label="Your image",
                    sources=["upload", "clipboard"],
                    image_mode=None,
                    height=280,
                    buttons=[],
                    elem_id="upload",
                )
                gr.Examples([[str(path)] for path in bundled("heldout").hr], upload, label="Or one of these")
                scale = gr.Slider(*SCALES, 3.7, step=0.1, label="Scale", buttons=[], elem_id="scale")
            with gr.Column(scale=5, min_width=300):
                with gr.Row():
                    temperature = gr.Slider(
                        0,
                        HIGHEST,
                        0.5,
                        step=0.01,
                        label="Temperature",
                        buttons=[],
                        scale=3,
                        min_width=280,
                        elem_id="temperature",
                    )
                    view = gr.Radio([CLOSE_UP, ALL], value=CLOSE_UP, label="View", scale=2, elem_id="view")
                compare = gr.ImageSlider(
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=600,
                    elem_id="compare",
                )
                told = gr.Markdown(elem_id="told")
                with gr.Row():
                    redraw = gr.Button("Another sample", min_width=120)
                    save = gr.Button("Download", variant="primary", min_width=120)
                    fetch = gr.DownloadButton(visible="hidden", elem_id="fetch")
                with gr.Accordion("A region with a temperature of its own", open=False):
                    gr.Markdown(REGION)
                    within = gr.Slider(
                        0,
                        HIGHEST,
                        1,
                        step=0.01,
                        label="Temperature in the region",
                        buttons=[],
                        elem_id="within",
                    )
                    canvas = gr.ImageEditor(
                        type="pil",
                        sources=[],
                        transforms=[],
                        layers=False,
                        buttons=[],
                        brush=gr.Brush(colors=[("#ff3b30", 0.6)], color_mode="fixed"),
                        show_label=False,
                        elem_id="canvas",
                    )
                with gr.Accordion("Where the model is uncertain", open=False):
                    gr.Markdown(MAP)
                    measure = gr.Button("Show the map")
                    heat = gr.Image(label="Uncertainty", buttons=["fullscreen"], elem_id="heat")

        made = [told, canvas, heat]
        # One at a time, in order.
        turn: dict[str, Any] = {"concurrency_id": "enlarge", "concurrency_limit": 1}
        slow: dict[str, Any] = {"show_progress_on": compare, "trigger_mode": "always_last"} | turn
        quick: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "queue": False}
        changes = (
            upload.change(events.opened, [upload, scale], [upload, *made], preprocess=False, **slow),
            upload.select(events.pointed, None, [view, *made], **slow),
            scale.release(events.rescaled, scale, made, preprocess=False, **slow),
            redraw.click(events.redrawn, None, told, **slow),
            canvas.input(events.painted, canvas, None, **quick),
        )
        moves: tuple[Callable[..., Any], ...] = (
            temperature.input,
            within.input,
            view.input,
            *(change.success for change in changes),
        )
        for move in moves:
            move(events.mixed, [temperature, within, view], compare, **quick)
        measure.click(events.mapped, None, heat, **turn)
        save.click(events.saved, [temperature, within], fetch).success(None, js=FETCH)
        blocks.load(None, js=KEYS)
    return blocks
