"""Standard Gaussian noise that is a function of a seed and an index, on every machine and device.

Neither torch's generators nor the order of drawing decide it: Philox (Salmon et al., *Parallel random numbers: as easy
as 1, 2, 3*, SC 2011) is counter-based, so any two pairs of seed and index give independent streams, drawn in any order.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from linf.machine import usable_cores
from linf.models.arguments import is_whole


def gaussian(seed: int, index: int, shape: Sequence[int]) -> Tensor:
    """Standard Gaussian numbers that (seed, index) decides.

    Args:
        seed: from 0 to 2⁶⁴ - 1.
        index: from 0 to 2⁶⁴ - 1, such as the row of an image's patch grid.
        shape: of the result; of two shapes, the shorter one's numbers are the first of the longer one's.

    Returns:
        A float32 tensor on the CPU.
    """
    philox = np.random.Philox(key=np.array([seed, index], np.uint64))
    return torch.from_numpy(np.random.Generator(philox).standard_normal(tuple(shape), np.float32))


def uniform(seed: int, index: int, shape: Sequence[int]) -> Tensor:
    """Numbers from 0 up to 1 that (seed, index) decides, independent of those of `gaussian`; see there."""
    philox = np.random.Philox(key=np.array([seed ^ 2**63, index], np.uint64))
    return torch.from_numpy(np.random.Generator(philox).random(tuple(shape), np.float32))


def sample_seeds(seed: int | None, samples: int, batch: int) -> list[int]:
    """The seed of each sample of a batch, whose image b has that ``+ b``; None draws it from torch's global generator.

    Raises:
        ValueError: the seed is not a whole number from 0 to 2⁶³ - 1.
    """
    first = int(torch.randint(2**62, ()).item()) if seed is None else _checked(seed)
    return [first + k * batch for k in range(samples)]


def _checked(seed: int) -> int:
    if not is_whole(seed) or int(seed) >= 2**63:
        raise ValueError(f"seed {seed!r} is not a whole number from 0 to {2**63 - 1}")
    return int(seed)


class LatentField:
    """Standard Gaussian latents of a patch grid, whose rows are made when they are asked for.

    Row r of image b is `gaussian` of ``(seed + b, r)``: the same in parts or whole, in any order, from any thread.

    Args:
        seed: of the first image.
        cols: patches in a row.
        dim: D, numbers in a latent.
        kept: rows that are kept, for neighbouring tiles that ask for parts of the same rows.
        threads: that make rows at the same time; a GPU would wait for one.
    """

    def __init__(self, seed: int, cols: int, dim: int, *, kept: int = 0, threads: int = 1) -> None:
        seed = _checked(seed)

        def row(image: int, index: int) -> Tensor:
            return gaussian(seed + image, index, (cols, dim))

        self.row = lru_cache(kept)(row) if kept else row
        self.threads = threads

    def __getitem__(self, where: tuple[int, slice, slice]) -> Tensor:
        """``field[image, rows, cols]``: (rows, cols, D), float32 on the CPU."""
        image, rows, cols = where
        indices = range(rows.start, rows.stop)

        def make(part: range) -> list[Tensor]:
            return [self.row(image, index)[cols] for index in part]

        # Few threads with many rows each: they hold Python's lock except while a row's numbers are drawn.
        if self.threads == 1 or len(indices) < 2 * self.threads:
            return torch.stack(make(indices))
        each = -(-len(indices) // self.threads)
        parts = [indices[start : start + each] for start in range(0, len(indices), each)]
        with ThreadPoolExecutor(self.threads) as pool:
            return torch.stack([row for part in pool.map(make, parts) for row in part])


def noise_threads(device: torch.device) -> int:
    """How many threads should make the latents for a device: one on a CPU, where each already has its own chunk."""
    return 1 if device.type == "cpu" else min(usable_cores(), 8)


def rows_kept(lr: Tensor, size: Sequence[int], patch_size: int, tile: int) -> int:
    """How many rows a `LatentField` should keep: those of one row of tiles, where tiles lie side by side."""
    return -(-size[0] * tile // (lr.shape[-2] * patch_size)) + 2 if lr.shape[-1] > tile else 0
