"""How LR images are made of HR images where that is linear: Gaussian blur, then a resize."""

import math
from typing import NamedTuple


class Reduction(NamedTuple):
    """A linear map from HR to LR images."""

    kernel: str = "matlab"
    """Of the resize, one of `linf.images.resize.KERNELS`."""
    sigma: tuple[float, float] = (0.0, 0.0)
    """Standard deviations of the blur before it, along its two axes, in HR pixels."""
    angle: float = 0.0
    """Of the first of these axes against the horizontal, in radians."""
    side: int | None = None
    """Of the blur's kernel in HR pixels, odd; by default three standard deviations on each side."""

    @property
    def reach(self) -> int:
        """HR pixels on each side that the blur looks at; 0 without blur."""
        if not any(self.sigma):
            return 0
        return math.ceil(3 * max(self.sigma)) if self.side is None else self.side // 2
