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
from linf.data.store import ImageStore
from linf.errors import UsageError
from linf.images.degrade import pad_to
from linf.images.resize import pil_bicubic


class SRBatch(NamedTuple):
    """A batch of training samples; a single sample has the same shapes without B.

    Attributes:
        lr: (B,3,h,w) LR crops in [0, 1].
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
        hr: (B,3,n,n) uint8 HR crops, at the top left; n is the side of the largest.
        size: (B,2) heights and widths of the HR crops.
        draw: how each is degraded.
    """

    batch: SRBatch
    hr: Tensor
    size: Tensor
    draw: Draw

    def degraded(self, degradation: Degradation) -> SRBatch:
        """The batch with its LR crops degraded, but for those that stay clean."""
        lr = self.batch.lr
        bad = degradation(self.hr.to(lr.dtype) / 255, self.size, (lr.shape[-2], lr.shape[-1]), self.draw)
        return self.batch._replace(lr=torch.where(self.draw.clean[:, None, None, None], lr, bad))


class RandomScaleCrops(Dataset[SRBatch | UndegradedBatch]):
    """HR crops of ``round(crop · s)`` a side, ``s ~ U(scale)``, with their LR by Pillow's bicubic and queries. Sample
    ``i`` is a function of ``(seed, epoch, index)`` with ``epoch, index = divmod(i, len)``, whatever the number of
    workers and ranks. An image too small for the largest scale is cropped at scales up to the one it allows.

    Args:
        cache: images, each at least `smallest_crop` a side.
        crop: LR pixels a side.
        scale: the lowest and the highest ``s``, at least 1; equal for a fixed scale.
        patch_size: P, odd.
        queries: the number q of patches per sample, arranged as (√q, √q) if √q is whole and as (1, q) otherwise; None
            for as many as have ``crop`` pixels a side, the published window.
        window: False for patches at random pixels, all distinct if the crop has enough of them; True for a contiguous
            square of ``floor(√q)`` whole patches a side.
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
        patch_size: int = 1,
        queries: int | None = 2304,
        window: bool = False,
        repeat: int = 1,
        seed: int = 0,
        degradation: Degradation | None = None,
    ) -> None:
        smallest = smallest_crop(crop, scale)
        if patch_size < 1 or patch_size % 2 == 0:
            raise UsageError(f"patch_size is {patch_size}: give an odd number, 1 or 3 as published")
        if queries is None:
            queries = max(crop // patch_size, 1) ** 2
        if queries < 1 or repeat < 1 or seed < 0:
            raise UsageError(
                f"queries, repeat, seed are {queries}, {repeat}, {seed}: give at least 1, 1 and 0"
            )
        self.side = math.isqrt(queries)
        needed = self.side * patch_size if window else patch_size
        if needed > smallest:
            raise UsageError(
                f"the patches take {needed} pixels a side, which do not fit in the smallest crop, "
                f"round({crop} · {scale[0]:g}) = {smallest}: lower queries or patch_size, or raise crop"
            )
        if (least := cache.shortest_side) < smallest:
            raise UsageError(
                f"an image has {least} pixels on its shorter side, below the smallest crop, {smallest}: "
                f"open the cache with min_side={smallest}"
            )
        self.cache, self.crop, self.scale, self.patch_size = cache, crop, scale, patch_size
        self.queries, self.window, self.repeat, self.seed = queries, window, repeat, seed
        self.degradation = degradation

    def __len__(self) -> int:
        return len(self.cache) * self.repeat

    def __getitem__(self, i: int) -> SRBatch | UndegradedBatch:
        epoch, index = divmod(i, len(self))
        rng = np.random.default_rng((self.seed, epoch, index))
        hr = self._hr_crop(self.cache[index % len(self.cache)], rng)
        lr = pil_bicubic(hr, (self.crop, self.crop))
        y, x = (self._window if self.window else self._scattered)(len(hr), rng)
        offset = np.arange(self.patch_size) - self.patch_size // 2
        patches = hr[(y[..., None] + offset)[..., :, None], (x[..., None] + offset)[..., None, :]]
        centres = pixel_centres(len(hr))
        sample = SRBatch(
            lr=unit(lr.transpose(2, 0, 1)),
            hr=unit(patches.transpose(4, 2, 3, 0, 1).reshape(-1, *y.shape)),
            coord=torch.stack((centres[torch.from_numpy(y)], centres[torch.from_numpy(x)]), dim=-1),
            cell=torch.full((2,), 2 / len(hr)),
        )
        if self.degradation is None:
            return sample
        # Of its own, so that a degradation changes no crop.
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        return UndegradedBatch(
            sample,
            pad_to(torch.from_numpy(hr).permute(2, 0, 1), round(self.crop * self.scale[1])),
            torch.tensor(hr.shape[:2]),
            self.degradation.draw(rng, (self.crop, self.crop), hr.shape[2]),
        )

    def _hr_crop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        shortest = min(image.shape[:2])
        low, high = self.scale
        s = rng.uniform(low, max(low, min(high, shortest / self.crop)))
        side = min(round(self.crop * s), shortest)
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
        return augment(image[top : top + side, left : left + side], int(rng.integers(8)))

    def _window(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        room = n - self.side * self.patch_size + 1
        steps = np.arange(self.side) * self.patch_size + self.patch_size // 2
        y, x = np.meshgrid(rng.integers(room) + steps, rng.integers(room) + steps, indexing="ij")
        return y, x

    def _scattered(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        room = n - self.patch_size + 1
        chosen = rng.choice(room**2, self.queries, replace=room**2 < self.queries)
        shape = (self.side, self.side) if self.side**2 == self.queries else (1, self.queries)
        y, x = np.divmod(chosen.reshape(shape), room)
        return y + self.patch_size // 2, x + self.patch_size // 2


def smallest_crop(crop: int, scale: Sequence[float]) -> int:
    """HR pixels a side of the crop at the lowest scale, the least that every training image must have.

    Raises:
        UsageError: crop or scale is out of range.
    """
    if crop < 1:
        raise UsageError(f"crop is {crop}: give the LR crop's side in pixels, at least 1")
    if (
        len(scale) != 2
        or not all(isinstance(s, int | float) and math.isfinite(s) for s in scale)
        or not 1 <= scale[0] <= scale[1]
    ):
        raise UsageError(
            f"scale is {list(scale)}: give the lowest and the highest, each at least 1, as in [1, 4]"
        )
    return round(crop * scale[0])


def augment(image: np.ndarray, orientation: int) -> np.ndarray:
    """One of the eight flips and transposes of an (H, W, C) image; orientation in [0, 8)."""
    if orientation & 1:
        image = image[::-1]
    if orientation & 2:
        image = image[:, ::-1]
    if orientation & 4:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image)


def unit(image: np.ndarray) -> Tensor:
    """Uint8 to float32 in [0, 1]."""
    return torch.from_numpy(image.astype(np.float32)).div_(255)
