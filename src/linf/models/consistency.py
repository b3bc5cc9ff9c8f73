"""LR consistency: images whose LR is the given one, by a linear projection of what a model makes.

A sample's own LR differs from the LR image that was given. With ``down`` as LR was made of HR, and with ``up`` MATLAB's
bicubic,

    x ← x + up(LR − down(x))

a few times over takes that difference away (*iterative back-projection*, Irani and Peleg, CVGIP 53, 1991). The map is
affine: ``x(τ) = mean + τ · noise`` stays so, with the projected mean and with the noise projected onto LR 0.
"""

from functools import partial

import torch
from torch import Tensor

from linf.images.reduction import Reduction
from linf.images.resize import AxisResize
from linf.models.arguments import is_whole
from linf.models.distribution import Distribution
from linf.models.threads import parallel

LR_ROWS = 64
"""LR rows whose HR rows are projected at a time, so that what waits for its neighbours stays small."""

Span = tuple[int, int]
"""Along one axis: the first pixel, and the one after the last."""

Rectangle = tuple[Span, Span]
"""Rows and columns."""


class _Axis:
    """Rounds of back-projection along one axis, by what depends on what.

    Args:
        lr_pixels: of the whole axis.
        pixels: of HR's.
        rounds: how many.
        reduction: how LR was made of HR.
    """

    def __init__(self, lr_pixels: int, pixels: int, rounds: int, reduction: Reduction) -> None:
        self.pixels, self.rounds, self.reach = pixels, rounds, reduction.reach
        self.down, self.up = AxisResize(pixels, lr_pixels, reduction.kernel), AxisResize(lr_pixels, pixels)

    def windows(self, wanted: Span) -> list[Span]:
        """LR pixels in which the error of each round is needed, for HR pixels of the result."""
        windows = [self.up.support(*wanted)]
        for _ in range(self.rounds - 1):
            windows.insert(0, self.up.support(*self.reduced(windows[0])))
        return windows

    def reduced(self, lr: Span) -> Span:
        """HR pixels that LR pixels are made of."""
        low, high = self.down.support(*lr)
        return max(low - self.reach, 0), min(high + self.reach, self.pixels)

    def needed(self, wanted: Span) -> Span:
        """HR pixels that HR pixels of the result depend on."""
        low, high = self.reduced(self.windows(wanted)[0])
        return min(low, wanted[0]), max(high, wanted[1])


