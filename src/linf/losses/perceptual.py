"""Loss box of the figure: how far apart two images are to a network that was trained on ImageNet (METHOD §6)."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from linf.checkpoints.pretrained import backbone_file, read_tensors
from linf.errors import UsageError

log = logging.getLogger(__name__)

BACKBONES = {"vgg19": ("E", 35), "vgg16": ("D", 29)}
"""Torchvision's plan of a VGG, and how many of its ``features`` end with the last convolution, before its ReLU."""

REMEDY = (
    "`linf weights fetch vgg16` gets VGG16's, task.loss.features.weights=FILE names a file, or "
    "task.loss.perceptual=0 does without"
)

SMALLEST = 16
"""Pixels a side: the features are a sixteenth of them."""


class Perceptual(nn.Module):
    r"""Mean distance of the features of a frozen VGG.

    .. math::
        mean |φ(sr) − φ(hr)|

    φ is conv5_4 of VGG19 before its ReLU, as published. Where VGG19's weights cannot be had, as offline, where packages
    hold VGG16's alone, it is the layer of VGG16 that corresponds, conv5_3. Nothing is ever downloaded.

    Args:
        backbone: ``vgg19``, ``vgg16``, or ``auto`` for the first of them whose weights are found.
        weights: torchvision's state_dict, as ``.pth`` or ``.safetensors``; None looks where torchvision keeps what it
            downloads, then where ``linf weights fetch`` puts it.

    Attributes:
        backbone: the one chosen.
        weights: the file that its weights are from.

    Raises:
        UsageError: there are no such weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: str = "auto", weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if backbone not in ("auto", *BACKBONES):
            raise UsageError(f"perceptual backbone {backbone!r} is not one of auto, {', '.join(BACKBONES)}")
        use = "the perceptual loss"
        wanted = list(BACKBONES) if backbone == "auto" else [backbone]
        self.weights = Path(weights) if weights is not None else backbone_file(wanted, use, REMEDY)
        state = read_tensors(self.weights, use)
        if backbone == "auto":
            # Only VGG19 has a convolution there.
            backbone = "vgg19" if "features.34.weight" in state else "vgg16"
        self.backbone = backbone
        plan, layers = BACKBONES[backbone]
        # Without memory, since every weight is taken from the file.
        with torch.device("meta"):
            self.features = make_layers(cfgs[plan])[:layers]
        names = {f"features.{name}": name for name in self.features.state_dict()}
        try:
            self.features.load_state_dict(
                {name: state[given] for given, name in names.items() if given in state}, assign=True
            )
        except RuntimeError as error:
            raise UsageError(
                f"{self.weights} does not hold the weights of torchvision's {backbone}"
            ) from error
        # The mean and deviation of ImageNet's colours, of which torchvision's weights are.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        self.eval().requires_grad_(False)
        log.info("perceptual loss: %s features[:%d], weights of %s", backbone, layers, self.weights)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Distance of two batches of images.

        Args:
            sr: (B,3,H,W), clamped to [0, 1], as published.
            hr: (B,3,H,W) in [0, 1].

        Returns:
            A scalar.

        Raises:
            UsageError: they are smaller than the features can be.
        """
        if min(hr.shape[-2:]) < SMALLEST:
            height, width = hr.shape[-2:]
            raise UsageError(
                f"the perceptual loss wants windows of at least {SMALLEST} pixels a side, not {height}×{width}: "
                "raise data.queries or data.crop"
            )
        with torch.no_grad():
            target = self.features((hr - self.mean) / self.deviation)
        return F.l1_loss(self.features((sr.clamp(0, 1) - self.mean) / self.deviation), target)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Perceptual":
        """Itself, for nothing in it changes: averaging a task's weights copies the task."""
        return self
