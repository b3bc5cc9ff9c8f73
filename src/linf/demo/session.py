"""What the page holds for one open tab, and the files that it shows there; nothing here is of Gradio."""

import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from linf.demo.mixture import WHOLE, Mixture, Part, around, cut, detail
from linf.images.read import Photo
from linf.images.write import write_photo
from linf.models.linf import LINF

CLOSE = (420, 560)
"""Pixels (high, wide) of a close-up."""

SHOWN = 8
"""Files of a slider's last positions that are kept, as a browser may still be fetching them."""


@dataclass
class Enlargement:
    """An enlargement, which takes the place of the one before it as a whole."""

    mixture: Mixture
    bicubic: Photo
    part: Part
    """Of the image."""
    scale: float
    point: tuple[float, float]
    """(y, x) of the image, around which a close-up lies."""
    seed: int
    region: Tensor | None = None
    beside: tuple[Part, Path] | None = None
    """The part and file of bicubic that were shown last."""

    def mixed(self, temperature: float, within: float, part: Part = WHOLE) -> Photo:
        """The image at a temperature, and at another within the region."""
        if self.region is None:
            return self.mixture.at(temperature, part)
        return self.mixture.at(temperature + (within - temperature) * self.region, part)


class Visitor:
    """What the page holds for one open tab: an image and its enlargement.

    Args:
        image: whole.
        source: its file.
    """

    now: Enlargement

    def __init__(self, image: Photo, source: Path) -> None:
        self.image, self.source, self.files = image, source, 0
        self.size = image.pixels.shape[:2]
        self.folder = tempfile.TemporaryDirectory(dir=os.environ["GRADIO_TEMP_DIR"])

    def enlarge(
        self,
        model: LINF,
        scale: float,
        point: tuple[float, float],
        seed: int,
        advance: Callable[[float], object] = lambda done: None,
    ) -> None:
        """Make another enlargement."""
        part = detail(self.size, scale, point)
        mixture = Mixture(model, cut(self.image, part), scale, seed, advance)
        self.now = Enlargement(mixture, mixture.bicubic(), part, scale, point, seed)

    def sides(self, temperature: float, within: float, close: bool) -> tuple[Path, Path]:
        """Files of bicubic and the image, or of a close-up around the point."""
        now, part = self.now, WHOLE
        if close:
            middle = [now.scale * (p - s.start) for p, s in zip(now.point, now.part, strict=True)]
            part = around(now.mixture.size, middle, CLOSE)
        beside = now.beside
        if beside is None or beside[0] != part:
            beside = now.beside = part, self.shown(cut(now.bicubic, part), "bicubic")
        return beside[1], self.shown(now.mixed(temperature, within, part), "linf")

    def shown(self, image: Photo, name: str) -> Path:
        """A file for the browser to show, under a new address; of a name the last `SHOWN` are kept."""
        self.files += 1
        for old in sorted(Path(self.folder.name).glob(f"{name}-*.jpg"))[: 1 - SHOWN]:
            old.unlink(missing_ok=True)
        return self.saved(replace(image, exif=None), f"{name}-{self.files:09}.jpg")

    def saved(self, image: Photo, name: str) -> Path:
        """A file for the browser to fetch, in the format of its suffix."""
        path, content = Path(self.folder.name, name), io.BytesIO()
        write_photo(content, image, path.suffix[1:], 95)
        path.write_bytes(content.getbuffer())
        return path

    def told(self) -> str:
        """What is shown, in words."""
        mixture = self.now.mixture
        (height, width), (h, w) = mixture.size, mixture.lr.pixels.shape[:2]
        words = f"{w}×{h} → **{width}×{height}** pixels, sample {self.now.seed}."
        if (h, w) != self.size:
            words += (
                f" It is a detail of your image of {self.size[1]}×{self.size[0]}, as large as this page takes at a "
                "time. `linf upscale` enlarges whole images of any size."
            )
        if height > CLOSE[0] or width > CLOSE[1]:
            words += " Click on a place of your image to see it close up."
        return " ".join([words, *(f"Note: {note}." for note in self.image.notes)])
