"""What a published table counts: the PSNR that stands first, and the pixels left out on each side (METHOD §7)."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """How images are scored.

    Attributes:
        name: what tables call it.
        headline: ``psnr_y`` or ``psnr_rgb``, the figure that a line of the report tells.
        extra: pixels left out on each side beyond the scale.
    """

    name: str
    headline: Literal["psnr_y", "psnr_rgb"]
    extra: int = 0

    def border(self, scale: float) -> int:
        """Pixels left out on each side at a scale, ``ceil(s) + extra``."""
        return math.ceil(scale) + self.extra

    def describe(self) -> dict[str, str]:
        """For the record of a run."""
        border = "ceil(s)" + (f" + {self.extra}" if self.extra else "")
        return {"name": self.name, "headline": self.headline, "border": border}
