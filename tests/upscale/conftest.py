"""An image for the tests of `linf upscale`."""

import numpy as np
import pytest
from PIL import Image

from linf.data.sources import bundled


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """A photograph of 64×64 pixels that no model was trained on, (64,64,3) uint8."""
    with Image.open(bundled("heldout").hr[0]) as photo:
        return np.asarray(photo.convert("RGB").resize((128, 128), Image.Resampling.BICUBIC))[:64, 30:94]
