"""Data box of the figure: random-scale crops for training (METHOD §6), whole images for evaluation (METHOD §7)."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from linf.coordinates import pixel_centres
from linf.data.cache import ImageCache
from linf.errors import UsageError
from linf.files import readable_name
from linf.images.resize import matlab_bicubic, pil_bicubic


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


class RandomScaleCrops(Dataset[SRBatch]):
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
        seed: decides scale, position, orientation and queries.

    Raises:
        UsageError: a number is out of range, the patches do not fit in the smallest crop, or an image is smaller.
    """

    def __init__(
        self,
        cache: ImageCache,
        *,
        crop: int = 48,
        scale: Sequence[float] = (1.0, 4.0),
        patch_size: int = 1,
        queries: int | None = 2304,
        window: bool = False,
        repeat: int = 1,
        seed: int = 0,
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
        if (least := min(map(min, cache.shapes))) < smallest:
            raise UsageError(
                f"an image has {least} pixels on its shorter side, below the smallest crop, {smallest}: "
                f"open the cache with min_side={smallest}"
            )
        self.cache, self.crop, self.scale, self.patch_size = cache, crop, scale, patch_size
        self.queries, self.window, self.repeat, self.seed = queries, window, repeat, seed

    def __len__(self) -> int:
        return len(self.cache) * self.repeat

    def __getitem__(self, i: int) -> SRBatch:
        epoch, index = divmod(i, len(self))
        rng = np.random.default_rng((self.seed, epoch, index))
        hr = self._hr_crop(self.cache[index % len(self.cache)], rng)
        lr = pil_bicubic(hr, (self.crop, self.crop))
        y, x = (self._window if self.window else self._scattered)(len(hr), rng)
        offset = np.arange(self.patch_size) - self.patch_size // 2
        patches = hr[(y[..., None] + offset)[..., :, None], (x[..., None] + offset)[..., None, :]]
        centres = pixel_centres(len(hr))
        return SRBatch(
            lr=_unit(lr.transpose(2, 0, 1)),
            hr=_unit(patches.transpose(4, 2, 3, 0, 1).reshape(-1, *y.shape)),
            coord=torch.stack((centres[torch.from_numpy(y)], centres[torch.from_numpy(x)]), dim=-1),
            cell=torch.full((2,), 2 / len(hr)),
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


def _unit(image: np.ndarray) -> Tensor:
    """Uint8 to float32 in [0, 1]."""
    return torch.from_numpy(image.astype(np.float32)).div_(255)


class ImagePair(NamedTuple):
    """An image to evaluate on, at one scale.

    Attributes:
        lr: (3,h,w) in [0, 1]; (1,3,h,w) from `collate_pair`.
        hr: (3,H,W) in [0, 1]; (1,3,H,W) from `collate_pair`.
        scale: the scale factor, H/h but for rounding.
        name: the image's name in tables.
        dataset: the dataset's name in tables.
    """

    lr: Tensor
    hr: Tensor
    scale: float
    name: str
    dataset: str = ""


class ScaledImages(Dataset[ImagePair]):
    """Every image at every scale, all images of the first scale first (METHOD §7). The HR image is cropped at the top
    left to ``round(floor(H/s)·s)`` pixels a side and its LR image made by a bicubic. Where an LR image is given for the
    scale, the HR image is cropped to ``round(h·s)`` instead, as far as it reaches.

    Args:
        hr: HR images.
        scales: each at least 1, whole or not.
        lr: given LR images by scale, in the order of the HR images.
        crop: HR pixels a side of a central crop taken first, for a quick look; ``lr`` is then not used.
        name: the dataset's name.
        resize: the bicubic that makes LR images: ``pil``, Pillow's, or ``matlab``, that of the benchmarks.
        hr_at: the HR images of scales that have their own, as RealSR has.

    Attributes:
        lr_from: by scale, where LR images come from: ``given``, or whose bicubic makes them.

    Raises:
        UsageError: a scale is out of range or leaves no LR pixel, or a given LR image does not fit its HR image.
    """

    def __init__(
        self,
        hr: ImageCache,
        scales: Sequence[float],
        lr: Mapping[float, ImageCache] | None = None,
        crop: int | None = None,
        name: str = "",
        resize: Literal["pil", "matlab"] = "pil",
        hr_at: Mapping[float, ImageCache] | None = None,
    ) -> None:
        if resize not in ("pil", "matlab"):
            raise UsageError(f"the bicubic that makes LR is {resize!r}: choose 'pil' or 'matlab'")
        if not scales or not all(isinstance(s, int | float) and math.isfinite(s) and s >= 1 for s in scales):
            raise UsageError(f"scales are {list(scales)}: give one or more numbers, each at least 1")
        if crop is not None and crop < 1:
            raise UsageError(f"the evaluation crop is {crop}: give HR pixels a side, at least 1, or null")
        self.scales, self.crop, self.name = [float(s) for s in scales], crop, readable_name(name)
        self.resize = pil_bicubic if resize == "pil" else _matlab
        self.lr = {} if crop else {float(s): given for s, given in (lr or {}).items() if s in self.scales}
        self.hr, self.hr_at = hr, {s: hr if crop else (hr_at or {}).get(s, hr) for s in self.scales}
        self.names = {s: [readable_name(n) for n in image_names(of.paths)] for s, of in self.hr_at.items()}
        made = "Pillow's bicubic" if resize == "pil" else "MATLAB's bicubic"
        self.lr_from = {s: "given" if s in self.lr else made for s in self.scales}
        self._pairs = [(s, i) for s in self.scales for i in range(len(self.hr_at[s]))]
        for s in self.scales:
            for i, (path, shape) in enumerate(zip(self.hr_at[s].paths, self.hr_at[s].shapes, strict=True)):
                shortest = min(*shape, crop or shape[0])
                if s in self.lr:
                    _check_given(path, shape, self.lr[s], i, s)
                elif _lr_pixels(shortest, s) < 1:
                    raise UsageError(
                        f"{path} has {shortest} pixels on its shorter side, which scale {s:g} shrinks to "
                        f"none: lower the scale to at most {shortest}, or leave the image out"
                    )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, i: int) -> ImagePair:
        s, index = self._pairs[i]
        hr, name = self.hr_at[s][index], self.names[s][index]
        if self.crop:
            top, left = (max(n - self.crop, 0) // 2 for n in hr.shape[:2])
            hr = hr[top : top + self.crop, left : left + self.crop]
        given = self.lr[s][index] if s in self.lr else None
        h, w = (_lr_pixels(n, s) for n in hr.shape[:2]) if given is None else given.shape[:2]
        hr = hr[: round(h * s), : round(w * s)]
        lr = self.resize(np.ascontiguousarray(hr), (h, w)) if given is None else given
        return ImagePair(_unit(lr.transpose(2, 0, 1)), _unit(hr.transpose(2, 0, 1)), s, name, self.name)

    def describe_lr(self) -> dict[str, dict[str, str]]:
        """Where the LR images of each scale come from, and their folder where they are given, for the record."""
        return {
            f"{s:g}": {"from": made}
            | ({"folder": os.path.dirname(self.lr[s].paths[0])} if s in self.lr else {})
            for s, made in self.lr_from.items()
        }

    def key(self, i: int) -> tuple[str, str, float]:
        """Dataset, image and scale of pair ``i``, without reading its pixels."""
        s, index = self._pairs[i]
        return self.name, self.names[s][index], s


def _matlab(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return matlab_bicubic(torch.tensor(image).permute(2, 0, 1), size).permute(1, 2, 0).numpy()


def image_names(paths: Sequence[Path]) -> list[str]:
    """Names of images in tables: the file's name, with as much of its path as makes the names unique."""
    home = os.path.commonpath([path.parent for path in paths])
    beneath = [path.relative_to(home) for path in paths]
    for names in ([p.stem for p in paths], [p.with_suffix("").as_posix() for p in beneath]):
        if len(set(names)) == len(names):
            return names
    return [path.as_posix() for path in beneath]


def collate_pair(images: list[ImagePair]) -> ImagePair:
    """Make a batch of one image: images of different sizes do not stack."""
    (image,) = images
    return image._replace(lr=image.lr[None], hr=image.hr[None])


def _lr_pixels(n: int, s: float) -> int:
    return math.floor(n / s + 1e-9)  # 33 / 1.1 is 29.999… in floating point, and 30 in LIIF's protocol.


def _check_given(path: Path, shape: tuple[int, ...], lr: ImageCache, i: int, s: float) -> None:
    # The LR image may have been made from an HR image cropped to a multiple of 12, as in GTmod12.
    if i >= len(lr) or any(abs(n * s - m) > max(12, s) for n, m in zip(lr.shapes[i], shape, strict=True)):
        given = f"{lr.paths[i]} with {lr.shapes[i]}" if i < len(lr) else "nothing"
        raise UsageError(
            f"the given LR of {path} with {shape} pixels at scale {s:g} is {given}: replace it, or remove "
            "its folder"
        )
