"""Metric box of the figure: the PSNR and the border by which a published table scores images (METHOD §7)."""

import math
from dataclasses import dataclass
from typing import Literal

from linf.coordinates import Scale, axis_scales


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol.

    Attributes:
        name: the protocol's name in tables.
        headline: ``psnr_y`` or ``psnr_rgb``, the PSNR that summaries and reports are about.
        extra: pixels left out on each side beyond the scale.
    """

    name: str
    headline: Literal["psnr_y", "psnr_rgb"]
    extra: int = 0

    def __post_init__(self) -> None:
        if self.extra < 0:
            raise ValueError(f"the protocol's extra is {self.extra}: give a whole number of at least 0")

    def border(self, scale: Scale) -> int:
        """The number of pixels left out on each side, ``ceil(s) + extra``; of two scales the larger counts."""
        return math.ceil(max(axis_scales(scale))) + self.extra

    def describe(self) -> dict[str, str]:
        """The protocol as the record of a run keeps it."""
        border = "ceil(s)" + (f" + {self.extra}" if self.extra else "")
        return {"name": self.name, "headline": self.headline, "border": border}
