"""Data box of the figure: what training crops are cut from, wherever it lies."""

from abc import ABC, abstractmethod

import numpy as np

from linf.images.pixels import PixelFormat


class ImageStore(ABC):
    """Images by number, of which every process can have any at any time.

    Attributes:
        shortest_side: of all images, in pixels.
        pixels: what the numbers of the images mean.
    """

    shortest_side: int
    pixels: PixelFormat

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """Image ``index`` as (H, W, C)."""
