"""Loss box of the figure: the distance of two images in the features of a VGG trained on ImageNet (METHOD §6)."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from kornia.enhance import normalize
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from linf.checkpoints.pretrained import backbone_file, read_tensors

log = logging.getLogger(__name__)

VGGS = {"vgg19": ("E", 35), "vgg16": ("D", 29)}
"""Torchvision's configuration of each VGG, and the number of its ``features`` up to the last convolution."""

REMEDY = (
    "`linf weights fetch vgg16` gets VGG16's, task.loss.features.weights=FILE names a file, or "
    "task.loss.perceptual=0 does without"
)

SMALLEST = 16
"""The least height and width of an image, whose features are sixteen times smaller."""


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
        use = "the perceptual loss"
        names = list(VGGS) if backbone == "auto" else [backbone]
        self.weights = Path(weights) if weights is not None else backbone_file(names, use, REMEDY)
        state = read_tensors(self.weights, use)
        if backbone == "auto":
            # Only VGG19 has a convolution at index 34.
            backbone = "vgg19" if "features.34.weight" in state else "vgg16"
        self.backbone = backbone
        configuration, layers = VGGS[backbone]
        # On the meta device, since every weight comes from the file.
        with torch.device("meta"):
            self.features = make_layers(cfgs[configuration])[:layers]
        keys = {f"features.{name}": name for name in self.features.state_dict()}
        try:
            self.features.load_state_dict(
                {name: state[given] for given, name in keys.items() if given in state}, assign=True
            )
        except RuntimeError as error:
            raise ValueError(
                f"{self.weights} does not hold the weights of torchvision's {backbone}"
            ) from error
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
            ValueError: the images are smaller than 16 pixels a side.
        """
        if min(hr.shape[-2:]) < SMALLEST:
            height, width = hr.shape[-2:]
            raise ValueError(
                f"the perceptual loss needs windows of at least {SMALLEST} pixels a side, not {height}×{width}: "
                "raise data.queries or data.crop"
            )
        with torch.no_grad():
            target = self.features(normalize(hr, self.mean, self.deviation))
        return F.l1_loss(self.features(normalize(sr.clamp(0, 1), self.mean, self.deviation)), target)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Perceptual":
        """Return itself, since nothing in it changes: averaging a task's weights copies the task."""
        return self
