"""Data box of the figure: random-scale crops for training (METHOD §6)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from linf.coordinates import pixel_centres
from linf.data.degradation import Degradation, Draw
from linf.data.patches import RandomPatches
from linf.data.store import ImageStore
from linf.errors import UsageError
from linf.images.degrade import pad_to
from linf.images.resize import pil_bicubic


class SRBatch(NamedTuple):
    """A batch of training samples; a single sample has the same shapes without B.

    Attributes:
        lr: (B,C,h,w) LR crops in [0, 1].
        hr: (B,D,gh,gw) HR patches in [0, 1], channel-major: index c·P² + dy·P + dx.
        coord: (B,gh,gw,2) patch centres, (y, x) in [-1, 1].
        cell: (B,2) the size of one HR pixel, (2/H, 2/W).
    """

    lr: Tensor
    hr: Tensor
    coord: Tensor
    cell: Tensor


class UndegradedBatch(NamedTuple):
    """A batch whose LR crops are still to be degraded, on its device; a single sample has the same shapes without B.

    Attributes:
        batch: whose LR crops are clean.
        hr: (B,C,n,n) HR crops in whole numbers, at the top left; n is the side of the largest.
        size: (B,2) heights and widths of the HR crops.
        draw: how each is degraded.
    """

    batch: SRBatch
    hr: Tensor
    size: Tensor
    draw: Draw

    def degraded(self, degradation: Degradation, peak: int = 255) -> SRBatch:
        """The batch with its LR crops degraded, but for those that stay clean; ``peak`` is the value of white."""
        lr = self.batch.lr
        hr, size = self.hr.to(lr.dtype) / peak, (lr.shape[-2], lr.shape[-1])
        bad = degradation(hr, self.size, size, self.draw, peak=peak)
        return self.batch._replace(lr=torch.where(self.draw.clean[:, None, None, None], lr, bad))


class RandomScaleCrops(Dataset[SRBatch | UndegradedBatch]):
    """HR crops of ``round(crop · s)`` pixels, ``s ~ U(scale)``, with their LR by Pillow's bicubic and queries. Sample
    ``i`` is a function of ``(seed, epoch, index)`` with ``epoch, index = divmod(i, len)``, whatever the number of
    workers and ranks. An image too small for the largest scale is cropped at scales up to the one it allows.

    Args:
        cache: images, each at least `smallest_crop` a side.
        crop: LR pixels a side.
        scale: the lowest and the highest ``s``, at least 1; equal for a fixed scale.
        scale_y: the same of the vertical axis, whose scale is then drawn by itself, and ``scale`` the horizontal one's;
            None for one scale of both.
        patch_size: see `RandomPatches`, as for queries and window.
        repeat: the number of samples that each image gives per epoch.
        seed: decides scale, position, orientation, queries and degradation.
        degradation: how LR crops differ from clean ones; samples are then an `UndegradedBatch`.

    Raises:
        UsageError: a number is out of range, the patches do not fit in the smallest crop, or an image is smaller.
    """

    def __init__(
        self,
        cache: ImageStore,
        *,
        crop: int = 48,
        scale: Sequence[float] = (1.0, 4.0),
        scale_y: Sequence[float] | None = None,
        patch_size: int = 1,
        queries: int | None = 2304,
        window: bool = False,
        repeat: int = 1,
        seed: int = 0,
        degradation: Degradation | None = None,
    ) -> None:
        smallest = smallest_crop(crop, scale, scale_y)
        self.patches = RandomPatches(crop, patch_size, queries, window)
        if repeat < 1 or seed < 0:
            raise UsageError(f"repeat, seed are {repeat}, {seed}: give at least 1 and 0")
        lowest = min(scale[0], (scale_y or scale)[0])
        if self.patches.needed > round(crop * lowest):
            raise UsageError(
                f"the patches take {self.patches.needed} pixels a side, which do not fit in the smallest crop, "
                f"round({crop} · {lowest:g}) = {round(crop * lowest)}: lower queries or patch_size, or raise crop"
            )
        if (least := cache.shortest_side) < smallest:
            raise UsageError(
                f"an image has {least} pixels on its shorter side, below the smallest crop, {smallest}: "
                f"open the cache with min_side={smallest}"
            )
        self.cache, self.crop, self.scale, self.scale_y = cache, crop, scale, scale_y
        self.repeat, self.seed, self.degradation = repeat, seed, degradation

    def __len__(self) -> int:
        return len(self.cache) * self.repeat

    def __getitem__(self, i: int) -> SRBatch | UndegradedBatch:
        epoch, index = divmod(i, len(self))
        rng = np.random.default_rng((self.seed, epoch, index))
        hr = self._hr_crop(self.cache[index % len(self.cache)], rng)
        peak = self.cache.pixels.peak
        lr = pil_bicubic(hr, (self.crop, self.crop), peak)
        size = hr.shape[:2]
        patches, coord = self.patches.draw(hr, [pixel_centres(n) for n in size], rng)
        cell = torch.tensor([2 / n for n in size])
        sample = SRBatch(unit(lr.transpose(2, 0, 1), peak), unit(patches, peak), coord, cell)
        if self.degradation is None:
            return sample
        # Of its own, so that a degradation changes no crop.
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        draw = self.degradation.draw(rng, (self.crop, self.crop), hr.shape[2])
        largest = round(self.crop * max(self.scale[1], (self.scale_y or self.scale)[1]))
        padded = pad_to(tensor(hr).permute(2, 0, 1), largest)
        return UndegradedBatch(sample, padded, torch.tensor(size), draw)

    def _hr_crop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        if self.scale_y is None:
            high = wide = self._side(min(height, width), self.scale, rng)
            top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
            orientation = int(rng.integers(8))
        else:
            orientation = int(rng.integers(8))  # First, for a transpose exchanges the axes.
            axes = (self.scale, self.scale_y) if orientation & 4 else (self.scale_y, self.scale)
            high, wide = (self._side(n, of, rng) for n, of in zip((height, width), axes, strict=True))
            top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        return augment(image[top : top + high, left : left + wide], orientation)

    def _side(self, n: int, scale: Sequence[float], rng: np.random.Generator) -> int:
        """HR pixels of a crop along an axis of an image that has ``n``."""
        low, high = scale
        return min(round(self.crop * rng.uniform(low, max(low, min(high, n / self.crop)))), n)


def smallest_crop(crop: int, scale: Sequence[float], scale_y: Sequence[float] | None = None) -> int:
    """HR pixels a side of the crop at the lowest scale, the least that every training image must have.

    Raises:
        UsageError: crop or a scale is out of range.
    """
    if crop < 1:
        raise UsageError(f"crop is {crop}: give the LR crop's side in pixels, at least 1")
    for name, of in (("scale", scale), ("scale_y", scale if scale_y is None else scale_y)):
        if (
            len(of) != 2
            or not all(isinstance(s, int | float) and math.isfinite(s) for s in of)
            or not 1 <= of[0] <= of[1]
        ):
            raise UsageError(
                f"{name} is {list(of)}: give the lowest and the highest, each at least 1, as in [1, 4]"
            )
    # A transpose may put either along either axis of an image.
    return round(crop * max(scale[0], (scale_y or scale)[0]))


def augment(image: np.ndarray, orientation: int) -> np.ndarray:
    """One of the eight flips and transposes of an (H, W, C) image; orientation in [0, 8)."""
    if orientation & 1:
        image = image[::-1]
    if orientation & 2:
        image = image[:, ::-1]
    if orientation & 4:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image)


def unit(image: np.ndarray, peak: int = 255) -> Tensor:
    """Whole numbers from 0 to ``peak`` to float32 in [0, 1]."""
    return torch.from_numpy(image.astype(np.float32)).div_(peak)


def tensor(image: np.ndarray) -> Tensor:
    """Uint8 as it is, and uint16, of which torch knows little, as int32."""
    return torch.tensor(image if image.dtype == np.uint8 else image.astype(np.int32))
