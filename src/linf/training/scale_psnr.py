"""What validation measures: PSNR on Y by scale, as the benchmark protocol takes it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from linf.coordinates import Scale
from linf.data.pairs import ImagePair
from linf.metrics.metric import PSNR
from linf.metrics.protocol import Protocol

PROTOCOL = Protocol("benchmark", "psnr_y")


class ScalePSNR(MetricCollection):
    """A mean over the images of each scale."""

    def __init__(self, scales: Sequence[Scale]) -> None:
        super().__init__({_key(scale): PSNR(luma=True) for scale in scales}, compute_groups=False)

    def add(self, sr: Tensor, image: ImagePair) -> None:
        """Add an SR image (1,C,H,W) to those of its scale."""
        border = PROTOCOL.border(image.scale)
        self[_key(image.scale)].update(sr, image.hr, image.lr, border)

    def means(self) -> dict[str, Tensor]:
        """The means over the images of all ranks, by scales such as ``x3.3``; not a number where there is no image."""
        return {key.replace("_", "."): mean for key, mean in self.compute().items()}

    def counts(self) -> Tensor:
        """The number of this rank's images of each scale."""
        return torch.stack([metric.count for metric in self.values() if isinstance(metric, PSNR)])


def _key(scale: Scale) -> str:
    """A module's name, which cannot hold the dot of ×3.3."""
    return f"x{scale:g}".replace(".", "_")
