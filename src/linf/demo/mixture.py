"""An image at any temperature without waiting: ``mean + τ · noise`` takes one decode, then only mixing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from linf.images.photo import Photo
from linf.images.write import enlarged_alpha
from linf.models.baselines import Bicubic
from linf.models.linf import LINF
from linf.upscale.enlarge import Ask, enlarge, grey, levels
from linf.upscale.inputs import Size

HIGHEST = 1.0
"""Temperature up to which an image may be asked for; see `LINF.regions`."""

LARGEST_IN, LARGEST_OUT = 0.4e6, 6e6
"""Pixels of an image, and of what becomes of it, that a core makes within half a minute."""

Part = tuple[slice, slice]
"""Rows and columns."""

WHOLE: Part = (slice(None), slice(None))


def around(size: Sequence[int], middle: Sequence[float], kept: Sequence[float]) -> Part:
    """The part of an image (h, w) around a point (y, x), of a given (h, w) and as close as the edges let it."""
    cuts = []
    for length, centre, wanted in zip(size, middle, kept, strict=True):
        n = min(length, max(1, int(wanted)))
        start = min(max(round(centre - n / 2), 0), length - n)
        cuts.append(slice(start, start + n))
    return cuts[0], cuts[1]


def detail(size: Sequence[int], scale: float, middle: Sequence[float]) -> Part:
    """As much of an image (h, w) around a point as the page enlarges at a time, of the same proportions."""
    share = math.sqrt(min(1, min(LARGEST_IN, LARGEST_OUT / scale**2) / math.prod(size)))
    return around(size, middle, [share * n for n in size])


def cut(image: Photo, part: Part) -> Photo:
    """A part of it."""
    alpha = None if image.alpha is None else image.alpha[part]
    return replace(image, pixels=image.pixels[part], alpha=alpha)


class Mixture:
    """An image's mean and the noise of one sample.

    Args:
        model: The model; the work is done on its device.
        image: The small image.
        scale: The scale, 1 or more.
        seed: The seed; the sample is that of `LINF.sample` with the same one.
        advance: A function that is called with the share done, 0 to 1.

    Raises:
        UsageError: Memory is too small.
    """

    def __init__(
        self,
        model: LINF,
        image: Photo,
        scale: float,
        seed: int = 0,
        advance: Callable[[float], object] = lambda done: None,
    ) -> None:
        self.lr, self.peak = image, image.peak
        self.size = Size(scale=scale).of(*image.pixels.shape[:2])
        device = next(model.parameters()).device
        lr = torch.from_numpy(image.pixels.astype(np.float32)).permute(2, 0, 1)[None] / self.peak
        known = model.distribution(
            lr.expand(-1, 3, -1, -1).to(device),
            self.size,
            seed=seed,
            highest=HIGHEST,
            advance=partial(_count, [0], math.prod(self.size), advance),
        )
        assert known is not None
        planes = known.mean[0], known.noise[0, 0]
        self.mean, self.noise = map(grey, planes) if image.pixels.shape[2] == 1 else planes
        self.alpha = None if image.alpha is None else enlarged_alpha(image.alpha, self.size)

    def at(self, temperature: float | Tensor, part: Part = WHOLE) -> Photo:
        """Return the image, or a part of it, at a temperature or a map (H,W) of them, up to `HIGHEST`."""
        pixels = levels(self.values(temperature, part), self.peak).astype(self.lr.pixels.dtype)
        return replace(self.lr, pixels=pixels, alpha=None if self.alpha is None else self.alpha[part])

    def values(self, temperature: float | Tensor, part: Part = WHOLE) -> Tensor:
        """Return the same before rounding: (3,y,x) or (1,y,x) in the units of [0, 1], not clamped."""
        mean, noise = self.mean[:, *part], self.noise[:, *part]
        if isinstance(temperature, Tensor):
            return torch.addcmul(mean, noise, temperature[part].to(mean))
        return torch.add(mean, noise, alpha=temperature)

    def bicubic(self) -> Photo:
        """Return the bicubic image that it is compared with."""
        made = enlarge(Bicubic(), self.lr.pixels, self.size, Ask())
        return replace(self.lr, pixels=made.images[0], alpha=self.alpha)

    def region(self, painted: Image.Image) -> Tensor:
        """A region painted on the small image, grey of any size → its share (H,W) of each pixel, with a soft edge."""
        inside = painted.point(lambda ink: 255 * (ink > 64))  # A brush may be translucent.
        soft = inside.resize(self.lr.pixels.shape[1::-1], Image.Resampling.BILINEAR)
        soft = soft.filter(ImageFilter.GaussianBlur(max(1, max(soft.size) / 100)))
        return torch.from_numpy(np.array(soft.resize(self.size[::-1], Image.Resampling.BILINEAR))) / 255

    def deviation(self, model: LINF, advance: Callable[[float], object] = lambda done: None) -> np.ndarray:
        """(H,W): standard deviation of luma at temperature 1, in the units of [0, 1]."""
        ask = Ask(uncertainty=True, device=self.mean.device)
        counted = partial(_count, [0], math.prod(self.size), advance)
        deviation = enlarge(model, self.lr.pixels, self.size, ask, counted).deviation
        assert deviation is not None
        return deviation


def _count(done: list[int], total: int, advance: Callable[[float], object], more: int) -> None:
    done[0] += more
    advance(done[0] / total)
