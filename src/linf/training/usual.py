"""What a model has seen when its training ends: the deviation that it predicts for its own images."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from linf.data.crops import RandomScaleCrops, unit
from linf.data.datamodule import SRDataModule
from linf.data.paired import PairedCrops
from linf.images.resize import pil_bicubic
from linf.models.deviation import usual_deviation
from linf.models.linf import LINF

log = logging.getLogger(__name__)

IMAGES, LR_SIDE, LEAST_STEPS = 24, 96, 500
"""Images that are looked at, LR pixels a side of each, and steps below which a training has settled nothing."""


def learn_usual_deviation(model: object, data: SRDataModule, steps: int, device: torch.device) -> bool:
    """Note with a model what `linf upscale` takes for usual, from images of its training, degraded as there.

    Args:
        model: of which only a `LINF` predicts a deviation.
        data: of the training.
        steps: of the training; too few of them are passed over.
        device: of the training, from which Lightning has taken the model when it ends.

    Returns:
        Whether anything was noted.
    """
    if not isinstance(model, LINF) or data.train_crops is None or steps < LEAST_STEPS:
        return False
    log.info("looking once more at training images, to tell later which images are noisy to this model")
    model.eval().to(device)
    model.usual_deviation = usual_deviation(model, _images(data, device))
    model.cpu()
    return True


def _images(data: SRDataModule, device: torch.device) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    crops, peak = data.train_crops, data.pixels.peak
    assert crops is not None
    for index in np.unique(np.linspace(0, len(crops.cache) - 1, IMAGES).round().astype(int)).tolist():
        for lr, size in _given(crops, index) if isinstance(crops, PairedCrops) else _made(data, crops, index):
            yield unit(np.ascontiguousarray(lr.transpose(2, 0, 1)), peak)[None].to(device), size


def _given(crops: PairedCrops, index: int) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    pair = crops.cache[index]
    lr = _middle(pair.lr[pair.number], [LR_SIDE, LR_SIDE])
    h, w = (round(n * of / m) for n, of, m in zip(lr.shape, pair.size, pair.lr_size, strict=False))
    yield lr, (h, w)


def _made(
    data: SRDataModule, crops: RandomScaleCrops, index: int
) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    # From 1 up, whatever the training's lowest scale: `linf upscale` asks at any.
    highest = crops.scale[1]
    rng, peak = np.random.default_rng((data.seed, index)), data.pixels.peak
    for s in (1 + share * (highest - 1) for share in (1 / 3, 2 / 3, 1)):
        hr = np.ascontiguousarray(_middle(crops.cache[index], [round(LR_SIDE * s)] * 2))
        h, w = (max(1, round(n / s)) for n in hr.shape[:2])
        degradation = data.degradation
        lr = (
            pil_bicubic(hr, (h, w), peak)
            if degradation is None
            else degradation.degrade(hr, (h, w), rng, peak)
        )
        yield lr, (round(h * s), round(w * s))


def _middle(image: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    rows, cols = (
        slice(max(0, n - side) // 2, max(0, n - side) // 2 + side)
        for n, side in zip(image.shape, sides, strict=False)
    )
    return image[rows, cols]
