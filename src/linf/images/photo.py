"""A photograph, or another image, with what its file says of it."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from PIL import Image, JpegImagePlugin

Layout = Literal["contig", "separate", "pages"]
"""How a TIFF keeps its channels: side by side, as planes of a page, or as pages."""

FIRST_FRAME = "only the first of its frames or pages is taken"
"""The note of an image of which more is there."""


@dataclass
class Photo:
    """An upright image with what its file says of it.

    Attributes:
        pixels: (h,w,C), C = 1 for a grey image; uint8 or uint16, and other types only while they are read.
        alpha: (h,w) of the same dtype, None for an opaque image.
        exif: the descriptive part of the file's EXIF, if any.
        profile: the ICC colour profile, if it fits the pixels.
        notes: what of the file was left out or converted, a message each.
        layout: how a TIFF keeps the channels.
        jpeg_step: the mean step, in grey levels of 255, in which a JPEG stores the amplitudes of its luma; 0 of others.
        stored: the type of the file's values and the range of them that ``pixels`` span; None where both are the same.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    exif: Image.Exif | None = None
    profile: bytes | None = None
    notes: list[str] = field(default_factory=list)
    layout: Layout = "contig"
    jpeg_step: float = 0.0
    stored: tuple[np.dtype[Any], float, float] | None = None

    @property
    def file_dtype(self) -> np.dtype[Any]:
        """The type of the file's values."""
        return self.pixels.dtype if self.stored is None else self.stored[0]

    def part(self, rows: slice, cols: slice) -> "Photo":
        """The image of some rows and columns alone."""
        alpha = None if self.alpha is None else self.alpha[rows, cols]
        return replace(self, pixels=self.pixels[rows, cols], alpha=alpha)

    @property
    def peak(self) -> int:
        """The value of white, 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def jpeg_step(file: Image.Image) -> float:
    """The mean of a JPEG's quantisation table for luma: 1 at quality 100, 58 at quality 50; 0 of other formats."""
    if not isinstance(file, JpegImagePlugin.JpegImageFile):
        return 0.0
    _, _, _, table = file.layer[0]
    return float(np.mean(file.quantization[table]))


def jpeg_quality(step: float) -> int:
    """The quality, 1 to 100, that libjpeg gives a mean ``step`` of its quantisation table for luma."""
    percent = 100 * step / 57.625  # Of the steps at quality 50.
    return round(100 - percent / 2 if percent < 100 else 5000 / percent)
