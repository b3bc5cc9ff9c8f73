"""Data box of the figure: one round of a degradation, with the ranges that each of its settings is drawn from."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from linf.errors import UsageError
from linf.images.resize import KERNELS

Range = float | tuple[float, float]
"""A number, or the lowest and the highest of a uniform distribution."""


LIMITS = {
    "probability": (0, 1),
    "grey": (0, 1),
    "sigma": (0, 255),
    "elongation": (1, 20),
    "photons": (1, 1e9),
    "quality": (1, 100),
}


def bounds_of(value: Range) -> tuple[float, float]:
    """The lowest and the highest value of a range."""
    low, high = (value, value) if isinstance(value, int | float) else value
    return float(low), float(high)


def check_bounds(name: str, value: Range, least: float, most: float) -> tuple[float, float]:
    """The lowest and the highest value of a range.

    Raises:
        UsageError: they are no numbers in order, from ``least`` to ``most``.
    """
    try:
        low, high = bounds_of(value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not least <= low <= high <= most:
        raise UsageError(f"{name} is {value}: give a number or [lowest, highest], from {least:g} to {most:g}")
    return low, high


class _Checked:
    """A dataclass whose fields are within `LIMITS`; UsageError if one is not."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_bounds(f"{type(self).__name__}.{name}", value, *LIMITS[name])


@dataclass(frozen=True)
class Blur(_Checked):
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
class Kernels:
    """Weights of the reductions to choose from, each at least 0 and one above; see `linf.images.resize.KERNELS`."""

    bicubic: float = 1.0
    matlab: float = 0.0
    bilinear: float = 0.0
    area: float = 0.0

    def __post_init__(self) -> None:
        weights = [getattr(self, name) for name in KERNELS]
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights):
            given = ", ".join(f"{name} {weight}" for name, weight in zip(KERNELS, weights, strict=True))
            raise UsageError(
                f"the weights of the kernels are {given}: give numbers of at least 0, one above 0"
            )

    @property
    def shares(self) -> np.ndarray:
        """The probability of each, in the order of `KERNELS`."""
        weights = np.array([getattr(self, name) for name in KERNELS])
        return weights / weights.sum()


@dataclass(frozen=True)
class Noise(_Checked):
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
class ShotNoise(_Checked):
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
class Compression(_Checked):
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
        blur: before the reduction.
        kernel: of the reduction.
        noise: Gaussian noise.
        shot_noise: noise of counted photons.
        jpeg: compression.
        webp: compression on the host: on a GPU each step waits for it.
        size: the side that an image is reduced to, divided by the LR image's; 1 in the last round.

    Raises:
        UsageError: the size is out of range.
    """

    def __init__(
        self,
        blur: Blur = Blur(),
        kernel: Kernels = Kernels(),
        noise: Noise = Noise(),
        shot_noise: ShotNoise = ShotNoise(),
        jpeg: Compression = Compression(),
        webp: Compression = Compression(),
        size: Range = 1.0,
    ) -> None:
        self.blur, self.kernel, self.noise, self.shot_noise = blur, kernel, noise, shot_noise
        self.jpeg, self.webp = jpeg, webp
        self.size = check_bounds("size", size, 0.1, 8)

    def describe(self) -> list[tuple[str, float, float, float]]:
        """What it may do: name, probability, lowest and highest value of each setting that is on."""
        settings = (
            ("blur σ", self.blur, self.blur.sigma),
            ("noise σ", self.noise, self.noise.sigma),
            ("photons", self.shot_noise, self.shot_noise.photons),
            ("JPEG quality", self.jpeg, self.jpeg.quality),
            ("WebP quality", self.webp, self.webp.quality),
        )
        return [(name, of.probability, *bounds_of(value)) for name, of, value in settings if of.probability]

    def draw(self, rng: np.random.Generator) -> list[float]:
        """The numbers of `Settings` for one image."""

        def number(value: Range, chance: float = 1.0, *, logarithmic: bool = False) -> float:
            # As many numbers are drawn whatever is chosen: to change one setting changes no other's.
            chosen, at = rng.random() < chance, float(rng.random())
            low, high = bounds_of(value)
            drawn = low * (high / low) ** at if logarithmic else low + at * (high - low)
            return drawn if chosen else 0.0

        return [
            number(self.blur.sigma, self.blur.probability),
            number(self.blur.elongation),
            math.pi * float(rng.random()),
            int(np.searchsorted(self.kernel.shares.cumsum(), rng.random(), "right")),
            number(self.size),
            number(self.noise.sigma, self.noise.probability) / 255,
            float(rng.random() < self.noise.grey),
            number(self.shot_noise.photons, self.shot_noise.probability, logarithmic=True),
            float(rng.random() < self.shot_noise.grey),
            number(self.jpeg.quality, self.jpeg.probability),
            number(self.webp.quality, self.webp.probability),
        ]
