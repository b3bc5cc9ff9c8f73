"""Loss box of the figure: distances of two images in the features of a VGG trained on ImageNet (METHOD §6, §11)."""

import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import torch
from kornia.enhance import normalize
from torch import Tensor
from torch.nn import functional as F

from linf.metrics.dists import DISTSNetwork
from linf.metrics.networks import Frozen, LPIPSNetwork, find_weights, vgg_layers

log = logging.getLogger(__name__)

VGGS = {"vgg19": 35, "vgg16": 29}
"""The number of each VGG's ``features`` up to the last convolution."""


class PerceptualLoss(Frozen, ABC):
    """A distance of images in the features of a frozen network.

    Attributes:
        backbone: the network's name in the record of a run.
        weights: the file that its weights are from.
    """

    backbone: str
    weights: Path

    @abstractmethod
    def distance(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean distance, a scalar, of images (B,3,H,W) in [0, 1], in the network's precision."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The distance of two batches of images, in the higher precision of theirs and of the network's, which follows
        them: weights that were rounded once would stay so.

        Args:
            sr: (B,3,H,W), clamped to [0, 1], as published.
            hr: (B,3,H,W) in [0, 1].

        Returns:
            A scalar.

        Raises:
            ValueError: the images are smaller than 16 pixels a side, or no RGB.
        """
        _check_images(hr)
        like = next(self.buffers())
        dtype = torch.promote_types(like.dtype, sr.dtype)
        if (like.device, like.dtype) != (sr.device, dtype):  # A graph cannot move it.
            self.to(sr.device, dtype)
        return self.distance(sr.to(dtype).clamp(0, 1), hr.to(dtype))


class Perceptual(PerceptualLoss):
    r"""Mean absolute difference of two images in the features of a frozen VGG.

    .. math::
        mean |φ(sr) − φ(hr)|

    φ is conv5_4 of VGG19 before its ReLU, as published, or the corresponding layer of VGG16, conv5_3, for those who
    have only the weights that ``linf weights fetch`` finds in packages. Nothing is downloaded.

    Args:
        backbone: ``vgg19``, ``vgg16``, or ``auto`` for the first of the two whose weights are found.
        weights: torchvision's state_dict, as ``.pth`` or ``.safetensors``; None looks in the folder of
            torchvision's downloads, then in that of ``linf weights fetch``.

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

    def distance(self, sr: Tensor, hr: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.features(normalize(hr, self.mean, self.deviation))
        return F.l1_loss(self.features(normalize(sr, self.mean, self.deviation)), target)


class LearnedPerceptual(PerceptualLoss):
    """LPIPS with VGG16 or DISTS as a loss: five layers weighed as people judged images, see `linf.metrics.networks`.

    Args:
        network: ``lpips`` or ``dists``.
        weights: VGG16's, see `Perceptual`.

    Raises:
        ValueError: the network is unknown, or its weights are missing or damaged.
    """

    def __init__(
        self,
        network: Literal["lpips", "dists"] = "lpips",
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if network not in ("lpips", "dists"):
            raise ValueError(f"perceptual network {network!r} is neither lpips nor dists")
        self.network = LPIPSNetwork("vgg", weights) if network == "lpips" else DISTSNetwork(weights)
        self.backbone, self.weights = f"{network}-vgg16", self.network.weights
        log.info("perceptual loss: %s, VGG16's weights of %s", network, self.weights)

    def distance(self, sr: Tensor, hr: Tensor) -> Tensor:
        with torch.no_grad():
            target = list(self.network.features(hr))
        ours = list(self.network.features(sr))
        with torch.autocast(sr.device.type, enabled=False):
            return self.network.distance(iter(ours), target).mean()


def _check_images(hr: Tensor) -> None:
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
