"""Data box of the figure: whole images for evaluation, at every scale (METHOD §7)."""

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from linf.coordinates import AxisScales, Scale, axis_scales, read_scale
from linf.data.cache import ImageCache
from linf.data.crops import tensor, unit
from linf.data.degradation import Degradation
from linf.data.given import covers
from linf.errors import UsageError
from linf.images.reduction import Reduction
from linf.images.resize import matlab_bicubic, pil_bicubic


class ImagePair(NamedTuple):
    """An image to evaluate on, at one scale.

    Attributes:
        lr: (C,h,w) in [0, 1]; (1,C,h,w) from `collate_pair`.
        hr: (C,H,W) in [0, 1]; (1,C,H,W) from `collate_pair`.
        scale: the scale factor, H/h and W/w but for rounding.
        name: the image's name in tables.
        dataset: the dataset's name in tables.
        peak: the value of white of the whole numbers that both are made of, 255 for 8 bits.
        reduction: the linear map that makes LR of HR, MATLAB's bicubic where LR is given; None where it is not linear.
    """

    lr: Tensor
    hr: Tensor
    scale: Scale
    name: str
    dataset: str = ""
    peak: int = 255
    reduction: Reduction | None = Reduction()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the HR image."""
        return self.hr.shape[-2], self.hr.shape[-1]

    def seed_of_latents(self, seed: int) -> int:
        """The seed of an image's samples at its scale, from that of an evaluation or a run."""
        return zlib.crc32(f"{seed} {self.name} {self.scale:g}".encode())


