"""Metric box of the figure: distances of two images in the features of a network trained on ImageNet.

The networks' weights are torchvision's, from its own downloads or from ``linf weights fetch``; what was learned on top
of them comes with the packages lpips and torchmetrics. Nothing is downloaded here.
"""

import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import lpips
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from linf.checkpoints.pretrained import backbone_file, read_tensors
from linf.metrics.functional import at_least_single, check_comparable

LPIPS_BACKBONES = {"alex": ("alexnet", 31), "vgg": ("vgg16", 16)}
"""Torchvision's name of each backbone of LPIPS, and the least height and width of an image that it takes."""


class Frozen(nn.Module):
    """A network that does not learn: it stays in evaluation mode, and copies of what it is a part of share it."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a training module around it would switch on the dropout of LPIPS."""
        return super().train(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself, since nothing in it changes: averaging a task's weights copies the task."""
        return self


class ComparisonNetwork(Frozen, ABC):
    """A network whose features of images in [0, 1] are compared; `compare` takes images one by one, so that memory does
    not grow with their number.
    """

    smallest = 1
    """The least height and width of an image that it takes."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Distance of whole images: (B,3,H,W) clamped to [0, 1], (B or 1,3,H,W) → (B,). Images smaller than the network
        allows score NaN.
        """
        if min(hr.shape[-2:]) < self.smallest:
            return sr.new_full(sr.shape[:1], math.nan)
        return self.compare(sr, hr, self.distance)

    @abstractmethod
    def features(self, image: Tensor) -> Iterator[Tensor]:
        """Features of images (B,3,H,W), from the first layer to the last, each (B,F,h,w)."""

    @abstractmethod
    def distance(self, ours: Iterator[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        """Distance of images by their `features`, (B,)."""

    @torch.no_grad()
    def compare(
        self, sr: Tensor, hr: Tensor, figure: Callable[[Iterator[Tensor], Sequence[Tensor]], Tensor]
    ) -> Tensor:
        """``figure`` of the features of each SR image, clamped to [0, 1], and of its HR image.

        Raises:
            ValueError: the images are no RGB, or cannot be compared.
        """
        if hr.shape[1] != 3:
            name = type(self).__name__.removesuffix("Network")
            raise ValueError(f"{name} compares RGB images, and these have {hr.shape[1]} channels")
        check_comparable(sr, hr)
        dtype = next(self.buffers()).dtype
        figures = []
        with torch.autocast(sr.device.type, enabled=False):
            for i, image in enumerate(sr.split(1)):
                if i < len(hr):
                    target = list(self.features(hr[i : i + 1].to(dtype)))
                figures.append(figure(self.features(image.to(dtype).clamp(0, 1)), target))
        return torch.cat(figures)


class LPIPSNetwork(ComparisonNetwork):
    r"""Learned perceptual image patch similarity v0.1 (Zhang et al., arXiv 1801.03924, equation 1).

    .. math::
        \sum_l mean_{hw} \sum_c w_{lc} (ŷ^l_{chw} − ŷ^l_{0chw})^2

    ŷ are features divided by their norm over the channels. Network and weights w are those of the lpips package.

    Args:
        backbone: ``alex`` or ``vgg``.
        weights: torchvision's state_dict of AlexNet or VGG16, as ``.pth`` or ``.safetensors``; None looks in the
            folder of torchvision's downloads, then in that of ``linf weights fetch``.

    Raises:
        ValueError: the backbone is unknown, or its weights are missing or damaged.
    """

    def __init__(self, backbone: str = "alex", weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if backbone not in LPIPS_BACKBONES:
            raise ValueError(f"LPIPS's backbone {backbone!r} is not one of {', '.join(LPIPS_BACKBONES)}")
        network, self.smallest = LPIPS_BACKBONES[backbone]
        self.weights, state = find_weights([network], weights, "LPIPS")
        # On the meta device, since every weight comes from a file; torchvision warns of an argument of lpips.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network = lpips.LPIPS(net=backbone, pretrained=False, pnet_rand=True, verbose=False)
        heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{backbone}.pth"
        scaling = {f"scaling_layer.{name}": v for name, v in lpips.ScalingLayer().state_dict().items()}
        self.network.load_state_dict(read_tensors(heads, "LPIPS") | scaling, strict=False, assign=True)
        # The package's slices keep torchvision's numbers.
        names = {name: f"features.{name.split('.', 1)[1]}" for name in self.network.net.state_dict()}
        _load(self.network.net, names, network, self.weights, state)
        self.eval().requires_grad_(False)

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """Features of five layers, each (B,F,h,w) of norm 1 over the channels."""
        x = self.network.scaling_layer(2 * image - 1)
        for number in range(1, 6):
            x = getattr(self.network.net, f"slice{number}")(x)
            yield lpips.normalize_tensor(at_least_single(x))

    def distance(self, ours: Iterator[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return self._sum(lambda layer: layer.mean((1, 2, 3)), ours, theirs)

    def spatial(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Distance at every pixel, (B,H,W): as `forward`, with each layer's map enlarged bilinearly."""
        if min(hr.shape[-2:]) < self.smallest:
            return sr.new_full((len(sr), *sr.shape[-2:]), math.nan)
        size = tuple(hr.shape[-2:])
        return self.compare(sr, hr, partial(self._sum, lambda layer: lpips.upsample(layer, size)[:, 0]))

    def _sum(
        self, of: Callable[[Tensor], Tensor], ours: Iterator[Tensor], theirs: Sequence[Tensor]
    ) -> Tensor:
        """The sum over the layers of a function of each layer's distance maps (B,1,h,w)."""
        layers = zip(self.network.lins, ours, theirs, strict=True)
        return torch.stack([of(head((x - y).square())) for head, x, y in layers]).sum(0)


def find_weights(
    networks: Sequence[str], weights: str | os.PathLike[str] | None, use: str, remedy: str | None = None
) -> tuple[Path, dict[str, Tensor]]:
    """The file with a network's weights, and its tensors: ``weights``, or else what `backbone_file` finds."""
    remedy = (
        remedy or f"`linf weights fetch {networks[0]}` gets them, or the metric's weights=FILE names a file"
    )
    file = Path(weights) if weights is not None else backbone_file(networks, use, remedy)
    return file, read_tensors(file, use)


def vgg_layers(network: str, file: Path, state: Mapping[str, Tensor]) -> nn.Sequential:
    """The ``features`` of torchvision's ``vgg16`` or ``vgg19``, with the weights that were read from a file.

    Raises:
        ValueError: the file holds other weights.
    """
    # On the meta device, since every weight comes from the file.
    with torch.device("meta"):
        layers = make_layers(cfgs[{"vgg16": "D", "vgg19": "E"}[network]])
    _load(layers, {name: f"features.{name}" for name in layers.state_dict()}, network, file, state)
    return layers


def _load(
    layers: nn.Module, names: Mapping[str, str], network: str, file: Path, state: Mapping[str, Tensor]
) -> None:
    """Load weights into layers; ``names`` maps the layers' names to those in the file."""
    try:
        layers.load_state_dict({name: state[given] for name, given in names.items()}, assign=True)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{file} does not hold the weights of torchvision's {network}") from error
