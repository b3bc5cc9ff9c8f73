"""Standard Gaussian noise that is a function of a seed and an index, on every machine and device.

Neither torch's generators nor the order of drawing decide it: Philox (Salmon et al., *Parallel random numbers: as easy
as 1, 2, 3*, SC 2011) is counter-based, so any two pairs of seed and index give independent streams, drawn in any order.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
