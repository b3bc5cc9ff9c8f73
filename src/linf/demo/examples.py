"""The images that the page of `linf demo` offers: what people have, from images that packages ship."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from linf.images.read import read_image
from linf.images.resize import pil_bicubic

log = logging.getLogger(__name__)

EXAMPLE_SIDE = 256
"""The longer side of an example in pixels, at most."""


class Example(NamedTuple):
    """An image that a package ships, made smaller and noisy."""

    package: str
    file: str
    box: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of the part that is taken; None for all of it."""
    noise: float = 0.0
    """Its standard deviation, of 255."""


EXAMPLES = {
    "text": Example("skimage", "data/page.png", (0, 0, 256, 140)),
    "building": Example("gradio", "media_assets/images/tower.jpg", (60, 120, 316, 376)),
    "animal": Example("skimage", "data/chelsea.png", (80, 20, 380, 280)),
    "noise": Example("skimage", "data/astronaut.png", noise=10.0),
}
"""What each example shows."""


def write_examples(folder: Path) -> dict[str, Path]:
    """Write the examples whose images are installed to a folder, and return their files by what they show."""
    files = {}
    for name, example in EXAMPLES.items():
        spec = find_spec(example.package)
        home = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
        if not (home / example.file).is_file():
            log.warning("the example %r is left out: %s has no %s here", name, example.package, example.file)
            continue
        image = Image.fromarray(read_image(home / example.file)).crop(example.box)
        share = min(1, EXAMPLE_SIDE / max(image.size))
        lr = pil_bicubic(np.asarray(image), (round(share * image.height), round(share * image.width)))
        noisy = lr + np.random.default_rng(0).normal(0, example.noise, lr.shape)
        files[name] = folder / f"{name}.png"
        Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(files[name])
    return files
