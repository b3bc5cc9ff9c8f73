"""The pixels of data sets and users' files: how many channels, how many bits, which values are black and white."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from linf.errors import UsageError
from linf.images.luma import PILLOW_GREY
from linf.images.photo import FIRST_FRAME, Photo
from linf.images.read import eight_bits, read_image, read_photo
from linf.images.tiff import misfit, read_layers, undefined_white

log = logging.getLogger(__name__)

ROWS = 256
"""Rows that are converted at once, for the sake of memory."""


@dataclass(frozen=True)
class PixelFormat:
    """What the pixels of training and evaluation are, whatever the files hold.

    Attributes:
        channels: C.
        depth: bits that every value is rounded to, 8 to 16.
        value_range: the files' values of black and white; None for what their type says, 0 and 255 or 65535.

    Raises:
        UsageError: a number is out of range.
    """

    channels: int = 3
    depth: int = 8
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise UsageError(f"data.channels is {self.channels}: give a whole number of at least 1")
        if not 8 <= self.depth <= 16:
            raise UsageError(f"data.depth is {self.depth}: give 8 to 16 bits")
        if self.value_range is not None:
            object.__setattr__(self, "value_range", checked_range("data.value_range", self.value_range))

    @property
    def peak(self) -> int:
        """The value of white, 2^depth - 1."""
        return 2**self.depth - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Uint8, or uint16 for more than 8 bits."""
        return np.dtype(np.uint8 if self.depth == 8 else np.uint16)

    @property
    def settings(self) -> dict[str, Any]:
        """The attributes that are not those of RGB of 8 bits, for records and the names of caches."""
        default = PixelFormat()
        return {key: value for key, value in vars(self).items() if value != getattr(default, key)}

    def values(self, image: np.ndarray) -> np.ndarray:
        """An image (H,W,C), clamped to [0, 1], as whole numbers of this depth, or as float32 of the given range."""
        levels = np.rint(image.clip(0, 1) * np.float32(self.peak))
        if self.value_range is None:
            return levels.astype(self.dtype)
        low, high = self.value_range
        return (low + levels.astype(np.float64) * ((high - low) / self.peak)).astype(np.float32)

    def read(self, path: str | Path) -> np.ndarray:
        """Read an image upright, of several frames the first, as (H,W,C) of `dtype`.

        Grey is repeated for RGB, and RGB becomes grey by Pillow's weights. Transparency is laid over white, unless it
        makes up the number of channels. Where ``value_range`` is given, values beyond it are cut off.

        Raises:
            UsageError: the file is no image, or has another number of channels; with its path.
        """
        path = Path(path)
        if not self.settings:
            return read_image(path)
        try:
            photo = read_values(path, self.channels, ranged=self.value_range is not None)
            values = _of_channels(photo, self.channels, self.value_range)
            limits = self.value_range or type_range(photo.pixels.dtype)
            if FIRST_FRAME in photo.notes:
                log.info("%s: %s", path, FIRST_FRAME)
            return to_levels(values, limits, self.peak, self.dtype)
        except UsageError as error:
            raise UsageError(f"{path}: {error}; replace or remove the file") from error


def shown_channels(image: Tensor) -> Tensor:
    """What is shown of an image (C,H,W): RGB as it is, the first of one or two channels as grey, or the first three."""
    return image[:1].expand(3, -1, -1) if len(image) < 3 else image[:3]


def checked_range(name: str, given: Sequence[float]) -> tuple[float, float]:
    """Two numbers as (black, white); UsageError where they are not two finite numbers that differ."""
    numbers = list(given)
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] == numbers[1]:
        raise UsageError(f"{name} is {numbers}: give the values of black and white, as in [-1024, 3071]")
    return float(numbers[0]), float(numbers[1])


def type_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The values of black and white of a type of whole numbers without sign."""
    return 0, float(np.iinfo(dtype).max)


def read_values(source: Path | bytes, channels: int = 0, *, ranged: bool = False) -> Photo:
    """Read an image whose pixels have the file's type; see `read_photo` and `read_layers`.

    Raises:
        UsageError: there is no such image, or its type says nothing of white while no range is given; without its path.
    """
    photo = read_layers(source, channels, ranged=ranged)
    photo = read_photo(source) if photo is None else photo
    if not ranged and (unknown := undefined_white(photo.pixels.dtype)):
        raise UsageError(unknown)
    return photo


def _of_channels(photo: Photo, channels: int, limits: tuple[float, float] | None) -> np.ndarray:
    values, alpha = photo.pixels, photo.alpha
    if alpha is not None and values.shape[2] + 1 == channels:
        values, alpha = np.dstack([values, alpha]), None
    if alpha is not None:
        opacity = alpha[..., None] / np.iinfo(alpha.dtype).max
        white = (limits or type_range(values.dtype))[1]
        values = white + (values - white) * opacity
    given = values.shape[2]
    if (given, channels) == (1, 3):
        return np.repeat(values, 3, axis=2)
    if (given, channels) == (3, 1):
        return values @ np.array(PILLOW_GREY)[:, None]
    if given != channels:
        raise UsageError(misfit(given, channels))
    return values


def to_levels(values: np.ndarray, limits: tuple[float, float], peak: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Values from black to white as whole numbers from 0 to ``peak``, rounded and clamped.

    Raises:
        UsageError: some values are no numbers.
    """
    low, high = limits
    if values.dtype == dtype and limits == (0, peak) == type_range(dtype):
        return values
    if values.dtype == np.uint16 and limits == (0, 65535) and peak == 255:
        return eight_bits(values)
    out = np.empty(values.shape, dtype)
    for top in range(0, len(values), ROWS):
        part = (values[top : top + ROWS].astype(np.float64) - low) * (peak / (high - low))
        if np.isnan(part).any():
            raise UsageError("some of its values are not numbers (NaN)")
        out[top : top + ROWS] = np.rint(part).clip(0, peak)
    return out


def ranged_photo(photo: Photo, limits: tuple[float, float]) -> Photo:
    """An image whose black and white are given, in 16 bits; `stored_photo` is the inverse."""
    pixels = to_levels(photo.pixels, limits, 65535, np.dtype(np.uint16))
    return replace(photo, pixels=pixels, stored=(photo.pixels.dtype, *limits))


def stored_photo(photo: Photo) -> Photo:
    """An image whose pixels are of its file's type and range again."""
    if photo.stored is None:
        return photo
    dtype, low, high = photo.stored
    out = np.empty(photo.pixels.shape, dtype)
    for top in range(0, len(out), ROWS):
        part = low + photo.pixels[top : top + ROWS] * ((high - low) / photo.peak)
        if dtype.kind in "iu":
            part = np.rint(part).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
        out[top : top + ROWS] = part
    return replace(photo, pixels=out, stored=None)
