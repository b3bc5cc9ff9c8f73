"""An image at any temperature without waiting: ``mean + τ · noise`` takes one decode, then only mixing.

Another sample, the map of the deviation and every temperature take neither encoder nor conditioner again.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from linf.demo.window import Part
from linf.errors import UsageError
from linf.images.luma import PILLOW_GREY
from linf.images.photo import Photo
from linf.images.write import enlarged_alpha
from linf.models.consistency import Projection
from linf.models.correlation import LatentChoice, chosen_correlation, latent_fields
from linf.models.decoding import Block, Latents, Request
from linf.models.linf import LINF
from linf.models.resampling import deviation_parts, noise_parts
from linf.models.super_resolver import SuperResolver
from linf.models.tiling import Tile
from linf.upscale.enlarge import as_tensor, grey, levels

HIGHEST = 1.0
"""Temperature up to which an image may be asked for; see `LINF.regions`."""

Advance = Callable[[float], object]
"""Called with the share done, from 0 to 1."""


def silently(done: float) -> None:
    """Nobody looks at the progress."""


class Mixture:
    """The mean of an enlarged image, or of a part of it, and the noise of one sample.

    Args:
        model: the model; the work is done on its device.
        image: the whole small image.
        size: (H, W) of the whole enlarged image.
        part: rows and columns of the enlarged image that are wanted.
        tiles: features of what they are made of, see `Request`.
        seed: the sample is that of `LINF.sample` with the same one.
        latents: of neighbouring patches, see `LINF.sample`.
        advance: is called as the work goes on.
        consistent: whether mean and noise are such that LR of every sample is the image.
    """

    def __init__(
        self,
        model: SuperResolver,
        image: Photo,
        size: tuple[int, int],
        part: Part,
        tiles: Iterable[Tile],
        seed: int = 0,
        latents: LatentChoice = "independent",
        advance: Advance = silently,
        consistent: bool = False,
    ) -> None:
        self.model, self.image, self.size, self.part = model, image, size, part
        self.sample: tuple[int, LatentChoice] | None = seed, latents
        lr, device = plane_of(image, model), device_of(model)
        self.projection = consistent_part(image, size, part) if consistent else None
        self.held = part if self.projection is None else self.projection.needed
        shape = tuple(side.stop - side.start for side in self.held)
        channels = image.pixels.shape[2]
        self.mean, self.noise = (torch.zeros(channels, *shape, device=device) for _ in range(2))
        self.kept: list[Block] = []
        self.spread: np.ndarray | None = None
        self.projected: tuple[object, Tensor, Tensor] | None = None
        """The sample, and mean and noise of the part made consistent."""
        linear = isinstance(model, LINF)
        fields = self._latents(seed, latents) if linear else []
        request = Request(fields, HIGHEST, peak=image.peak, features=tiles, keep=linear)
        done = 0
        for region in model.regions(lr, size, request):
            done += region.mean[0].numel()
            self._put(self.mean, region.rows, region.cols, region.mean)
            if linear:
                self._put(self.noise, region.rows, region.cols, region.noise[0])
                assert region.kept is not None
                self.kept.append(region.kept)
            advance(min(done / math.prod(shape), 1))

    def draw(self, seed: int, latents: LatentChoice, advance: Advance = silently) -> None:
        """Take another sample, by the flow alone."""
        if not isinstance(self.model, LINF) or (seed, latents) == self.sample:
            return
        [field] = self._latents(seed, latents)
        self.sample = None  # Until it is whole, so that a cancelled one is drawn again.
        for number, made in enumerate(noise_parts(self.model.flow, self.kept, field, HIGHEST), 1):
            self._put(self.noise, *made)
            advance(number / len(self.kept))
        self.sample = (seed, latents)

    def deviation(self, advance: Advance = silently) -> np.ndarray:
        """(y,x) float32: standard deviation of luma at temperature 1, in the units of [0, 1]."""
        if self.spread is None:
            assert isinstance(self.model, LINF)
            if self.projection is not None:
                raise UsageError(
                    "the map is of samples as the model makes them, which consistency changes: switch that off first"
                )
            out = torch.zeros(1, *self.mean.shape[1:], device=self.mean.device)
            mix = torch.tensor([PILLOW_GREY], device=self.mean.device)
            for number, made in enumerate(deviation_parts(self.model.flow, self.kept, mix), 1):
                self._put(out, *made)
                advance(number / len(self.kept))
            self.spread = out[0].cpu().numpy()
        return self.spread

    def at(self, temperature: float | Tensor) -> Photo:
        """Return the image at a temperature or a map (y,x) of them, up to `HIGHEST`."""
        pixels = levels(self.values(temperature), self.image.peak).astype(self.image.pixels.dtype)
        return replace(self.image, pixels=pixels, alpha=enlarged_alpha(self.image, self.size, self.part))

    def values(self, temperature: float | Tensor) -> Tensor:
        """Return the same before rounding: (3,y,x) or (1,y,x) in the units of [0, 1], not clamped."""
        mean, noise = self._planes()
        if isinstance(temperature, Tensor):
            return torch.addcmul(mean, noise, temperature.to(mean))
        return torch.add(mean, noise, alpha=temperature)

    def _planes(self) -> tuple[Tensor, Tensor]:
        """Mean and noise of the part."""
        if self.projection is None:
            return self.mean, self.noise
        if self.projected is None or self.projected[0] != self.sample:
            lr, peak = plane_of(self.image, self.model)[0], self.image.peak
            mean = self.projection(self.mean, lr, peak)
            self.projected = self.sample, mean, self.projection(self.noise, 0)
        return self.projected[1:]

    def _latents(self, seed: int, choice: LatentChoice) -> Sequence[Latents]:
        model, lr = self.model, plane_of(self.image, self.model)
        correlation = chosen_correlation(model.correlation, choice)
        return latent_fields([seed], lr, self.size, model.dim, model.patch_size, correlation=correlation)

    def _put(self, whole: Tensor, rows: slice, cols: slice, values: Tensor) -> None:
        """Put HR rows and columns where they belong, as far as they are wanted."""
        values = grey(values) if len(values) > len(whole) else values
        low, high = zip(*map(_overlap, (rows, cols), self.held), strict=True)
        whole[:, *high] = values[:, *low]


def consistent_part(image: Photo, size: tuple[int, int], part: Part) -> Projection:
    """What makes a part of an enlarged image consistent with the small one."""
    return Projection((image.pixels.shape[0], image.pixels.shape[1]), size, part=part)


def plane_of(image: Photo, model: SuperResolver) -> Tensor:
    """An image as (1,C,h,w) whole numbers on a model's device."""
    return as_tensor(image.pixels, device_of(model))


def device_of(model: SuperResolver) -> torch.device:
    """Where a model's weights are."""
    return next((each.device for each in model.parameters()), torch.device("cpu"))


def _overlap(given: slice, wanted: slice) -> tuple[slice, slice]:
    """What is common to two ranges, counted from the start of each."""
    start, stop = max(given.start, wanted.start), min(given.stop, wanted.stop)
    stop = max(start, stop)
    return slice(start - given.start, stop - given.start), slice(start - wanted.start, stop - wanted.start)
