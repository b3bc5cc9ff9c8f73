"""Data box of the figure: crops for training from given LR–HR pairs, at whatever ratio each of them has."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from linf.coordinates import Scale, axis_scales
from linf.data.cache import ImageCache
from linf.data.crops import SRBatch, augment, smallest_crop, unit
from linf.data.given import covers
from linf.data.layouts import ImageSet
from linf.data.patches import RandomPatches
from linf.errors import UsageError, shorten

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPair:
    """An LR image and the HR pixels at the top left that it covers.

    Attributes:
        lr: the cache of the LR image.
        hr: the cache of the HR image.
        number: of the image in both.
        size: (H, W) of those HR pixels; H/h and W/w are the ratios.
        transposes: whether the pair may be transposed, as its scales may be exchanged.
    """

    lr: ImageCache
    hr: ImageCache
    number: int
    size: tuple[int, int]
    transposes: bool = True

    @property
    def lr_size(self) -> tuple[int, int]:
        """(h, w) of the LR image."""
        return self.lr.shapes[self.number]

    @property
    def name(self) -> Path:
        """The file of the LR image."""
        return self.lr.paths[self.number]


def training_pairs(
    images: ImageSet,
    cached: Callable[[Sequence[Path]], ImageCache],
    *,
    crop: int,
    scale: Sequence[float],
    scale_y: Sequence[float] | None = None,
) -> list[TrainingPair]:
    """All given LR images with their HR images, whose ratio lies in a range. Where a name says the scale, HR is cropped
    to ``round(h·s)`` as in evaluation; elsewhere the two sizes say it.

    Args:
        images: a dataset.
        cached: opens images, and fails on unreadable ones.
        crop: LR pixels a side that a pair must have; smaller ones are left out, with a warning that counts them.
        scale: the lowest and the highest ratio; others are left out likewise.
        scale_y: the same of the vertical axis; None where both axes have one ratio, to a pixel.

    Raises:
        UsageError: there is no LR image, or none is left; an image lacks its partner, or does not fit it.
    """
    smallest_crop(crop, scale, scale_y)
    ranges = (scale if scale_y is None else scale_y, scale)

    def wanted(named: Scale | None) -> bool:
        factors = () if named is None else zip(axis_scales(named), ranges, strict=True)
        return all(low <= s <= high for s, (low, high) in factors)

    if faults := [fault for named, fault in images.faults.items() if wanted(named)]:
        raise UsageError(faults[0])
    if not images.lr:
        raise UsageError(
            f"data.pairs is true, but {images.name} has no given LR images: put them beside the HR images, as in "
            "HR/a.png and LR/a.png, or leave data.pairs out for LR that is made from HR"
        )
    pairs, small, outside = list[TrainingPair](), list[str](), list[str]()
    for named, paths in images.lr.items():
        if not wanted(named):
            outside += [f"{path} (×{named:g})" for path in paths]
            continue
        hr, lr = cached(images.hr_at.get(named, images.hr)), cached(paths)
        for index, lr_size in enumerate(lr.shapes):
            pair = TrainingPair(lr, hr, index, _covered(lr, hr, index, named, scale_y is not None))
            ratios = "×".join(f"{n / m:.3g}" for n, m in zip(pair.size, lr_size, strict=True))
            if not _within(pair, ranges):
                outside.append(f"{pair.name} ({ratios})")
            elif min(lr_size) < crop:
                small.append(str(pair.name))
            else:
                pairs.append(replace(pair, transposes=_within(pair, ranges[::-1])))
    found = len(pairs) + len(small) + len(outside)
    reasons = {
        f"with LR below {crop} pixels a side, the crop: {shorten(small, 3)}": small,
        f"whose ratio is none of data.scale={list(scale)}{f' and data.scale_y={list(scale_y)}' if scale_y else ''}: "
        f"{shorten(outside, 3)}": outside,
    }
    left_out = [f"{len(of)} {reason}" for reason, of in reasons.items() if of]
    if not pairs:
        raise UsageError(f"none of {found} LR–HR pairs of {images.name} can be used: {'; '.join(left_out)}")
    for reason in left_out:
        log.warning("left out of %d LR–HR pairs of %s: %s", found, images.name, reason)
    return pairs


def _covered(
    lr: ImageCache, hr: ImageCache, index: int, named: Scale | None, by_axis: bool
) -> tuple[int, int]:
    """The HR pixels (H, W) that an LR image covers, if it fits the HR image."""
    small, large = lr.shapes[index], hr.shapes[index]
    if named is None:
        # The ratios at which the LR image has the HR image's size to less than a pixel, of both axes in common.
        lowest = max(n / (m + 1) for n, m in zip(large, small, strict=True))
        highest = min(n / (m - 1) if m > 1 else math.inf for n, m in zip(large, small, strict=True))
        fits, wanted = by_axis or lowest < highest, large
        why = "the ratios of height and width differ by more than a pixel"
    else:
        exact = [m * s for m, s in zip(small, axis_scales(named), strict=True)]
        fits = all(covers(n, m, s) for n, m, s in zip(large, small, axis_scales(named), strict=True))
        wanted = (min(large[0], round(exact[0])), min(large[1], round(exact[1])))
        why = f"at ×{named:g} it covers {exact[0]:g}×{exact[1]:g}"
    if not fits:
        raise UsageError(
            f"the given LR {lr.paths[index]} with {small[0]}×{small[1]} pixels (height × width) does not fit "
            f"{hr.paths[index]} with {large[0]}×{large[1]}: {why}; replace or remove it"
            + (", or set data.scale_y for a scale for each axis" if named is None else "")
        )
    return wanted


def _within(pair: TrainingPair, ranges: Sequence[Sequence[float]]) -> bool:
    """Whether the ratio of each axis lies in its range, to less than an LR pixel."""
    sides = zip(pair.size, pair.lr_size, ranges, strict=True)
    return all(n / high < m + 1 and n / low > m - 1 for n, m, (low, high) in sides)


class PairedCrops(Dataset[SRBatch]):
    """LR crops of given pairs at whole LR pixels, and queries among the HR pixels that lie wholly within them, at their
    exact places: at a ratio such as 2.5 an LR crop may begin in the middle of an HR pixel. Sample ``i`` is a function
    of ``(seed, epoch, index)`` with ``epoch, index = divmod(i, len)``, whatever the number of workers and ranks.

    Args:
        pairs: from `training_pairs`.
        crop: LR pixels a side.
        patch_size: see `RandomPatches`, as for queries and window.
        repeat: the number of samples that each pair gives per epoch.
        seed: decides position, orientation and queries.

    Raises:
        UsageError: a number is out of range, or the patches do not fit in a crop of some pair.
    """

    def __init__(
        self,
        pairs: Sequence[TrainingPair],
        *,
        crop: int = 48,
        patch_size: int = 1,
        queries: int | None = 2304,
        window: bool = False,
        repeat: int = 1,
        seed: int = 0,
    ) -> None:
        self.patches = RandomPatches(crop, patch_size, queries, window)
        if repeat < 1 or seed < 0:
            raise UsageError(f"repeat, seed are {repeat}, {seed}: give at least 1 and 0")
        # A crop that begins between HR pixels may cut one at either end.
        whole, tightest = min(
            (
                (crop * n // m - (n % m > 0), pair)
                for pair in pairs
                for n, m in zip(pair.size, pair.lr_size, strict=True)
            ),
            key=lambda found: found[0],
        )
        if self.patches.needed > whole:
            raise UsageError(
                f"the patches take {self.patches.needed} pixels a side, and an LR crop of {crop} from {tightest.name} "
                f"may cover only {whole} whole HR pixels: lower queries or patch_size, or raise crop or data.scale"
            )
        self.cache, self.crop, self.repeat, self.seed = pairs, crop, repeat, seed

    def __len__(self) -> int:
        return len(self.cache) * self.repeat

    def __getitem__(self, i: int) -> SRBatch:
        epoch, index = divmod(i, len(self))
        rng = np.random.default_rng((self.seed, epoch, index))
        pair = self.cache[index % len(self.cache)]
        orientation = int(rng.integers(8 if pair.transposes else 4))
        top, left = (int(rng.integers(n - self.crop + 1)) for n in pair.lr_size)
        (rows, y), (cols, x) = (
            _window(start, self.crop, *of)
            for start, of in zip((top, left), zip(pair.lr_size, pair.size, strict=True), strict=True)
        )
        lr = pair.lr[pair.number][top : top + self.crop, left : left + self.crop]
        hr = pair.hr[pair.number][rows, cols]
        cell = [2 * m / (self.crop * n) for m, n in zip(pair.lr_size, pair.size, strict=True)]
        # As `augment` turns the images.
        y = -y[::-1] if orientation & 1 else y
        x = -x[::-1] if orientation & 2 else x
        if orientation & 4:
            y, x, cell = x, y, cell[::-1]
        centres = [torch.tensor(of.copy(), dtype=torch.float32) for of in (y, x)]
        patches, coord = self.patches.draw(augment(hr, orientation), centres, rng)
        lr = augment(lr, orientation).transpose(2, 0, 1)
        peak = pair.hr.pixels.peak
        return SRBatch(unit(lr, peak), unit(patches, peak), coord, torch.tensor(cell))


def _window(start: int, crop: int, lr: int, hr: int) -> tuple[slice, np.ndarray]:
    """Along one axis: the HR pixels that lie wholly within LR pixels [start, start + crop) of ``lr``, and their centres
    in [-1, 1] of that crop, float64. Whole numbers decide, in units of 1 / lr of an HR pixel.
    """
    first, last = -(-start * hr // lr), (start + crop) * hr // lr
    pixel = np.arange(first, last)
    return slice(first, last), ((2 * pixel + 1) * lr - 2 * start * hr) / (crop * hr) - 1
