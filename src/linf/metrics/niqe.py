"""Metric box of the figure: NIQE, the distance of an image's statistics from those of natural images.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", SPL 2013, equation numbers below.
Each step is that of BasicSR 1.4.2, which follows the authors' MATLAB code. Packages that compute NIQE download its
parameters when they run, so it is our own.
"""

import io
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from linf.checkpoints.pretrained import weights_file
from linf.images.luma import MATLAB_LUMA
from linf.images.resize import matlab_bicubic
from linf.metrics.functional import crop_border
from linf.metrics.metric import ImageMetric

NIQE_BLOCK = 96
"""Pixels a side of a block, as of those that the parameters were learned from."""

NIQE_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""To the neighbours whose products with a pixel are looked at."""


class NIQE(ImageMetric):
    """Natural image quality evaluator: lower is more natural, and no HR image is compared.

    Args:
        weights: BasicSR's ``niqe_pris_params.npz``; None takes what ``linf weights fetch niqe`` got.

    Raises:
        ValueError: the parameters are missing, or the file holds something else.
    """

    higher_is_better = False
    rgb_only = True
    figure = "niqe"
    convention = "on Y of 8 bits in whole blocks of 96×96 pixels, without the protocol's border"
    mean: Tensor
    covariance: Tensor
    window: Tensor

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        file = weights_file("niqe") if weights is None else Path(weights)
        names = {"mean": "mu_pris_param", "covariance": "cov_pris_param", "window": "gaussian_window"}
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as held:
                for name, theirs in names.items():
                    self.register_buffer(name, torch.from_numpy(held[theirs]).double().squeeze(0))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{file} does not hold the parameters of NIQE: give BasicSR's niqe_pris_params.npz"
            ) from error

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return torch.stack([self._of_one(image[None], border) for image in sr])

    def _of_one(self, image: Tensor, border: int) -> Tensor:
        """(1,3,H,W) → a scalar; NaN for fewer than two blocks, or where too little varies."""
        # Y in single and double precision by turns, as BasicSR has it: it often lies halfway between whole numbers, and
        # a pixel that is rounded the other way shows in the third digit.
        rgb = crop_border(image, border).float().clamp(0, 1).mul(255).round().div(255).double()
        luma = torch.einsum("c,bchw->bhw", rgb.new_tensor(MATLAB_LUMA), rgb)[:, None] + 16
        luma = luma.div(255).float().mul(255).round().double()
        rows, columns = (n // NIQE_BLOCK for n in luma.shape[-2:])
        luma = luma[..., : rows * NIQE_BLOCK, : columns * NIQE_BLOCK]
        unknown = luma.new_full((), math.nan)
        if rows * columns < 2 or not luma.isfinite().all():
            return unknown
        halved = matlab_bicubic(luma, (luma.shape[-2] // 2, luma.shape[-1] // 2))
        features = torch.cat(
            [
                _features(_blocks(self._normalised(level), side))
                for level, side in ((luma, NIQE_BLOCK), (halved, NIQE_BLOCK // 2))
            ],
            1,
        )
        whole = features[~features.isnan().any(1)]
        if len(whole) < 2:
            return unknown
        off = self.mean - features.nanmean(0)
        # Equation (10).
        inverse = torch.linalg.pinv((self.covariance + whole.T.cov()) / 2)
        return (off @ inverse @ off).sqrt()

    def _normalised(self, luma: Tensor) -> Tensor:
        """Equation (1): (luma − local mean) / (local deviation + 1)."""

        def local(of: Tensor) -> Tensor:
            reach = self.window.shape[-1] // 2
            return F.conv2d(F.pad(of, [reach] * 4, mode="replicate"), self.window[None, None])

        # To single precision, in which a flat neighbourhood is exactly its mean, rather than off by chance.
        mean, square = local(luma).float(), local(luma.square()).float()
        return ((luma.float() - mean) / ((square - mean.square()).abs().sqrt() + 1)).double()


def _blocks(image: Tensor, side: int) -> Tensor:
    """Whole blocks of an image: (1,1,H,W) → (n,side,side)."""
    return image[0, 0].unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)


def _features(blocks: Tensor) -> Tensor:
    """The 18 features of normalised blocks: (n,side,side) → (n,18)."""
    shape, left, right = _fit(blocks)
    found = [shape, (left + right) / 2]
    for shift in NIQE_SHIFTS:
        shape, left, right = _fit(blocks * blocks.roll(shift, (1, 2)))
        # Equation (8).
        mean = (right - left) * _gamma(2 / shape) / _gamma(1 / shape)
        found += [shape, mean, left, right]
    return torch.stack(found, 1)


def _fit(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape α, left and right scale β of the asymmetric generalised Gaussian of equation (3), each (n,).
    The authors' steps of α are 0.001.
    """
    values = values.flatten(1)
    steps = torch.arange(200, 10001, dtype=values.dtype, device=values.device) / 1000
    ratio = _gamma(2 / steps).square() / (_gamma(1 / steps) * _gamma(3 / steps))
    squares = values.square()
    left, right = (((squares * side).sum(1) / side.sum(1)).sqrt() for side in (values < 0, values > 0))
    skew = left / right
    wanted = values.abs().mean(1).square() / squares.mean(1)
    wanted = wanted * (skew**3 + 1) * (skew + 1) / (skew.square() + 1).square()
    shape = steps[(ratio - wanted[:, None]).square().argmin(1)]
    spread = (_gamma(1 / shape) / _gamma(3 / shape)).sqrt()
    return shape, left * spread, right * spread


def _gamma(x: Tensor) -> Tensor:
    return torch.lgamma(x).exp()
