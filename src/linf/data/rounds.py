"""Data box of the figure: one round of a degradation, with the ranges that each of its settings is drawn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from linf.errors import UsageError
from linf.images.degrade import KERNELS

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
        self.size = check_bounds("size", size, 0.1, 8)
        kernel = {"bicubic": 1.0} if kernel is None else kernel
        if set(kernel) - set(KERNELS) or min(kernel.values(), default=0) < 0 or not sum(kernel.values()):
            raise UsageError(f"kernel is {dict(kernel)}: give weights of {', '.join(KERNELS)}, one above 0")
        self.kernels = [KERNELS.index(name) for name in kernel]
        self.kernel_shares = np.array(list(kernel.values())) / sum(kernel.values())

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

        def number(of: Any, bounds: Range, chance: float = 1.0) -> float:
            # As many numbers are drawn whatever is chosen: to change one setting changes no other's.
            chosen, at = rng.random() < chance, float(rng.random())
            low, high = bounds_of(bounds)
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
        check_bounds(f"{name}.{field.name}", getattr(read, field.name), *LIMITS[field.name])
    return read


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
