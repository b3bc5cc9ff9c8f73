"""A warning about training images that are strongly compressed: a model learns what is in them."""

import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

from linf.images.photo import jpeg_quality
from linf.images.read import header_jpeg_step

log = logging.getLogger(__name__)

HEADERS = 32
"""The number of files, evenly spread, whose headers are read."""

COARSE = 23.0
"""Mean quantisation step of luma above which blocks and ringing are plain to see: of quality 80 and below."""


def warn_if_compressed(images: Sequence[Path]) -> None:
    """Warn where more than half of the HR images of a training are JPEGs of a low quality, by some of them."""
    steps = [header_jpeg_step(path) for path in images[:: max(1, len(images) // HEADERS)]]
    coarse = [step for step in steps if step > COARSE]
    if len(coarse) > len(steps) / 2:
        log.warning(
            "training images: most are JPEGs of quality %d or so, whose blocks and ringing the model will learn as "
            "texture; take cleaner images, or halve these first, by Pillow's Lanczos, for example",
            jpeg_quality(statistics.median(coarse)),
        )
