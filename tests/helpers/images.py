"""Random images in files, and the text of errors about them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from linf.errors import UsageError

RNG = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random pixels, (height, width, channels) uint8."""
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image that is as smooth as a photograph, and whose channels differ little, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.standard_normal((4, height, width)), (0, 1.5, 1.5))
    image = np.stack([fields[0] + 0.2 * fields[n] for n in (1, 2, 3)], axis=-1)
    return np.rint(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)


def noisy(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Pixels (H,W,C) uint8 with Gaussian noise in each channel, always the same."""
    added = np.random.default_rng(0).normal(0, sigma, pixels.shape)
    return np.clip(np.rint(pixels + added), 0, 255).astype(np.uint8)


def write(path: Path, height: int = 12, width: int = 16) -> Path:
    """Write a random image, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width)).save(path)
    return path


def one_line(error: pytest.ExceptionInfo[UsageError]) -> str:
    """The text of an error, which is one line."""
    text = str(error.value)
    assert "\n" not in text
    return text
