"""LR consistency: images whose LR is the given one, by a linear projection of what a model makes.

A sample's own LR differs from the LR image that was given. With ``down`` as LR was made of HR, and with ``up`` MATLAB's
bicubic,

    x ← x + up(LR − down(x))

a few times over takes that difference away (*iterative back-projection*, Irani and Peleg, CVGIP 53, 1991). The map is
affine: ``x(τ) = mean + τ · noise`` stays so, with the projected mean and with the noise projected onto LR 0.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from linf.images.reduction import Reduction
from linf.images.resize import AxisResize
from linf.models.arguments import is_whole
from linf.models.decoding import Region
from linf.models.distribution import Distribution
from linf.models.threads import parallel

LR_ROWS = 64
"""LR rows whose HR rows are projected at a time, so that what waits for its neighbours stays small."""

Rows = tuple[int, int]
"""First row, and the row after the last."""


class Projection:
    """Rounds of back-projection between two sizes, of whole images or of any of their rows.

    Args:
        lr_size: (h, w).
        size: (H, W).
        rounds: how many; three leave a difference below what 8 bits show.
        reduction: how LR was made of HR.

    Raises:
        ValueError: rounds is not a whole number of at least 1, or there is no such reduction.
    """

    def __init__(
        self,
        lr_size: tuple[int, int],
        size: tuple[int, int],
        rounds: int = 3,
        reduction: Reduction = Reduction(),
    ) -> None:
        if not is_whole(rounds, 1):
            raise ValueError(
                f"rounds of consistency are {rounds}: give a whole number of at least 1, usually 3"
            )
        self.lr_size, self.size, self.rounds, self.reduction = lr_size, size, rounds, reduction
        self.down_y, self.down_x = (
            AxisResize(n, m, reduction.kernel) for m, n in zip(lr_size, size, strict=True)
        )
        self.up_y, self.up_x = (AxisResize(m, n) for m, n in zip(lr_size, size, strict=True))

    def __call__(self, images: Tensor, lr: Tensor | float) -> Tensor:
        """Project whole images.

        Args:
            images: (...,C,H,W) in the units of [0, 1], not clamped.
            lr: (...,C,h,w), or with one channel for all; 0 for noise that is added to projected images.

        Returns:
            (...,C,H,W), not clamped.

        Raises:
            ValueError: the sizes are not those that the projection is for.
        """
        given = images.shape[-2:], lr.shape[-2:] if isinstance(lr, Tensor) else self.lr_size
        if given != (self.size, self.lr_size):
            hr, low, *wanted = ("×".join(map(str, n)) for n in (*given, self.size, self.lr_size))
            raise ValueError(
                f"images of {hr} and LR of {low} are given; the projection is for {' and '.join(wanted)}"
            )
        bands = self.bands() if images.device.type == "cpu" else [(0, self.size[0])]
        parts = parallel([partial(self.rows, images, lr, band) for band in bands], images.device)
        return torch.cat(list(parts), -2)

    def of_distribution(self, known: Distribution, lr: Tensor) -> Distribution:
        """Project mean and noise of a model's distribution; all else stays that of the model itself."""
        return known._replace(mean=self(known.mean, lr), noise=self(known.noise, 0))

    def bands(self) -> list[Rows]:
        """HR rows to project at a time: those of `LR_ROWS` LR rows."""
        height = self.size[0]
        step = max(LR_ROWS * height // self.lr_size[0], 1)
        return [(top, min(top + step, height)) for top in range(0, height, step)]

    def needed(self, rows: Rows) -> Rows:
        """The HR rows that some HR rows of the result depend on."""
        low, high = self._hr_rows(self.lr_needed(rows))
        return min(low, rows[0]), max(high, rows[1])

    def lr_needed(self, rows: Rows) -> Rows:
        """The LR rows that some HR rows of the result depend on."""
        return self._windows(rows)[-1]

    def rows(
        self, images: Tensor, lr: Tensor | float, rows: Rows, *, first: int = 0, peak: float = 1
    ) -> Tensor:
        """Project some rows of images.

        Args:
            images: (...,C,y,W) of floats, the HR rows from ``first`` on, all that are `needed`.
            lr: whole, see `__call__`; from 0 to ``peak``, floats or whole numbers.
            rows: the HR rows that are wanted.
            first: the first of the HR rows in ``images``.
            peak: the value of white in ``lr``.

        Returns:
            (...,C,·,W), the rows that are wanted.
        """
        window, *inner = self._windows(rows)[::-1]
        error = -self._down(images, first, window)
        if isinstance(lr, Tensor):
            error = error + lr[..., slice(*window), :].to(images) / peak
        final = inner[-1] if inner else window
        total = error[..., final[0] - window[0] : final[1] - window[0], :]
        for following in inner:
            kept = error[..., following[0] - window[0] : following[1] - window[0], :]
            error, window = kept - self._down_up(error, window, following), following
            total = total + error[..., final[0] - window[0] : final[1] - window[0], :]
        wide = self.up_y(self.up_x(total, -1), -2, rows, final[0])
        return wide + images[..., rows[0] - first : rows[1] - first, :]

    def _windows(self, rows: Rows) -> list[Rows]:
        """LR rows in which the error of each round is needed, the last round's first."""
        windows = [self.up_y.support(*rows)]
        for _ in range(self.rounds - 1):
            windows.append(self.up_y.support(*self._hr_rows(windows[-1])))
        return windows

    def _hr_rows(self, lr_rows: Rows) -> Rows:
        """HR rows that LR rows are made of."""
        low, high = self.down_y.support(*lr_rows)
        return max(low - self.reduction.reach, 0), min(high + self.reduction.reach, self.size[0])

    def _down(self, images: Tensor, first: int, lr_rows: Rows) -> Tensor:
        """LR rows of images whose HR rows begin with ``first``."""
        if self.reduction.reach:
            low, high = self._hr_rows(lr_rows)
            images, first = self._blurred(images[..., low - first : high - first, :]), low
        return self.down_x(self.down_y(images, -2, lr_rows, first), -1)

    def _blurred(self, images: Tensor) -> Tensor:
        from linf.images.degrade import blur  # With kornia, which takes a second, for those who blur.

        flat = images.reshape(-1, *images.shape[-3:])
        sigma = torch.stack([flat.new_full((len(flat),), s) for s in self.reduction.sigma], 1)
        angle = flat.new_full((len(flat),), self.reduction.angle)
        return blur(flat, sigma, angle, 2 * self.reduction.reach + 1).reshape(images.shape)

    def _down_up(self, error: Tensor, window: Rows, lr_rows: Rows) -> Tensor:
        """LR rows of an LR error, of which ``window`` is given, that was enlarged and reduced again."""
        hr_rows = self._hr_rows(lr_rows)
        if self.reduction.reach:
            wide = self.up_y(self.up_x(error, -1), -2, hr_rows, window[0])
            return self._down(wide, hr_rows[0], lr_rows)
        # Axis by axis, no image of HR's size is made.
        high = self.down_y(self.up_y(error, -2, hr_rows, window[0]), -2, lr_rows, hr_rows[0])
        return self.down_x(self.up_x(high, -1), -1)


def consistent(
    regions: Iterable[Region], lr: Tensor, projection: Projection, *, peak: float = 1
) -> Iterator[Region]:
    """Decoded regions as full-width bands of consistent images, as soon as the rows that they depend on are there.

    Only mean and noise are passed on. What is held at a time is a row of tiles and some rows above it.

    Args:
        regions: as a model's ``regions`` gives them, image by image.
        lr: (B,C,h,w), or (B,1,h,w) for grey, from 0 to ``peak``; floats or whole numbers.
        projection: for images of these sizes.
        peak: the value of white in ``lr``.
    """
    (height, width), bands = projection.size, projection.bands()
    needed = [projection.needed(band) for band in bands]

    def band_of(image: int, held: _Held, rows: Rows) -> Region:
        assert held.images is not None
        mean, *noise = held.images
        mean = projection.rows(mean, lr[image], rows, first=held.first, peak=peak)
        noise = [projection.rows(each, 0, rows, first=held.first) for each in noise]
        return Region(image, slice(*rows), slice(0, width), mean, noise)

    for image, of in groupby(regions, key=lambda region: region.image):
        held, filled, band = _Held(width, bands[0][1]), np.zeros(height, int), 0
        done = 0
        for region in of:
            held.put(region)
            filled[region.rows] += region.cols.stop - region.cols.start
            while done < height and filled[done] == width:
                done += 1
            ready = [n for n in range(band, len(bands)) if needed[n][1] <= done]
            yield from parallel([partial(band_of, image, held, bands[n]) for n in ready], lr.device)
            band += len(ready)
            if ready and band < len(bands):
                held.drop(needed[band][0])


class _Held:
    """Decoded rows of one image that wait for their neighbours."""

    def __init__(self, width: int, step: int) -> None:
        self.width, self.step = width, step
        self.first = 0
        """The first HR row that is held."""
        self.images: Tensor | None = None
        """(1 + S,C,·,W), the mean and the noise of S samples."""

    def put(self, region: Region) -> None:
        parts = torch.stack([region.mean, *region.noise])
        start, stop = region.rows.start - self.first, region.rows.stop - self.first
        if self.images is None or stop > self.images.shape[-2]:
            dtype = torch.promote_types(parts.dtype, torch.float32)
            longer = parts.new_empty((*parts.shape[:2], stop + self.step, self.width), dtype=dtype)
            if self.images is not None:
                longer[..., : self.images.shape[-2], :] = self.images
            self.images = longer
        self.images[..., start:stop, region.cols] = parts

    def drop(self, first: int) -> None:
        """Forget the rows before ``first``."""
        assert self.images is not None
        self.images, self.first = self.images[..., first - self.first :, :], first