class Projection:
    """Rounds of back-projection between two sizes, of whole images or of a part of them.

    Args:
        lr_size: (h, w) of the whole image.
        size: (H, W).
        rounds: how many; three leave a difference below what 8 bits show.
        reduction: how LR was made of HR.
        part: HR rows and columns that are wanted, which are made as they are of the whole image; by default all.

    Attributes:
        needed: HR rows and columns that they depend on.

    Raises:
        ValueError: rounds is not a whole number of at least 1, or there is no such reduction.
    """

    def __init__(
        self,
        lr_size: tuple[int, int],
        size: tuple[int, int],
        rounds: int = 3,
        reduction: Reduction = Reduction(),
        part: tuple[slice, slice] | None = None,
    ) -> None:
        if not is_whole(rounds, 1):
            raise ValueError(
                f"rounds of consistency are {rounds}: give a whole number of at least 1, usually 3"
            )
        self.lr_size, self.size, self.reduction = lr_size, size, reduction
        self.y, self.x = (_Axis(n, m, rounds, reduction) for n, m in zip(lr_size, size, strict=True))
        rows, cols = part or (slice(0, size[0]), slice(0, size[1]))
        self.rows, self.cols = (rows.start, rows.stop), (cols.start, cols.stop)
        self.needed = slice(*self.y.needed(self.rows)), slice(*self.x.needed(self.cols))

    def __call__(self, images: Tensor, lr: Tensor | float, peak: float = 1) -> Tensor:
        """Project images.

        Args:
            images: (...,C,y,x) in the units of [0, 1], not clamped, the rows and columns that are `needed`.
            lr: (...,C,h,w) whole, or with one channel for all, from 0 to ``peak``, floats or whole numbers; 0 for noise
                that is added to projected images.
            peak: the value of white in ``lr``.

        Returns:
            (...,C,·,·), the rows and columns that are wanted, not clamped.

        Raises:
            ValueError: the sizes are not those that the projection is for.
        """
        size = tuple(side.stop - side.start for side in self.needed)
        given = images.shape[-2:], lr.shape[-2:] if isinstance(lr, Tensor) else self.lr_size
        if given != (size, self.lr_size):
            hr, low, *wanted = ("×".join(map(str, n)) for n in (*given, size, self.lr_size))
            raise ValueError(
                f"images of {hr} and LR of {low} are given; the projection is for {' and '.join(wanted)}"
            )
        bands = self.bands() if images.device.type == "cpu" else [self.rows]
        first = self.needed[0].start
        tasks = [partial(self.band, images, lr, band, first=first, peak=peak) for band in bands]
        return torch.cat(list(parallel(tasks, images.device)), -2)

    def of_distribution(self, known: Distribution, lr: Tensor) -> Distribution:
        """Project mean and noise of a model's distribution; all else stays that of the model itself."""
        return known._replace(mean=self(known.mean, lr), noise=self(known.noise, 0))

    def bands(self) -> list[Span]:
        """The HR rows that are wanted, in bands to project at a time: those of `LR_ROWS` LR rows."""
        top, bottom = self.rows
        step = max(LR_ROWS * self.size[0] // self.lr_size[0], 1)
        return [(start, min(start + step, bottom)) for start in range(top, bottom, step)]

    def band(
        self, images: Tensor, lr: Tensor | float, rows: Span, *, first: int = 0, peak: float = 1
    ) -> Tensor:
        """Project some rows of images.

        Args:
            images: (...,C,y,x) of floats, the columns that are `needed`, and the HR rows from ``first`` on, all that
                ``rows`` depend on.
            lr: whole, see `__call__`, as for ``peak``.
            rows: the HR rows that are wanted.
            first: the first of the HR rows in ``images``.
            peak: the value of white in ``lr``.

        Returns:
            (...,C,·,·), the rows and columns that are wanted.
        """
        held = (first, first + images.shape[-2]), (self.needed[1].start, self.needed[1].stop)
        window, *inner = zip(self.y.windows(rows), self.x.windows(self.cols), strict=True)
        error = -self._down(images, held, window)
        if isinstance(lr, Tensor):
            whole = (0, self.lr_size[0]), (0, self.lr_size[1])
            error = error + _cut(lr, whole, window).to(images) / peak
        final = inner[-1] if inner else window
        total = _cut(error, window, final)
        for following in inner:
            kept = _cut(error, window, following)
            error, window = kept - self._down_up(error, window, following), following
            total = total + _cut(error, window, final)
        return self._up(total, final, (rows, self.cols)) + _cut(images, held, (rows, self.cols))

    def _up(self, error: Tensor, held: Rectangle, wanted: Rectangle) -> Tensor:
        """HR pixels of an enlarged LR error, of which ``held`` is given."""
        wide = self.x.up(error, -1, wanted[1], held[1][0])
        return self.y.up(wide, -2, wanted[0], held[0][0])

    def _down(self, images: Tensor, held: Rectangle, wanted: Rectangle) -> Tensor:
        """LR pixels of images, of whose HR pixels ``held`` are given."""
        if self.reduction.reach:
            seen = self.y.reduced(wanted[0]), self.x.reduced(wanted[1])
            images, held = self._blurred(_cut(images, held, seen)), seen
        low = self.y.down(images, -2, wanted[0], held[0][0])
        return self.x.down(low, -1, wanted[1], held[1][0])

    def _blurred(self, images: Tensor) -> Tensor:
        from linf.images.degrade import blur  # With kornia, which takes a second, for those who blur.

        flat = images.reshape(-1, *images.shape[-3:])
        sigma = torch.stack([flat.new_full((len(flat),), s) for s in self.reduction.sigma], 1)
        angle = flat.new_full((len(flat),), self.reduction.angle)
        return blur(flat, sigma, angle, 2 * self.reduction.reach + 1).reshape(images.shape)

    def _down_up(self, error: Tensor, held: Rectangle, wanted: Rectangle) -> Tensor:
        """LR pixels of an LR error, of which ``held`` is given, that was enlarged and reduced again."""
        high = self.y.reduced(wanted[0]), self.x.reduced(wanted[1])
        if self.reduction.reach:
            return self._down(self._up(error, held, high), high, wanted)
        # Axis by axis, no image of HR's size is made.
        for dim, axis in ((0, self.y), (1, self.x)):
            wide = axis.up(error, dim - 2, high[dim], held[dim][0])
            error = axis.down(wide, dim - 2, wanted[dim], high[dim][0])
        return error


def _cut(image: Tensor, held: Rectangle, wanted: Rectangle) -> Tensor:
    """Some pixels of an image (...,y,x) of which ``held`` is given."""
    (y, x), (rows, cols) = (side[0] for side in held), wanted
    return image[..., rows[0] - y : rows[1] - y, cols[0] - x : cols[1] - x]
