"""The layout of the Gradio page of `linf demo`."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from linf.demo.events import CLOSE_UP, SCALES, WHOLE_IMAGE, Events
from linf.demo.examples import write_examples
from linf.demo.mixture import HIGHEST
from linf.demo.shown import BY_BICUBIC, BY_MEAN
from linf.models import DEFAULT_TEMPERATURE
from linf.models.linf import LINF
from linf.models.super_resolver import SuperResolver

ABOUT = """# One small image, many large ones
Many large images look the same when they are made small. [LINF](https://arxiv.org/abs/2303.05156) predicts their
distribution, at any scale: a mean, and the detail that varies around it. **Temperature** is how much of that detail is
added. At 0 you see the mean: smooth, and on average closest to the truth. Higher up there is more detail that *could*
have been there, and less certainty that it was."""

REGION = (
    "Paint over a part of the image, for example hair, grass or a wall, to give it a temperature of its own. Its edge "
    "is drawn on the result, not into the download."
)
MAP = "Bright pixels could have looked different: edges and texture."

CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto}
#compare::before, #compare::after {position: absolute; bottom: 8px; z-index: 15; padding: 2px 8px; border-radius: 4px;
  font-size: 13px; color: white; background: rgba(0, 0, 0, 0.6); pointer-events: none}
#compare::before {left: 8px}
#compare::after {right: 8px}
#labels {display: none}
#compare [data-testid=status-tracker] {background: rgb(from var(--block-background-fill) r g b / 75%)}
#compare .progress-text {visibility: hidden}
.gradio-container:not(:has(#compare .progress-text)) #cancel {display: none}
"""

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])

# The slider reports a value that was dragged, but not one that was typed or reached with the keys.
_REPORT_KEYS = """() => document.querySelector('#scale').addEventListener('keyup', event => {
    if (/^(Arrow|Home|End|Page|Enter)/.test(event.key))
        document.querySelector('#scale input[type=range]').dispatchEvent(new Event('pointerup', {bubbles: true}));
})"""

# A browser downloads only what is clicked, and the file exists only after the first click.
_CLICK_DOWNLOAD = "() => setTimeout(() => document.querySelector('#fetch').click(), 100)"


def _slider(lowest: float, highest: float, value: float, label: str, name: str, **layout: Any) -> gr.Slider:
    return gr.Slider(lowest, highest, value, label=label, buttons=[], elem_id=name, **layout)


def demo_page(model: LINF, others: Mapping[str, Callable[[], SuperResolver]] | None = None) -> gr.Blocks:
    """Build the page for a model; pass `THEME` and `CSS` to its ``launch``.

    Args:
        model: enlarges the images.
        others: what loads other models to compare with, by their names.
    """
    events = Events(model, others)
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
                examples = write_examples(Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])))
                gr.Examples(
                    [[str(path)] for path in examples.values()],
                    upload,
                    label="Or one of these",
                    example_labels=list(examples),
                )
                scale = _slider(*SCALES, 3.7, "Scale", "scale", step=0.1)
                consistent = gr.Checkbox(
                    label="Consistent with your image",
                    info="The result, downscaled, is your image again; for clean images.",
                    elem_id="consistent",
                )
                correlated = gr.Checkbox(
                    label="Neighbouring patches agree",
                    info="Their noise is drawn together (correlated latents).",
                    visible=model.correlation is not None,
                    elem_id="correlated",
                )
                with gr.Accordion("A region with a temperature of its own", open=False):
                    gr.Markdown(REGION)
                    within = _slider(0, HIGHEST, 1, "Temperature in the region", "within", step=0.01)
                    outlined = gr.Checkbox(True, label="Draw its edge on the result", elem_id="outlined")
                    canvas = gr.ImageEditor(
                        type="pil",
                        sources=[],
                        transforms=[],
                        layers=False,
                        buttons=[],
                        brush=gr.Brush(colors=[("#ff3b30", 0.6)], color_mode="fixed"),
                        show_label=False,
                        height=360,
                        elem_id="canvas",
                    )
            with gr.Column(scale=5, min_width=300):
                with gr.Row():
                    temperature = _slider(
                        0,
                        HIGHEST,
                        DEFAULT_TEMPERATURE,
                        "Temperature",
                        "temperature",
                        step=0.01,
                        scale=3,
                        min_width=280,
                    )
                    view = gr.Radio(
                        [CLOSE_UP, WHOLE_IMAGE], value=CLOSE_UP, label="View", scale=2, elem_id="view"
                    )
                compare = gr.ImageSlider(
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=600,
                    elem_id="compare",
                )
                labels = gr.HTML(elem_id="labels")
                caption = gr.Markdown(elem_id="caption")
                against = gr.Radio(
                    [BY_BICUBIC, BY_MEAN, *events.others],
                    value=BY_BICUBIC,
                    label="Compare with",
                    elem_id="against",
                )
                with gr.Row():
                    resample = gr.Button("Another sample", min_width=120)
                    everything = gr.Button("Enlarge all of it", min_width=120)
                    cancel = gr.Button("Cancel", variant="stop", min_width=120, elem_id="cancel")
                    save = gr.Button("Download", variant="primary", min_width=120)
                    fetch = gr.DownloadButton(visible="hidden", elem_id="fetch")
                with gr.Accordion("Where the model is uncertain", open=False):
                    gr.Markdown(MAP)
                    with gr.Row():
                        measure = gr.Button("Show the map", min_width=120)
                        save_map = gr.Button("Download the map as numbers", min_width=120)
                    heat = gr.Image(label="Uncertainty", buttons=["fullscreen"], elem_id="heat")

        made = [upload, view, caption, canvas, heat, temperature, consistent, correlated]
        # One enlargement at a time, in order.
        queue: dict[str, Any] = {"concurrency_id": "enlarge", "concurrency_limit": 1}
        slow: dict[str, Any] = {"show_progress_on": compare, "trigger_mode": "always_last"} | queue
        quick: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "queue": False}
        asked: list[Any] = [view, against, temperature, within]
        changes = (
            upload.change(events.open_image, [upload, scale, against], made, preprocess=False, **slow),
            upload.select(events.move, against, made, **slow),
            scale.release(events.rescale, [scale, against], made, preprocess=False, **slow),
            resample.click(events.resample, asked, made, **slow),
            everything.click(events.enlarge_all, asked[1:], made, **slow),
            correlated.input(events.correlate, [correlated, *asked], made, **slow),
            consistent.input(events.agree, [consistent, *asked], made, **slow),
            view.input(events.look, asked, made, **slow),
            against.input(events.look, asked, made, **slow),
            canvas.input(events.paint, [canvas, view], None, **quick),
        )
        long_work = [upload.change, upload.select, scale.release, resample.click, everything.click]
        long_work += [correlated.input, consistent.input, view.input, against.input]
        for ask in (*long_work, measure.click, save_map.click):
            ask(events.tabs.ask, **quick)
        moves: list[Any] = [temperature.input, within.input, outlined.input]
        for trigger in moves + [change.success for change in changes]:
            trigger(events.mix, [temperature, within, view, against, outlined], [compare, labels], **quick)
        measure.click(events.measure, view, heat, **queue)
        fetched = {"js": _CLICK_DOWNLOAD}
        save.click(events.save, [temperature, within, view], fetch, **quick).success(None, **fetched)
        save_map.click(events.save_map, view, fetch, **queue).success(None, **fetched)
        cancel.click(events.tabs.cancel, **quick)
        blocks.unload(events.tabs.close)
        blocks.load(None, js=_REPORT_KEYS)
    return blocks
