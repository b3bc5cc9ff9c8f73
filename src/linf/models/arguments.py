"""What a model is asked for, checked before any work is done."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from linf.machine import free_memory


def is_whole(number: object, least: int = 0) -> bool:
    """Whether something is a whole number, Python's or NumPy's, of at least ``least``."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and int(number) >= least


def in_tuple(size: Sequence[int]) -> tuple[int, ...]:
    """A size as a tuple, also one that is a single number and so none."""
    return tuple(size) if np.iterable(size) else (size,)


def check_size(size: Sequence[int], bytes_per_pixel: int, device: torch.device) -> tuple[int, int]:
    """The output size as (H, W), if it is one and there is memory for it.

    Raises:
        ValueError: a side is not a positive whole number, or memory is too small.
    """
    given = in_tuple(size)
    whole = [int(n) for n in given if is_whole(n, 1)]
    if len(given) != 2 or len(whole) != 2:
        raise ValueError(f"output size {given} is not two positive whole numbers (height, width)")
    (height, width), free = whole, free_memory(device)
    if (need := height * width * bytes_per_pixel) > free:
        raise ValueError(
            f"output size {height}×{width} needs {-(-need // 10**9)} GB, {free / 1e9:.3g} are free; "
            "ask for a smaller scale, or for fewer samples or temperatures at once"
        )
    return height, width


def check_images(lr: Tensor, size: Sequence[int] | None = None, hr: Tensor | None = None) -> None:
    """Raise ValueError unless LR images are a tensor (B,C,h,w) of floats, and HR images one of a size (H, W)."""
    for name, image in (("LR", lr), ("HR", hr)):
        if image is not None and not isinstance(image, Tensor):
            raise ValueError(
                f"{name} is a {type(image).__name__}: give a tensor, such as torch.from_numpy(image)"
            )
    if lr.ndim != 4 or not lr.is_floating_point() or 0 in lr.shape[1:]:
        raise ValueError(
            f"LR has shape {tuple(lr.shape)} and type {lr.dtype}: give images (B,C,h,w) of floats in [0, 1], such as "
            "image[None] / 255"
        )
    if hr is None or size is None:
        return
    if (len(hr), *hr.shape[2:]) != (len(lr), *in_tuple(size)):
        raise ValueError(f"HR has shape {tuple(hr.shape)}, and {len(lr)} of {in_tuple(size)} are asked for")
    if not hr.is_floating_point():
        raise ValueError(
            f"HR has type {hr.dtype}: give images of floats in [0, 1], such as image[None] / 255"
        )


def check_channels(given: int, own: int) -> None:
    """Raise ValueError unless a model for ``own`` channels, 0 for any number, takes images of so many."""
    if own and given != own and (given, own) != (1, 3):
        raise ValueError(
            f"the image has {given} channel{'s' * (given > 1)}, and the model is for images of {own}: give a model "
            f"that was trained with data.channels={given}"
        )


def check_distribution(samples: int, highest: float, mix: Tensor | None, channels: int) -> None:
    """Raise ValueError unless samples and the highest temperature are numbers from 0 up, and mixtures a tensor (M,C)
    for images of C channels.
    """
    if not is_whole(samples):
        raise ValueError(f"samples are {samples}: give a whole number from 0 up")
    if not (math.isfinite(highest) and highest >= 0):
        raise ValueError(f"the highest temperature is {highest}: give a finite number from 0 up")
    if mix is not None and (mix.ndim != 2 or mix.shape[1] != channels):
        raise ValueError(
            f"mix has shape {tuple(mix.shape)}: give (M,{channels}), weights for each channel in a row"
        )


def check_z(z: Tensor, wanted: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return latents of a shape (B,gh,gw,D); raise ValueError if it is not the one that an output (H, W) needs."""
    if z.shape != wanted:
        raise ValueError(f"z has shape {tuple(z.shape)}; output {size[0]}×{size[1]} needs {wanted}")
    return z
