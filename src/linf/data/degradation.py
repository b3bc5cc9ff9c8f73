"""Data box of the figure: how LR images differ from clean bicubic ones, drawn at random for each sample."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from linf.errors import UsageError
from linf.images.degrade import KERNELS, blur, jpeg, pillow_jpeg, resample, shot_noise, webp
from linf.images.resize import pil_bicubic

Range = float | Sequence[float]
"""A number, or the lowest and the highest of a uniform distribution."""


@dataclass(frozen=True)
class Blur:
    """Gaussian blur before the reduction.

    Attributes:
        probability: of a sample to have it.
        sigma: standard deviation in LR pixels: σ HR pixels at scale s are σ / s.
        elongation: the longer standard deviation divided by the shorter one; 1 for isotropic kernels.
    """

    probability: float = 0.0
    sigma: Range = (0.2, 0.8)
    elongation: Range = 1.0


@dataclass(frozen=True)
class Noise:
    """Gaussian noise after the reduction.

    Attributes:
        probability: of a sample to have it.
        sigma: standard deviation, of 255.
        grey: the share of samples whose noise is the same in all channels.
    """

    probability: float = 0.0
    sigma: Range = (0.0, 12.0)
    grey: float = 0.4


@dataclass(frozen=True)
class ShotNoise:
    """Noise of counted photons after the reduction, which grows with the root of the brightness.

    Attributes:
        probability: of a sample to have it.
        photons: counted at white, with uniform logarithm; 650 give a standard deviation of 10 of 255 there.
        grey: as for `Noise`.
    """

    probability: float = 0.0
    photons: Range = (300.0, 10000.0)
    grey: float = 0.4


@dataclass(frozen=True)
class Compression:
    """JPEG with 4:2:0 chroma, or WebP, after the noise.

    Attributes:
        probability: of a sample to have it.
        quality: from 1 to 100.
    """

    probability: float = 0.0
    quality: Range = (30.0, 95.0)


class Settings(NamedTuple):
    """What a round does to each image of a batch, (B,) each; 0 does nothing, where it can."""

    sigma: Tensor
    elongation: Tensor
    angle: Tensor
    kernel: Tensor
    size: Tensor
    noise: Tensor
    grey_noise: Tensor
    photons: Tensor
    grey_photons: Tensor
    jpeg: Tensor
    webp: Tensor


class Round:
    """One way from an image to a file: blur, reduction, noise and compression, in this order.

    Args:
        blur: see `Blur`, as for the others.
        kernel: weights of the reductions to choose from, by their names in `linf.images.degrade.KERNELS`.
        noise: Gaussian noise.
        shot_noise: noise of counted photons.
        jpeg: compression.
        webp: compression on the host: on a GPU each step waits for it.
        size: the side that an image is reduced to, divided by the LR image's; 1 in the last round.

    Raises:
        UsageError: a number is out of range, or a name is unknown.
    """

    def __init__(
        self,
        blur: Mapping[str, Any] | None = None,
        kernel: Mapping[str, float] | None = None,
        noise: Mapping[str, Any] | None = None,
        shot_noise: Mapping[str, Any] | None = None,
        jpeg: Mapping[str, Any] | None = None,
        webp: Mapping[str, Any] | None = None,
        size: Range = 1.0,
    ) -> None:
        self.blur, self.noise = _read(Blur, "blur", blur), _read(Noise, "noise", noise)
        self.shot_noise = _read(ShotNoise, "shot_noise", shot_noise)
        self.jpeg, self.webp = _read(Compression, "jpeg", jpeg), _read(Compression, "webp", webp)
        self.size = _bounds("size", size, 0.1, 8)
        kernel = {"bicubic": 1.0} if kernel is None else kernel
        if set(kernel) - set(KERNELS) or min(kernel.values(), default=0) < 0 or not sum(kernel.values()):
            raise UsageError(f"kernel is {dict(kernel)}: give weights of {', '.join(KERNELS)}, one above 0")
        self.kernels = [KERNELS.index(name) for name in kernel]
        self.kernel_shares = np.array(list(kernel.values())) / sum(kernel.values())

    def draw(self, rng: np.random.Generator) -> list[float]:
        """The numbers of `Settings` for one image."""

        def number(of: Any, bounds: Range, chance: float = 1.0) -> float:
            # As many numbers are drawn whatever is chosen: to change one setting changes no other's.
            chosen, at = rng.random() < chance, float(rng.random())
            low, high = _pair(bounds)
            value = low * (high / low) ** at if of is ShotNoise else low + at * (high - low)
            return value if chosen else 0.0

        return [
            number(Blur, self.blur.sigma, self.blur.probability),
            number(Blur, self.blur.elongation),
            math.pi * float(rng.random()),
            self.kernels[int(np.searchsorted(self.kernel_shares.cumsum(), rng.random(), "right"))],
            number(None, self.size),
            number(Noise, self.noise.sigma, self.noise.probability) / 255,
            float(rng.random() < self.noise.grey),
            number(ShotNoise, self.shot_noise.photons, self.shot_noise.probability),
            float(rng.random() < self.shot_noise.grey),
            number(Compression, self.jpeg.quality, self.jpeg.probability),
            number(Compression, self.webp.quality, self.webp.probability),
        ]


class Draw(NamedTuple):
    """What was drawn for a sample; with (B,) in front for a batch.

    Attributes:
        clean: whether the sample stays clean.
        settings: (R,11), of each of the R rounds the numbers of `Settings`.
        noise: (2,C,h,w) standard Gaussian numbers of each round, as float32.
    """

    clean: Tensor
    settings: Tensor
    noise: tuple[Tensor, ...]


class Degradation:
    """One or two rounds of degradation, of which a share of the samples has none.

    Args:
        first: the first round.
        second: the second one, if there is one.
        clean: the share of samples whose LR stays the clean bicubic, to the bit.

    Raises:
        UsageError: clean is out of range, or the last round does not end at the size of the LR image.
    """

    def __init__(self, first: Round, second: Round | None = None, clean: float = 0.0) -> None:
        self.rounds = [first] if second is None else [first, second]
        (self.clean, _) = _bounds("clean", clean, 0, 1)
        if self.rounds[-1].size != (1, 1):
            raise UsageError(
                f"size of the last round is {self.rounds[-1].size}: it ends at the LR image's, 1"
            )

    def draw(self, rng: np.random.Generator, size: tuple[int, int], channels: int = 3) -> Draw:
        """Decide how one sample is degraded.

        Args:
            rng: of the sample.
            size: (h, w) of its LR image.
            channels: C.
        """
        clean, settings = rng.random() < self.clean, [each.draw(rng) for each in self.rounds]
        noise = tuple(
            torch.from_numpy(rng.standard_normal((2, channels, *_larger(each, size)), np.float32))
            for each in self.rounds
        )
        return Draw(torch.tensor(clean), torch.tensor(settings), noise)

    def __call__(
        self,
        hr: Tensor,
        n_in: Tensor,
        size: tuple[int, int],
        draw: Draw,
        *,
        exact: bool = False,
        peak: int = 255,
    ) -> Tensor:
        """Reduce and degrade a batch of images.

        Args:
            hr: (B,C,H,W) in [0, 1], of which (n_in[b,0], n_in[b,1]) pixels at the top left are image b.
            n_in: (B,2) heights and widths.
            size: (h, w) of the LR images.
            draw: what was drawn for each sample, collated.
            exact: True for the JPEG that a file holds, on the host; False for kornia's, on the images' device.
            peak: the value of white of the whole numbers that images are rounded to, 255 for 8 bits.

        Returns:
            (B,C,h,w) in [0, 1], rounded.

        Raises:
            UsageError: see `check`.
        """
        self.check(hr.shape[1], peak)
        images, wanted = hr, n_in.new_tensor(size).expand_as(n_in)
        for each, numbers, noise in zip(self.rounds, draw.settings.unbind(1), draw.noise, strict=True):
            settings = Settings(*numbers.unbind(1))
            if each.blur.probability:
                ratio = n_in / wanted
                long = settings.sigma * settings.elongation.sqrt()
                sigma = torch.stack((long, settings.sigma**2 / long.clamp(min=1e-6)), 1) * ratio.mean(
                    1, keepdim=True
                )
                images = blur(images, sigma, settings.angle, _side(each, images.shape[-2:], size))
            n_out = (wanted * settings.size[:, None]).round().clamp(min=1).to(n_in.dtype)
            images = resample(images, n_in, n_out, _larger(each, size), settings.kernel)
            images, n_in = _record(each, images, noise, settings, pillow_jpeg if exact else jpeg, peak), n_out
        return images

    def check(self, channels: int, peak: int) -> None:
        """Raise UsageError where images of so many channels, or of more than 8 bits, are to be compressed."""
        if any(each.jpeg.probability or each.webp.probability for each in self.rounds):
            if channels not in (1, 3):
                raise UsageError(
                    f"JPEG and WebP hold 1 or 3 channels, not {channels}: set their probability to 0"
                )
            if peak != 255:
                raise UsageError(
                    f"JPEG and WebP hold 8 bits, and white is {peak}: set their probability to 0, or data.depth=8"
                )

    def degrade(
        self, hr: np.ndarray, size: tuple[int, int], rng: np.random.Generator, peak: int = 255
    ) -> np.ndarray:
        """Reduce and degrade one image, to what a file would hold.

        Args:
            hr: (H,W,C) uint8 or uint16.
            size: (h, w) of the LR image.
            rng: decides what is drawn.
            peak: the value of white.

        Returns:
            (h,w,C) of the same type.
        """
        draw = self.draw(rng, size, hr.shape[2])
        if draw.clean:
            return pil_bicubic(hr, size, peak)
        batch = torch.from_numpy(hr.astype(np.float32)).permute(2, 0, 1)[None] / peak
        draw = Draw(draw.clean[None], draw.settings[None], tuple(noise[None] for noise in draw.noise))
        lr = self(batch, torch.tensor([hr.shape[:2]]), size, draw, exact=True, peak=peak)
        return lr[0].mul(peak).round().permute(1, 2, 0).numpy().astype(hr.dtype)


def _record(
    each: Round,
    images: Tensor,
    noise: Tensor,
    settings: Settings,
    jpeg: Callable[[Tensor, Tensor], Tensor],
    peak: int,
) -> Tensor:
    """What a sensor and a file add: noise, and compression."""

    def field(n: int, grey: Tensor) -> Tensor:
        return torch.where(grey[:, None, None, None] > 0, noise[:, n, :1], noise[:, n])

    if each.shot_noise.probability:
        images = shot_noise(images, field(1, settings.grey_photons), settings.photons)
    if each.noise.probability:
        images = images + settings.noise[:, None, None, None] * field(0, settings.grey_noise)
    images = _rounded(images, peak)
    if each.jpeg.probability:
        images = _rounded(jpeg(images, settings.jpeg), peak)
    return _rounded(webp(images, settings.webp), peak) if each.webp.probability else images


def _rounded(images: Tensor, peak: int) -> Tensor:
    return images.clamp(0, 1).mul(peak).round().div(peak)


def _larger(each: Round, size: Sequence[int]) -> tuple[int, int]:
    """The largest size that a round reduces an image to."""
    height, width = (max(math.ceil(n * each.size[1]), 1) for n in size)
    return height, width


def _side(each: Round, n_in: Sequence[int], size: Sequence[int]) -> int:
    """A side of the blur's kernels that holds three standard deviations of the widest."""
    sigma = _pair(each.blur.sigma)[1] * math.sqrt(_pair(each.blur.elongation)[1])
    return 2 * math.ceil(3 * sigma * max(a / b for a, b in zip(n_in, size, strict=True))) + 1


LIMITS = {
    "probability": (0, 1),
    "grey": (0, 1),
    "sigma": (0, 255),
    "elongation": (1, 20),
    "photons": (1, 1e9),
    "quality": (1, 100),
}


def _read(kind: type[Any], name: str, given: Mapping[str, Any] | None) -> Any:
    given = dict(given or {})
    if unknown := set(given) - {field.name for field in fields(kind)}:
        raise UsageError(
            f"{name} has no {', '.join(sorted(unknown))}: see {kind.__name__} in linf.data.degradation"
        )
    read = kind(**given)
    for field in fields(kind):
        _bounds(f"{name}.{field.name}", getattr(read, field.name), *LIMITS[field.name])
    return read


def _pair(value: Range) -> tuple[float, float]:
    low, high = (value, value) if isinstance(value, int | float) else value
    return float(low), float(high)


def _bounds(name: str, value: Range, least: float, most: float) -> tuple[float, float]:
    try:
        low, high = _pair(value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not least <= low <= high <= most:
        raise UsageError(f"{name} is {value}: give a number or [lowest, highest], from {least:g} to {most:g}")
    return low, high
