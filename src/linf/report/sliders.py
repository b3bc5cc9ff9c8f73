"""Before and after: two systems of a detail in one place, with a divider between them that the reader moves."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from linf.report.details import Detail, nearest
from linf.report.tables import safe_name


class Slider(NamedTuple):
    """A detail by every system.

    Attributes:
        titles: system, and its figures for the whole image.
        crops: PNG of each.
        before: index of what is on the left at first, bicubic.
        after: of what is on the right, the first run at the best temperature for this image.
    """

    titles: list[str]
    crops: list[bytes]
    before: int
    after: int

    @property
    def urls(self) -> list[str]:
        """The crops as data URLs."""
        return [f"data:image/png;base64,{base64.b64encode(crop).decode()}" for crop in self.crops]

    def files(self, name: str) -> dict[str, bytes]:
        """The crops by the names of their files, which begin with the detail's name."""
        return {
            f"{name}_{n}_{safe_name(title)}.png": crop
            for n, (title, crop) in enumerate(zip(self.titles, self.crops, strict=True))
        }


def detail_sliders(details: Sequence[Detail]) -> dict[str, Slider]:
    """A slider for each detail, by the name of its figure."""
    sliders = {}
    for detail in details:
        images = [("LR", detail.lr), *detail.shared]
        after = len(images) - 1
        for n, (run, own, _) in enumerate(detail.rows):
            best = nearest(detail.shown, run)
            for system, (title, image) in own.items():
                if n == 0 and (best is None or system == best):
                    after = len(images)
                images.append((f"{run.label}, {title}", image))
        images.append(("HR", detail.hr))
        titles = [" ".join(title.split()) for title, _ in images]
        before = next((n for n, title in enumerate(titles) if title.startswith("bicubic")), 0)
        sliders[detail.shown.name] = Slider(titles, [_png(image) for _, image in images], before, after)
    return sliders


def _png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()
