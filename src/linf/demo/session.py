"""What the page keeps for one open tab, and the files that it shows there; nothing here depends on Gradio."""

import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from linf.demo.mixture import WHOLE, Mixture, Part, around, cut, detail
from linf.images.photo import Photo
from linf.images.write import write_photo
from linf.models.linf import LINF
from linf.upscale.enlarge import Ask
from linf.upscale.guard import tempered

CLOSE_UP_SIZE = (420, 560)
"""Height and width of a close-up in pixels."""

TEMPERATURE = 0.5
"""At which an image is shown first, unless it is noisy to the model."""

KEPT_PREVIEWS = 8
"""Number of preview files kept per name, since a browser may still be fetching the last few."""


@dataclass
class Enlargement:
    """An enlarged image, replaced as a whole by the next one."""

    mixture: Mixture
    bicubic: Photo
    part: Part
    """The part of the uploaded image that is enlarged."""
    scale: float
    point: tuple[float, float]
    """The centre (y, x) of the close-up, in pixels of the uploaded image."""
    seed: int
    region: Tensor | None = None
    bicubic_preview: tuple[Part, Path] | None = None
    """The part of the bicubic image shown last, and its file."""

    def mixed(self, temperature: float, region_temperature: float, part: Part = WHOLE) -> Photo:
        """Return the image at one temperature, and at another within the region."""
        if self.region is None:
            return self.mixture.at(temperature, part)
        return self.mixture.at(temperature + (region_temperature - temperature) * self.region, part)


class Session:
    """What the page keeps for one open tab: the whole uploaded image, its file ``source`` and its enlargement."""

    enlargement: Enlargement

    def __init__(self, image: Photo, source: Path) -> None:
        self.image, self.source, self.previews = image, source, 0
        self.temperature, self.unlike = TEMPERATURE, list[str]()
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
        """Enlarge the image, or a part around a point; ``advance`` is called with the share done."""
        part = detail(self.size, scale, point)
        mixture = Mixture(model, cut(self.image, part), scale, seed, advance)
        first = Ask(TEMPERATURE, device=mixture.mean.device)
        asked, self.unlike = tempered(model, mixture.lr.pixels, mixture.size, first)
        self.temperature = asked.temperature
        self.enlargement = Enlargement(mixture, mixture.bicubic(), part, scale, point, seed)

    def comparison(self, temperature: float, region_temperature: float, close_up: bool) -> tuple[Path, Path]:
        """Return the files of the bicubic image and of LINF's, whole or as a close-up."""
        now, part = self.enlargement, WHOLE
        if close_up:
            centre = [now.scale * (p - s.start) for p, s in zip(now.point, now.part, strict=True)]
            part = around(now.mixture.size, centre, CLOSE_UP_SIZE)
        shown = now.bicubic_preview
        if shown is None or shown[0] != part:
            shown = now.bicubic_preview = part, self.preview(cut(now.bicubic, part), "bicubic")
        return shown[1], self.preview(now.mixed(temperature, region_temperature, part), "linf")

    def preview(self, image: Photo, name: str) -> Path:
        """Write a JPEG for the browser under a new name, and delete the oldest of that kind."""
        self.previews += 1
        for old in sorted(Path(self.folder.name).glob(f"{name}-*.jpg"))[: 1 - KEPT_PREVIEWS]:
            old.unlink(missing_ok=True)
        return self.write(replace(image, exif=None), f"{name}-{self.previews:09}.jpg")

    def write(self, image: Photo, name: str) -> Path:
        """Write an image in the format of its suffix, and return its file."""
        path, content = Path(self.folder.name, name), io.BytesIO()
        write_photo(content, image, path.suffix[1:], 95)
        path.write_bytes(content.getbuffer())
        return path

    def caption(self) -> str:
        """Describe what the page shows, in Markdown."""
        mixture = self.enlargement.mixture
        (height, width), (h, w) = mixture.size, mixture.lr.pixels.shape[:2]
        text = f"{w}×{h} → **{width}×{height}** pixels, sample {self.enlargement.seed}."
        if (h, w) != self.size:
            text += (
                f" This is a detail of your image of {self.size[1]}×{self.size[0]} pixels, the largest that this page "
                "enlarges at a time. `linf upscale` enlarges whole images of any size."
            )
        if height > CLOSE_UP_SIZE[0] or width > CLOSE_UP_SIZE[1]:
            text += " Click on a point of your image to see it close up."
        return " ".join([text, *(f"Note: {note}." for note in self.image.notes + self.unlike)])
