"""Data box of the figure: the queries of a training sample, patches at random places of an HR crop (METHOD §6)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from linf.errors import UsageError


class RandomPatches:
    """Chooses patches of HR crops.

    Args:
        crop: LR pixels a side.
        patch_size: P, odd.
        queries: the number q of patches per sample, arranged as (√q, √q) if √q is whole and as (1, q) otherwise; None
            for as many as have ``crop`` pixels a side, the published window.
        window: False for patches at random pixels, all distinct if the crop has enough of them; True for a contiguous
            square of ``floor(√q)`` whole patches a side.

    Attributes:
        needed: HR pixels a side that a crop must have.

    Raises:
        UsageError: a number is out of range.
    """

    def __init__(self, crop: int, patch_size: int, queries: int | None, window: bool) -> None:
        if patch_size < 1 or patch_size % 2 == 0:
            raise UsageError(f"patch_size is {patch_size}: give an odd number, 1 or 3 as published")
        self.queries = max(crop // patch_size, 1) ** 2 if queries is None else queries
        if self.queries < 1:
            raise UsageError(f"queries is {queries}: give at least 1")
        self.patch_size, self.window, self.side = patch_size, window, math.isqrt(self.queries)
        self.needed = self.side * patch_size if window else patch_size

    def draw(
        self, hr: np.ndarray, centres: Sequence[Tensor], rng: np.random.Generator
    ) -> tuple[np.ndarray, Tensor]:
        """Choose patches.

        Args:
            hr: (H,W,C), whole pixels that an LR crop covers.
            centres: of those pixels, (H,) and (W,), in the LR crop's [-1, 1].
            rng: decides which.

        Returns:
            The patches (D,gh,gw), and their centres (gh,gw,2).
        """
        y, x = (self._contiguous if self.window else self._scattered)(hr.shape[0], hr.shape[1], rng)
        offset = np.arange(self.patch_size) - self.patch_size // 2
        patches = hr[(y[..., None] + offset)[..., :, None], (x[..., None] + offset)[..., None, :]]
        coord = torch.stack((centres[0][torch.from_numpy(y)], centres[1][torch.from_numpy(x)]), dim=-1)
        return patches.transpose(4, 2, 3, 0, 1).reshape(-1, *y.shape), coord

    def _contiguous(self, height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(self.side) * self.patch_size + self.patch_size // 2
        starts = [rng.integers(n - self.side * self.patch_size + 1) for n in (height, width)]
        y, x = np.meshgrid(*(start + steps for start in starts), indexing="ij")
        return y, x

    def _scattered(self, height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        high, wide = height - self.patch_size + 1, width - self.patch_size + 1
        chosen = rng.choice(high * wide, self.queries, replace=high * wide < self.queries)
        shape = (self.side, self.side) if self.side**2 == self.queries else (1, self.queries)
        y, x = np.divmod(chosen.reshape(shape), wide)
        return y + self.patch_size // 2, x + self.patch_size // 2