class ScaledImages(Dataset[ImagePair]):
    """Every image at every scale, all images of the first scale first (METHOD §7). The HR image is cropped at the top
    left to ``round(floor(H/s)·s)`` pixels a side and its LR image made by a bicubic. Where an LR image is given for the
    scale, the HR image is cropped to ``round(h·s)`` instead, as far as it reaches. A scale may be one for each axis.

    Args:
        hr: HR images.
        scales: each at least 1, whole or not; a number, or [y, x] for a factor for each axis.
        lr: given LR images by scale, in the order of the HR images.
        crop: HR pixels a side of a central crop taken first, for a quick look; ``lr`` is then not used.
        name: the dataset's name.
        resize: the bicubic that makes LR images: ``pil``, Pillow's, or ``matlab``, that of the benchmarks.
        hr_at: the HR images of scales that have their own, as RealSR has.
        degradation: how LR images differ from clean ones, in place of ``resize``; ``lr`` is then not used.
        seed: decides how each image is degraded, with its name and scale.

    Attributes:
        lr_from: by scale, where LR images come from: ``given``, or whose bicubic makes them.

    Raises:
        UsageError: a scale is out of range or leaves no LR pixel, or a given LR image does not fit its HR image.
    """

    def __init__(
        self,
        hr: ImageCache,
        scales: Sequence[Scale | Sequence[float]],
        lr: Mapping[Scale, ImageCache] | None = None,
        crop: int | None = None,
        name: str = "",
        resize: Literal["pil", "matlab"] = "pil",
        hr_at: Mapping[Scale, ImageCache] | None = None,
        degradation: Degradation | None = None,
        seed: int = 0,
    ) -> None:
        if resize not in ("pil", "matlab"):
            raise UsageError(f"the bicubic that makes LR is {resize!r}: choose 'pil' or 'matlab'")
        read = [read_scale(s) for s in scales]
        if not read or not all(math.isfinite(n) and n >= 1 for s in read for n in axis_scales(s)):
            raise UsageError(
                f"scales are {list(scales)}: give one or more numbers, each at least 1, or [y, x] for one for each axis"
            )
        if crop is not None and crop < 1:
            raise UsageError(f"the evaluation crop is {crop}: give HR pixels a side, at least 1, or null")
        self.scales = [float(s) if isinstance(s, int) else s for s in read]
        self.crop, self.name = crop, readable_name(name)
        self.resize = pil_bicubic if resize == "pil" else _matlab
        self.degradation, self.seed = degradation, seed
        self.lr = {} if crop or degradation else {s: lr[s] for s in self.scales if lr and s in lr}
        self.hr, self.hr_at = hr, {s: hr if crop else (hr_at or {}).get(s, hr) for s in self.scales}
        self.names = {s: [readable_name(n) for n in image_names(of.paths)] for s, of in self.hr_at.items()}
        bicubic = "Pillow's bicubic" if resize == "pil" else "MATLAB's bicubic"
        made = bicubic if degradation is None else str(degradation)
        self.lr_from = {s: "given" if s in self.lr else made for s in self.scales}
        self._pairs = [(s, i) for s in self.scales for i in range(len(self.hr_at[s]))]
        for s in self.scales:
            for i, (path, shape) in enumerate(zip(self.hr_at[s].paths, self.hr_at[s].shapes, strict=True)):
                if s in self.lr:
                    _check_given(path, shape, self.lr[s], i, s)
                    continue
                for n, factor in zip(shape, axis_scales(s), strict=True):
                    if _lr_pixels(n := min(n, crop or n), factor) < 1:
                        raise UsageError(
                            f"{path} has {n} pixels on a side, which scale {s:g} shrinks to none: lower the scale to "
                            f"at most {n}, or leave the image out"
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
        sy, sx = axis_scales(s)
        if given is None:
            h, w = _lr_pixels(hr.shape[0], sy), _lr_pixels(hr.shape[1], sx)
        else:
            h, w = given.shape[:2]
        hr = hr[: round(h * sy), : round(w * sx)]
        if given is None:
            lr, reduction = self._make_lr(np.ascontiguousarray(hr), (h, w), name, s)
        else:
            lr, reduction = given, Reduction()
        peak = self.hr.pixels.peak
        lr, hr = lr.transpose(2, 0, 1), hr.transpose(2, 0, 1)
        return ImagePair(unit(lr, peak), unit(hr, peak), s, name, self.name, peak, reduction)

    def _make_lr(
        self, hr: np.ndarray, size: tuple[int, int], name: str, s: Scale
    ) -> tuple[np.ndarray, Reduction | None]:
        if self.degradation is None:
            kernel = "bicubic" if self.resize is pil_bicubic else "matlab"
            return self.resize(hr, size, self.hr.pixels.peak), Reduction(kernel)
        key = (self.seed, zlib.crc32(f"{self.name}/{name}".encode()), *_thousandths(s))
        lr = self.degradation.degrade(hr, size, np.random.default_rng(key), self.hr.pixels.peak)
        return lr, self.degradation.reduction(hr.shape[:2], size, np.random.default_rng(key))

    def describe_lr(self) -> dict[str, dict[str, str]]:
        """Where the LR images of each scale come from, and their folder where they are given, for the record."""
        return {
            f"{s:g}": {"from": made}
            | ({"folder": os.path.dirname(self.lr[s].paths[0])} if s in self.lr else {})
            for s, made in self.lr_from.items()
        }

    def key(self, i: int) -> tuple[str, str, Scale]:
        """Dataset, image and scale of pair ``i``, without reading its pixels."""
        s, index = self._pairs[i]
        return self.name, self.names[s][index], s

    def digest(self, i: int) -> str:
        """A digest of the HR image of pair ``i`` and of its LR image, if that is given, or of how it is degraded."""
        s, index = self._pairs[i]
        parts = [of[s].digest(index) for of in (self.hr_at, self.lr) if s in of]
        if self.degradation:
            parts.append(self.degradation.digest(self.seed))
        return "-".join(parts)


def _matlab(image: np.ndarray, size: tuple[int, int], peak: int) -> np.ndarray:
    resized = matlab_bicubic(tensor(image).permute(2, 0, 1), size, peak=peak)
    return resized.permute(1, 2, 0).numpy().astype(image.dtype)


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


def _thousandths(s: Scale) -> list[int]:
    """A scale as whole numbers for a seed: one where it is one."""
    return [round(1000 * n) for n in (axis_scales(s) if isinstance(s, AxisScales) else [s])]


def _check_given(path: Path, shape: tuple[int, ...], lr: ImageCache, i: int, s: Scale) -> None:
    if i >= len(lr) or not all(map(covers, shape, lr.shapes[i], axis_scales(s))):
        given = f"{lr.paths[i]} with {lr.shapes[i]}" if i < len(lr) else "nothing"
        raise UsageError(
            f"the given LR of {path} with {shape} pixels at scale {s:g} is {given}: replace it, or remove "
            "its folder"
        )


def readable_name(name: str) -> str:
    """Return the name of a file with escapes for its bytes that are no text, as those of another encoding may be."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
