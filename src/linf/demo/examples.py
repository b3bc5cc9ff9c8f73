"""The images that the page of `linf demo` offers: what people have, made of bundled photographs."""

from pathlib import Path

import numpy as np
from PIL import Image

from linf.data.degradation import Degradation
from linf.data.rounds import Compression, Noise, Round
from linf.data.sources import bundled
from linf.images.read import read_image

EXAMPLES = {
    "clean": (0, Round()),
    "JPEG": (1, Round(jpeg=Compression(1.0, 30.0))),
    "noise": (0, Round(noise=Noise(1.0, 10.0, 0.0))),
}
"""A photograph and what it went through, by the name of the example."""

EXAMPLE_SIDE = 256
"""The longer side of an example in pixels."""


def write_examples(folder: Path) -> list[Path]:
    """Write the examples to a folder, and return their files."""
    files = []
    for name, (number, done) in EXAMPLES.items():
        hr = read_image(bundled("heldout").hr[number])
        share = EXAMPLE_SIDE / max(hr.shape[:2])
        size = round(hr.shape[0] * share), round(hr.shape[1] * share)
        lr = Degradation(done).degrade(hr, size, np.random.default_rng(0))
        files.append(folder / f"{name}.png")
        Image.fromarray(lr).save(files[-1])
    return files
