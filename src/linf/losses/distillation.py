"""A regression as a teacher: what a LINF learns at τ = 0 beside the HR image (Hinton et al., arXiv 1503.02531)."""

import logging
import os

import torch
from torch import Tensor

from linf.checkpoints.native import load
from linf.metrics.networks import Frozen
from linf.models.baselines import Regression
from linf.models.bilinear import pixels_of_patches

log = logging.getLogger(__name__)


class Teacher(Frozen):
    """A trained LIIF or LTE that answers for the pixels of patches. It does not learn.

    Args:
        checkpoint: its file, or a name that ``linf weights list`` shows.

    Raises:
        UsageError: there is no such file.
        ValueError: it holds another kind of model.
    """

    def __init__(self, checkpoint: str | os.PathLike[str]) -> None:
        super().__init__()
        model = load(checkpoint)
        if not isinstance(model, Regression):
            raise ValueError(f"the teacher {checkpoint} is a {type(model).__name__}: give a LIIF or an LTE")
        self.model = model.eval().requires_grad_(False)
        log.info("teacher: %s of %s", model.name, checkpoint)

    @torch.no_grad()
    def forward(self, lr: Tensor, coord: Tensor, cell: Tensor, patch_size: int) -> Tensor:
        """Patches as the teacher sees them.

        Args:
            lr: (B,C,h,w) in [0, 1].
            coord: (B,gh,gw,2) patch centres, (y, x) in [-1, 1].
            cell: (B,2) size of one HR pixel.
            patch_size: P.

        Returns:
            (B,D,gh,gw) in the units of [0, 1], channel-major.

        Raises:
            ValueError: the images have other channels than the teacher's.
        """
        if lr.shape[1] != self.model.image_channels:
            raise ValueError(
                f"the teacher is for images of {self.model.image_channels} channels, and these have {lr.shape[1]}"
            )
        if next(self.model.parameters()).device != lr.device:  # A graph cannot move it.
            self.to(lr.device)
        colours = self.model.predict(lr, pixels_of_patches(coord, cell, patch_size), cell)
        return colours.reshape(len(lr), -1, *coord.shape[1:3])
