"""Metric box of the figure: DISTS, by `linf.metrics.networks`.

It is our own, since torchmetrics' network downloads its VGG16 and compares all images at once.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torchmetrics
from kornia.enhance import normalize
from torch import Tensor, nn
from torch.nn import functional as F

from linf.checkpoints.pretrained import read_tensors
from linf.metrics.functional import at_least_single
from linf.metrics.networks import ComparisonNetwork, find_weights, vgg_layers

DISTS_WEIGHTS = Path("functional", "image", "dists_models", "weights.pt")
"""The learned weights of DISTS inside torchmetrics, byte for byte those of its authors' package dists-pytorch 0.1."""


class DISTSNetwork(ComparisonNetwork):
    r"""Deep image structure and texture similarity (Ding et al., arXiv 2004.07728).

    .. math::
        1 − \sum_{ij} α_{ij} \frac{2 μ_x μ_y + c}{μ_x^2 + μ_y^2 + c} + β_{ij} \frac{2 σ_{xy} + c}{σ_x^2 + σ_y^2 + c}

    over the channels j of the image itself (i = 0) and of VGG16's five stages, whose max pooling is replaced by L2
    pooling. As in the authors' PyTorch package, images are taken at their own size.

    Args:
        weights: torchvision's state_dict of VGG16, as ``.pth`` or ``.safetensors``; None looks in the folder of
            torchvision's downloads, then in that of ``linf weights fetch``. α and β come with torchmetrics.

    Raises:
        ValueError: the weights are missing or damaged.
    """

    mean: Tensor
    deviation: Tensor
    window: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self.weights, state = find_weights(["vgg16"], weights, "DISTS")
        layers = vgg_layers("vgg16", self.weights, state)
        starts, ends = (0, 5, 10, 17, 24), (4, 9, 16, 23, 30)
        self.stages = nn.ModuleList(layers[start:end] for start, end in zip(starts, ends, strict=True))
        # ImageNet's mean and deviation, with which torchvision trained its weights.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]))
        binomial = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", torch.outer(binomial, binomial)[None, None])
        learned = read_tensors(Path(torchmetrics.__file__).parent / DISTS_WEIGHTS, "DISTS")
        for name in ("alpha", "beta"):
            self.register_buffer(name, learned[name].flatten())
        self.eval().requires_grad_(False)

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """The images themselves, then the features of five stages, each (B,F,h,w)."""
        yield image
        x = normalize(image, self.mean, self.deviation)
        for number, stage in enumerate(self.stages):
            x = stage(self._pool(x) if number else x)
            yield at_least_single(x)

    def _pool(self, x: Tensor) -> Tensor:
        """L2 pooling: the root of the windowed mean of squares, at every second pixel."""
        window = self.window.expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()

    def distance(self, ours: Iterator[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        luminance, structure = [], []
        for x, y in zip(ours, theirs, strict=True):
            mean_x, mean_y = (z.mean((2, 3), keepdim=True) for z in (x, y))
            x, y = x - mean_x, y - mean_y
            variances, covariance = (x * x + y * y).mean((2, 3)), (x * y).mean((2, 3))
            luminance.append((2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6))
            structure.append((2 * covariance + 1e-6) / (variances + 1e-6))
        similarity = torch.cat(luminance, 1).flatten(1) @ self.alpha + torch.cat(structure, 1) @ self.beta
        return 1 - similarity / (self.alpha.sum() + self.beta.sum())
