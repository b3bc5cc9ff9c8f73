"""Random images in files, and the text of errors about them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linf.errors import UsageError

RNG = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random pixels, (height, width, channels) uint8."""
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


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
