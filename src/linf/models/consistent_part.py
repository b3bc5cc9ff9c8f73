"""LR consistency of a part of an image: what `Projection` makes of it, from the pixels around the part only."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from linf.images.resize import AxisResize
from linf.models.consistency import Projection
from linf.models.threads import parallel


class PartProjection:
    """Rounds of back-projection of some HR rows and columns, as they are of the whole image; see `Projection`.

    Args:
        lr_size: (h, w) of the whole image.
        size: (H, W).
        rows: HR rows of the part.
        cols: HR columns.
        rounds: how many.

    Attributes:
        needed: HR rows and columns that the part depends on.
    """

    def __init__(
        self, lr_size: tuple[int, int], size: tuple[int, int], rows: slice, cols: slice, rounds: int = 3
    ) -> None:
        self.part, self.projection = (rows, cols), Projection(lr_size, size, rounds)
        across = Projection(lr_size[::-1], size[::-1], rounds)  # What rows are to it are columns here.
        low, high = self.projection.needed((rows.start, rows.stop)), across.needed((cols.start, cols.stop))
        self.needed = slice(*low), slice(*high)
        self.lr_cols = slice(*across.lr_needed((cols.start, cols.stop)))
        held = self.lr_cols.start, self.lr_cols.stop
        self.projection.down_x = _PartResize(self.projection.down_x, held, high)
        self.projection.up_x = _PartResize(self.projection.up_x, high, held)

    def __call__(self, images: Tensor, lr: Tensor | float, peak: float = 1) -> Tensor:
        """Project a part of images.

        Args:
            images: (...,C,y,x) in the units of [0, 1], the rows and columns that are `needed`.
            lr: (...,C,h,w) whole, from 0 to ``peak``; 0 for noise that is added to projected images.
            peak: the value of white in ``lr``.

        Returns:
            (...,C,·,·), the rows and columns of the part, not clamped.
        """
        lr = lr[..., self.lr_cols] if isinstance(lr, Tensor) else lr
        first, (_, cols) = self.needed[0].start, self.part
        tasks = [
            partial(self.projection.rows, images, lr, band, first=first, peak=peak) for band in self._bands()
        ]
        left = cols.start - self.needed[1].start
        return torch.cat(list(parallel(tasks, images.device)), -2)[..., left : left + cols.stop - cols.start]

    def _bands(self) -> Iterator[tuple[int, int]]:
        rows, _ = self.part
        for low, high in self.projection.bands():
            if low < rows.stop and high > rows.start:
                yield max(low, rows.start), min(high, rows.stop)


class _PartResize(AxisResize):
    """A resize of an axis from some of its pixels to some others. Beyond the former there is nothing, and what is
    missing there falls on pixels that nothing wanted depends on.
    """

    def __init__(self, axis: AxisResize, outputs: tuple[int, int], held: tuple[int, int]) -> None:
        super().__init__(axis.n_in, axis.n_out, axis.kernel)
        self.outputs, self.held = outputs, held

    def __call__(
        self, part: Tensor, dim: int, outputs: tuple[int, int] | None = None, first: int = 0
    ) -> Tensor:
        """Resize the columns that are held, ``part``, to those that are wanted."""
        near, far = self.support(*self.outputs)
        padded = F.pad(part, (self.held[0] - near, far - self.held[1]))
        return super().__call__(padded, dim, self.outputs, near)
