"""Loss box of the figure: the loss of the learned prior (METHOD §9)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from linf.data.crops import SRBatch
from linf.losses.flow import check_weights, weighted_sum
from linf.losses.perceptual import Perceptual, PerceptualLoss
from linf.models.flow import to_columns, to_patches
from linf.models.linf import LINF
from linf.models.prior import window_lr_residual


class LearnedPrior:
    """``perceptual · VGG + l1_latent · |ẑ − z_hr| + l1 · |SR − HR|`` of the prior's image (arXiv 2403.10988).

    ẑ is the latent that the prior predicts, z_hr that of the HR image. Of LINF only the path to ẑ has a gradient.

    Args:
        perceptual: weight of the perceptual distance.
        l1_latent: weight of the error of the latent.
        l1: weight of the error of the image, in [-1, 1] units.
        aligned: True gives the U-Net the LR features at the window's own place, as in a whole image; False, as
            published, those of the whole LR crop, wherever in it the window lies.
        features: makes the perceptual distance; not called if its weight is 0.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """

    def __init__(
        self,
        perceptual: float = 1.0,
        l1_latent: float = 0.0,
        l1: float = 0.0,
        *,
        aligned: bool = False,
        features: Callable[[], PerceptualLoss] = Perceptual,
    ) -> None:
        self.weights = check_weights(perceptual=perceptual, l1_latent=l1_latent, l1=l1)
        self.aligned = aligned
        self.perceptual = features() if perceptual else None

    def __call__(self, model: LINF, batch: SRBatch) -> dict[str, Tensor]:
        """Each term by name, and their weighted sum as ``loss``, of contiguous windows of whole patches."""
        assert model.prior is not None
        lr, hr, coord, cell = batch
        with torch.no_grad():
            condition = model.condition(lr, coord, cell)
            r = window_lr_residual(lr, coord, cell, model.patch_size)
            z_lr = to_patches(model.flow(to_columns(r), condition)[0], r)
            residual = model.residual(lr, hr, coord, cell)
        latent = to_columns(model.prior(z_lr, 2 * lr - 1, coord if self.aligned else None))
        terms = {}
        if self.weights["l1_latent"]:
            with torch.no_grad():
                z_hr = model.flow(to_columns(residual), condition)[0]
            terms["l1_latent"] = (latent - z_hr).abs().mean()
        if self.weights["perceptual"] or self.weights["l1"]:
            x = to_patches(model.flow.inverse(latent, condition), r)
        if self.weights["perceptual"]:
            assert self.perceptual is not None
            patches = model.restore(lr, x, coord, cell), hr
            sr_window, hr_window = (F.pixel_shuffle(part, model.patch_size) for part in patches)
            terms["perceptual"] = self.perceptual(sr_window, hr_window)
        if self.weights["l1"]:
            terms["l1"] = (x - residual).abs().mean()
        return weighted_sum(terms, self.weights)
