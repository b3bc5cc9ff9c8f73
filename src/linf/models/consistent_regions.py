"""LR consistency while an image is decoded: a band of rows at a time, as soon as its neighbours are there."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from linf.models.consistency import Projection, Span
from linf.models.decoding import Region
from linf.models.threads import parallel


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
    needed = [projection.y.needed(band) for band in bands]

    def band_of(image: int, held: _Held, rows: Span) -> Region:
        assert held.images is not None
        mean, *noise = held.images
        mean = projection.band(mean, lr[image], rows, first=held.first, peak=peak)
        noise = [projection.band(each, 0, rows, first=held.first) for each in noise]
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
