"""What a model has seen when its training ends: the deviation that it predicts for its own images."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from linf.data.crops import unit
from linf.data.datamodule import SRDataModule
from linf.images.resize import pil_bicubic
from linf.models.deviation import usual_deviation
from linf.models.linf import LINF

IMAGES, LR_SIDE, LEAST_STEPS = 24, 96, 500
"""Images that are looked at, LR pixels a side of each, and steps below which a training has settled nothing."""


def learn_usual_deviation(model: object, data: SRDataModule, steps: int) -> None:
    """Note with a model what `linf upscale` takes for usual, from images of its training, degraded as there.

    Args:
        model: of which only a `LINF` predicts a deviation.
        data: of the training.
        steps: of the training; too few of them are passed over.
    """
    if isinstance(model, LINF) and data.train_crops is not None and steps >= LEAST_STEPS:
        model.usual_deviation = usual_deviation(model.eval(), _images(data, next(model.parameters()).device))


def _images(data: SRDataModule, device: torch.device) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    crops = data.train_crops
    assert crops is not None
    low, high = crops.scale
    for index in np.unique(np.linspace(0, len(crops.cache) - 1, IMAGES).round().astype(int)).tolist():
        image = crops.cache[index]
        for share in (1 / 3, 2 / 3, 1):
            s = low + share * (high - low)
            middle = [
                slice(max(0, n - round(LR_SIDE * s)) // 2, (n + round(LR_SIDE * s)) // 2)
                for n in image.shape[:2]
            ]
            hr = np.ascontiguousarray(image[middle[0], middle[1]])
            h, w = (max(1, round(n / s)) for n in hr.shape[:2])
            peak, rng = crops.cache.pixels.peak, np.random.default_rng((data.seed, index))
            lr = (
                pil_bicubic(hr, (h, w), peak)
                if data.degradation is None
                else data.degradation.degrade(hr, (h, w), rng, peak)
            )
            yield unit(lr.transpose(2, 0, 1), peak)[None].to(device), (round(h * s), round(w * s))
