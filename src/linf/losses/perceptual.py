"""Loss box of the figure: the distance of two images in the features of a VGG trained on ImageNet (METHOD §6)."""

import logging
import os
from typing import Any

import torch
from kornia.enhance import normalize
from torch import Tensor, nn
from torch.nn import functional as F

from linf.metrics.networks import find_weights, vgg_layers

log = logging.getLogger(__name__)

VGGS = {"vgg19": 35, "vgg16": 29}
"""The number of each VGG's ``features`` up to the last convolution."""


class Perceptual(nn.Module):
    r"""Mean absolute difference of two images in the features of a frozen VGG.

    .. math::
        mean |φ(sr) − φ(hr)|

    φ is conv5_4 of VGG19 before its ReLU, as published, or the corresponding layer of VGG16, conv5_3, for those who
    have only the weights that ``linf weights fetch`` finds in packages. Nothing is downloaded.

    Args:
        backbone: ``vgg19``, ``vgg16``, or ``auto`` for the first of the two whose weights are found.
        weights: torchvision's state_dict, as ``.pth`` or ``.safetensors``; None looks in the folder of
            torchvision's downloads, then in that of ``linf weights fetch``.

    Attributes:
        backbone: the one chosen.
        weights: the file that its weights are from.

    Raises:
        ValueError: the backbone is unknown, or its weights are missing or damaged.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: str = "auto", weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if backbone not in ("auto", *VGGS):
            raise ValueError(f"perceptual backbone {backbone!r} is not one of auto, {', '.join(VGGS)}")
        remedy = (
            "`linf weights fetch vgg16` gets VGG16's, task.loss.features.weights=FILE names a file, or "
            "task.loss.perceptual=0 does without"
        )
        names = list(VGGS) if backbone == "auto" else [backbone]
        self.weights, state = find_weights(names, weights, "the perceptual loss", remedy)
        if backbone == "auto":
            # Only VGG19 has a convolution at index 34.
            backbone = "vgg19" if "features.34.weight" in state else "vgg16"
        self.backbone, layers = backbone, VGGS[backbone]
        self.features = vgg_layers(backbone, self.weights, state)[:layers]
        # ImageNet's mean and deviation, with which torchvision trained its weights.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]))
        self.eval().requires_grad_(False)
        log.info("perceptual loss: %s features[:%d], weights of %s", backbone, layers, self.weights)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The distance of two batches of images.

        Args:
            sr: (B,3,H,W), clamped to [0, 1], as published.
            hr: (B,3,H,W) in [0, 1].

        Returns:
            A scalar.

        Raises:
            ValueError: the images are smaller than 16 pixels a side, or no RGB.
        """
        if hr.shape[1] != 3:
            raise ValueError(
                f"the perceptual loss compares RGB images, and these have {hr.shape[1]} channels: set "
                "task.loss.perceptual=0"
            )
        height, width = hr.shape[-2:]
        if min(height, width) < 16:  # The features are sixteen times smaller.
            raise ValueError(
                f"the perceptual loss needs windows of at least 16 pixels a side, not {height}×{width}: "
                "raise data.queries or data.crop"
            )
        if (self.mean.device, self.mean.dtype) != (sr.device, sr.dtype):  # A graph cannot move it.
            self.to(sr)
        with torch.no_grad():
            target = self.features(normalize(hr, self.mean, self.deviation))
        return F.l1_loss(self.features(normalize(sr.clamp(0, 1), self.mean, self.deviation)), target)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Perceptual":
        """Return itself, since nothing in it changes: averaging a task's weights copies the task."""
        return self
